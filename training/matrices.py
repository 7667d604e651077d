"""Optimizers that take a parameter for a matrix, or a stack of layers for several."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Array, PyTree

from training.paths import map_with_path


class Moments(NamedTuple):
    """Adafactor's means of squared gradients for one parameter; None: not kept."""

    rows: Array | None  # of a matrix, over its columns
    columns: Array | None  # over its rows
    full: Array | None  # of a parameter that is not factored


class AdafactorState(NamedTuple):
    """What Adafactor carries."""

    count: Array  # steps done
    moments: PyTree  # `Moments` for each parameter


def scale_by_adafactor(
    decay: float = 0.8, eps: float = 1e-30, least_scale: float = 1e-3, clip: float = 1.0
) -> optax.GradientTransformation:
    """Scales gradients by factored second moments and by the size of the parameter.

    For a gradient g, per matrix (Shazeer and Stern, 2018, algorithms 4 and 5):

        V     = b V + (1 - b) (g^2 + eps),  b = 1 - t^-decay, only its row and column means kept
        u     = g / sqrt(V),  divided by max(1, rms(u) / clip)
        update = u * max(least_scale, rms(parameter))

    A parameter with several axes is a matrix, cut where this is most nearly square: a kernel
    [D H K] is D x HK. Both sides must be 128 or longer, else all of V is kept. The slices of a
    stack's first axis [N ...], recognized by "blocks" in the path, are matrices of their own. The
    library's own version takes such a stack for one array, whose moments no rule could shard.
    """

    def init(params):
        def moments(path, leaf):
            boxed = isinstance(leaf, nn.Partitioned)
            value = leaf.value if boxed else leaf
            if isinstance(value, optax.MaskedNode):  # frozen
                return leaf

            def zeros(axes):
                x = jnp.zeros([value.shape[i] for i in axes], jnp.float32)
                names = tuple(leaf.names[i] for i in axes) if boxed else ()
                return leaf.replace(value=x, names=names) if boxed else x

            stack, rows, columns = _matrix_axes(path, value.shape)
            if not rows:
                return Moments(None, None, zeros(range(value.ndim)))
            return Moments(zeros(stack + rows), zeros(stack + columns), None)

        boxes = lambda x: isinstance(x, nn.Partitioned)  # noqa: E731
        return AdafactorState(
            jnp.zeros((), jnp.int32), map_with_path(moments, params, is_leaf=boxes)
        )

    def update(updates, state, params):
        count = optax.safe_increment(state.count)
        b = 1.0 - count.astype(jnp.float32) ** -decay

        def one(path, g, old, param):
            stack, rows, columns = _matrix_axes(path, g.shape)
            own = tuple(range(len(stack), g.ndim))
            mean = lambda x, axes: x.mean(axes, keepdims=True)  # noqa: E731
            rms = lambda x: jnp.sqrt(mean(jnp.square(x), own))  # noqa: E731
            square = jnp.square(g) + eps
            if rows:
                shape = lambda x, axes: jnp.expand_dims(x, axes)  # noqa: E731
                by_row = b * shape(old.rows, columns) + (1 - b) * mean(square, columns)
                by_column = b * shape(old.columns, rows) + (1 - b) * mean(square, rows)
                u = g * jax.lax.rsqrt(by_row / mean(by_row, rows)) * jax.lax.rsqrt(by_column)
                new = Moments(by_row.squeeze(columns), by_column.squeeze(rows), None)
            else:
                new = Moments(None, None, b * old.full + (1 - b) * square)
                u = g * jax.lax.rsqrt(new.full)
            u = u / jnp.maximum(1.0, rms(u) / clip) * jnp.maximum(least_scale, rms(param))
            return u, new

        paths = map_with_path(lambda path, _: path, updates)
        both = jax.tree.map(one, paths, updates, state.moments, params)
        pick = lambda i: jax.tree.map(lambda _, x: x[i], paths, both)  # noqa: E731
        return pick(0), AdafactorState(count, pick(1))

    return optax.GradientTransformation(init, update)


def scale_by_muon(rms: float = 0.2) -> optax.GradientTransformation:
    """Makes the momentum of each matrix orthogonal, and its root mean square about `rms`.

    Matrices are cut as for `scale_by_adafactor`, but of any size. Scaled as in Liu et al., 2025,
    section 2.2.

    Args:
      rms: of an update.
    """

    def numbers(params):
        return map_with_path(
            lambda path, x: optax.contrib.MuonDimensionNumbers(*_cut(path, x.shape)[1:]), params
        )

    def scale(path, update):
        _, *sides = _cut(path, update.shape)
        return update * rms * math.sqrt(max(math.prod(update.shape[i] for i in s) for s in sides))

    scaled = optax.stateless(lambda updates, params: map_with_path(scale, updates))
    return optax.chain(optax.contrib.scale_by_muon(weight_dimension_numbers=numbers), scaled)


def _matrix_axes(path: str, shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Returns the axes of layers, rows and columns; without rows the parameter is not factored."""
    stack, rows, columns = _cut(path, shape)
    sizes = (math.prod(shape[i] for i in axes) for axes in (rows, columns))
    return (stack, rows, columns) if rows and min(sizes) >= 128 else (stack, (), rows + columns)


def _cut(path: str, shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Returns the axes of layers, and those of the rows and columns of a matrix, nearly square."""
    first = 1 if "blocks/" in path else 0
    stack, own = tuple(range(first)), tuple(range(first, len(shape)))
    sizes = lambda axes: math.prod(shape[i] for i in axes)  # noqa: E731
    cuts = [(own[:i], own[i:]) for i in range(1, len(own))]
    return stack, *max(cuts, key=lambda cut: min(map(sizes, cut)), default=((), own))
