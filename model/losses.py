"""Losses as totals with weights. Everything here is computed in float32."""

import types
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

ONCE: Mapping[str, float] = types.MappingProxyType({})  # the factors of terms that count once


class Mean(NamedTuple):
    """A weighted sum and its weight, divided once at the end.

    Totals and weights add over devices, microbatches and evaluation batches; means do not.
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]

    @property
    def value(self) -> Float[Array, ""]:
        """total / weight, and 0 where nothing was counted."""
        return self.total / jnp.maximum(self.weight, 1e-9)


class Rows(NamedTuple):
    """What an evaluation collects row by row, for scores that are no means: F1, correlations.

    An objective returns it among its metrics, and only where it does not train.
    """

    prediction: PyTree[Array]  # [B ...]
    target: Float[Array, "B ..."]
    weight: Float[Array, "B"]  # 0: the row does not count


def mean(values: Float[Array, "..."], weights: Float[Array, "..."]) -> Mean:
    """Returns the weighted mean of `values` as a `Mean`."""
    weights = weights.astype(jnp.float32)
    return Mean((values.astype(jnp.float32) * weights).sum(), weights.sum())


def cross_entropy(logits: Float[Array, "... V"], targets: Int[Array, "..."]) -> Float[Array, "..."]:
    """Returns -log softmax(logits)[targets] for every prediction, in nats."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def correct(logits: Float[Array, "... V"], targets: Int[Array, "..."]) -> Float[Array, "..."]:
    """Returns 1 where the most likely class is the target, else 0."""
    return (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)


def binary_cross_entropy(logits: Float[Array, "..."], labels: Array) -> Float[Array, "..."]:
    """Returns -log of the sigmoid probability of each label (0 or 1), in nats."""
    logits = logits.astype(jnp.float32)
    return jax.nn.softplus(logits) - logits * labels


def kl_divergence(
    teacher: Float[Array, "... V"], student: Float[Array, "... V"], temperature: float
) -> Float[Array, "..."]:
    """Returns T^2 KL(teacher || student) of the distributions softmax(logits / T), in nats.

    T^2 keeps the size of the gradients whatever the temperature (Hinton et al., 2015, section 2).
    """
    teacher, student = (
        jax.nn.log_softmax(x.astype(jnp.float32) / temperature, axis=-1) for x in (teacher, student)
    )
    return temperature**2 * (jnp.exp(teacher) * (teacher - student)).sum(-1)


def cosine_distance(x: Float[Array, "... D"], y: Float[Array, "... D"]) -> Float[Array, "..."]:
    """Returns 1 - cos(x, y)."""
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    norms = jnp.sqrt((jnp.square(x).sum(-1) + 1e-12) * (jnp.square(y).sum(-1) + 1e-12))
    return 1.0 - (x * y).sum(-1) / norms


def squared_error(x: Float[Array, "... D"], y: Float[Array, "... D"]) -> Float[Array, "..."]:
    """Returns the mean of (x - y)^2 over the last axis."""
    return jnp.square(x.astype(jnp.float32) - y.astype(jnp.float32)).mean(-1)


def combine(terms: Mapping[str, Array | float], factors: Mapping[str, float]) -> Array | float:
    """Returns the sum of the terms, each times its factor; a term without one counts once."""
    return sum(factors.get(name, 1.0) * value for name, value in terms.items())


def in_chunks(
    score: Callable[..., tuple[Mean, ...]], chunks: int, *inputs: Array
) -> tuple[Mean, ...]:
    """Sums `score(*inputs)` over slices of the second axis, recomputing each in the backward pass.

    A language model's logits [B T V] are its largest array. In chunks of tokens only [B T/chunks V]
    exists at a time. The tokens are cut and not the vocabulary, which is the axis that tensor
    parallelism shards.

    Args:
      score: maps the slices [B T/chunks ...] of the inputs to `Mean`s.
      chunks: into how many slices; if it does not divide T, the largest number below that does.
      *inputs: arrays [B T ...].
    """
    length = inputs[0].shape[1]
    chunks = next(c for c in range(min(chunks, length), 0, -1) if length % c == 0)
    if chunks == 1:
        return score(*inputs)

    def cut(x):
        return jnp.moveaxis(x.reshape(x.shape[0], chunks, -1, *x.shape[2:]), 1, 0)

    def add(totals, slices):
        return jax.tree.map(jnp.add, totals, score(*slices)), None

    slices = tuple(cut(x) for x in inputs)
    shapes = jax.eval_shape(lambda s: score(*(x[0] for x in s)), slices)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(jax.checkpoint(add, prevent_cse=False), zeros, slices)[0]
