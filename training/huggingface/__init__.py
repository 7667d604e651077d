"""Published checkpoints in Hugging Face's layout: config.json, safetensors, vocabulary.

Only numbers are read: a pickle, which can run any code, is never loaded. `transformers` and PyTorch
are not needed.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import errors
from data_pipeline import tokenizers
from errors import UserError
from training.huggingface import (
    albert,
    bert,
    distilbert,
    electra,
    files,
    gpt2,
    mapping,
    openai_gpt,
    reformer,
    roberta,
    t5,
    xlnet,
)

# By `model_type` in config.json, which is also the name of the paper's page in configs/, unless the
# family has another PAGE. For an export the first one is taken whose layout has a place for all of
# the model: without token types that is DistilBERT's for its epsilon of 1e-12, else RoBERTa's.
#
# A family may have functions besides those that all have: `adapt` and `restore` change tensors
# after they are read and before they are written, `select` picks the groups of a run to export, and
# `sizes` knows more axes than mapping.py. SENTINELS is how many of them its vocabularies have where
# a folder does not say.
FAMILIES = {
    "bert": bert,
    "albert": albert,
    "electra": electra,
    "distilbert": distilbert,
    "roberta": roberta,
    "gpt2": gpt2,
    "openai-gpt": openai_gpt,
    "reformer": reformer,
    "t5": t5,
    "xlnet": xlnet,
}


class Checkpoint(NamedTuple):
    """A published checkpoint in our terms.

    Attributes:
      family: its name in FAMILIES.
      model: the `model` section of a config, without `dtype` and `remat`.
      objective: the `objective` section.
      params: float32 arrays; the tree of the objective, without the heads that are not there.
      missing: paths of the objective's parameters that are not there, by whole heads.
      unexpected: names of the tensors that our objective has no place for.
      tokenizer: None where the folder has no vocabulary.
    """

    family: str
    model: dict[str, Any]
    objective: dict[str, Any]
    params: dict[str, Any]
    missing: list[str]
    unexpected: list[str]
    tokenizer: tokenizers.Tokenizer | None


def load(folder: str | os.PathLike) -> Checkpoint:
    """Reads a checkpoint of one of the FAMILIES, of any of its architectures and float types.

    Raises:
      UserError: for what is missing, damaged, pickled or beyond our networks.
    """
    name, model = read_model(folder)
    family = FAMILIES[name]
    params, unexpected = mapping.from_published(
        family.TABLE,
        sizes(family, model),
        getattr(family, "adapt", lambda tensors: tensors)(files.Tensors(folder)),
        os.fspath(folder),
    )
    objective, groups = family.objective(params)
    absent = [group for group in groups if group not in params]
    missing = [path for group in absent for path in mapping.paths(family.TABLE, [group]) or [group]]
    tokenizer = files.read_tokenizer(folder, getattr(family, "SENTINELS", 0))
    if tokenizer is not None and tokenizer.vocab_size > model["vocab_size"]:
        raise UserError(
            f"The vocabulary in {folder} has {tokenizer.vocab_size} tokens but its model only "
            f"{model['vocab_size']}: use the vocabulary that belongs to these weights."
        )
    return Checkpoint(name, model, objective, params, missing, unexpected, tokenizer)


def read_model(folder: str | os.PathLike) -> tuple[str, dict[str, Any]]:
    """Returns the family and the `model` section of a checkpoint, without reading its weights.

    Raises:
      UserError: as `load`.
    """
    config = files.read_config(folder)
    if "model_type" not in config:
        raise UserError(
            f"config.json in {folder} does not say what it describes: add a line such as "
            '"model_type": "bert".'
        )
    name = errors.one_of("model_type in config.json", config["model_type"], FAMILIES)
    return name, FAMILIES[name].read_config(config)


def save(
    folder: str | os.PathLike,
    model: Mapping[str, Any],
    objective: Mapping[str, Any],
    params: Mapping[str, Any],
    tokenizer: tokenizers.Tokenizer | None = None,
    family: str | None = None,
) -> None:
    """Writes a checkpoint that `transformers` loads, and `load` reads back bit for bit.

    Args:
      folder: made if absent; must not hold a checkpoint.
      model: the `model` section of a config.
      objective: the `objective` section.
      params: of the objective.
      tokenizer: saved beside the weights, if given.
      family: whose layout it is; None: the first one that can express it.

    Raises:
      UserError: if no family has such a network, the folder is taken, or the disk is full.
    """
    if family is None:
        family = _family_of(model, objective)
    else:
        family = FAMILIES[errors.one_of("family", family, FAMILIES)]
    params = getattr(family, "select", lambda objective, params: params)(objective, params)
    config = family.write_config(model, objective)
    config["dtype"] = "float32"
    if tokenizer is not None:
        config |= family.special_tokens(tokenizer)
    tensors = dict(mapping.to_published(family.TABLE, sizes(family, model), params))
    tensors = getattr(family, "restore", dict)(tensors)
    files.write(folder, config, tensors, tokenizer)


def sizes(family: Any, model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the length of every axis of a family's tensors, from the `model` section."""
    return getattr(family, "sizes", mapping.sizes)(model)


def _family_of(model: Mapping[str, Any], objective: Mapping[str, Any]):
    reasons = []
    for family in FAMILIES.values():
        if family.NETWORK != model["name"]:
            continue
        try:
            family.write_config(model, objective)
        except UserError as error:
            reasons.append(str(error))
            continue
        return family
    if reasons:
        raise UserError(
            f"No published layout has a place for this model; the nearest: {reasons[0]}"
        )
    raise UserError(
        f"No published layout is known for config.model.name={model['name']!r}: export one of "
        f"{', '.join(sorted({family.NETWORK for family in FAMILIES.values()}))}."
    )
