"""OBJECTIVES: from a name in a config to the module that training optimizes.

An objective holds its networks as sub-modules and maps a batch to

    terms, metrics = objective(batch, train=...)     # two dicts of losses.Mean

The loss is the sum of the terms' means, each divided by its own weight over the whole batch,
however many devices and microbatches it is spread over, and multiplied by its factor in
`objective.weights`. A term's weight may depend on the batch only.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import ml_collections
from flax.core import FrozenDict

import errors
from model import networks
from model.objectives import (
    causal_lm,
    classification,
    distill,
    electra,
    entity_lm,
    gpt_classification,
    kagnet,
    masked_lm,
    permutation_lm,
    seq2seq_lm,
    span,
)

OBJECTIVES = {
    "masked_lm": masked_lm.MaskedLM,
    "causal_lm": causal_lm.CausalLM,
    "seq2seq_lm": seq2seq_lm.Seq2SeqLM,
    "permutation_lm": permutation_lm.PermutationLM,
    "electra": electra.Electra,
    "entity_lm": entity_lm.EntityLM,
    "distill": distill.Distill,
    "classification": classification.Classification,
    "gpt_classification": gpt_classification.GptClassification,
    "span": span.Span,
    "kagnet": kagnet.KagNet,
}


def build(config: Mapping, platform: str) -> nn.Module:
    """Builds `config.objective` around the network `config.model`.

    Args:
      config: a whole config.
      platform: the backend to compute on, see `layers.numerics`.

    Raises:
      UserError: for an unknown name or key, or a network that the objective cannot train.
    """
    options = ml_collections.ConfigDict(config.objective).to_dict()
    name = errors.one_of("config.objective.name", options.pop("name"), OBJECTIVES)
    objective = OBJECTIVES[name]
    network = config.model.get("name", "")
    if (name == "seq2seq_lm") != (network == "encoder_decoder"):
        raise errors.UserError(
            f"config.objective.name={name} does not suit config.model.name={network}: seq2seq_lm "
            "and encoder_decoder belong together."
        )
    if name == "entity_lm" and network != "ernie":
        raise errors.UserError(
            f"config.objective.name=entity_lm needs the table of entities of config.model.name="
            f"ernie, which {network} has not: set the objective to masked_lm, or the network."
        )
    fields = objective.__dataclass_fields__
    known = set(fields) - {"network", "parent", "name"}
    for name in options:
        errors.one_of("key in config.objective:", name, known)
    required = {k for k in known if fields[k].default is dataclasses.MISSING}
    if missing := required - set(options):
        raise errors.UserError(f"config.objective lacks {', '.join(sorted(missing))}.")
    if options.get("lm_weight", 0.0) < 0:
        raise errors.UserError("config.objective.lm_weight must be at least 0.")
    if options.get("logit_chunks", 1) < 1:
        raise errors.UserError("config.objective.logit_chunks must be at least 1 (1: no chunks).")
    if not options.get("scale", 1.0) > 0:
        raise errors.UserError("config.objective.scale must be above 0.")
    if not 0 <= options.get("dropout", 0.0) < 1:
        raise errors.UserError("config.objective.dropout must be in [0, 1).")
    if objective is span.Span:
        span.check(options)
    if objective is kagnet.KagNet:
        kagnet.check(options)
    if "teacher" in options:  # an objective of its own, made from a model section
        teacher = networks.build(options["teacher"], platform)
        if options["classes"]:
            options["teacher"] = classification.Classification(
                teacher, options["classes"], dropout=0.0
            )
        else:
            options["teacher"] = masked_lm.MaskedLM(teacher, sentence_pair=False)
    options = {k: _frozen(v) for k, v in options.items()}
    return objective(network=networks.build(config.model, platform), **options)


def _frozen(value):
    """Returns what a module can hold: hashable, as it is in a config or in its dump."""
    if isinstance(value, dict):
        return FrozenDict({k: _frozen(v) for k, v in value.items()})
    return tuple(value) if isinstance(value, list) else value
