"""DistilBERT as `transformers` publishes it: for masked LM, question answering, or bare."""

from collections.abc import Container, Mapping
from typing import Any

from data_pipeline import tokenizers
from training.huggingface import bert, mapping

NETWORK = "encoder"  # of config.model.name

_R, _K = mapping.Row, mapping.Knob

# Its own names for BERT's layer.
_NAMES = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def _renamed(row: mapping.Row) -> mapping.Row:
    module, _, kind = row.theirs.rpartition(".")
    return row._replace(theirs=f"{_NAMES[module]}.{kind}")


TABLE = mapping.Table(
    prefix="distilbert.",
    bare=("vocab_", "qa_outputs."),
    rows=(
        *mapping.under("network/embedder/", "embeddings.", bert.EMBEDDER[:2]),
        *mapping.under("network/embed_norm/", "embeddings.LayerNorm.", bert.NORM_OF_TABLES),
        *mapping.under(
            "network/stack/blocks/", "transformer.layer.{}.", tuple(map(_renamed, bert.LAYER))
        ),
        _R("masked_lm/dense/kernel", "D E", "vocab_transform.weight", "E D"),
        _R("masked_lm/dense/bias", "E", "vocab_transform.bias", "E"),
        *mapping.under("masked_lm/norm/", "vocab_layer_norm.", bert.NORM_OF_TABLES),
        _R("masked_lm/bias", "V", "vocab_projector.bias", "V"),
        *bert.SPAN,
    ),
    copies={"vocab_projector.weight": "embeddings.word_embeddings.weight"},
    buffers=r"embeddings\.position_ids",
)

# The defaults are those of transformers' DistilBertConfig.
KNOBS = (
    _K("vocab_size", "vocab_size", 30522),
    _K("width", "dim", 768),
    _K("depth", "n_layers", 6),
    _K("heads", "n_heads", 12),
    _K("mlp_width", "hidden_dim", 3072),
    _K("max_positions", "max_position_embeddings", 512),
    _K("init_std", "initializer_range", 0.02),
    _K("dropout", "dropout", 0.1),
    _K("attention_dropout", "attention_dropout", 0.1),
)
EPS = 1e-12  # not in its config


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `model` section for a published config.json.

    Raises:
      UserError: for what our network cannot express.
    """
    fixed = {"tie_word_embeddings": True, "pruned_heads": {}}
    mapping.require(config, fixed, "in config.json is beyond our network")
    model = mapping.read_knobs(KNOBS, config)
    return {
        "name": NETWORK,
        **model,
        "token_types": 0,
        "norm_first": False,
        "norm_eps": EPS,
        "activation": mapping.read_activation(config, "activation", "gelu"),
        "init": "normal",
        "position_init_std": model["init_std"],
        "residual_init_std": model["init_std"],
    }


def write_config(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config.json for our `model` and `objective` sections.

    Raises:
      UserError: for what DistilBERT's layout cannot express.
    """
    bert.check_plain(model, objective, "DistilBERT", token_types=0, norm_eps=EPS)
    mapping.require(objective, {"sentence_pair": False}, "in config.objective is not DistilBERT's")
    return {
        "architectures": [f"DistilBert{bert.head(objective)}"],
        "model_type": "distilbert",
        **mapping.write_knobs(KNOBS, model),
        "activation": mapping.write_activation(model["activation"]),
        "sinusoidal_pos_embds": False,  # the table of positions is in the weights
        "tie_word_embeddings": True,
    }


def objective(groups: Container[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the `objective` section, and the groups of parameters that it needs."""
    if "span" in groups:
        return bert.span_section(), ["network", "span"]
    return {"name": "masked_lm", "sentence_pair": False}, ["network", "masked_lm"]


def special_tokens(tokenizer: tokenizers.Tokenizer) -> dict[str, int | None]:
    """Returns the ids that config.json names."""
    return {"pad_token_id": tokenizer.pad_id}
