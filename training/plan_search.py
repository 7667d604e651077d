"""A search for a better plan: meshes, microbatches and what is kept for the backward pass.

One knob after another, each at the best value of those before: some fifteen compilations instead of
the hundreds of the whole grid.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections

from errors import UserError
from model import transformer
from training import plan as plan_lib
from training import sharding

_TENSOR = (1, 2, 4, 8)  # ways to cut heads; more would leave too little to each chip
_QUARTERS = (16, 8, 4, 2, 1)  # of the config's microbatches


@dataclasses.dataclass(frozen=True)
class Trial:
    """A plan that was tried.

    Attributes:
      overrides: values by dotted key, in which it differs from the config.
      plan: None if train.py would refuse it.
      refusal: why.
    """

    overrides: Mapping[str, Any]
    plan: plan_lib.Plan | None
    refusal: str = ""

    @property
    def flags(self) -> str:
        """The overrides as they are written after the command."""
        return " ".join(f"--config.{key}={value}" for key, value in self.overrides.items())

    @property
    def cost(self) -> tuple[bool, float]:
        """What is less is better: fitting, then time; without either, memory."""
        if self.plan is None:
            return True, float("inf")
        memory, times = self.plan.memory, self.plan.times
        if memory.fits is False or times is None:
            return memory.fits is False, memory.needed
        return False, times.most

    def to_dict(self) -> dict[str, Any]:
        """Returns what the table shows, in JSON's types."""
        times = self.plan and self.plan.times
        return {
            "overrides": dict(self.overrides),
            "needed": self.plan and self.plan.memory.needed,
            "fits": self.plan and self.plan.memory.fits,
            "least": times and times.least,
            "most": times and times.most,
            "refusal": self.refusal,
        }


def search(
    config: ml_collections.ConfigDict, plan: plan_lib.Plan, devices: Sequence[jax.Device] | None
) -> Iterator[Trial]:
    """Compiles a config's neighbors; yields the config itself, then each as soon as it is tried.

    Args:
      config: a whole config.
      plan: its own.
      devices: as `plan.make` takes them.
    """
    best = Trial({}, plan)
    yield best
    for knob in _knobs(config, plan):
        start = best
        for values in knob:
            if all(_value(config, start, plan, key) == value for key, value in values.items()):
                continue
            trial = _try(config, dict(start.overrides) | values, devices)
            yield trial
            best = min(best, trial, key=lambda t: t.cost)


def frontier(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the trials than which none is at once no larger and no slower, smallest first.

    Where times are not known, or nothing compiles, that is the smallest alone.
    """

    def point(trial):
        times = trial.plan.times
        return trial.plan.memory.needed, times.most if times else float("inf")

    found = []
    for trial in sorted((t for t in trials if t.plan), key=point):
        if not found or point(trial)[1] < point(found[-1])[1]:
            found.append(trial)
    return found


def _knobs(config, plan):
    """Returns the values of each knob, as overrides."""
    yield [{f"mesh.{axis}": n for axis, n in mesh.items()} for mesh in _meshes(config, plan)]
    if "remat" in config.model:
        yield [{"model.remat": name} for name in transformer.REMAT]
    counts = [config.microbatches * n // 4 for n in _QUARTERS if config.microbatches * n % 4 == 0]
    yield [{"microbatches": n} for n in counts if config.batch_size % n == 0]


def _meshes(config, plan):
    """Returns meshes of as many devices: rows over all, or the state cut over all, or a part."""
    heads = config.model.get("heads", 1)
    for tensor in _TENSOR:
        rest = plan.devices // tensor
        if plan.devices % tensor or heads % tensor:
            continue
        for fsdp in sorted({1, plan.mesh["fsdp"], rest}):
            if rest % fsdp == 0:
                yield dict(zip(sharding.AXES, (rest // fsdp, fsdp, tensor)))


def _value(config, trial, plan, key):
    """Returns what a trial has there; of the config's mesh, where -1 is filled in."""
    if key in trial.overrides:
        return trial.overrides[key]
    section, _, name = key.rpartition(".")
    return (
        plan.mesh[name] if section == "mesh" else config[section][name] if section else config[key]
    )


def _try(config, overrides, devices):
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(overrides)
    try:
        plan = plan_lib.make(changed, devices, without_weights=True)
    except UserError as error:
        return Trial(overrides, None, str(error))
    return Trial(overrides, plan)
