"""The mesh, and where each logical axis lies on it.

Parameters are placed by the rules in `configs/common.py`; batches by data_pipeline/loader.py.
"""

import math
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from errors import UserError
from model import placement

AXES = ("data", "fsdp", "tensor")


def make_mesh(config: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lays the devices out as data x fsdp x tensor.

    Args:
      config: the `mesh` section of a config; -1 on one axis takes all devices that are left.
      devices: all devices of the job by default.

    Raises:
      UserError: if the sizes do not multiply to the number of devices, or cannot be laid over the
        torus in which these are connected.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {axis: int(config[axis]) for axis in AXES}
    written = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f"config.mesh ({written}) may hold one -1; other sizes are at least 1.")
    if free:
        sizes[free[0]] = len(devices) // -math.prod(sizes.values())
    if math.prod(sizes.values()) != len(devices):
        raise UserError(
            f"config.mesh ({written}) does not fit {len(devices)} device(s): the sizes must "
            "multiply to that number; set one of them to -1 to fill it in."
        )
    types = (AxisType.Auto,) * len(AXES)
    try:
        return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=types, devices=devices)
    except NotImplementedError as error:  # an axis of the mesh is made of whole axes of the torus
        torus = "x".join(str(1 + max(places)) for places in zip(*(d.coords for d in devices)))
        raise UserError(
            f"config.mesh ({written}) cannot be laid over a torus of {torus} chips: each size must "
            "be a product of some of these."
        ) from error


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_rules(rules: Sequence[tuple[str, str | Sequence[str] | None]]) -> tuple:
    """Returns the rules as nested tuples (a dump of a config holds lists).

    Raises:
      UserError: for a mesh axis that does not exist.
    """
    result = []
    for name, axes in rules:
        axes = axes if axes is None or isinstance(axes, str) else tuple(axes)
        for axis in () if axes is None else (axes,) if isinstance(axes, str) else axes:
            if axis not in AXES:
                raise UserError(
                    f"config.rules sends {name!r} to {axis!r}, but the mesh has {', '.join(AXES)}."
                )
        result.append((name, axes))
    return tuple(result)


def state_shardings(abstract: PyTree, mesh: Mesh, rules) -> PyTree:
    """Places every leaf of a boxed tree (flax `Partitioned`) by the rules.

    Args:
      abstract: `jax.eval_shape` of the state, with its boxes.
      mesh: the mesh.
      rules: (logical axis, mesh axes) pairs.

    Returns:
      A tree of NamedShardings with the structure of the unboxed tree.

    Raises:
      UserError: for a logical axis without a rule.
    """
    known = {name for name, _ in rules}

    def place(leaf):
        if not isinstance(leaf, nn.Partitioned):
            return replicated(mesh)
        if isinstance(leaf.value, optax.MaskedNode):  # no optimizer state: the parameter is frozen
            return leaf.value
        for name in leaf.names:
            if name is not None and name not in known:
                raise UserError(f"config.rules has no entry for the parameter axis {name!r}.")
        return NamedSharding(mesh, placement.spec(leaf.names, leaf.value.shape, rules, mesh.shape))

    return jax.tree.map(place, abstract, is_leaf=lambda x: isinstance(x, nn.Partitioned))
