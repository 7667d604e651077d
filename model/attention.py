"""Which token may look at which, and the one place where an attention kernel is chosen.

`B` rows, `T` queries, `S` keys, `H` heads, `K` head width.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from model import layers

MASKED = -1e9  # finite: a query without any key averages all values instead of becoming NaN


class Memory(NamedTuple):
    """Every layer's keys and values of an encoder's output, for cross-attention to it."""

    keys: Float[Array, "N B S H K"]
    values: Float[Array, "N B S H K"]
    segment_ids: Int[Array, "B S"]


class Cache(NamedTuple):
    """Keys and values of the tokens so far, an explicit argument and result of a decoder.

    Rows of different lengths are padded on the left, so that one `length` serves all of them.
    """

    keys: Float[Array, "N B S H K"]
    values: Float[Array, "N B S H K"]
    segment_ids: Int[Array, "B S"]
    length: Int[Array, ""]  # tokens written so far
    memory: Memory | None = None  # what a decoder with cross-attention looks at besides

    def repeat(self, copies: int) -> "Cache":
        """Returns a cache of `copies` rows for each row, side by side."""

        def repeat(cache):
            return cache._replace(
                keys=jnp.repeat(cache.keys, copies, axis=1),
                values=jnp.repeat(cache.values, copies, axis=1),
                segment_ids=jnp.repeat(cache.segment_ids, copies, axis=0),
            )

        memory = None if self.memory is None else repeat(self.memory)
        return repeat(self)._replace(memory=memory)


def mask(
    query_ids: Int[Array, "B T"],
    key_ids: Int[Array, "B S"],
    *,
    causal: bool,
    offset: Int[Array, ""] | int = 0,
) -> Bool[Array, "B 1 T S"]:
    """Returns who may look at whom: equal segment ids, and, if causal, no later key.

    Padding is the segment 0. It sees only padding and is seen only by padding.

    Args:
      query_ids: segment ids of the queries.
      key_ids: segment ids of the keys.
      causal: whether a query sees only keys up to its own index.
      offset: index of the first query among the keys.
    """
    allowed = query_ids[:, None, :, None] == key_ids[:, None, None, :]
    if causal:
        query = offset + jnp.arange(query_ids.shape[1])
        allowed &= query[:, None] >= jnp.arange(key_ids.shape[1])
    return allowed


def attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S H K"],
    v: Float[Array, "B S H K"],
    allowed: Bool[Array, "B 1 T S"],
    drop: Callable[[Array], Array],
    types: layers.Numerics,
    bias: Float[Array, "1 H T S"] | None = None,
    scale: float | None = None,
) -> tuple[Float[Array, "B T H K"], Float[Array, "B H T S"]]:
    """Scaled dot-product attention (Vaswani et al., 2017, section 3.2.1), softmax in float32.

    Returns what is attended to, and the float32 scores, bias included, before mask and softmax.

    Args:
      q: queries.
      k: keys.
      v: values.
      allowed: who may look at whom, from `mask`.
      drop: dropout on the probabilities.
      types: of the network.
      bias: float32, added to the scores.
      scale: of the scores; None: 1 / sqrt(K).
    """
    q, k, v = (x.astype(types.attention) for x in (q, k, v))
    scores = jnp.einsum("bthk,bshk->bhts", q, k, preferred_element_type=jnp.float32)
    scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    weights = jax.nn.softmax(jnp.where(allowed, scores, MASKED), axis=-1)
    weights = drop(weights).astype(types.attention)
    y = jnp.einsum("bhts,bshk->bthk", weights, v, preferred_element_type=types.attention)
    return y.astype(types.compute), scores
