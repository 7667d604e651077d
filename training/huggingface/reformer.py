"""Reformer as `transformers` publishes it: ReformerModelWithLMHead, ReformerModel.

Its layers hash into other buckets than ours, for the random directions are no part of a checkpoint.
"""

import math
from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from data_pipeline import tokenizers
from errors import UserError
from model import reformer
from training.huggingface import mapping

NETWORK = "reformer"  # of config.model.name

_R, _K = mapping.Row, mapping.Knob


def _layer(ours: str, number: str, projections: tuple[str, ...]) -> tuple[mapping.Row, ...]:
    """Returns the rows of the layers that have these projections."""
    projected = (
        _R(f"attention/{name}/kernel", "D H K", f"attention.self_attention.{name}.weight", "HK D")
        for name in projections
    )
    rows = (
        _R("attention/norm/scale", "D", "attention.layer_norm.weight", "D"),
        _R("attention/norm/bias", "D", "attention.layer_norm.bias", "D"),
        *projected,
        _R("attention/out/kernel", "H K D", "attention.output.dense.weight", "D HK"),
        _R("mlp/norm/scale", "D", "feed_forward.layer_norm.weight", "D"),
        _R("mlp/norm/bias", "D", "feed_forward.layer_norm.bias", "D"),
        _R("mlp/mlp/up/kernel", "D F", "feed_forward.dense.dense.weight", "F D"),
        _R("mlp/mlp/up/bias", "F", "feed_forward.dense.dense.bias", "F"),
        _R("mlp/mlp/down/kernel", "F D", "feed_forward.output.dense.weight", "D F"),
        _R("mlp/mlp/down/bias", "D", "feed_forward.output.dense.bias", "D"),
    )
    return mapping.under(f"network/blocks/{ours}/", f"encoder.layers.{number}.", rows)


# `I` and `J` positions along the two axes, `W` and `X` widths of their tables, `U` both streams,
# `L` layers with one projection for queries and keys, `M` layers with two.
_POSITIONS = "embeddings.position_embeddings."
TABLE = mapping.Table(
    prefix="reformer.",
    bare="lm_head.",
    rows=(
        _R("network/embedder/tokens/table", "V D", "embeddings.word_embeddings.weight", "V D"),
        _R("network/embedder/positions_0/table", "T D", f"{_POSITIONS}embedding.weight", "T D"),
        _R("network/embedder/positions_0/table", "I W", f"{_POSITIONS}weights.0", "I S W"),
        _R("network/embedder/positions_1/table", "J X", f"{_POSITIONS}weights.1", "S J X"),
        *_layer("shared", "{l}", ("query_key", "value")),
        *_layer("separate", "{m}", ("query", "key", "value")),
        _R("network/norm/scale", "U", "encoder.layer_norm.weight", "U"),
        _R("network/norm/bias", "U", "encoder.layer_norm.bias", "U"),
        _R("network/head/kernel", "U V", "lm_head.decoder.weight", "V U"),
        _R("network/head/bias", "V", "lm_head.decoder.bias", "V"),
    ),
    copies={},
    buffers=r"lm_head\.bias",  # a second one, which is never added
)

# The defaults are those of transformers' ReformerConfig.
KNOBS = (
    _K("vocab_size", "vocab_size", 320),
    _K("width", "hidden_size", 256),
    _K("heads", "num_attention_heads", 12),
    _K("head_size", "attention_head_size", 64),
    _K("mlp_width", "feed_forward_size", 512),
    _K("max_positions", "max_position_embeddings", 4096),
    _K("norm_eps", "layer_norm_eps", 1e-12),
    _K("init_std", "initializer_range", 0.02),
    _K("dropout", "hidden_dropout_prob", 0.05),
    _K("rounds", "num_hashes", 1),
    _K("lsh_chunk", "lsh_attn_chunk_length", 64),
    _K("local_chunk", "local_attn_chunk_length", 64),
)
# Settings of other variants, which our network has no knob for.
FIXED = {
    "is_decoder": True,
    "lsh_num_chunks_before": 1,
    "lsh_num_chunks_after": 0,
    "local_num_chunks_before": 1,
    "local_num_chunks_after": 0,
    "tie_word_embeddings": False,
}
# And knobs of ours that its layout has no place for.
PLAIN = {"causal": True, "reversible": True, "bucket_mask": False, "duplicate_mask": False}
_KINDS = ("lsh", "local")
_DROPOUTS = {"lsh": 0.0, "local": 0.05}  # of attention, where the config says nothing


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `model` section for a published config.json.

    Raises:
      UserError: for what our network cannot express.
    """
    config = {"is_decoder": False, **config}
    mapping.require(config, FIXED, "in config.json is beyond our network")
    kinds = config.get("attn_layers", ["local", "lsh"] * 3)
    if not kinds or not set(kinds) <= set(_KINDS):
        raise UserError(f"attn_layers={kinds!r} in config.json must name layers of lsh and local.")
    rates = {
        config.get(f"{kind}_attention_probs_dropout_prob", _DROPOUTS[kind]) for kind in set(kinds)
    }
    if len(rates) > 1:
        raise UserError(
            "Our network has one dropout rate for attention: set lsh_attention_probs_dropout_prob "
            "and local_attention_probs_dropout_prob in config.json to the same number."
        )
    model = mapping.read_knobs(KNOBS, config)
    axial = config.get("axial_pos_embds", True)
    shape = tuple(config.get("axial_pos_shape", (64, 64))) if axial else ()
    if len(shape) not in (0, 2):
        raise UserError(f"axial_pos_shape={shape} in config.json must have two axes.")
    buckets = config.get("num_buckets") or ()
    return {
        "name": NETWORK,
        **model,
        **PLAIN,
        "depth": len(kinds),
        "attention": ",".join(_period(kinds)),
        "attention_dropout": rates.pop(),
        "buckets": (buckets,) if isinstance(buckets, int) else tuple(buckets),
        "max_positions": math.prod(shape) if axial else model["max_positions"],
        "axial_shape": shape,
        "axial_widths": tuple(config.get("axial_pos_embds_dim", (64, 192))) if axial else (),
        "activation": mapping.read_activation(config, "hidden_act", "relu"),
        "init": "normal",
        "position_init_std": config.get("axial_norm_std", 1.0) if axial else model["init_std"],
        "residual_init_std": model["init_std"],
    }


def _period(kinds):
    """Returns the shortest list of kinds whose repetition gives `kinds`."""
    lengths = (n for n in range(1, len(kinds) + 1) if len(kinds) % n == 0)
    return next(kinds[:n] for n in lengths if kinds[:n] * (len(kinds) // n) == kinds)


def write_config(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config.json for our `model` and `objective` sections.

    Raises:
      UserError: for what the layout cannot express.
    """
    del objective
    ours = _config(model)
    knobs = {name: getattr(ours, name) for name in PLAIN}
    mapping.require(knobs, PLAIN, "in config.model is beyond Reformer's layout")
    if not set(ours.kinds) <= set(_KINDS):
        raise UserError(
            f"attention={ours.attention!r} in config.model is beyond Reformer's layout: convert "
            "only a model of lsh and local layers."
        )
    if ours.axial_shape and len(ours.axial_shape) != 2:
        raise UserError(
            f"axial_shape={ours.axial_shape} in config.model is beyond Reformer's layout: convert "
            "only a model with two axes of positions."
        )
    buckets = list(ours.buckets)
    config = {
        "architectures": ["ReformerModelWithLMHead"],
        "model_type": "reformer",
        **FIXED,
        **mapping.write_knobs(KNOBS, {**model, "head_size": ours.head_width}),
        "attn_layers": list(ours.kinds) * (ours.depth // len(ours.kinds)),
        **{f"{kind}_attention_probs_dropout_prob": ours.attention_dropout for kind in _KINDS},
        "num_buckets": buckets[0] if len(buckets) == 1 else buckets or None,
        "hidden_act": mapping.write_activation(ours.activation),
        "axial_pos_embds": bool(ours.axial_shape),
    }
    if ours.axial_shape:
        config["axial_pos_shape"] = list(ours.axial_shape)
        config["axial_pos_embds_dim"] = list(ours.tables)
        config["axial_norm_std"] = ours.position_init_std
    return config


def _config(model: Mapping[str, Any]) -> reformer.ReformerConfig:
    return reformer.ReformerConfig(**{k: v for k, v in model.items() if k != "name"})


def sizes(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the length of every axis, from the `model` section of a config."""
    ours = _config(model)
    shape, widths = (ours.axial_shape, ours.tables) if ours.axial_shape else ((0, 0), (0, 0))
    return mapping.sizes({"token_types": 0, **model}) | {
        "T": 0 if ours.axial_shape else ours.max_positions,
        **dict(zip("IJ", shape, strict=True)),
        **dict(zip("WX", widths, strict=True)),
        "U": 2 * ours.width,
        "L": ours.layers_with("shared"),
        "M": ours.layers_with("separate"),
    }


def restore(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors of an export with the second bias that the layout has."""
    return {**tensors, "lm_head.bias": tensors["lm_head.decoder.bias"]}


def objective(groups: Container[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the `objective` section, and the groups of parameters that it needs."""
    del groups
    return {"name": "causal_lm", "logit_chunks": 8}, ["network"]  # as in configs/reformer.py


def special_tokens(tokenizer: tokenizers.Tokenizer) -> dict[str, int | None]:
    """Returns the ids that config.json names."""
    return {"pad_token_id": tokenizer.pad_id, "eos_token_id": tokenizer.eot_id}
