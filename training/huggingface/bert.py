"""BERT as `transformers` publishes it: for pre-training, masked LM, question answering, or bare."""

from collections.abc import Container, Mapping
from typing import Any

from data_pipeline import tokenizers
from errors import UserError
from training.huggingface import mapping

NETWORK = "encoder"  # of config.model.name

_R, _K = mapping.Row, mapping.Knob

EMBEDDER = (
    _R("tokens/table", "V E", "word_embeddings.weight", "V E"),
    _R("positions/table", "T E", "position_embeddings.weight", "T E"),
    _R("token_types/table", "A E", "token_type_embeddings.weight", "A E"),
)
NORM_OF_TABLES = (_R("scale", "E", "weight", "E"), _R("bias", "E", "bias", "E"))
# Kernels are published as [output, input].
LAYER = (
    _R("attention/query/kernel", "D H K", "attention.self.query.weight", "HK D"),
    _R("attention/query/bias", "H K", "attention.self.query.bias", "HK"),
    _R("attention/key/kernel", "D H K", "attention.self.key.weight", "HK D"),
    _R("attention/key/bias", "H K", "attention.self.key.bias", "HK"),
    _R("attention/value/kernel", "D H K", "attention.self.value.weight", "HK D"),
    _R("attention/value/bias", "H K", "attention.self.value.bias", "HK"),
    _R("attention/out/kernel", "H K D", "attention.output.dense.weight", "D HK"),
    _R("attention/out/bias", "D", "attention.output.dense.bias", "D"),
    _R("attention_norm/scale", "D", "attention.output.LayerNorm.weight", "D"),
    _R("attention_norm/bias", "D", "attention.output.LayerNorm.bias", "D"),
    _R("mlp/up/kernel", "D F", "intermediate.dense.weight", "F D"),
    _R("mlp/up/bias", "F", "intermediate.dense.bias", "F"),
    _R("mlp/down/kernel", "F D", "output.dense.weight", "D F"),
    _R("mlp/down/bias", "D", "output.dense.bias", "D"),
    _R("mlp_norm/scale", "D", "output.LayerNorm.weight", "D"),
    _R("mlp_norm/bias", "D", "output.LayerNorm.bias", "D"),
)
SPAN = (
    _R("span/dense/kernel", "D C", "qa_outputs.weight", "C D"),
    _R("span/dense/bias", "C", "qa_outputs.bias", "C"),
)
TABLE = mapping.Table(
    prefix="bert.",
    bare=("cls.", "qa_outputs."),
    rows=(
        *mapping.under("network/embedder/", "embeddings.", EMBEDDER),
        *mapping.under("network/embed_norm/", "embeddings.LayerNorm.", NORM_OF_TABLES),
        *mapping.under("network/stack/blocks/", "encoder.layer.{}.", LAYER),
        _R("masked_lm/dense/kernel", "D E", "cls.predictions.transform.dense.weight", "E D"),
        _R("masked_lm/dense/bias", "E", "cls.predictions.transform.dense.bias", "E"),
        *mapping.under("masked_lm/norm/", "cls.predictions.transform.LayerNorm.", NORM_OF_TABLES),
        _R("masked_lm/bias", "V", "cls.predictions.bias", "V"),
        _R("pooler/dense/kernel", "D O", "pooler.dense.weight", "O D"),
        _R("pooler/dense/bias", "D", "pooler.dense.bias", "D"),
        _R("classifier/dense/kernel", "D C", "cls.seq_relationship.weight", "C D"),
        _R("classifier/dense/bias", "C", "cls.seq_relationship.bias", "C"),
        *SPAN,
    ),
    copies={
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    buffers=r"embeddings\.(position_ids|token_type_ids)",
)

# The defaults are those of transformers' BertConfig.
KNOBS = (
    _K("vocab_size", "vocab_size", 30522),
    _K("width", "hidden_size", 768),
    _K("depth", "num_hidden_layers", 12),
    _K("heads", "num_attention_heads", 12),
    _K("mlp_width", "intermediate_size", 3072),
    _K("max_positions", "max_position_embeddings", 512),
    _K("token_types", "type_vocab_size", 2),
    _K("norm_eps", "layer_norm_eps", 1e-12),
    _K("init_std", "initializer_range", 0.02),
    _K("dropout", "hidden_dropout_prob", 0.1),
    _K("attention_dropout", "attention_probs_dropout_prob", 0.1),
)
# Settings of other variants, which our network has no knob for.
FIXED = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "pruned_heads": {},
}


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `model` section for a published config.json.

    Raises:
      UserError: for what our network cannot express.
    """
    mapping.require(config, FIXED, "in config.json is beyond our network")
    model = mapping.read_knobs(KNOBS, config)
    return {
        "name": NETWORK,
        **model,
        "norm_first": False,
        "activation": mapping.read_activation(config, "hidden_act", "gelu"),
        "init": "truncated_normal",
        "position_init_std": model["init_std"],
        "residual_init_std": model["init_std"],
    }


def write_config(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config.json for our `model` and `objective` sections.

    Raises:
      UserError: for what BERT's layout cannot express.
    """
    check_plain(model, objective, "BERT")
    if model["token_types"] < 1:
        raise UserError(
            "BERT's layout has token types: export only a model with config.model.token_types of 1 "
            "or more."
        )
    return {
        "architectures": [f"Bert{head(objective)}"],
        "model_type": "bert",
        **mapping.write_knobs(KNOBS, model),
        "hidden_act": mapping.write_activation(model["activation"]),
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
    }


def head(objective: Mapping[str, Any]) -> str:
    """Returns what an architecture is called behind the name of the family."""
    if objective["name"] == "span":
        return "ForQuestionAnswering"
    pairs = objective.get("sentence_pair", False)  # a distilled student has none
    return "ForPreTraining" if pairs else "ForMaskedLM"


def check_plain(
    model: Mapping[str, Any], objective: Mapping[str, Any], family: str, **allowed: Any
) -> None:
    """Checks that a masked LM or a span head has no knob that a layout has no place for.

    Args:
      model: the `model` section of a config.
      objective: the `objective` section.
      family: whose layout it is.
      **allowed: knobs that need not have their usual value.

    Raises:
      UserError: naming the first knob.
    """
    if objective["name"] not in ("masked_lm", "distill", "span"):
        raise UserError(
            f"config.objective.name={objective['name']!r} is beyond {family}'s layout: export a "
            "masked language model, a distilled student or a span head."
        )
    if objective["name"] == "span":
        fixed = {"head": "independent", "answerable": 0}
        mapping.require(objective, fixed, f"in config.objective is beyond {family}'s layout")
    usual = {"norm_first": False, "sharing": "none", "causal": False, "groups": 1}
    model, usual = usual | dict(model), usual | allowed
    problem = f"in config.model is beyond {family}'s layout"
    mapping.require(model, {k: v for k, v in usual.items() if v is not None}, problem)
    narrow = model.get("embed_width") or model["width"]
    if "embed_width" not in allowed and narrow != model["width"]:
        raise UserError(
            f"config.model.embed_width={narrow} {problem}: convert only a model whose tables are "
            "as wide as the network."
        )


def objective(groups: Container[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the `objective` section, and the groups of parameters that it needs.

    Next-sentence prediction is on if any part of it is in the checkpoint's `groups`;
    BertForMaskedLM has none.
    """
    if "span" in groups:
        return span_section(), ["network", "span"]
    pairs = "pooler" in groups or "classifier" in groups
    heads = ["masked_lm", "pooler", "classifier"] if pairs else ["masked_lm"]
    return {"name": "masked_lm", "sentence_pair": pairs}, ["network", *heads]


def span_section(**values: Any) -> dict[str, Any]:
    """Returns the `objective` section of a head for question answering."""
    usual = {"head": "independent", "answerable": 0.0, "dropout": 0.0, "beam": 20}
    return {"name": "span", **usual, **values}


def special_tokens(tokenizer: tokenizers.Tokenizer) -> dict[str, int | None]:
    """Returns the ids that config.json names."""
    return {"pad_token_id": tokenizer.pad_id}
