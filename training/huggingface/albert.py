"""ALBERT as `transformers` publishes it: for all that BERT is published for."""

from collections.abc import Mapping
from typing import Any

from data_pipeline import tokenizers
from errors import UserError
from training.huggingface import bert, mapping

NETWORK = "encoder"  # of config.model.name

_R, _K = mapping.Row, mapping.Knob

# Its own names for BERT's layer.
_NAMES = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.dense",
    "attention.output.LayerNorm": "attention.LayerNorm",
    "intermediate.dense": "ffn",
    "output.dense": "ffn_output",
    "output.LayerNorm": "full_layer_layer_norm",
}


def _renamed(row: mapping.Row) -> mapping.Row:
    module, _, kind = row.theirs.rpartition(".")
    return row._replace(theirs=f"{_NAMES[module]}.{kind}")


TABLE = mapping.Table(
    prefix="albert.",
    bare=("predictions.", "sop_classifier.", "qa_outputs."),
    rows=(
        *mapping.under("network/embedder/", "embeddings.", bert.EMBEDDER),
        *mapping.under("network/embed_norm/", "embeddings.LayerNorm.", bert.NORM_OF_TABLES),
        _R("network/project/kernel", "E D", "encoder.embedding_hidden_mapping_in.weight", "D E"),
        _R("network/project/bias", "D", "encoder.embedding_hidden_mapping_in.bias", "D"),
        *mapping.under(
            "network/stack/blocks/",
            "encoder.albert_layer_groups.{g}.albert_layers.0.",
            tuple(map(_renamed, bert.LAYER)),
        ),
        _R("masked_lm/dense/kernel", "D E", "predictions.dense.weight", "E D"),
        _R("masked_lm/dense/bias", "E", "predictions.dense.bias", "E"),
        *mapping.under("masked_lm/norm/", "predictions.LayerNorm.", bert.NORM_OF_TABLES),
        _R("masked_lm/bias", "V", "predictions.bias", "V"),
        _R("pooler/dense/kernel", "D O", "pooler.weight", "O D"),
        _R("pooler/dense/bias", "D", "pooler.bias", "D"),
        _R("classifier/dense/kernel", "D C", "sop_classifier.classifier.weight", "C D"),
        _R("classifier/dense/bias", "C", "sop_classifier.classifier.bias", "C"),
        *bert.SPAN,
    ),
    copies={
        "predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
    buffers=r"embeddings\.(position_ids|token_type_ids)",
)

# The defaults are those of transformers' AlbertConfig.
KNOBS = (
    _K("vocab_size", "vocab_size", 30000),
    _K("embed_width", "embedding_size", 128),
    _K("width", "hidden_size", 4096),
    _K("depth", "num_hidden_layers", 12),
    _K("groups", "num_hidden_groups", 1),
    _K("heads", "num_attention_heads", 64),
    _K("mlp_width", "intermediate_size", 16384),
    _K("max_positions", "max_position_embeddings", 512),
    _K("token_types", "type_vocab_size", 2),
    _K("norm_eps", "layer_norm_eps", 1e-12),
    _K("init_std", "initializer_range", 0.02),
    _K("dropout", "hidden_dropout_prob", 0.0),
    _K("attention_dropout", "attention_probs_dropout_prob", 0.0),
)
FIXED = {
    "position_embedding_type": "absolute",
    "inner_group_num": 1,
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
    if model["embed_width"] == model["width"]:
        raise UserError(
            f"embedding_size={model['width']} in config.json is the hidden_size, where our network "
            "has no projection: convert only a model with narrower tables."
        )
    return {
        "name": NETWORK,
        **model,
        "sharing": "all",
        "norm_first": False,
        "activation": mapping.read_activation(config, "hidden_act", "gelu_new"),
        "init": "truncated_normal",
        "position_init_std": model["init_std"],
        "residual_init_std": model["init_std"],
    }


def write_config(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config.json for our `model` and `objective` sections.

    Raises:
      UserError: for what ALBERT's layout cannot express.
    """
    bert.check_plain(model, objective, "ALBERT", sharing="all", groups=None, embed_width=None)
    if not model.get("embed_width") or model["embed_width"] == model["width"]:
        raise UserError(
            "ALBERT's layout projects its tables: export only a model with "
            "config.model.embed_width below its width."
        )
    if model["token_types"] < 1:
        raise UserError(
            "ALBERT's layout has token types: export only a model with config.model.token_types of "
            "1 or more."
        )
    return {
        "architectures": [f"Albert{bert.head(objective)}"],
        "model_type": "albert",
        **mapping.write_knobs(KNOBS, model),
        "inner_group_num": 1,
        "hidden_act": mapping.write_activation(model["activation"]),
        "tie_word_embeddings": True,
    }


objective = bert.objective  # the label of a pair is its order, which the data decides


def special_tokens(tokenizer: tokenizers.Tokenizer) -> dict[str, int | None]:
    """Returns the ids that config.json names."""
    return {
        "pad_token_id": tokenizer.pad_id,
        "bos_token_id": tokenizer.cls_id,
        "eos_token_id": tokenizer.sep_id,
    }
