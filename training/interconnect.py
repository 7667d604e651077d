"""How long a program's collectives take on the links between the devices."""

import collections
import dataclasses
from collections.abc import Sequence

from jax.sharding import Mesh

from training import chips, hlo


@dataclasses.dataclass(frozen=True)
class Communication:
    """All collectives of one kind along the same axes, in one step.

    Attributes:
      kind: all-gather, ...
      axes: of the mesh.
      instructions: in the program.
      runs: of them, in loops as often as these run.
      bytes: of the whole arrays that a device gathers, or gives to be reduced.
      seconds: at the speed of the links; None: not in training/chips.py.
    """

    kind: str
    axes: tuple[str, ...]
    instructions: int
    runs: float
    bytes: float
    seconds: float | None


def add_up(found: Sequence[hlo.Collective], mesh: Mesh) -> list[Communication]:
    """Adds up the collectives by kind and axes, the largest first."""
    alike = collections.defaultdict(list)
    for c in found:
        alike[c.kind, hlo.axes_of(c.group, mesh.shape)].append(c)
    known = chips.memory(mesh.devices.flat[0].device_kind) is not None
    rows = [
        Communication(
            kind,
            axes,
            instructions=sum(c.count for c in group),
            runs=sum(c.times for c in group),
            bytes=sum(c.bytes * c.times for c in group),
            seconds=sum(seconds(c, mesh) for c in group) if known else None,
        )
        for (kind, axes), group in alike.items()
    ]
    return sorted(rows, key=lambda row: -row.bytes)


def seconds(c: hlo.Collective, mesh: Mesh) -> float:
    """Returns how long a collective takes on all links that its group has to itself.

    Rings of n devices send an array (n - 1) / n times to gather or scatter it, twice that to reduce
    it for all; an exchange of all with all crosses a quarter of the ring on average.
    """
    devices = mesh.devices.ravel()
    chip = chips.memory(devices[0].device_kind)
    n, speed = len(c.group), chip.link
    if c.kind == "collective-permute":
        return c.times * c.bytes / speed
    if chip.dims:
        whole = [1 + max(places) for places in zip(*(d.coords for d in devices))]
        own = [set(places) for places in zip(*(devices[i].coords for i in c.group))]
        rings = [
            2 if len(places) == size and size % chip.closes == 0 else 1
            for places, size in zip(own, whole)
            if len(places) > 1
        ]
        speed *= sum(rings) or 1
    rounds = {"all-reduce": 2 * (n - 1) / n, "all-to-all": (n / 4 if chip.dims else (n - 1) / n)}
    return c.times * c.bytes * rounds.get(c.kind, (n - 1) / n) / speed
