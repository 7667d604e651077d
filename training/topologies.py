"""TPU slices that are not here: their devices, for which libtpu compiles on any machine."""

import importlib.util
import math
import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from errors import UserError, one_of

# Chip -> dimensions of its torus, and what jax must be told: v4 counts a chip as one device only
# when its two cores are joined.
DIMS = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2}
_OPTIONS = {"v4": {"chip_config_name": "megacore"}}
# Without them libtpu asks the metadata server of a cloud machine for minutes, and logs into a file.
# Several processes of one machine may compile at a time, for none of them has a chip.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# The compiler weighs fusions by functions that call each other, in threads whose stacks have 64 KiB
# by default: XLNet-large for a v5p:8x8x8 ends in a segmentation fault there.
_STACK = ("--fibers_default_thread_stack_size", 4 << 20)


class Topology(NamedTuple):
    """A slice of TPUs: `v5p` and (8, 8, 8)."""

    chip: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """As it is written: v5p:8x8x8."""
        return f"{self.chip}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """How many."""
        return math.prod(self.shape)


def parse(text: str) -> Topology:
    """Reads v5e:4x4, v5p:8x8x8, ...

    Raises:
      UserError: for another chip, or a shape that such chips cannot have.
    """
    chip, _, shape = text.partition(":")
    one_of("chip in --topology", chip, DIMS)
    example = f"{chip}:{'x'.join('4' * DIMS[chip])}"
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise UserError(f"--topology={text} has no shape: write it like {example}.")
    sizes = tuple(map(int, shape.split("x")))
    if len(sizes) != DIMS[chip]:
        raise UserError(
            f"--topology={text}: a {chip} slice has {DIMS[chip]} dimensions, such as {example}."
        )
    return Topology(chip, sizes)


def devices(topology: Topology) -> list[jax.Device]:
    """Returns the devices of a slice; they can be compiled for, and nothing else.

    Raises:
      UserError: without libtpu, or for a shape that it does not know.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "--topology needs the TPU's compiler: pip install '.[tpu]' in the repository, or "
            "make install EXTRAS=dev,tpu."
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    arguments = os.environ.get("LIBTPU_INIT_ARGS", "")
    if _STACK[0] not in arguments:
        os.environ["LIBTPU_INIT_ARGS"] = f"{arguments} {_STACK[0]}={_STACK[1]}".strip()
    options = dict(_OPTIONS.get(topology.chip, {}))
    if topology.chips == 1:
        options["chips_per_host_bounds"] = (1,) * 3
    try:
        found = topologies.get_topology_desc(topology.name, "tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"--topology={topology.name} is none that the compiler knows: "
            f"{str(error).splitlines()[0]}."
        ) from error
    return list(found.devices)
