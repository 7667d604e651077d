"""Which token may look at which, and the one place where an attention kernel is chosen.

`B` rows, `T` queries, `S` keys, `H` heads, `K` head width.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from model import flash, layers, splash

MASKED = -1e9  # finite: a query without any key averages all values instead of becoming NaN


class Memory(NamedTuple):
    """Keys and values of an encoder's output for cross-attention to it, layer by layer."""

    keys: tuple[Float[Array, "B S H K"], ...]
    values: tuple[Float[Array, "B S H K"], ...]
    segment_ids: Int[Array, "B S"]


class Cache(NamedTuple):
    """Keys and values of the tokens so far, an explicit argument and result of a decoder.

    Rows of different lengths are padded on the left, so that one `length` serves all of them. The
    layers are arrays of their own: so each is written in place.
    """

    keys: tuple[Float[Array, "B S H K"], ...]
    values: tuple[Float[Array, "B S H K"], ...]
    segment_ids: Int[Array, "B S"]
    length: Int[Array, ""]  # tokens written so far
    memory: Memory | None = None  # what a decoder with cross-attention looks at besides

    def take(self, rows: Int[Array, "rows"]) -> "Cache":
        """Returns a cache of these rows, each of them as often as it is named."""
        taken = jax.tree.map(lambda x: x[rows], self._replace(length=None))
        return taken._replace(length=self.length)

    def reorder(self, rows: Int[Array, "B"]) -> "Cache":
        """Returns a cache with row `rows[i]` at i, where both belong to one prompt."""
        return self.take(rows)._replace(memory=self.memory)  # an encoder said the same to both


@flax.struct.dataclass
class Visible:
    """Who may look at whom.

    Attributes:
      allowed: from `mask`, perhaps narrowed; see `within` for a band.
      segment_ids: of the tokens, if these and what follows say all of it; a kernel reads them
        instead.
      causal: whether a query sees only keys up to its own index.
      band: how many of these it sees; 0: no limit.
    """

    allowed: Bool[Array, "B 1 T S"] | Bool[Array, "B M 1 W 2W"]
    segment_ids: Int[Array, "B T"] | None = None
    causal: bool = flax.struct.field(pytree_node=False, default=False)
    band: int = flax.struct.field(pytree_node=False, default=0)


def among(
    segment_ids: Int[Array, "B T"], cache: Cache | None = None, *, causal: bool
) -> tuple[Visible, Cache | None]:
    """Returns what tokens see of each other and of a cache, and the cache with their segments.

    Args:
      segment_ids: of the tokens, see `mask`.
      cache: of the tokens before them.
      causal: whether a query sees only keys up to its own index.
    """
    if cache is None:
        return Visible(mask(segment_ids, segment_ids, causal=causal), segment_ids, causal), None
    keys = jax.lax.dynamic_update_slice_in_dim(cache.segment_ids, segment_ids, cache.length, axis=1)
    allowed = mask(segment_ids, keys, causal=causal, offset=cache.length)
    return Visible(allowed), cache._replace(segment_ids=keys)


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


def same_branch(branches: Int[Array, "B T"]) -> Bool[Array, "B 1 T T"]:
    """Returns who may look at whom where several continuations of one text lie side by side.

    Args:
      branches: which continuation a token belongs to: 1, 2, ...; 0 for the text, which all see.
    """
    keys = branches[:, None, None, :]
    return (keys == 0) | (keys == branches[:, None, :, None])


def compute(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S H K"],
    v: Float[Array, "B S H K"],
    visible: Visible,
    drop: layers.Drop | None,
    types: layers.Numerics,
    bias: Float[Array, "1 H T S"] | None = None,
    scale: float | None = None,
) -> tuple[Float[Array, "B T H K"], Float[Array, "B H T S"] | None]:
    """Attention by the kernel that suits; see `attend`.

    Args:
      q: queries.
      k: keys.
      v: values.
      visible: who may look at whom.
      drop: dropout on the probabilities; None: there is none.
      types: of the network, with the kernel of its backend.
      bias: float32, added to the scores.
      scale: of the scores; None: 1 / sqrt(K).

    Returns:
      What is attended to, and the scores where the kernel has them whole.
    """
    ids, plain = visible.segment_ids, types.kernel == "xla" or bias is not None
    how = {
        "causal": visible.causal,
        "band": visible.band,
        "scale": q.shape[-1] ** -0.5 if scale is None else scale,
        "interpret": types.interpret,
    }
    if not plain and ids is not None:
        operands = [x.astype(types.attention) for x in (q, k, v)]
        if types.kernel == "splash" and drop is None and splash.suits(q):
            return splash.attend(*operands, ids, **how).astype(types.compute), None
        same_mask = drop is None or not visible.band  # `attend_band` counts elements in chunks
        if types.kernel == "flash" and same_mask and flash.suits(operands[0], types.interpret):
            return flash.attend(*operands, ids, drop, **how).astype(types.compute), None
        on_gpu = types.kernel in ("flash", "cudnn")
        if on_gpu and drop is None and _suits_cudnn(operands[0], visible):
            y = jax.nn.dot_product_attention(
                *operands, mask=visible.allowed, scale=how["scale"], implementation="cudnn"
            )
            return y.astype(types.compute), None
    drop = drop or (lambda weights: weights)
    if visible.allowed.ndim == 5:  # cut into the chunks of a band
        return attend_band(q, k, v, visible.allowed, drop, types), None
    return attend(q, k, v, visible.allowed, drop, types, bias, scale)


def _suits_cudnn(q, visible):
    """Whether cuDNN's kernel computes this: 16 bits, up to 256 wide heads, a mask of T x S."""
    low = q.dtype in (jnp.bfloat16, jnp.float16)
    of_tokens = visible.allowed.ndim == 4 and visible.allowed.shape[-1] % 2 == 0
    return low and of_tokens and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256


def attend(
    q: Float[Array, "B ... T H K"],
    k: Float[Array, "B ... S H K"],
    v: Float[Array, "B ... S H K"],
    allowed: Bool[Array, "B ... 1 T S"],
    drop: Callable[[Array], Array],
    types: layers.Numerics,
    bias: Float[Array, "1 H T S"] | None = None,
    scale: float | None = None,
) -> tuple[Float[Array, "B ... T H K"], Float[Array, "B ... H T S"]]:
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
    scores = jnp.einsum("...thk,...shk->...hts", q, k, preferred_element_type=jnp.float32)
    scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = _biased(scores, bias) if types.kernel == "xla" else scores + bias
    if types.kernel == "splash" and isinstance(drop, layers.Drop):
        # libtpu 0.0.42 crashes where it fuses dropout with a softmax over 128 or 256 keys, and in
        # T5. Over 512 keys of a plain encoder it does not, and the barrier would cost ELECTRA-base
        # 17 % of its memory.
        if k.shape[-3] <= 256 or k.shape[-3] != q.shape[-3] or bias is not None:
            scores = jax.lax.optimization_barrier(scores)
    weights = jax.nn.softmax(jnp.where(allowed, scores, MASKED), axis=-1)
    weights = drop(weights).astype(types.attention)
    y = jnp.einsum("...hts,...shk->...thk", weights, v, preferred_element_type=types.attention)
    return y.astype(types.compute), scores


@jax.custom_vjp
def _biased(scores, bias):
    """scores + bias, whose gradient is summed over the rows as a product with ones.

    XLA's CPU backend takes eight times as long for a reduction over a few rows.
    """
    return scores + bias


def _biased_forward(scores, bias):
    return scores + bias, None


def _biased_backward(_, dy):
    ones = jnp.ones((1, len(dy)), dy.dtype)
    return dy, jnp.einsum("ab,b...->a...", ones, dy, precision="highest")


_biased.defvjp(_biased_forward, _biased_backward)


def skips(length: int, band: int) -> bool:
    """Whether the chunks of a band are fewer pairs than all of T x T; band 0 is none."""
    return 0 < 2 * band < length


def within(visible: Visible, band: int, offset: Int[Array, ""] | None = None) -> Visible:
    """Narrows what is causal to the last W = `band` keys of each query: index difference below W.

    Where that skips pairs, the mask is cut for `attend_band` into M chunks of W queries, each with
    its own W keys behind the W before them.

    Args:
      visible: causal, without a band.
      band: W, with the query itself; 0: no limit.
      offset: index of the first query among the keys of a cache; None: without one.
    """
    if not band:
        return visible
    return visible.replace(allowed=_narrowed(visible.allowed, band, offset), band=band)


def _narrowed(allowed, band, offset):
    T, S = allowed.shape[-2:]
    if offset is not None or not skips(T, band):
        query = (0 if offset is None else offset) + jnp.arange(T)
        return allowed & (query[:, None] - jnp.arange(S) < band)
    padding = -T % band
    blocks = jnp.pad(allowed, ((0, 0), (0, 0), (0, padding), (0, padding)))
    blocks = blocks.reshape(len(allowed), 1, (T + padding) // band, band, -1, band)

    def diagonal(offset):  # [B M 1 W W]
        return jnp.moveaxis(jnp.diagonal(blocks, offset, axis1=2, axis2=4), -1, 1)

    before = jnp.pad(diagonal(-1), ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
    chunks = jnp.concatenate([before, diagonal(0)], axis=-1)
    near = jnp.arange(band, 2 * band)[:, None] - jnp.arange(2 * band) < band
    return chunks & near


def attend_band(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H K"],
    allowed: Bool[Array, "B M 1 W 2W"],
    drop: Callable[[Array], Array],
    types: layers.Numerics,
) -> Float[Array, "B T H K"]:
    """Attention inside a band: only 2 W keys meet a query, T x 2 W pairs instead of T x T.

    Locally banded sparse attention, the "local" pattern of Child et al., 2019 (GPT-3, section 2.1).

    Args:
      q: queries.
      k: keys.
      v: values.
      allowed: from `within`.
      drop: dropout on the probabilities.
      types: of the network.
    """
    T, (chunks, band) = q.shape[1], (allowed.shape[1], allowed.shape[3])

    def cut(x):  # [B M W H K]
        x = jnp.pad(x, ((0, 0), (0, chunks * band - T), (0, 0), (0, 0)))
        return x.reshape(len(x), chunks, band, *x.shape[2:])

    def with_previous(x):  # [B M 2W H K]
        before = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
        return jnp.concatenate([before, x], axis=2)

    q, k, v = cut(q), with_previous(cut(k)), with_previous(cut(v))
    y, _ = attend(q, k, v, allowed, drop, types)
    return y.reshape(len(y), -1, *y.shape[3:])[:, :T]
