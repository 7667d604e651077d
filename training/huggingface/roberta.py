"""RoBERTa as `transformers` publishes it: for masked LM, question answering, or bare.

Its table of positions has two rows more than there are positions (a token's index is padding_idx +
1 + its position), and its one token type adds the same vector to every token. Ours has neither:
the rows are left out, and the vector is added to every position, which computes the same.
"""

from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from data_pipeline import tokenizers
from errors import UserError
from training.huggingface import bert, mapping

NETWORK = "encoder"  # of config.model.name
OFFSET = 2  # padding_idx + 1
POSITIONS = "embeddings.position_embeddings.weight"
TOKEN_TYPES = "embeddings.token_type_embeddings.weight"

_R, _K = mapping.Row, mapping.Knob

TABLE = mapping.Table(
    prefix="roberta.",
    bare=("lm_head.", "qa_outputs."),
    rows=(
        *mapping.under("network/embedder/", "embeddings.", bert.EMBEDDER[:2]),
        *mapping.under("network/embed_norm/", "embeddings.LayerNorm.", bert.NORM_OF_TABLES),
        *mapping.under("network/stack/blocks/", "encoder.layer.{}.", bert.LAYER),
        _R("masked_lm/dense/kernel", "D E", "lm_head.dense.weight", "E D"),
        _R("masked_lm/dense/bias", "E", "lm_head.dense.bias", "E"),
        *mapping.under("masked_lm/norm/", "lm_head.layer_norm.", bert.NORM_OF_TABLES),
        _R("masked_lm/bias", "V", "lm_head.bias", "V"),
        *bert.SPAN,
    ),
    copies={
        "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    buffers=r"embeddings\.(position_ids|token_type_ids)",
)

# The defaults are those of transformers' RobertaConfig.
KNOBS = tuple(
    knob._replace(default={"vocab_size": 50265}.get(knob.ours, knob.default))
    for knob in bert.KNOBS
    if knob.ours != "token_types"
)


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `model` section for a published config.json.

    Raises:
      UserError: for what our network cannot express.
    """
    fixed = bert.FIXED | {"type_vocab_size": 1, "pad_token_id": OFFSET - 1}
    mapping.require(config, fixed, "in config.json is beyond our network")
    model = mapping.read_knobs(KNOBS, {"max_position_embeddings": 514, **config})
    model["max_positions"] -= OFFSET
    if model["max_positions"] < 1:
        raise UserError("max_position_embeddings in config.json must be at least 3 for RoBERTa.")
    return {
        "name": NETWORK,
        **model,
        "token_types": 0,
        "norm_first": False,
        "activation": mapping.read_activation(config, "hidden_act", "gelu"),
        "init": "normal",
        "position_init_std": model["init_std"],
        "residual_init_std": model["init_std"],
    }


def write_config(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config.json for our `model` and `objective` sections.

    Raises:
      UserError: for what RoBERTa's layout cannot express.
    """
    bert.check_plain(model, objective, "RoBERTa", token_types=0)
    mapping.require(objective, {"sentence_pair": False}, "in config.objective is not RoBERTa's")
    config = mapping.write_knobs(KNOBS, model)
    return {
        "architectures": [f"Roberta{bert.head(objective)}"],
        "model_type": "roberta",
        **config,
        "max_position_embeddings": model["max_positions"] + OFFSET,
        "type_vocab_size": 1,
        "hidden_act": mapping.write_activation(model["activation"]),
        "tie_word_embeddings": True,
    }


def adapt(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns published tensors without the unused positions, the token type added to the rest."""
    tensors = dict(tensors)
    positions = _find(tensors, POSITIONS)
    types = _find(tensors, TOKEN_TYPES)
    if positions:
        tensors[positions] = tensors[positions][OFFSET:]
        if types:
            tensors[positions] = tensors[positions] + tensors[types][:1]
    if types:
        del tensors[types]
    return tensors


def restore(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors of an export as the layout has them; the inverse of `adapt`."""
    tensors = dict(tensors)
    name = TABLE.prefix + POSITIONS
    rows, width = tensors[name].shape
    full = np.zeros((rows + OFFSET, width), np.float32)
    full[OFFSET:] = tensors[name]
    return tensors | {name: full, TABLE.prefix + TOKEN_TYPES: np.zeros((1, width), np.float32)}


def _find(tensors: Mapping[str, np.ndarray], name: str) -> str | None:
    return next((n for n in (name, TABLE.prefix + name) if n in tensors), None)


def objective(groups: Container[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the `objective` section, and the groups of parameters that it needs."""
    if "span" in groups:
        return bert.span_section(), ["network", "span"]
    return {"name": "masked_lm", "sentence_pair": False}, ["network", "masked_lm"]


def special_tokens(tokenizer: tokenizers.Tokenizer) -> dict[str, int | None]:
    """Returns the ids that config.json names."""
    return {
        "pad_token_id": tokenizer.pad_id,
        "bos_token_id": tokenizer.cls_id,
        "eos_token_id": tokenizer.sep_id,
    }
