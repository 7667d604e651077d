"""Relative positions as a bias of the scores: T5's buckets of distances.

`T` queries, `S` keys, `H` heads.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from model import layers


def first_distances(buckets: int, max_distance: int) -> tuple[int, ...]:
    """Returns the least distance in each bucket: 0, 1, 2, ..., then by equal ratios.

    The first half of the buckets holds one distance each. Bucket e + k of the e others begins at
    the first n with ln(n / e) / ln(max_distance / e) * e >= k, and the last one holds all that is
    further away (T5, section 2.1, and its code). In whole numbers, for a logarithm's last bit
    decides where 16, 32 and 64 belong.

    Args:
      buckets: of one direction, even.
      max_distance: above buckets / 2; where the formula reaches a bucket that is not there.
    """
    exact = buckets // 2
    distances = list(range(exact))
    n = exact
    for k in range(exact):
        while n**exact * exact**k < exact**exact * max_distance**k:
            n += 1
        distances.append(n)
    return tuple(distances)


def bucket(
    relative: Int[Array, "..."], *, bidirectional: bool, buckets: int, max_distance: int
) -> Int[Array, "..."]:
    """Returns the bucket of each position of a key relative to its query.

    In both directions, half of the buckets are for keys behind the query and the other half for
    those before it (of which the first is never used). In one direction all later keys count as
    distance 0: the mask hides them.

    Args:
      relative: key position - query position.
      bidirectional: whether keys on both sides are seen.
      buckets: in all.
      max_distance: see `first_distances`.
    """
    if bidirectional:
        buckets //= 2
        side = jnp.where(relative > 0, buckets, 0)
        distance = jnp.abs(relative)
    else:
        side = 0
        distance = jnp.maximum(-relative, 0)
    firsts = np.array(first_distances(buckets, max_distance))
    return side + jnp.searchsorted(firsts, distance, side="right", method="compare_all") - 1


class RelativeBias(nn.Module):
    """A number for each head and bucket, added to the scores of all layers of a stack."""

    heads: int
    buckets: int
    max_distance: int
    bidirectional: bool

    @nn.compact
    def __call__(
        self, queries: int, keys: int, offset: Int[Array, ""] | int = 0
    ) -> Float[Array, "1 H T S"]:
        """Returns the bias in float32.

        Positions are places in the row. Between two tokens of one segment these differ as the
        positions in the segment do, so packed and left-padded rows need nothing more.

        Args:
          queries: T.
          keys: S.
          offset: index of the first query among the keys.
        """
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        table = layers.param(self, "table", init, (self.buckets, self.heads), (None, "heads"))
        relative = jnp.arange(keys) - (offset + jnp.arange(queries))[:, None]
        index = bucket(
            relative,
            bidirectional=self.bidirectional,
            buckets=self.buckets,
            max_distance=self.max_distance,
        )
        return jnp.moveaxis(table[index], -1, 0)[None]
