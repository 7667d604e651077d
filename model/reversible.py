"""Residual layers whose inputs are recomputed from their outputs (Reformer, section 3).

`B` rows, `T` tokens, `D` width, `N` layers. A layer has two branches, attend and feed_forward,
which are pure functions of (parameters, stream, number of the layer, context). With two streams

    y1 = x1 + attend(x2)        x2 = y2 - feed_forward(y1)
    y2 = x2 + feed_forward(y1)  x1 = y1 - attend(x2)

so that the backward pass needs the outputs of the last layer only.
"""

import functools
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

Streams = tuple[Float[Array, "B T D"], Float[Array, "B T D"]]


class Layer(Protocol):
    """Two branches; hashable, and the streams are float32 or the inverse is not exact enough."""

    def attend(self, params: PyTree, x: Array, index: Array, context: PyTree) -> Array:
        """Returns what is added to a stream."""

    def feed_forward(self, params: PyTree, x: Array, index: Array, context: PyTree) -> Array:
        """Returns what is added to a stream."""


def forward(
    period: Sequence[Layer], params: Sequence[PyTree], x: Streams, context: PyTree
) -> Streams:
    """Applies all layers; differentiated as it is, every layer's activations are stored.

    Args:
      period: the layers that follow one another, over and over.
      params: of each of them, stacked: [N / period ...].
      x: both streams.
      context: what all layers read; gets no gradient.
    """

    def apply(x, inputs):
        params, first = inputs
        x1, x2 = x
        for place, (layer, p) in enumerate(zip(period, params, strict=True)):
            x1 = x1 + layer.attend(p, x2, first + place, context)
            x2 = x2 + layer.feed_forward(p, x1, first + place, context)
        return (x1, x2), None

    return jax.lax.scan(apply, x, (tuple(params), _first_layers(period, params)))[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def streams(
    period: Sequence[Layer], params: Sequence[PyTree], x: Streams, context: PyTree
) -> Streams:
    """Applies all layers as `forward` does, in memory that does not grow with their number."""
    return forward(period, params, x, context)


def _save(period, params, x, context):
    y = forward(period, params, x, context)
    return y, (params, y, context)


def _recompute(period, saved, dy):
    params, y, context = saved

    def undo(carry, inputs):
        params, first = inputs
        (y1, y2), (d1, d2) = carry
        gradients = []
        for place in reversed(range(len(period))):
            layer, p, index = period[place], params[place], first + place
            branch = lambda p, x, f=layer.feed_forward, i=index: f(p, x, i, context)  # noqa: E731
            added, pull = jax.vjp(branch, p, y1)
            dp_mlp, dx = pull(d2)
            y2, d1 = y2 - added, d1 + dx
            branch = lambda p, x, f=layer.attend, i=index: f(p, x, i, context)  # noqa: E731
            added, pull = jax.vjp(branch, p, y2)
            dp_attention, dx = pull(d1)
            y1, d2 = y1 - added, d2 + dx
            gradients.insert(0, jax.tree.map(jnp.add, dp_mlp, dp_attention))
        return ((y1, y2), (d1, d2)), tuple(gradients)

    inputs = (tuple(params), _first_layers(period, params))
    (_, dx), gradients = jax.lax.scan(undo, (y, dy), inputs, reverse=True)
    return gradients, dx, None


streams.defvjp(_save, _recompute)


def residual(
    period: Sequence[Layer],
    params: Sequence[PyTree],
    x: Float[Array, "B T D"],
    context: PyTree,
    policy,
) -> Float[Array, "B T D"]:
    """Applies all layers to one stream, x + attend(x) and so on: what `streams` is compared with.

    Args:
      period: as in `forward`.
      params: as in `forward`.
      x: the stream.
      context: as in `forward`.
      policy: what a layer keeps for the backward pass, of `transformer.REMAT`.
    """

    def apply(x, inputs):
        params, first = inputs
        for place, (layer, p) in enumerate(zip(period, params, strict=True)):
            x = x + layer.attend(p, x, first + place, context)
            x = x + layer.feed_forward(p, x, first + place, context)
        return x, None

    if policy is not None:
        apply = jax.checkpoint(apply, prevent_cse=False, policy=policy)
    return jax.lax.scan(apply, x, (tuple(params), _first_layers(period, params)))[0]


def _first_layers(period, params):
    """Returns the number of the first layer of each repetition of the period."""
    repetitions = len(jax.tree.leaves(params)[0])
    return len(period) * jnp.arange(repetitions)
