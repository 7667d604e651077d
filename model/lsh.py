"""Attention within buckets of a locality-sensitive hash, and in chunks (Reformer, section 2).

`B` rows, `T` tokens, `H` heads, `K` head width, `R` rounds of hashing, `C` chunks, `M` tokens of a
chunk, `S` keys that it sees. Queries and keys are one projection here: a key is its query, made as
long as 1.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from model import layers
from model.attention import MASKED

SELF = -1e5  # above MASKED: a token sees itself where there is nothing else to see


class Masks(NamedTuple):
    """What a query does not see.

    Attributes:
      causal: whether later tokens.
      other_buckets: whether keys of other buckets, which share a chunk by chance (section 2).
      duplicates: whether all but one of the N rounds' copies of a key, by subtracting log N
        (appendix A); the first chunk of a round sees no chunk before it then.
    """

    causal: bool
    other_buckets: bool = False
    duplicates: bool = False


def unit(x: Float[Array, "... K"]) -> Float[Array, "... K"]:
    """Returns x with length 1, in float32; 1e-6 is added to its mean square."""
    x = x.astype(jnp.float32)
    mean_square = jnp.square(x).mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(mean_square + 1e-6) * x.shape[-1] ** -0.5


def choose_buckets(length: int, chunk: int) -> tuple[int, ...]:
    """Returns factors of about 2 * length / chunk buckets, each even (section 2).

    Above 128 there are two of them: a rotation then costs the sum instead of the product.
    """
    buckets = 2 * max(1, length // chunk)
    if buckets <= 128:
        return (buckets,)
    first = 2 ** math.ceil(math.log2(math.sqrt(buckets)))
    return first, 2 * max(1, buckets // first // 2)


def draw_rotations(
    key: Array, heads: int, width: int, rounds: int, buckets: Sequence[int]
) -> Float[Array, "H K R halves"]:
    """Returns random directions: for each round and factor of the buckets half as many."""
    return jax.random.normal(key, (heads, width, rounds, sum(buckets) // 2))


def hash_buckets(
    x: Float[Array, "B H T K"], rotations: Float[Array, "H K R halves"], buckets: Sequence[int]
) -> Int[Array, "B H R T"]:
    """Returns the bucket of each vector in each round: argmax [x R; -x R], without a gradient.

    Vectors that point the same way share a bucket, and opposite ones never do. With factors
    (b1, b2) the bucket is h1 + b1 h2.
    """
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    rotated = jnp.einsum("bhtk,hkrn->bhrtn", x, rotations, precision="highest")
    bucket, start, product = 0, 0, 1
    for factor in buckets:
        half = rotated[..., start : start + factor // 2]
        nearest = jnp.argmax(jnp.concatenate([half, -half], axis=-1), axis=-1)
        bucket = bucket + product * nearest.astype(jnp.int32)
        start, product = start + factor // 2, product * factor
    return bucket


@jax.custom_vjp
def permute(
    x: Float[Array, "... T K"], order: Int[Array, "... T"], inverse: Int[Array, "... T"]
) -> Float[Array, "... T K"]:
    """Returns x[order]; its gradient is a gather too, where that of an indexing is a scatter."""
    del inverse
    return jnp.take_along_axis(x, order[..., None], axis=-2)


permute.defvjp(
    lambda x, order, inverse: (permute(x, order, inverse), (order, inverse)),
    lambda orders, dy: (permute(dy, orders[1], orders[0]), None, None),
)


def attend(
    qk: Float[Array, "B T H K"],
    v: Float[Array, "B T H K"],
    segment_ids: Int[Array, "B T"],
    rotations: Float[Array, "H K R halves"],
    *,
    buckets: Sequence[int],
    chunk: int,
    masks: Masks,
    drop: Callable[[Array], Array],
    types: layers.Numerics,
) -> Float[Array, "B T H K"]:
    """Attends within buckets: hash, sort by bucket, cut into chunks, look one chunk back, un-sort.

    Each round's result counts by the exponential of its log-normalizer. Scores have no further
    scale than the keys' length of 1.

    Args:
      qk: queries, and keys of another length.
      v: values.
      segment_ids: tokens see those with the same id; 0, padding, is in a bucket of its own.
      rotations: from `draw_rotations`.
      buckets: factors of their number.
      chunk: M. Up to so many tokens are attended to in full.
      masks: what is not seen besides.
      drop: dropout on the probabilities.
      types: of the network.
    """
    length = qk.shape[1]
    if length <= chunk:
        return attend_in_full(qk, v, segment_ids, masks.causal, drop, types)
    qk, v, segment_ids = _pad((qk, v, segment_ids), chunk)
    qk, v = (jnp.moveaxis(x, 2, 1) for x in (qk, v))  # [B H T K]
    B, H, T, K = qk.shape
    rounds = rotations.shape[2]
    hashed = hash_buckets(qk, rotations, buckets)
    ids = segment_ids[:, None, None, :]
    hashed = jnp.where(ids == 0, math.prod(buckets), hashed)
    order = jnp.argsort(hashed, axis=-1, stable=True)  # [B H R T]; rounds stay apart
    inverse = jnp.argsort(order, axis=-1)
    cut = (B, H, rounds * T // chunk, chunk)

    def sort(x):
        """[B H T K] -> [B H C M K], all rounds one after another."""
        x = jnp.broadcast_to(x[:, :, None], (B, H, rounds, T, K))
        return permute(x, order, inverse).reshape(*cut, K)

    def sort_ids(x):
        """[B H R T] or one that broadcasts to it -> [B H C M]."""
        return jnp.take_along_axis(jnp.broadcast_to(x, order.shape), order, -1).reshape(cut)

    queries, keys, values = (sort(x.astype(types.attention)) for x in (qk, unit(qk), v))
    positions, segments = order.reshape(cut), sort_ids(ids)
    apart = jnp.arange(rounds)[:, None] * (math.prod(buckets) + 1)
    labels = sort_ids(hashed + apart)
    allowed = segments[..., None] == _look_back(segments)[..., None, :]
    seen = _look_back(positions)
    if masks.causal:
        allowed &= positions[..., None] >= seen[..., None, :]
    if masks.other_buckets:
        allowed &= labels[..., None] == _look_back(labels)[..., None, :]
    repeats = None
    if masks.duplicates:
        first = jnp.arange(cut[2]) % (T // chunk) == 0
        allowed &= ~(first[:, None] & (jnp.arange(2 * chunk) < chunk))[:, None, :]
        repeats = _count_rounds(hashed, inverse // chunk, order, cut, masks)
    itself = positions[..., None] == seen[..., None, :]
    y, z = _weigh(
        queries, _look_back(keys), _look_back(values), allowed, itself, repeats, drop, types
    )
    y = permute(y.reshape(B, H, rounds, T, K), inverse, order)
    z = permute(z.reshape(B, H, rounds, T, 1), inverse, order)
    y = (y * jax.nn.softmax(z, axis=2)).sum(2)
    return jnp.moveaxis(y, 1, 2)[:, :length].astype(types.compute)


def attend_in_full(
    qk: Float[Array, "B T H K"],
    v: Float[Array, "B T H K"],
    segment_ids: Int[Array, "B T"],
    causal: bool,
    drop: Callable[[Array], Array],
    types: layers.Numerics,
) -> Float[Array, "B T H K"]:
    """Attends to all tokens with shared queries and keys: what `attend` approximates."""
    qk, v = (jnp.moveaxis(x, 2, 1) for x in (qk, v))
    position = jnp.arange(qk.shape[2])
    allowed = (segment_ids[:, :, None] == segment_ids[:, None, :])[:, None]
    if causal:
        allowed &= position[:, None] >= position
    y, _ = _weigh(qk, unit(qk), v, allowed, position[:, None] == position, None, drop, types)
    return jnp.moveaxis(y, 1, 2).astype(types.compute)


def attend_locally(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H K"],
    segment_ids: Int[Array, "B T"],
    *,
    chunk: int,
    causal: bool,
    drop: Callable[[Array], Array],
    types: layers.Numerics,
) -> Float[Array, "B T H K"]:
    """Attends to the own chunk and the one before it, with separate queries and keys."""
    length = q.shape[1]
    chunk = min(chunk, length)
    q, k, v, segment_ids = _pad((q, k, v, segment_ids), chunk)
    B, T, H, K = q.shape
    k = k.astype(jnp.float32) * K**-0.5
    q, k, v = (jnp.moveaxis(x, 2, 1).reshape(B, H, -1, chunk, K) for x in (q, k, v))
    segments = segment_ids.reshape(B, 1, -1, chunk)
    positions = jnp.arange(T).reshape(1, 1, -1, chunk)
    look_back = _look_back if length > chunk else lambda x: x
    allowed = segments[..., None] == look_back(segments)[..., None, :]
    if causal:
        allowed &= positions[..., None] >= look_back(positions)[..., None, :]
    y, _ = _weigh(q, look_back(k), look_back(v), allowed, None, None, drop, types)
    y = jnp.moveaxis(y.reshape(B, H, T, K), 1, 2)
    return y[:, :length].astype(types.compute)


def _weigh(q, k, v, allowed, itself, repeats, drop, types):
    """Softmax attention of [... M K] to [... S K].

    Returns the result [... M K] in float32 and the log-normalizer [... M].
    """
    q, k, v = (x.astype(types.attention) for x in (q, k, v))
    scores = jnp.einsum("...mk,...sk->...ms", q, k, preferred_element_type=jnp.float32)
    if repeats is not None:
        scores = scores - jnp.log(jnp.maximum(repeats, 1).astype(jnp.float32))
    scores = jnp.where(allowed, scores, MASKED)
    if itself is not None:
        scores = jnp.where(itself & allowed, SELF, scores)
    # Not exp(scores - z): at SELF a float32 z is 0.004 away from the truth.
    most = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - most)
    total = weights.sum(axis=-1, keepdims=True)
    weights = drop(weights).astype(types.attention)
    y = jnp.einsum("...ms,...sk->...mk", weights, v, preferred_element_type=types.attention)
    return y.astype(jnp.float32) / total, (most + jnp.log(total))[..., 0]


def _look_back(x: Array) -> Array:
    """Returns each chunk behind the one before it, [B H C M ...] -> [B H C 2M ...].

    The chunk before the first is the last one, and the rounds follow one another, as published.
    """
    return jnp.concatenate([jnp.roll(x, 1, axis=2), x], axis=3)


def _count_rounds(hashed, chunks, order, cut, masks) -> Int[Array, "B H C M S"]:
    """Returns in how many rounds a query meets a key."""
    count = 0
    for r in range(hashed.shape[2]):

        def sort(x, r=r):
            x = jnp.broadcast_to(x[:, :, r : r + 1], order.shape)
            return jnp.take_along_axis(x, order, -1).reshape(cut)

        place = sort(chunks)
        back = place[..., None] - _look_back(place)[..., None, :]
        met = (back == 0) | (back == 1)
        if masks.other_buckets:
            bucket = sort(hashed)
            met &= bucket[..., None] == _look_back(bucket)[..., None, :]
        count = count + met
    return count


def _pad(arrays: Sequence[Array], chunk: int) -> list[Array]:
    """Lengthens the second axis to a multiple of `chunk` by zeros: padding is the segment 0."""
    more = -arrays[0].shape[1] % chunk
    return [jnp.pad(x, [(0, 0), (0, more)] + [(0, 0)] * (x.ndim - 2)) for x in arrays]
