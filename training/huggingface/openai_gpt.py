"""GPT-1 as `transformers` publishes it: OpenAIGPTLMHeadModel, OpenAIGPTModel."""

from collections.abc import Mapping
from typing import Any

from errors import UserError
from training.huggingface import gpt2, mapping

NETWORK = "decoder"  # of config.model.name
PAGE = "gpt1"  # in configs/

_R, _K = mapping.Row, mapping.Knob

# A block is GPT-2's, with its norms behind the branches.
TABLE = mapping.Table(
    prefix="transformer.",
    bare="lm_head.",
    rows=(
        _R("network/embedder/tokens/table", "V D", "tokens_embed.weight", "V D"),
        _R("network/embedder/positions/table", "T D", "positions_embed.weight", "T D"),
        *mapping.under("network/stack/blocks/", "h.{}.", gpt2.LAYER),
    ),
    copies={"lm_head.weight": "tokens_embed.weight"},
    buffers=r"h\.\d+\.attn\.bias|position_ids",  # the causal mask
)

# The defaults are those of transformers' OpenAIGPTConfig.
KNOBS = (
    _K("vocab_size", "vocab_size", 40478),
    _K("width", "n_embd", 768),
    _K("depth", "n_layer", 12),
    _K("heads", "n_head", 12),
    _K("max_positions", "n_positions", 512),
    _K("norm_eps", "layer_norm_epsilon", 1e-5),
    _K("init_std", "initializer_range", 0.02),
    _K("dropout", "resid_pdrop", 0.1),
    _K("attention_dropout", "attn_pdrop", 0.1),
)
# Ours -> the published one, whose "gelu" is the approximation by tanh.
ACTIVATIONS = {"gelu_tanh": "gelu", "relu": "relu"}


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `model` section for a published config.json.

    Raises:
      UserError: for what our network cannot express.
    """
    mapping.require(config, {"tie_word_embeddings": True}, "in config.json is beyond our network")
    model = mapping.read_knobs(KNOBS, config)
    gpt2.check_dropout(config, model)
    activations = {theirs: ours for ours, theirs in ACTIVATIONS.items()}
    activation = config.get("afn", "gelu")
    if activation not in activations:
        raise UserError(
            f"afn={activation!r} in config.json is beyond our network: convert only a model with "
            f"{' or '.join(activations)}."
        )
    return {
        "name": NETWORK,
        **model,
        "mlp_width": 4 * model["width"],
        "token_types": 0,
        "norm_first": False,
        "activation": activations[activation],
        "init": "normal",
        "position_init_std": model["init_std"],
        "residual_init_std": model["init_std"],
    }


def write_config(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config.json for our `model` and `objective` sections.

    Raises:
      UserError: for what GPT-1's layout cannot express.
    """
    if objective["name"] != "causal_lm":
        raise UserError(
            f"config.objective.name={objective['name']!r} has a head that GPT-1's layout has no "
            "place for: export the pre-trained model that it started from."
        )
    fixed = {"norm_first": False, "token_types": 0, "head_size": 0}
    fixed["mlp_width"] = 4 * model["width"]
    mapping.require(model, fixed, "in config.model is beyond GPT-1's layout")
    gpt2.check_bands(model, "GPT-1's")
    if model["activation"] not in ACTIVATIONS:
        raise UserError(
            f"activation={model['activation']!r} in config.model is beyond GPT-1's layout: convert "
            f"only a model with {' or '.join(ACTIVATIONS)}."
        )
    return {
        "architectures": ["OpenAIGPTLMHeadModel"],
        "model_type": "openai-gpt",
        **mapping.write_knobs(KNOBS, model),
        "embd_pdrop": model["dropout"],
        "afn": ACTIVATIONS[model["activation"]],
        "tie_word_embeddings": True,
    }


objective = gpt2.objective
special_tokens = gpt2.special_tokens
