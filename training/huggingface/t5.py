"""T5 as `transformers` publishes it: T5ForConditionalGeneration, of versions 1.0 and 1.1."""

from collections.abc import Container, Mapping
from typing import Any

import errors
from data_pipeline import tokenizers
from errors import UserError
from training.huggingface import mapping

NETWORK = "encoder_decoder"  # of config.model.name
SENTINELS = 100

_R, _K = mapping.Row, mapping.Knob

# Kernels are published as [output, input]. What is behind the norm of a branch has a name of its
# own, and a branch is a number.
PROJECTIONS = (
    _R("query/kernel", "D H K", "q.weight", "HK D"),
    _R("key/kernel", "D H K", "k.weight", "HK D"),
    _R("value/kernel", "D H K", "v.weight", "HK D"),
    _R("out/kernel", "H K D", "o.weight", "D HK"),
)
MLP = (
    _R("up/kernel", "D J", "wi.weight", "J D"),
    _R("gate/kernel", "D I", "wi_0.weight", "I D"),
    _R("up/kernel", "D I", "wi_1.weight", "I D"),
    _R("down/kernel", "F D", "wo.weight", "D F"),
)


def _layer(*branches: str) -> tuple[mapping.Row, ...]:
    """Returns the rows of a block with these branches: attention, cross_attention, mlp."""
    modules = {
        "attention": ("SelfAttention", PROJECTIONS),
        "cross_attention": ("EncDecAttention", PROJECTIONS),
        "mlp": ("DenseReluDense", MLP),
    }
    rows = []
    for number, branch in enumerate(branches):
        theirs, kernels = modules[branch]
        norm = f"layer.{number}.layer_norm.weight"
        rows.append(_R(f"{branch}_norm/scale", "D", norm, "D"))
        rows += mapping.under(f"{branch}/", f"layer.{number}.{theirs}.", kernels)
    return tuple(rows)


def _side(name: str, *branches: str) -> tuple[mapping.Row, ...]:
    relative = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    ours = f"network/{name}/"
    return (
        _R(f"{ours}relative/table", "B H", relative, "B H"),
        *mapping.under(f"{ours}stack/blocks/", f"{name}.block.{{}}.", _layer(*branches)),
        _R(f"{ours}norm/scale", "D", f"{name}.final_layer_norm.weight", "D"),
    )


TABLE = mapping.Table(
    prefix="",
    bare=(),
    rows=(
        _R("network/tokens/table", "V D", "shared.weight", "V D"),
        *_side("encoder", "attention", "mlp"),
        *_side("decoder", "attention", "cross_attention", "mlp"),
        _R("network/head/kernel", "D W", "lm_head.weight", "W D"),
    ),
    copies={
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
        "lm_head.weight": "shared.weight",
    },
    # Cross-attention has no relative positions; early files hold a table that is never read.
    buffers=r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
)

# The defaults are those of transformers' T5Config.
KNOBS = (
    _K("vocab_size", "vocab_size", 32128),
    _K("width", "d_model", 512),
    _K("depth", "num_layers", 6),
    _K("heads", "num_heads", 8),
    _K("head_size", "d_kv", 64),
    _K("mlp_width", "d_ff", 2048),
    _K("max_positions", "n_positions", 512),
    _K("relative_buckets", "relative_attention_num_buckets", 32),
    _K("relative_distance", "relative_attention_max_distance", 128),
    _K("norm_eps", "layer_norm_epsilon", 1e-6),
    _K("dropout", "dropout_rate", 0.1),
)
# What the network has beyond sizes.
NETWORK_KNOBS = {
    "norm_first": True,
    "norm": "rms",
    "bias": False,
    "scaled_scores": False,
}
# Initial values, which no published config holds but for a factor.
INITIAL = {"init": "fan_in", "init_std": 1.0, "residual_init_std": 1.0, "embed_init_std": 1.0}


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `model` section for a published config.json.

    Raises:
      UserError: for what our network cannot express.
    """
    model = mapping.read_knobs(KNOBS, config)
    if config.get("num_decoder_layers") not in (None, model["depth"]):
        raise UserError(
            f"num_decoder_layers={config['num_decoder_layers']!r} in config.json is beyond our "
            f"network, whose stacks are equally deep: convert only a model with "
            f"num_decoder_layers={model['depth']}."
        )
    forward = config.get("feed_forward_proj", "relu")
    gated, activation = forward.startswith("gated-"), forward.removeprefix("gated-")
    if forward == "gated-gelu":
        activation = "gelu_new"  # so `transformers` reads it
    # Version 1.1 is told by this key. `transformers` 5 ties every model when it writes, and keeps
    # what the key said under another name.
    tied = config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True))
    activations = mapping.ACTIVATIONS
    return {
        "name": NETWORK,
        **model,
        "attention_dropout": model["dropout"],
        "mlp_dropout": model["dropout"],
        **NETWORK_KNOBS,
        "gated": gated,
        "activation": activations[
            errors.one_of("feed_forward_proj in config.json", activation, activations)
        ],
        "tied": bool(tied),
        **INITIAL,
    }


def write_config(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config.json for our `model` and `objective` sections.

    Raises:
      UserError: for what T5's layout cannot express.
    """
    del objective
    fixed = {"token_types": 0, "embed_width": 0, "sharing": "none", **NETWORK_KNOBS}
    fixed |= {"attention_dropout": model["dropout"], "mlp_dropout": model["dropout"]}
    mapping.require(model, fixed, "in config.model is beyond T5's layout")
    activation = mapping.write_activation(model["activation"])
    if model["gated"]:
        activation = "gated-gelu" if activation == "gelu_new" else f"gated-{activation}"
        if activation == "gated-gelu" and model["activation"] == "gelu":
            raise UserError(
                "activation='gelu' in config.model is beyond T5's layout, for its gated-gelu is "
                "gelu_tanh: convert only a model with activation='gelu_tanh'."
            )
    knobs = mapping.write_knobs(KNOBS, {**model, "head_size": mapping.sizes(model)["K"]})
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        **knobs,
        "num_decoder_layers": model["depth"],
        "feed_forward_proj": activation,
        "is_encoder_decoder": True,
        "tie_word_embeddings": model["tied"],
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


def objective(groups: Container[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the `objective` section, and the groups of parameters that it needs."""
    del groups
    # as in configs/t5.py
    section = {"name": "seq2seq_lm", "logit_chunks": 8, "weights": {"z_loss": 1e-4}}
    return section, ["network"]


def special_tokens(tokenizer: tokenizers.Tokenizer) -> dict[str, int | None]:
    """Returns the ids that config.json names."""
    return {"pad_token_id": tokenizer.pad_id, "eos_token_id": tokenizer.eot_id}
