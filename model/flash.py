"""Attention without its scores in memory: a kernel for GPUs, with dropout inside of it.

The forward pass walks over the keys with a running maximum and sum (Dao et al., 2022, algorithm 1;
Dao, 2023, section 3.1); the backward pass computes the probabilities anew from these, once for the
gradient of the queries and once for those of keys and values. Dropout is `layers.Drop` at the same
elements, so that the numbers are those of `attention.attend`, on any mesh.

`B` rows, `T` tokens, `H` heads, `K` head width.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from model import layers, placement

BLOCK = 64  # tokens: lengths are multiples of it
WIDTHS = (64, 128)  # of a head
SAVED = "flash"  # the name under which the backward pass finds what it needs saved
MASKED = -1e9
LOG2E = math.log2(math.e)  # the hardware's exponential is that of 2


class _Plan(NamedTuple):
    """What a kernel is compiled for."""

    length: int
    scale: float
    causal: bool
    band: int
    rate: float
    interpret: bool


class _Tiles(NamedTuple):
    """How a kernel computes: the queries and keys at a time, and the hardware's share of them."""

    queries: int
    keys: int
    warps: int
    stages: int


def _tiles(kernel, length):
    """Returns the tiles of a kernel; smaller ones where these do not divide the length."""
    found = TILES[kernel]
    if length % max(found.queries, found.keys):
        found = found._replace(queries=BLOCK, keys=BLOCK)
    return found


# The fastest of four or five each on an H200, at 512 tokens with dropout and at 1024 causal, or at
# most 5 % behind it (docs/benchmarks.md, gpu).
TILES = {
    "forward": _Tiles(128, 64, 4, 3),
    "queries": _Tiles(64, 64, 4, 3),
    "keys": _Tiles(64, 64, 4, 3),
}


class _Hash(NamedTuple):
    """What the dropout of an element is hashed from, besides its query and key."""

    rows: Int[Array, "B"]
    heads: Int[Array, "H"]  # index times T x T
    word: Int[Array, "1"]


def suits(q: Float[Array, "B T H K"], interpret: bool) -> bool:
    """Whether the kernel computes such shapes, on the mesh at hand."""
    _, length, heads, width = q.shape
    low = interpret or q.dtype == jnp.bfloat16
    by_part = heads % placement.parts("act_heads") == 0
    return low and length % BLOCK == 0 and width in WIDTHS and by_part


def attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H K"],
    segment_ids: Int[Array, "B T"],
    drop: layers.Drop | None,
    *,
    causal: bool,
    band: int,
    scale: float,
    interpret: bool = False,
) -> Float[Array, "B T H K"]:
    """Returns what `attention.attend` does, of equal segments; without bias.

    Args:
      q: queries.
      k: keys.
      v: values.
      segment_ids: a token sees those of its own.
      drop: dropout on the probabilities; None: there is none.
      causal: whether a query sees only keys up to its own index.
      band: of a causal query, how many keys it sees; 0: no limit.
      scale: of the scores.
      interpret: compute as the kernel does, but on any backend.
    """
    B, T, H, _ = q.shape
    plan = _Plan(T, scale, causal, band, drop.rate if drop else 0.0, interpret)
    heads = jnp.arange(H, dtype=jnp.uint32) * np.uint32(T * T % 2**32)
    word = layers.hash_words(drop.key) if drop else jnp.zeros(2, jnp.uint32)
    seeds = _Hash(layers.hash_rows(word, jnp.arange(B, dtype=jnp.uint32)), heads, word[-1:])
    tokens = ("act_batch", None, "act_heads", None)
    hashed = _Hash(("act_batch",), ("act_heads",), (None,))
    inputs = tokens, tokens, tokens, ("act_batch", None), hashed
    flash = placement.by_part(functools.partial(_flash, plan), inputs, tokens)
    return flash(q, k, v, segment_ids, seeds)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _flash(plan, q, k, v, ids, seeds):
    return _forward(plan, q, k, v, ids, seeds)[0]


def _forward(plan, q, k, v, ids, seeds):
    """Returns the result and the logarithm to base 2 of each query's sum, [B H T]."""
    B, T, H, K = q.shape
    tiles = _tiles("forward", T)
    one, whole = _specs(tiles.queries, K), _specs(T, K, whole=True)
    y, total = pl.pallas_call(
        functools.partial(_forward_kernel, plan, tiles),
        grid=(T // tiles.queries, H, B),
        in_specs=[one.tokens, whole.tokens, whole.tokens, whole.ids, *_whole(seeds)],
        out_specs=[one.tokens, one.sums],
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((B, H, T), jnp.float32),
        ],
        compiler_params=_params(tiles),
        interpret=plan.interpret,
        name="flash_forward",
    )(q, k, v, ids, *seeds)
    return y, total


def _flash_forward(plan, q, k, v, ids, seeds):
    y, total = (checkpoint_name(x, SAVED) for x in _forward(plan, q, k, v, ids, seeds))
    return y, (q, k, v, ids, seeds, y, total)


def _flash_backward(plan, residuals, dy):
    q, k, v, ids, seeds, y, total = residuals
    B, T, H, K = q.shape
    whole = _specs(T, K, whole=True)
    inner = jnp.einsum("bthk,bthk->bht", y.astype(jnp.float32), dy.astype(jnp.float32))
    like = jax.ShapeDtypeStruct(q.shape, q.dtype)
    tiles = _tiles("queries", T)
    one = _specs(tiles.queries, K)
    dq = pl.pallas_call(
        functools.partial(_query_kernel, plan, tiles),
        grid=(T // tiles.queries, H, B),
        in_specs=[
            *(one.tokens, whole.tokens, whole.tokens, whole.ids),
            *(one.tokens, one.sums, one.sums, *_whole(seeds)),
        ],
        out_specs=one.tokens,
        out_shape=like,
        compiler_params=_params(tiles),
        interpret=plan.interpret,
        name="flash_queries",
    )(q, k, v, ids, dy, total, inner, *seeds)
    tiles = _tiles("keys", T)
    one = _specs(tiles.keys, K)
    dk, dv = pl.pallas_call(
        functools.partial(_key_kernel, plan, tiles),
        grid=(T // tiles.keys, H, B),
        in_specs=[
            *(whole.tokens, one.tokens, one.tokens, whole.ids),
            *(whole.tokens, whole.sums, whole.sums, *_whole(seeds)),
        ],
        out_specs=[one.tokens, one.tokens],
        out_shape=[like, like],
        compiler_params=_params(tiles),
        interpret=plan.interpret,
        name="flash_keys",
    )(q, k, v, ids, dy, total, inner, *seeds)
    return dq, dk, dv, None, None


_flash.defvjp(_flash_forward, _flash_backward)


def _forward_kernel(plan, tiles, q_ref, k_ref, v_ref, ids_ref, *refs):
    *seeds, y_ref, total_ref = refs
    seeds = _own(plan, seeds)
    width = q_ref.shape[-1]
    queries = _place(pl.program_id(0), tiles.queries)
    q, query_ids = q_ref[...], ids_ref[queries]

    def body(j, carry):
        y, top, total = carry
        keys = _place(j, tiles.keys)
        scores = _scores(plan, q, k_ref[keys, :], queries, keys, query_ids, ids_ref[keys])
        higher = jnp.maximum(top, scores.max(1))
        p = jnp.exp2(scores - higher[:, None])
        shrink = jnp.exp2(top - higher)
        total = total * shrink + p.sum(1)
        p = _dropped(plan, p, queries, keys, seeds)
        y = y * shrink[:, None] + _dot(p.astype(q.dtype), v_ref[keys, :])
        return y, higher, total

    top = jnp.full(tiles.queries, -jnp.inf, jnp.float32)
    total = jnp.zeros(tiles.queries, jnp.float32)
    start = jnp.zeros((tiles.queries, width), jnp.float32), top, total
    y, top, total = jax.lax.fori_loop(*_seen(plan, tiles, pl.program_id(0)), body, start)
    y_ref[...] = (y / total[:, None]).astype(y_ref.dtype)
    total_ref[...] = top + jnp.log2(total)


def _query_kernel(plan, tiles, q_ref, k_ref, v_ref, ids_ref, dy_ref, total_ref, inner_ref, *refs):
    *seeds, dq_ref = refs
    seeds = _own(plan, seeds)
    width = q_ref.shape[-1]
    queries = _place(pl.program_id(0), tiles.queries)
    q, dy, query_ids = q_ref[...], dy_ref[...], ids_ref[queries]
    total, inner = total_ref[...], inner_ref[...]

    def body(j, dq):
        keys = _place(j, tiles.keys)
        k = k_ref[keys, :]
        scores = _scores(plan, q, k, queries, keys, query_ids, ids_ref[keys])
        p = jnp.exp2(scores - total[:, None])
        dp = _dropped(plan, _dot(dy, v_ref[keys, :], 1), queries, keys, seeds)
        d_scores = p * (dp - inner[:, None])
        return dq + _dot(d_scores.astype(k.dtype), k)

    start = jnp.zeros((tiles.queries, width), jnp.float32)
    dq = jax.lax.fori_loop(*_seen(plan, tiles, pl.program_id(0)), body, start)
    dq_ref[...] = (dq * plan.scale).astype(dq_ref.dtype)


def _key_kernel(plan, tiles, q_ref, k_ref, v_ref, ids_ref, dy_ref, total_ref, inner_ref, *refs):
    *seeds, dk_ref, dv_ref = refs
    seeds = _own(plan, seeds)
    width = k_ref.shape[-1]
    keys = _place(pl.program_id(0), tiles.keys)
    k, v, key_ids = k_ref[...], v_ref[...], ids_ref[keys]

    def body(i, carry):
        dk, dv = carry
        queries = _place(i, tiles.queries)
        q, dy = q_ref[queries, :], dy_ref[queries, :]
        scores = _scores(plan, q, k, queries, keys, ids_ref[queries], key_ids)
        p = jnp.exp2(scores - total_ref[queries][:, None])
        dv = dv + _dot(_dropped(plan, p, queries, keys, seeds).astype(dy.dtype), dy, 0, 0)
        dp = _dropped(plan, _dot(dy, v, 1), queries, keys, seeds)
        d_scores = p * (dp - inner_ref[queries][:, None])
        dk = dk + _dot(d_scores.astype(q.dtype), q, 0, 0)
        return dk, dv

    start = (jnp.zeros((tiles.keys, width), jnp.float32),) * 2
    dk, dv = jax.lax.fori_loop(*_seeing(plan, tiles, pl.program_id(0)), body, start)
    dk_ref[...] = (dk * plan.scale).astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)


def _scores(plan, q, k, queries, keys, query_ids, key_ids):
    """Returns the scores of a block in units of log 2."""
    allowed = query_ids[:, None] == key_ids[None, :]
    if plan.causal:
        distance = _indices(queries)[:, None] - _indices(keys)[None, :]
        allowed &= distance >= 0
        if plan.band:
            allowed &= distance < plan.band
    return jnp.where(allowed, _dot(q, k, 1) * (plan.scale * LOG2E), MASKED)


def _own(plan, refs):
    """Returns what the dropout of this program's row and head is hashed from."""
    if not plan.rate:
        return None
    rows_ref, heads_ref, word_ref = refs
    return _Hash(rows_ref[pl.program_id(2)], heads_ref[pl.program_id(1)], word_ref[0])


def _dropped(plan, x, queries, keys, seeds):
    """Applies dropout to a tile of [queries keys]."""
    if seeds is None:
        return x
    query, key = (_indices(place).astype(jnp.uint32) for place in (queries, keys))
    element = (query * np.uint32(plan.length) + seeds.heads)[:, None] + key[None, :]
    bits = layers.hash_elements(seeds.word, seeds.rows, element)
    kept = bits >= layers.threshold(plan.rate)
    return jnp.where(kept, x * (1 / (1 - plan.rate)), 0.0)


def _seen(plan, tiles, i):
    """Returns from and to which tile of keys the queries of tile i look."""
    if not plan.causal:
        return 0, plan.length // tiles.keys
    first = jnp.maximum(i * tiles.queries - plan.band + 1, 0) // tiles.keys if plan.band else 0
    return first, ((i + 1) * tiles.queries - 1) // tiles.keys + 1


def _seeing(plan, tiles, j):
    """Returns from and to which tile of queries the keys of tile j are seen."""
    count = plan.length // tiles.queries
    if not plan.causal:
        return 0, count
    last = ((j + 1) * tiles.keys + plan.band - 2) // tiles.queries + 1
    return j * tiles.keys // tiles.queries, jnp.minimum(last, count) if plan.band else count


def _dot(a, b, b_axis=0, a_axis=1):
    """A product over these axes, summed in float32."""
    axes = (((a_axis,), (b_axis,)), ((), ()))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def _place(i, block):
    return pl.ds(i * block, block)


def _indices(place):
    return place.start + jnp.arange(place.size)


def _params(tiles):
    return triton.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages)


class _Specs(NamedTuple):
    tokens: pl.BlockSpec
    sums: pl.BlockSpec
    ids: pl.BlockSpec


def _specs(length, width, whole=False):
    """How a kernel reads: a program has a row, a head, and a tile of tokens or all of them."""
    at = (lambda i: 0) if whole else (lambda i: i)
    return _Specs(
        pl.BlockSpec((None, length, None, width), lambda i, h, b: (b, at(i), h, 0)),
        pl.BlockSpec((None, None, length), lambda i, h, b: (b, h, at(i))),
        pl.BlockSpec((None, length), lambda i, h, b: (b, at(i))),
    )


def _whole(arrays):
    return [pl.BlockSpec(x.shape, lambda i, h, b: (0,)) for x in arrays]
