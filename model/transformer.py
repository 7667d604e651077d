"""The knobs, the block and the stack that every plain network of the line shares.

`B` rows, `T` tokens, `S` keys, `D` width, `E` width of the tables, `H` heads, `K` head width,
`N` layers, `G` groups of layers.
"""

import dataclasses
import functools
import operator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from model import attention, layers


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
    norm_eps: float = 1e-12
    activation: str = "gelu_tanh"
    init: str = "truncated_normal"
    init_std: float = 0.02
    position_init_std: float = 0.02
    residual_init_std: float = 0.02  # of the products that add to the residual stream
    dropout: float = 0.1  # after the embeddings and on each residual branch
    attention_dropout: float = 0.1  # on the attention probabilities
    dtype: str = "bfloat16"  # of activations and products; parameters are float32
    remat: str = "dots"  # what the backward pass finds saved, see REMAT
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
    "attention": ("attention", "attention_norm"),
    "mlp": ("mlp", "mlp_norm"),
    "all": ("attention", "attention_norm", "mlp", "mlp_norm"),
}

# What is kept from a block's forward pass for its backward pass. "dots" keeps the results of the
# parameter products and recomputes what is cheap, the attention probabilities above all.
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Output(NamedTuple):
    """What every network returns."""

    hidden: Float[Array, "B T D"]  # after the last layer
    layers: Float[Array, "N B T D"] | None = None  # after each layer, where asked for
    scores: Float[Array, "N B H T S"] | None = None  # of attention before softmax, likewise
    cache: attention.Cache | None = None


class SelfAttention(nn.Module):
    """Multi-head self-attention, over the tokens at hand or over a cache."""

    config: TransformerConfig
    types: layers.Numerics

    @nn.compact
    def __call__(self, x, allowed, cache, *, train):
        """Returns [B T D], the scores and, given a layer's (keys, values, length), the new ones."""
        c = self.config
        init = layers.INITIALIZERS[c.init](c.init_std)
        out_init = layers.INITIALIZERS[c.init](c.residual_init_std)

        def project(name):
            axes, features = ("embed", "heads", "head_width"), (c.heads, c.head_width)
            y = layers.Dense(features, axes, init, self.types, name=name)(x)
            return nn.with_logical_constraint(y, ("act_batch", "act_length", "act_heads", None))

        q, k, v = project("query"), project("key"), project("value")
        if cache is not None:
            keys, values, length = cache
            k = jax.lax.dynamic_update_slice_in_dim(keys, k.astype(keys.dtype), length, axis=1)
            v = jax.lax.dynamic_update_slice_in_dim(values, v.astype(values.dtype), length, axis=1)
            cache = (k, v)
        dropout = layers.Dropout(c.attention_dropout)
        drop = lambda p: dropout(p, train=train)  # noqa: E731
        if allowed.ndim == 5:  # cut into the chunks of a band
            y, scores = attention.attend_band(q, k, v, allowed, drop, self.types), None
        else:
            y, scores = attention.attend(q, k, v, allowed, drop, self.types)
        axes = ("heads", "head_width", "embed")
        y = layers.Dense((c.width,), axes, out_init, self.types, name="out")(y)
        return y, scores, cache


class Block(nn.Module):
    """Attention and feed-forward network, each on a residual branch (pre- or post-norm)."""

    config: TransformerConfig
    types: layers.Numerics
    train: bool

    @nn.compact
    def __call__(self, x, cache, allowed, length):
        """Returns x [B T D] after this layer, and (this layer's new cache, x, scores)."""
        c = self.config
        mlp = layers.Mlp(
            c.mlp_width,
            c.activation,
            layers.INITIALIZERS[c.init](c.init_std),
            layers.INITIALIZERS[c.init](c.residual_init_std),
            self.types,
            name="mlp",
        )
        attend = SelfAttention(c, self.types, name="attention")
        scores = None

        def residual(x, branch, norm, drop):
            norm = layers.Norm(c.norm_eps, self.types, name=norm)
            drop = layers.Dropout(c.dropout, name=drop)
            if c.norm_first:
                return x + drop(branch(norm(x)), train=self.train)
            return norm(x + drop(branch(x), train=self.train))

        def attention_branch(x):
            nonlocal cache, scores
            cached = None if cache is None else (*cache, length)
            y, scores, cache = attend(x, allowed, cached, train=self.train)
            return y

        x = residual(x, attention_branch, "attention_norm", "attention_dropout")
        x = residual(x, mlp, "mlp_norm", "mlp_dropout")
        x = nn.with_logical_constraint(x, ("act_batch", "act_length", "act_embed"))
        return x, (cache, x, scores)


class Stack(nn.Module):
    """N blocks as one scan over stacked parameters: compile time does not grow with depth.

    A parameter has a first axis N or, where the layers of a group share it, G. One turn of the scan
    is a period of the layers' bands, for most networks one layer.
    """

    config: TransformerConfig
    types: layers.Numerics

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        allowed: Bool[Array, "B 1 T S"],
        *,
        train: bool,
        cache: attention.Cache | None = None,
        return_layers: bool = False,
        return_scores: bool = False,
    ) -> Output:
        """Applies all layers. With a cache, the keys and values of x are written behind it."""
        c = self.config
        block = Block(c, self.types, train, parent=None)  # applied to one layer's parameters
        params = self.param("blocks", functools.partial(_init_blocks, block))
        shared = {name: params[name] for name in SHARING[c.sharing]}
        own = {name: value for name, value in params.items() if name not in shared}
        key = self.make_rng("dropout") if train and self.has_rng("dropout") else None
        length = None if cache is None else cache.length

        visible = [attention.within(allowed, band, length) for band in c.bands]

        def layer(visible, shared, x, inputs):
            own, stored, index = inputs
            rngs = {} if key is None else {"dropout": jax.random.fold_in(key, index)}
            x, (stored, x, scores) = block.apply(
                {"params": {**shared, **own}}, x, stored, visible, length, rngs=rngs
            )
            outputs = (stored, x if return_layers else None, scores if return_scores else None)
            return x, outputs

        if REMAT[c.remat] is not None:
            layer = jax.checkpoint(layer, prevent_cse=False, policy=REMAT[c.remat])

        def period(shared, x, inputs):
            outputs = []
            for i, allowed in enumerate(visible):
                x, output = layer(allowed, shared, x, jax.tree.map(operator.itemgetter(i), inputs))
                outputs.append(output)
            return x, jax.tree.map(lambda *of_layers: jnp.stack(of_layers), *outputs)

        def group(x, inputs):
            shared, layers_of_group = inputs
            if len(visible) == 1:  # without periods, whose cut costs a copy of the parameters
                one = functools.partial(layer, visible[0], shared)
                return jax.lax.scan(one, x, layers_of_group)
            cut = lambda p: p.reshape(-1, len(visible), *p.shape[1:])  # noqa: E731
            inputs = jax.tree.map(cut, layers_of_group)
            x, outputs = jax.lax.scan(functools.partial(period, shared), x, inputs)
            return x, jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), outputs)

        stored = None if cache is None else (cache.keys, cache.values)
        inputs = (own, stored, jnp.arange(c.depth))
        if c.groups == 1:
            x, outputs = group(x, (jax.tree.map(lambda p: p[0], shared), inputs))
        else:
            cut = lambda p: p.reshape(c.groups, -1, *p.shape[1:])  # noqa: E731
            x, outputs = jax.lax.scan(group, x, (shared, jax.tree.map(cut, inputs)))
            outputs = jax.tree.map(lambda y: y.reshape(c.depth, *y.shape[2:]), outputs)
        stored, after_layers, scores = outputs
        if cache is not None:
            keys, values = stored
            cache = cache._replace(keys=keys, values=values, length=length + x.shape[1])
        return Output(x, after_layers, scores, cache)


def _init_blocks(block: Block, key: Array):
    """Returns the parameters of all layers, boxed with their axis names."""
    c = block.config
    x = jnp.zeros((1, 1, c.width), block.types.compute)
    allowed = jnp.ones((1, 1, 1, 1), bool)

    def one(key):
        return block.init({"params": key}, x, None, allowed, None)["params"]

    def stack(key, count):
        return jax.tree.map(
            lambda box: box.add_axis(0, {nn.PARTITION_NAME: "layers"}),
            jax.vmap(one)(jax.random.split(key, count)),
            is_leaf=lambda box: isinstance(box, nn.Partitioned),
        )

    own, shared = (stack(key, count) for count in (c.depth, c.groups))
    return {name: (shared if name in SHARING[c.sharing] else own)[name] for name in own}


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
        return nn.with_logical_constraint(x, ("act_batch", "act_length", "act_embed"))


def flops(config: TransformerConfig, rows: int, length: int) -> float:
    """Returns the floating-point operations of the stack's products, forward, for B x T tokens.

    Attention counts the pairs that are computed, masked or not: in a band 2 W keys for a query.
    """
    heads = config.heads * config.head_width
    kernels = config.depth * config.width * (4 * heads + 2 * config.mlp_width)
    keys = [2 * band if attention.skips(length, band) else length for band in config.bands]
    attention_products = config.depth * 2 * heads * sum(keys) / len(keys)
    project = config.table_width * config.width if config.table_width != config.width else 0
    return 2.0 * rows * length * (kernels + attention_products + project)


def empty_cache(
    config: TransformerConfig, types: layers.Numerics, rows: int, length: int
) -> attention.Cache:
    """Returns a cache with room for `length` tokens in each of `rows` rows."""
    shape = (config.depth, rows, length, config.heads, config.head_width)
    zeros = jnp.zeros(shape, types.attention)
    ids = jnp.zeros((rows, length), jnp.int32)
    return attention.Cache(zeros, zeros, ids, jnp.zeros((), jnp.int32))
