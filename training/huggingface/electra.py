"""ELECTRA as `transformers` publishes it: ElectraForPreTraining (the discriminator) or
ElectraForQuestionAnswering and, as a checkpoint of its own, ElectraForMaskedLM (the generator).
"""

from collections.abc import Container, Mapping
from typing import Any

from data_pipeline import tokenizers
from errors import UserError
from training.huggingface import bert, mapping

NETWORK = "encoder"  # of config.model.name

_R, _K = mapping.Row, mapping.Knob

PROJECT = (
    _R("network/project/kernel", "E D", "embeddings_project.weight", "D E"),
    _R("network/project/bias", "D", "embeddings_project.bias", "D"),
)
TABLE = mapping.Table(
    prefix="electra.",
    bare=(
        *("discriminator_predictions.", "generator_predictions.", "generator_lm_head."),
        "qa_outputs.",
    ),
    rows=(
        *mapping.under("network/embedder/", "embeddings.", bert.EMBEDDER),
        *mapping.under("network/embed_norm/", "embeddings.LayerNorm.", bert.NORM_OF_TABLES),
        *PROJECT,
        *mapping.under("network/stack/blocks/", "encoder.layer.{}.", bert.LAYER),
        _R("replaced_token/dense/kernel", "D O", "discriminator_predictions.dense.weight", "O D"),
        _R("replaced_token/dense/bias", "D", "discriminator_predictions.dense.bias", "D"),
        _R(
            "replaced_token/score/kernel",
            "D S",
            "discriminator_predictions.dense_prediction.weight",
            "S D",
        ),
        _R(
            "replaced_token/score/bias",
            "S",
            "discriminator_predictions.dense_prediction.bias",
            "S",
        ),
        _R("masked_lm/dense/kernel", "D E", "generator_predictions.dense.weight", "E D"),
        _R("masked_lm/dense/bias", "E", "generator_predictions.dense.bias", "E"),
        *mapping.under("masked_lm/norm/", "generator_predictions.LayerNorm.", bert.NORM_OF_TABLES),
        _R("masked_lm/bias", "V", "generator_lm_head.bias", "V"),
        *bert.SPAN,
    ),
    copies={"generator_lm_head.weight": "embeddings.word_embeddings.weight"},
    buffers=r"embeddings\.(position_ids|token_type_ids)",
)

# The defaults are those of transformers' ElectraConfig.
KNOBS = (
    _K("embed_width", "embedding_size", 128),
    *(
        knob._replace(
            default={"width": 256, "heads": 4, "mlp_width": 1024}.get(knob.ours, knob.default)
        )
        for knob in bert.KNOBS
    ),
)


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `model` section for a published config.json.

    Raises:
      UserError: for what our network cannot express.
    """
    mapping.require(config, bert.FIXED, "in config.json is beyond our network")
    model = mapping.read_knobs(KNOBS, config)
    activation = mapping.read_activation(config, "hidden_act", "gelu")
    if "ElectraForMaskedLM" in config.get("architectures", ()) and activation != "gelu":
        raise UserError(
            f"hidden_act={config['hidden_act']!r} in config.json: the head of this generator has "
            'gelu whatever it says, and ours follows it; convert only one with hidden_act="gelu".'
        )
    return {
        "name": NETWORK,
        **model,
        "norm_first": False,
        "activation": activation,
        "init": "truncated_normal",
        "position_init_std": model["init_std"],
        "residual_init_std": model["init_std"],
    }


def write_config(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config.json for our `model` and `objective` sections.

    Raises:
      UserError: for what ELECTRA's layout cannot express.
    """
    plain = {"name": "masked_lm"} if objective["name"] == "electra" else objective
    bert.check_plain(model, plain, "ELECTRA", embed_width=None)
    if model["token_types"] < 1:
        raise UserError(
            "ELECTRA's layout has token types: export only a model with config.model.token_types "
            "of 1 or more."
        )
    kind = bert.head(objective)
    if objective["name"] == "masked_lm":
        fixed = {"name": "masked_lm", "sentence_pair": False}
        mapping.require(objective, fixed, "in config.objective is not ELECTRA's generator")
        mapping.require(model, {"activation": "gelu"}, "in config.model is not the generator's")
    elif objective.get("variant", "electra") not in ("electra", "electra_15"):
        raise UserError(
            f"config.objective.variant={objective['variant']} has no head that tells replaced "
            "tokens: export its generator, or a run of variant=electra."
        )
    config = mapping.write_knobs(KNOBS, {**model, "embed_width": mapping.sizes(model)["E"]})
    return {
        "architectures": [f"Electra{kind}"],
        "model_type": "electra",
        **config,
        "hidden_act": mapping.write_activation(model["activation"]),
        "tie_word_embeddings": True,
    }


def objective(groups: Container[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the `objective` section, and the groups of parameters that it needs.

    A discriminator needs a generator to be trained on, which is not in its checkpoint.
    """
    if "span" in groups:
        return bert.span_section(), ["network", "span"]
    if "masked_lm" in groups:
        return {"name": "masked_lm", "sentence_pair": False}, ["network", "masked_lm"]
    section = {
        "name": "electra",
        "variant": "electra",
        "tie": "embeddings",
        "generator_size": 0.25,
        "logit_chunks": 8,
        "weights": {"masked_lm": 1.0, "replaced_token": 50.0, "recovery": 1.0},
    }
    return section, ["network", "replaced_token", "masked_lm", "generator"]


def select(objective: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the groups of one checkpoint: of an ELECTRA run those of the discriminator."""
    if objective["name"] != "electra":
        return dict(params)
    return {group: params[group] for group in ("network", "replaced_token")}


def generator(
    model: Mapping[str, Any], objective: Mapping[str, Any], params: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Returns the generator of an ELECTRA run as a model, an objective and parameters of its own.

    Raises:
      UserError: if there is none.
    """
    if objective["name"] != "electra" or "generator" not in params:
        raise UserError(
            "There is no generator to export: it is part of a run of configs/electra.py with an "
            "objective.tie other than all."
        )
    own, main = params["generator"], params["network"]
    embedder, norm = own.get("embedder", {}), own.get("embed_norm", main["embed_norm"])
    network = {**own, "embedder": {**main["embedder"], **embedder}, "embed_norm": norm}
    heads = network["stack"]["blocks"]["attention"]["query"]["kernel"].shape[2]
    width = network["stack"]["blocks"]["attention"]["query"]["kernel"].shape[1]
    small = {
        **model,
        "embed_width": mapping.sizes(model)["E"],
        "width": width,
        "heads": heads,
        "mlp_width": network["stack"]["blocks"]["mlp"]["up"]["bias"].shape[1],
    }
    section = {"name": "masked_lm", "sentence_pair": False}
    return small, section, {"network": network, "masked_lm": params["masked_lm"]}


def special_tokens(tokenizer: tokenizers.Tokenizer) -> dict[str, int | None]:
    """Returns the ids that config.json names."""
    return {"pad_token_id": tokenizer.pad_id}
