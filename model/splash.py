"""Attention without its scores in memory: JAX's splash kernel for TPUs, on every part of a mesh.

It reads segment ids, and skips the blocks of keys that no query of a block may see. `B` rows, `T`
tokens, `H` heads, `K` head width.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Array, Float, Int

from model import placement

LANES = 128  # of a TPU's vectors: lengths are multiples of it
BLOCKS = (512, 256, 128)  # tokens that are computed at a time


def suits(q: Float[Array, "B T H K"]) -> bool:
    """Whether the kernel computes such shapes, on the mesh at hand."""
    _, length, heads, width = q.shape
    by_part = heads % placement.parts("act_heads") == 0
    return length % LANES == 0 and width % (LANES // 2) == 0 and by_part


def attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H K"],
    segment_ids: Int[Array, "B T"],
    *,
    causal: bool,
    band: int,
    scale: float,
    interpret: bool = False,
) -> Float[Array, "B T H K"]:
    """Returns what `attention.attend` does, of equal segments; without dropout and bias.

    Args:
      q: queries.
      k: keys.
      v: values.
      segment_ids: a token sees those of its own.
      causal: whether a query sees only keys up to its own index.
      band: of a causal query, how many keys it sees; 0: no limit.
      scale: of the scores.
      interpret: compute as the kernel does, but on any backend.
    """

    def local(q, k, v, segment_ids):
        kernel = _kernel(q.shape[2], q.shape[1], causal, band, interpret)
        by_head = functools.partial(jnp.swapaxes, axis1=1, axis2=2)
        one = lambda q, k, v, ids: kernel(q, k, v, kernels.SegmentIds(ids, ids))  # noqa: E731
        y = jax.vmap(one)(by_head(q) * scale, by_head(k), by_head(v), segment_ids)
        return by_head(y).astype(q.dtype)

    tokens = ("act_batch", None, "act_heads", None)
    inputs = tokens, tokens, tokens, ("act_batch", None)
    return placement.by_part(local, inputs, tokens)(q, k, v, segment_ids)


def _kernel(heads, length, causal, band, interpret):
    block = next(size for size in BLOCKS if length % size == 0)
    shape = (length, length)
    if band:
        mask = masks.LocalMask(shape, (band - 1, 0), 0)
    else:
        mask = masks.CausalMask(shape) if causal else masks.FullMask(shape)
    return kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
        block_sizes=kernels.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
    )
