"""Where arrays lie on the mesh: from the names of their axes, by the config's rules."""

import math
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

Rules = Sequence[tuple[str, str | Sequence[str] | None]]


def spec(
    names: Sequence[str | None], shape: Sequence[int], rules: Rules, mesh: Mapping[str, int]
) -> PartitionSpec:
    """Returns how a parameter is cut.

    A rule whose mesh axes do not divide a dimension does not hold there, for GPT-2's vocabulary of
    50257 divides by nothing: the next rule of that name does, and without one the parameter stays
    whole along it.

    Args:
      names: of its axes.
      shape: its sizes.
      rules: (logical axis, mesh axes) pairs; of those of a name, the first whose axes are free.
      mesh: sizes by mesh axis.
    """
    while True:
        found = nn.logical_to_mesh_axes(tuple(names), tuple(rules))
        wrong = {
            (name, _tuple(axes))
            for name, axes, size in zip(names, found, shape, strict=True)
            if size % math.prod(mesh.get(axis, 1) for axis in _tuple(axes))
        }
        if not wrong:
            return found
        rules = [(name, axes) for name, axes in rules if (name, _tuple(axes)) not in wrong]


def parts(name: str | None) -> int:
    """Returns into how many parts the mesh at hand cuts a logical axis; 1: without a mesh."""
    axes = nn.logical_to_mesh_axes((name,))[0]
    mesh = jax.sharding.get_abstract_mesh().shape
    return math.prod(mesh.get(axis, 1) for axis in _tuple(axes))


def by_part(f: Callable, inputs: Sequence, output: Sequence[str | None]) -> Callable:
    """Returns f for whole arrays, computed by every device of the mesh at hand on its own part.

    For kernels, which no partitioner sees into, and which do not say how their results vary.

    Args:
      f: of parts that are independent of each other.
      inputs: for each argument the names of its axes, in tuples; or a pytree of such.
      output: the names of the result's axes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return f
    leaf = lambda x: type(x) is tuple  # noqa: E731
    specs = jax.tree.map(nn.logical_to_mesh_axes, list(inputs), is_leaf=leaf)
    return jax.shard_map(
        f,
        mesh=mesh,
        in_specs=tuple(specs),
        out_specs=nn.logical_to_mesh_axes(tuple(output)),
        check_vma=False,
    )


def at_rest(x: Array, names: Sequence[str | None]) -> Array:
    """Returns a parameter, which lies where it does between steps, and so its gradient.

    Inside of a loop over layers XLA would else choose for the gradient, and does not always choose
    parts of it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    where = spec(names, x.shape, nn.get_logical_axis_rules(), mesh.shape)
    return jax.lax.with_sharding_constraint(x, where)


def stream(x: Float[Array, "B ... D"]) -> Float[Array, "B ... D"]:
    """Returns x, cut as the residual stream is between blocks."""
    return _constrained(x, "act_embed")


def leaving(x: Float[Array, "B ... D"]) -> Float[Array, "B ... D"]:
    """Returns what a branch gives, a sum over its parts on `tensor`, cut as the stream.

    In two steps: where a device has one row, XLA's partitioner exchanges rows of others if it sums
    and cuts in one (jax 0.10.2, data and fsdp both above 1).
    """
    return stream(_constrained(x, None))


@jax.custom_vjp
def entering(x: Float[Array, "B ... D"]) -> Float[Array, "B ... D"]:
    """Returns x, cut as the stream, for a branch: its gradient leaves the branch."""
    return x


entering.defvjp(lambda x: (x, None), lambda _, dy: (leaving(dy),))


def _constrained(x, width):
    middle = ("act_length",) if x.ndim == 3 else (None,) * (x.ndim - 2)
    return nn.with_logical_constraint(x, ("act_batch", *middle, width))


def _tuple(axes: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
