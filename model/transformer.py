"""The knobs, the block and the embeddings that every plain network of the line shares.

`B` rows, `T` tokens, `S` keys, `M` tokens of an encoder, `D` width, `E` width of the tables,
`H` heads, `K` head width, `N` layers, `G` groups of layers.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from model import attention, flash, layers, placement


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The knobs. Each picks a number or a function at one place, and none reads another."""

    vocab_size: int  # V
    width: int  # D
    depth: int  # N
    heads: int  # H
    mlp_width: int  # F
    max_positions: int  # learned absolute positions
    embed_width: int = 0  # E, of the embedding tables (ALBERT, section 3.1); 0: D
    head_size: int = 0  # K; 0: D / H
    token_types: int = 0  # segment embeddings; 0: none
    norm_first: bool = False  # pre-norm (GPT-2) or post-norm (BERT)
    norm: str = "layer"  # or "rms", see layers.NORMS
    norm_eps: float = 1e-12
    bias: bool = True  # of a block's products
    gated: bool = False  # feed-forward network: the activation multiplies a second product
    scaled_scores: bool = True  # by 1 / sqrt(K); if not, the query's initial values are (T5)
    activation: str = "gelu_tanh"
    init: str = "truncated_normal"
    init_std: float = 0.02
    position_init_std: float = 0.02
    residual_init_std: float = 0.02  # of the products that add to the residual stream
    dropout: float = 0.1  # after the embeddings and on each residual branch
    attention_dropout: float = 0.1  # on the attention probabilities
    mlp_dropout: float = 0.0  # inside of the feed-forward network
    dtype: str = "bfloat16"  # of activations and products; parameters are float32
    gpu_attention: str = "flash"  # the kernel on GPUs, of GPU_ATTENTION
    remat: str = "dots"  # what the backward pass finds saved, see REMAT
    scan_layers: bool = True  # as one loop; else one after the other: see docs/benchmarks.md
    sharing: str = "none"  # what the layers of a group have in common, see SHARING
    groups: int = 1  # of consecutive layers, each with shared parameters of its own
    causal: bool = False  # an encoder that sees to the left only (BERT, table 5)
    # By layer, in turns: how many of the last keys a token of a decoder sees; 0: all of them.
    # (0, 256) alternates dense and locally banded attention (GPT-3, section 2.1).
    bands: tuple[int, ...] = (0,)

    @property
    def head_width(self) -> int:
        """K."""
        return self.head_size or self.width // self.heads

    @property
    def table_width(self) -> int:
        """E."""
        return self.embed_width or self.width


# The modules of a block that all layers of a group share (ALBERT, section 3.1 and table 4).
SHARING = {
    "none": (),
    "attention": ("attention", "attention_norm", "cross_attention", "cross_attention_norm"),
    "mlp": ("mlp", "mlp_norm"),
}
SHARING["all"] = SHARING["attention"] + SHARING["mlp"]

# "flash" is our kernel where it suits, which has dropout inside, else cuDNN's, else XLA's; "cudnn"
# is without the first (docs/benchmarks.md, gpu).
GPU_ATTENTION = ("cudnn", "flash", "xla")

# What is kept from a block's forward pass for its backward pass. "dots" keeps the results of the
# parameter products and recomputes what is cheap, the attention probabilities above all.
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(layers.PRODUCT, flash.SAVED),
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


def rematerialized(layer: Callable, config: TransformerConfig) -> Callable:
    """Returns a layer whose backward pass finds saved what REMAT says, and no more."""
    policy = REMAT[config.remat]
    if policy is None:
        return layer
    # Inside of a loop XLA finds no forward pass to take the results from.
    return jax.checkpoint(layer, prevent_cse=not config.scan_layers, policy=policy)


class Output(NamedTuple):
    """What every network returns."""

    hidden: Float[Array, "B T D"]  # after the last layer
    layers: Float[Array, "N B T D"] | None = None  # after each layer, where asked for
    scores: Float[Array, "N B H T S"] | None = None  # of attention before softmax, likewise
    cache: attention.Cache | None = None


class Cross(NamedTuple):
    """What the cross-attention of all layers looks at."""

    visible: attention.Visible
    hidden: Float[Array, "B M D"] | None  # an encoder's output; None: a cache holds what it gives


class Attention(nn.Module):
    """Multi-head attention: over the tokens at hand, over a cache, or over an encoder's output."""

    config: TransformerConfig
    types: layers.Numerics

    def setup(self):
        """Declares the projections."""
        c = self.config
        init = layers.INITIALIZERS[c.init]
        query_std = c.init_std if c.scaled_scores else c.init_std * c.head_width**-0.5

        def project(std):
            axes, features = ("embed", "heads", "head_width"), (c.heads, c.head_width)
            return layers.Dense(features, axes, init(std), self.types, c.bias)

        self.query, self.key, self.value = (
            project(query_std),
            project(c.init_std),
            project(c.init_std),
        )
        axes = ("heads", "head_width", "embed")
        self.out = layers.Dense((c.width,), axes, init(c.residual_init_std), self.types, c.bias)

    def keys_and_values(self, x: Float[Array, "B S D"]) -> tuple[Array, Array]:
        """Returns the keys and the values of x, each [B S H K]."""
        return _by_heads(self.key(x)), _by_heads(self.value(x))

    @nn.compact
    def __call__(self, x, visible, *, train, others=None, cache=None, bias=None):
        """Returns [B T D], the scores and, given a cache, the layer's new keys and values.

        Args:
          x: [B T D], the queries'.
          visible: who may look at whom.
          train: whether there is dropout.
          others: keys and values to look at in place of those of x.
          cache: a layer's keys, values and length, behind which those of x are written.
          bias: of the scores.
        """
        c, x = self.config, placement.entering(x)
        q = _by_heads(self.query(x))
        k, v = self.keys_and_values(x) if others is None else others
        if cache is not None:
            keys, values, length = cache
            k = jax.lax.dynamic_update_slice_in_dim(keys, k.astype(keys.dtype), length, axis=1)
            v = jax.lax.dynamic_update_slice_in_dim(values, v.astype(values.dtype), length, axis=1)
            cache = (k, v)
        drop = layers.Dropout(c.attention_dropout).drop(train=train)
        scale = None if c.scaled_scores else 1.0
        y, scores = attention.compute(q, k, v, visible, drop, self.types, bias, scale)
        return placement.leaving(self.out(y)), scores, cache


def _by_heads(y):
    return nn.with_logical_constraint(y, ("act_batch", "act_length", "act_heads", None))


class Block(nn.Module):
    """Attention and feed-forward network, each on a residual branch (pre- or post-norm).

    Between the two there may be a third branch, cross-attention.
    """

    config: TransformerConfig
    types: layers.Numerics
    train: bool

    @nn.compact
    def __call__(self, x, cache, visible, length, bias=None, cross=None, memory=None):
        """Returns x [B T D] after this layer, and (this layer's new cache, x, scores).

        Args:
          x: [B T D].
          cache: this layer's keys and values, or None.
          visible: who may look at whom.
          length: of the cache.
          bias: of the scores.
          cross: a `Cross`, where there is cross-attention.
          memory: this layer's keys and values for it; None: they are made from `cross`.
        """
        c = self.config
        mlp = layers.Mlp(
            c.mlp_width,
            c.activation,
            layers.INITIALIZERS[c.init](c.init_std),
            layers.INITIALIZERS[c.init](c.residual_init_std),
            self.types,
            c.bias,
            c.gated,
            c.mlp_dropout,
            name="mlp",
        )
        attend = Attention(c, self.types, name="attention")
        scores = None

        def residual(x, branch, norm, drop):
            norm = layers.NORMS[c.norm](c.norm_eps, self.types, name=norm)
            drop = layers.Dropout(c.dropout, name=drop)
            if c.norm_first:
                return x + drop(branch(norm(x)), train=self.train)
            return norm(x + drop(branch(x), train=self.train))

        def attention_branch(x):
            nonlocal cache, scores
            cached = None if cache is None else (*cache, length)
            y, scores, cache = attend(x, visible, train=self.train, cache=cached, bias=bias)
            return y

        def cross_branch(x):
            attend = Attention(c, self.types, name="cross_attention")
            others = memory
            if others is None:
                others = attend.keys_and_values(placement.entering(cross.hidden))
            return attend(x, cross.visible, train=self.train, others=others)[0]

        def mlp_branch(x):
            return mlp(x, train=self.train)

        x = residual(x, attention_branch, "attention_norm", "attention_dropout")
        if cross is not None:
            x = residual(x, cross_branch, "cross_attention_norm", "cross_attention_dropout")
        x = residual(x, mlp_branch, "mlp_norm", "mlp_dropout")
        x = placement.stream(x)
        return x, (cache, x, scores)


class Embedder(nn.Module):
    """Token, position and token-type embeddings, summed."""

    config: TransformerConfig
    types: layers.Numerics

    def setup(self):
        """Declares the tables."""
        c = self.config
        init = layers.INITIALIZERS[c.init](c.init_std)
        width = c.table_width
        self.tokens = layers.Embed(c.vocab_size, width, init, self.types)
        position_init = layers.INITIALIZERS[c.init](c.position_init_std)
        self.positions = layers.Embed(c.max_positions, width, position_init, self.types, axis=None)
        if c.token_types:
            self.token_types = layers.Embed(c.token_types, width, init, self.types, axis=None)

    def __call__(
        self, batch: dict[str, Int[Array, "B T"]], tokens: layers.Embed | None = None
    ) -> Float[Array, "B T E"]:
        """Reads tokens, positions and (where the network has them) token_types.

        Args:
          batch: the fields.
          tokens: the token table of another network, to be used instead of its own.
        """
        x = (tokens or self.tokens)(batch["tokens"]) + self.positions(batch["positions"])
        if self.config.token_types:
            x = x + self.token_types(batch["token_types"])
        return placement.stream(x)


def flops(config: TransformerConfig, rows: int, length: int) -> float:
    """Returns the floating-point operations of the stack's products, forward, for B x T tokens.

    Attention counts the pairs that are computed, masked or not: in a band 2 W keys for a query.
    """
    heads = config.heads * config.head_width
    kernels = config.depth * config.width * (4 * heads + (2 + config.gated) * config.mlp_width)
    keys = [2 * band if attention.skips(length, band) else length for band in config.bands]
    attention_products = config.depth * 2 * heads * sum(keys) / len(keys)
    project = config.table_width * config.width if config.table_width != config.width else 0
    return 2.0 * rows * length * (kernels + attention_products + project)


def empty_cache(
    config: TransformerConfig, types: layers.Numerics, rows: int, length: int
) -> attention.Cache:
    """Returns a cache with room for `length` tokens in each of `rows` rows."""
    shape = (rows, length, config.heads, config.head_width)
    zeros = (jnp.zeros(shape, types.attention),) * config.depth
    ids = jnp.zeros((rows, length), jnp.int32)
    return attention.Cache(zeros, zeros, ids, jnp.zeros((), jnp.int32))
