"""GPT-2 as `transformers` publishes it: GPT2LMHeadModel, GPT2Model."""

from collections.abc import Container, Mapping
from typing import Any

from data_pipeline import tokenizers
from errors import UserError
from training.huggingface import mapping

NETWORK = "decoder"  # of config.model.name

_R, _K = mapping.Row, mapping.Knob

# Kernels are published as [input, output], query, key and value side by side in one of them.
LAYER = (
    _R("attention_norm/scale", "D", "ln_1.weight", "D"),
    _R("attention_norm/bias", "D", "ln_1.bias", "D"),
    _R("attention/query|key|value/kernel", "D H K", "attn.c_attn.weight", "D HK"),
    _R("attention/query|key|value/bias", "H K", "attn.c_attn.bias", "HK"),
    _R("attention/out/kernel", "H K D", "attn.c_proj.weight", "HK D"),
    _R("attention/out/bias", "D", "attn.c_proj.bias", "D"),
    _R("mlp_norm/scale", "D", "ln_2.weight", "D"),
    _R("mlp_norm/bias", "D", "ln_2.bias", "D"),
    _R("mlp/up/kernel", "D F", "mlp.c_fc.weight", "D F"),
    _R("mlp/up/bias", "F", "mlp.c_fc.bias", "F"),
    _R("mlp/down/kernel", "F D", "mlp.c_proj.weight", "F D"),
    _R("mlp/down/bias", "D", "mlp.c_proj.bias", "D"),
)
TABLE = mapping.Table(
    prefix="transformer.",
    bare="lm_head.",
    rows=(
        _R("network/embedder/tokens/table", "V D", "wte.weight", "V D"),
        _R("network/embedder/positions/table", "T D", "wpe.weight", "T D"),
        *mapping.under("network/stack/blocks/", "h.{}.", LAYER),
        _R("network/norm/scale", "D", "ln_f.weight", "D"),
        _R("network/norm/bias", "D", "ln_f.bias", "D"),
    ),
    copies={"lm_head.weight": "wte.weight"},
    buffers=r"h\.\d+\.attn\.(bias|masked_bias)",  # the causal mask
)

# The defaults are those of transformers' GPT2Config.
KNOBS = (
    _K("vocab_size", "vocab_size", 50257),
    _K("width", "n_embd", 768),
    _K("depth", "n_layer", 12),
    _K("heads", "n_head", 12),
    _K("mlp_width", "n_inner", 3072),
    _K("max_positions", "n_positions", 1024),
    _K("norm_eps", "layer_norm_epsilon", 1e-5),
    _K("init_std", "initializer_range", 0.02),
    _K("dropout", "resid_pdrop", 0.1),
    _K("attention_dropout", "attn_pdrop", 0.1),
)
# Settings of other variants, which our network has no knob for.
FIXED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `model` section for a published config.json.

    Raises:
      UserError: for what our network cannot express.
    """
    mapping.require(config, FIXED, "in config.json is beyond our network")
    if config.get("n_inner") is None:
        config = {**config, "n_inner": 4 * config.get("n_embd", 768)}
    model = mapping.read_knobs(KNOBS, config)
    check_dropout(config, model)
    return {
        "name": NETWORK,
        **model,
        "token_types": 0,
        "norm_first": True,
        "activation": mapping.read_activation(config, "activation_function", "gelu_new"),
        "init": "normal",
        "position_init_std": model["init_std"],
        "residual_init_std": model["init_std"] * (2 * model["depth"]) ** -0.5,
    }


def write_config(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config.json for our `model` and `objective` sections.

    Raises:
      UserError: for what GPT-2's layout cannot express.
    """
    del objective
    fixed = {"norm_first": True, "token_types": 0, "head_size": 0}
    mapping.require(model, fixed, "in config.model is beyond GPT-2's layout")
    check_bands(model, "GPT-2's")
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **mapping.write_knobs(KNOBS, model),
        "embd_pdrop": model["dropout"],
        "activation_function": mapping.write_activation(model["activation"]),
        "tie_word_embeddings": True,
    }


def check_dropout(config: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Raises a UserError if a published config has two rates where ours has one."""
    if config.get("embd_pdrop", 0.1) != model["dropout"]:
        raise UserError(
            "Our network has one dropout rate for embeddings and residual branches: set embd_pdrop "
            "and resid_pdrop in config.json to the same number."
        )


def check_bands(model: Mapping[str, Any], whose: str) -> None:
    """Raises a UserError if a `model` section has GPT-3's banded layers."""
    if any(model.get("bands", (0,))):
        raise UserError(
            f"bands={tuple(model['bands'])} in config.model is beyond {whose} layout, which has "
            "dense attention only: train with bands=(0,) what is to be exported."
        )


def objective(groups: Container[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the `objective` section, and the groups of parameters that it needs."""
    del groups
    return {"name": "causal_lm", "logit_chunks": 8}, ["network"]  # as in configs/gpt2.py


def special_tokens(tokenizer: tokenizers.Tokenizer) -> dict[str, int | None]:
    """Returns the ids that config.json names."""
    return {"bos_token_id": tokenizer.eot_id, "eos_token_id": tokenizer.eot_id}
