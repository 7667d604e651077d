"""XLNet as `transformers` publishes it: for language modeling or question answering, or bare.

The activation that its files call "gelu" is computed with the error function there, and so here;
the released code had the tanh form.
"""

from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from data_pipeline import tokenizers
from errors import UserError
from training.huggingface import bert, mapping

NETWORK = "xlnet"  # of config.model.name

_R, _K = mapping.Row, mapping.Knob

# The kernels of attention are published as [width, heads, head width], the output's too.
LAYER = (
    _R("attention/query/kernel", "D H K", "rel_attn.q", "D H K"),
    _R("attention/key/kernel", "D H K", "rel_attn.k", "D H K"),
    _R("attention/value/kernel", "D H K", "rel_attn.v", "D H K"),
    _R("attention/out/kernel", "H K D", "rel_attn.o", "D H K"),
    _R("attention/distance/kernel", "D H K", "rel_attn.r", "D H K"),
    _R("attention/content_bias", "H K", "rel_attn.r_w_bias", "H K"),
    _R("attention/distance_bias", "H K", "rel_attn.r_r_bias", "H K"),
    _R("attention/segment_bias", "H K", "rel_attn.r_s_bias", "H K"),
    _R("attention/segments", "X H K", "rel_attn.seg_embed", "X H K"),
    _R("attention_norm/scale", "D", "rel_attn.layer_norm.weight", "D"),
    _R("attention_norm/bias", "D", "rel_attn.layer_norm.bias", "D"),
    _R("mlp/up/kernel", "D F", "ff.layer_1.weight", "F D"),
    _R("mlp/up/bias", "F", "ff.layer_1.bias", "F"),
    _R("mlp/down/kernel", "F D", "ff.layer_2.weight", "D F"),
    _R("mlp/down/bias", "D", "ff.layer_2.bias", "D"),
    _R("mlp_norm/scale", "D", "ff.layer_norm.weight", "D"),
    _R("mlp_norm/bias", "D", "ff.layer_norm.bias", "D"),
)
# XLNetForQuestionAnswering; that with "Simple" behind it has BERT's head.
CONDITIONED_SPAN = (
    _R("conditioned_span/first/dense/kernel", "D S", "start_logits.dense.weight", "S D"),
    _R("conditioned_span/first/dense/bias", "S", "start_logits.dense.bias", "S"),
    _R("conditioned_span/pair/x|y/kernel", "D O", "end_logits.dense_0.weight", "O D"),
    _R("conditioned_span/pair/x/bias", "O", "end_logits.dense_0.bias", "O"),
    _R("conditioned_span/norm/scale", "D", "end_logits.LayerNorm.weight", "D"),
    _R("conditioned_span/norm/bias", "D", "end_logits.LayerNorm.bias", "D"),
    _R("conditioned_span/last/dense/kernel", "D S", "end_logits.dense_1.weight", "S D"),
    _R("conditioned_span/last/dense/bias", "S", "end_logits.dense_1.bias", "S"),
    _R("answerable_classifier/pair/y|x/kernel", "D O", "answer_class.dense_0.weight", "O D"),
    _R("answerable_classifier/pair/x/bias", "O", "answer_class.dense_0.bias", "O"),
    _R("answerable_classifier/score/kernel", "D S", "answer_class.dense_1.weight", "S D"),
)
TABLE = mapping.Table(
    prefix="transformer.",
    bare=("lm_loss.", "qa_outputs.", "start_logits.", "end_logits.", "answer_class."),
    rows=(
        _R("network/embedder/tokens/table", "V D", "word_embedding.weight", "V D"),
        _R("network/embedder/query/table", "S D", "mask_emb", "S D"),
        *mapping.under("network/stack/blocks/", "layer.{}.", LAYER),
        _R("output/bias", "V", "lm_loss.bias", "V"),
        *bert.SPAN,
        *CONDITIONED_SPAN,
    ),
    copies={"lm_loss.weight": "word_embedding.weight"},
    buffers=r"(?!)",  # there are none
)

# The defaults are those of transformers' XLNetConfig.
KNOBS = (
    _K("vocab_size", "vocab_size", 32000),
    _K("width", "d_model", 1024),
    _K("depth", "n_layer", 24),
    _K("heads", "n_head", 16),
    _K("mlp_width", "d_inner", 4096),
    _K("norm_eps", "layer_norm_eps", 1e-12),
    _K("init_std", "initializer_range", 0.02),
    _K("dropout", "dropout", 0.1),
)
# Settings of other variants, which our network has no knob for.
FIXED = {
    "attn_type": "bi",
    "clamp_len": -1,
    "same_length": False,
    "untie_r": True,
    "tie_word_embeddings": True,
}
POSITIONS = 512  # of pre-training; the layout states none


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `model` section for a published config.json.

    Raises:
      UserError: for what our network cannot express.
    """
    mapping.require(config, FIXED, "in config.json is beyond our network")
    if "n_token" in config:  # the older name
        config = {"vocab_size": config["n_token"], **config}
    model = mapping.read_knobs(KNOBS, config)
    if config.get("d_head") not in (None, model["width"] / model["heads"]):
        raise UserError(
            f"d_head={config['d_head']!r} in config.json must be d_model / n_head: correct it."
        )
    return {
        "name": NETWORK,
        **model,
        "max_positions": POSITIONS,
        "attention_dropout": model["dropout"],
        "mlp_dropout": model["dropout"],
        "activation": mapping.read_activation(config, "ff_activation", "gelu"),
        "init": "normal",
        "residual_init_std": model["init_std"],
    }


def write_config(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config.json for our `model` and `objective` sections.

    Raises:
      UserError: for what XLNet's layout cannot express.
    """
    if len({model[name] for name in ("dropout", "attention_dropout", "mlp_dropout")}) > 1:
        raise UserError(
            "XLNet's layout has one dropout rate: set config.model.dropout, attention_dropout and "
            "mlp_dropout to the same number."
        )
    width, heads = model["width"], model["heads"]
    if model.get("head_size", 0) not in (0, width // heads):
        raise UserError(
            "XLNet's layout has heads of width / heads: export only a model with "
            f"config.model.head_size={width // heads} or 0."
        )
    return {
        "architectures": [f"XLNet{_head(objective)}"],
        "model_type": "xlnet",
        **mapping.write_knobs(KNOBS, model),
        "d_head": width // heads,
        "ff_activation": mapping.write_activation(model["activation"]),
        **FIXED,
    }


def _head(objective):
    """Returns what the architecture is called behind the name of the family."""
    if objective["name"] != "span":
        return "LMHeadModel"
    if objective["head"] == "independent" and not objective["answerable"]:
        return "ForQuestionAnsweringSimple"
    if objective["head"] == "xlnet" and objective["answerable"]:
        return "ForQuestionAnswering"
    raise UserError(
        f"config.objective.head={objective['head']} with answerable={objective['answerable']} is "
        "beyond XLNet's layout, which has a classifier for head=xlnet and for no other."
    )


def select(objective: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all groups; a tuned network gets a start of the queries, which it has no use for."""
    del objective
    network = params["network"]
    query = {"table": np.zeros_like(network["embedder"]["tokens"]["table"][:1])}
    embedder = {"query": query, **network["embedder"]}
    return {**params, "network": {**network, "embedder": embedder}}


def adapt(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns published tensors with the start of the queries as a table of one row."""
    return {n: x[0] if n.endswith("mask_emb") and x.ndim == 3 else x for n, x in tensors.items()}


def restore(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors of an export as the layout has them; the inverse of `adapt`."""
    return {n: x[None] if n.endswith("mask_emb") else x for n, x in tensors.items()}


def objective(groups: Container[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the `objective` section, and the groups of parameters that it needs."""
    if "span" in groups:
        return bert.span_section(), ["network", "span"]
    if "conditioned_span" in groups:
        section = bert.span_section(head="xlnet", answerable=0.5, dropout=0.1, beam=5)
        return section, ["network", "conditioned_span", "answerable_classifier"]
    return {"name": "permutation_lm"}, ["network", "output"]


def special_tokens(tokenizer: tokenizers.Tokenizer) -> dict[str, int | None]:
    """Returns the ids that config.json names."""
    return {
        "pad_token_id": tokenizer.pad_id,
        "bos_token_id": tokenizer.token_to_id("<s>"),
        "eos_token_id": tokenizer.token_to_id("</s>"),
    }
