"""Reformer: LSH attention, reversible layers, feed-forward in chunks (Kitaev et al., 2020).

`B` rows, `T` tokens, `D` width, `H` heads, `K` head width, `N` layers. The layers go through a
cycle of kinds, its period, which is what is scanned. Parameters are stacked by what a layer has:
one projection for queries and keys ("shared") or two ("separate").
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

import errors
from model import attention, layers, lsh, placement, reversible, stack, transformer

# Kind of attention -> which parameters it has.
KINDS = {
    "lsh": "shared",
    "full_shared": "shared",  # what LSH attention approximates
    "local": "separate",  # the own chunk and the one before it
    "full": "separate",
}


@dataclasses.dataclass(frozen=True)
class ReformerConfig(transformer.TransformerConfig):
    """The knobs. `remat` is for layers that are not reversible."""

    norm_first: bool = True
    causal: bool = True
    attention: str = "lsh"  # kinds of the layers, such as "local,local,lsh,local", over and over
    rounds: int = 1  # of hashing
    buckets: tuple[int, ...] = ()  # factors of their number; (): from the length
    lsh_chunk: int = 64
    local_chunk: int = 64
    bucket_mask: bool = True  # no key of another bucket is seen (section 2); not in released code
    duplicate_mask: bool = True  # what several rounds see counts once (appendix A); likewise
    hash_seed: int = 0  # of the rotations outside of training, in which each step has its own
    reversible: bool = True  # two streams that are recomputed backward, or one that is stored
    mlp_chunks: int = 1  # slices of tokens that the feed-forward network handles at a time
    axial_shape: tuple[int, ...] = ()  # of the positions; (): one table of max_positions
    axial_widths: tuple[int, ...] = ()  # of the axes' tables; (): equal parts of the width

    def __post_init__(self):
        """Checks what belongs to this network alone.

        Raises:
          UserError: saying which knob does not fit.
        """
        for kind in self.kinds:
            errors.one_of("kind in config.model.attention:", kind, KINDS)
        _require(
            self.depth % len(self.kinds) == 0,
            f"config.model.depth={self.depth} must be a multiple of the {len(self.kinds)} kinds in "
            f"config.model.attention={self.attention}.",
        )
        for name in ("rounds", "lsh_chunk", "local_chunk", "mlp_chunks"):
            _require(getattr(self, name) >= 1, f"config.model.{name} must be at least 1.")
        _require(
            all(factor >= 2 and factor % 2 == 0 for factor in self.buckets),
            f"config.model.buckets={self.buckets} must be even numbers.",
        )
        if self.axial_shape:
            _require(
                math.prod(self.axial_shape) == self.max_positions,
                f"config.model.axial_shape={self.axial_shape} must multiply to "
                f"config.model.max_positions={self.max_positions}.",
            )
            _require(
                len(self.tables) == len(self.axial_shape) and sum(self.tables) == self.width,
                f"config.model.axial_widths={self.axial_widths} must be one width for each axis "
                f"of axial_shape, adding up to config.model.width={self.width}.",
            )
        elif self.axial_widths:
            raise errors.UserError("config.model.axial_widths needs config.model.axial_shape.")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The period: a kind for each of its layers."""
        return tuple(self.attention.split(","))

    @property
    def tables(self) -> tuple[int, ...]:
        """Widths of the tables of positions."""
        axes = len(self.axial_shape)
        equal = (self.width // axes,) * (axes - 1) if axes else ()
        return self.axial_widths or (*equal, self.width - sum(equal))

    def layers_with(self, parameters: str) -> list[int]:
        """Returns which layers have "shared" or "separate" projections."""
        kinds = self.kinds * (self.depth // len(self.kinds))
        return [i for i, kind in enumerate(kinds) if KINDS[kind] == parameters]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise errors.UserError(message)


class Context(NamedTuple):
    """What all layers read besides their input."""

    segment_ids: Int[Array, "B T"]
    hashing: Key[Array, ""]  # of the rotations
    dropout: Key[Array, ""] | None  # None: no dropout


class Past(NamedTuple):
    """The tokens so far, in the place of a cache: buckets and chunks depend on all of them."""

    fields: dict[str, Int[Array, "B S"]]
    length: Int[Array, ""]  # tokens written so far

    READ = ("tokens", "positions", "segment_ids")

    def take(self, rows: Int[Array, "rows"]) -> "Past":
        """Returns these rows, each of them as often as it is named."""
        return self._replace(fields={name: x[rows] for name, x in self.fields.items()})

    reorder = take


class Attention(nn.Module):
    """The branch of attention: a norm, then attention of some kind."""

    config: ReformerConfig
    types: layers.Numerics
    kind: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], context: Context, key: Key[Array, ""]
    ) -> Float[Array, "B T D"]:
        """Returns what is added to the stream; `key` draws the rotations."""
        c = self.config
        init = layers.INITIALIZERS[c.init](c.init_std)
        out_init = layers.INITIALIZERS[c.init](c.residual_init_std)
        x = placement.entering(layers.Norm(c.norm_eps, self.types, name="norm")(x))

        def project(name):
            axes, features = ("embed", "heads", "head_width"), (c.heads, c.head_width)
            y = layers.Dense(features, axes, init, self.types, bias=False, name=name)(x)
            return nn.with_logical_constraint(y, ("act_batch", "act_length", "act_heads", None))

        dropout = layers.Dropout(c.attention_dropout)
        drop = lambda p: dropout(p, train=context.dropout is not None)  # noqa: E731
        ids = context.segment_ids
        if KINDS[self.kind] == "shared":
            qk, v = project("query_key"), project("value")
        else:
            q, k, v = project("query"), project("key"), project("value")
        if self.kind == "lsh":
            buckets = c.buckets or lsh.choose_buckets(x.shape[1], c.lsh_chunk)
            y = lsh.attend(
                qk,
                v,
                ids,
                lsh.draw_rotations(key, c.heads, c.head_width, c.rounds, buckets),
                buckets=buckets,
                chunk=c.lsh_chunk,
                masks=lsh.Masks(c.causal, c.bucket_mask, c.duplicate_mask),
                drop=drop,
                types=self.types,
            )
        elif self.kind == "full_shared":
            y = lsh.attend_in_full(qk, v, ids, c.causal, drop, self.types)
        elif self.kind == "local":
            y = lsh.attend_locally(
                q, k, v, ids, chunk=c.local_chunk, causal=c.causal, drop=drop, types=self.types
            )
        else:
            allowed = attention.mask(ids, ids, causal=c.causal)
            y, _ = attention.attend(q, k, v, allowed, drop, self.types)
        axes = ("heads", "head_width", "embed")
        out = layers.Dense((c.width,), axes, out_init, self.types, bias=False, name="out")
        return placement.leaving(out(y))


class FeedForward(nn.Module):
    """The branch of the feed-forward network: a norm, then the network."""

    config: ReformerConfig
    types: layers.Numerics

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Returns what is added to the stream."""
        c = self.config
        x = layers.Norm(c.norm_eps, self.types, name="norm")(x)
        return layers.Mlp(
            c.mlp_width,
            c.activation,
            layers.INITIALIZERS[c.init](c.init_std),
            layers.INITIALIZERS[c.init](c.residual_init_std),
            self.types,
            name="mlp",
        )(x, train=False)  # no dropout inside


class Layer(NamedTuple):
    """The two branches of a layer as functions of (parameters, stream, number of the layer, ...).

    A branch is a pure function: called again with the same arguments, it draws the same dropout
    masks and the same rotations. So nothing of it need be stored.
    """

    config: ReformerConfig
    types: layers.Numerics
    kind: str

    def attend(self, params, x, index, context: Context):
        """Attention, with dropout behind it; float32 as the streams are."""
        key = _fold(context.dropout, 2 * index)
        branch = Attention(self.config, self.types, self.kind, parent=None)
        rotations = jax.random.fold_in(context.hashing, index)
        rngs = {} if key is None else {"dropout": jax.random.fold_in(key, 1)}
        y = branch.apply({"params": params["attention"]}, x, context, rotations, rngs=rngs)
        return self._finish(y, key)

    def feed_forward(self, params, x, index, context: Context):
        """The feed-forward network, a slice of the tokens at a time, with dropout behind it."""
        branch = FeedForward(self.config, self.types, parent=None)
        y = in_slices(
            lambda part: branch.apply({"params": params["mlp"]}, part), self.config.mlp_chunks, x
        )
        return self._finish(y, _fold(context.dropout, 2 * index + 1))

    def _finish(self, y, key):
        if key is not None:
            drop = layers.Dropout(self.config.dropout, parent=None)
            y = drop.apply({}, y, train=True, rngs={"dropout": key})
        y = placement.stream(y)
        return y.astype(jnp.float32)

    def init(self, key):
        """Returns the parameters, boxed with their axis names."""
        x = jnp.zeros((1, 1, self.config.width))
        attend, mlp = jax.random.split(key)
        context = Context(jnp.ones((1, 1), jnp.int32), key, None)
        branch = Attention(self.config, self.types, self.kind, parent=None)
        return {
            "attention": branch.init({"params": attend}, x, context, key)["params"],
            "mlp": FeedForward(self.config, self.types, parent=None).init(mlp, x)["params"],
        }


def _fold(key, number):
    return None if key is None else jax.random.fold_in(key, number)


def in_slices(f, count: int, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Returns f(x) for an f that works token by token, computed for T / count tokens at a time.

    Each slice is recomputed in the backward pass, so that only one slice's insides exist at a
    time. If `count` does not divide T, the largest number below that does takes its place.
    """
    length = x.shape[1]
    count = next(c for c in range(min(count, length), 0, -1) if length % c == 0)
    if count == 1:
        return f(x)
    slices = jnp.moveaxis(x.reshape(x.shape[0], count, -1, x.shape[2]), 1, 0)
    y = jax.lax.map(jax.checkpoint(f, prevent_cse=False), slices)
    return jnp.moveaxis(y, 0, 1).reshape(*x.shape[:2], -1)


class Embedder(nn.Module):
    """Token embeddings plus positions, learned in one table or in one for each axis."""

    config: ReformerConfig
    types: layers.Numerics

    def setup(self):
        """Declares the tables."""
        c = self.config
        init = layers.INITIALIZERS[c.init](c.init_std)
        self.tokens = layers.Embed(c.vocab_size, c.width, init, self.types)
        init = layers.INITIALIZERS[c.init](c.position_init_std)
        self.positions = [
            layers.Embed(entries, width, init, self.types, axis=None)
            for entries, width in zip(c.axial_shape or (c.max_positions,), c.tables, strict=True)
        ]

    def __call__(self, batch: dict[str, Int[Array, "B T"]]) -> Float[Array, "B T D"]:
        """Reads tokens and positions."""
        shape = self.config.axial_shape or (self.config.max_positions,)
        places = jnp.unravel_index(batch["positions"], shape)  # rows of the grid first
        positions = [table(place) for table, place in zip(self.positions, places, strict=True)]
        x = self.tokens(batch["tokens"]) + jnp.concatenate(positions, axis=-1)
        return placement.stream(x)


class Reformer(nn.Module):
    """Embeddings, the layers, a norm over both streams, and a head of its own."""

    config: ReformerConfig
    types: layers.Numerics
    Config = ReformerConfig
    UNUSED = (
        *("gpu_attention", "scan_layers"),
        *("norm_first", "norm", "bias", "gated", "scaled_scores", "mlp_dropout", "token_types"),
        *("embed_width", "sharing", "groups", "bands"),
    )

    def setup(self):
        """Declares everything but the layers."""
        c = self.config
        self.embedder = Embedder(c, self.types)
        self.dropout = layers.Dropout(c.dropout)
        self.blocks = layers.params(self, "blocks", functools.partial(_init_blocks, c, self.types))
        self.norm = layers.Norm(c.norm_eps, self.types)
        init = layers.INITIALIZERS[c.init](c.init_std)
        self.head = layers.Dense((c.vocab_size,), ("embed", "vocab_table"), init, self.types)

    def __call__(self, batch, *, train: bool, cache: Past | None = None) -> transformer.Output:
        """Reads tokens, positions and segment_ids, each [B T]; `hidden` is [B T 2D].

        With a cache they continue it, and all that is in it is computed again.
        """
        if cache is not None:
            return self._continue(batch, cache)
        c = self.config
        dropout = self.make_rng("dropout") if train and self.has_rng("dropout") else None
        hashing = jax.random.key(c.hash_seed) if dropout is None else dropout
        hashing = jax.random.fold_in(hashing, c.depth)  # layers' numbers are below
        context = Context(batch["segment_ids"], hashing, dropout)
        x = self.dropout(self.embedder(batch), train=train).astype(jnp.float32)
        period = tuple(Layer(c, self.types, kind) for kind in c.kinds)
        params = _by_place(self.blocks, c)
        if c.reversible:
            x = reversible.streams(period, params, (x, x), context)
        else:
            x = (reversible.residual(period, params, x, context, transformer.REMAT[c.remat]),) * 2
        hidden = self.dropout(self.norm(jnp.concatenate(x, axis=-1)), train=train)
        return transformer.Output(hidden)

    def logits(self, hidden: Float[Array, "... 2D"]) -> Float[Array, "... V"]:
        """Scores of the next token."""
        return self.head(hidden)

    def empty_cache(self, rows: int, length: int) -> Past:
        """Returns room for `length` tokens in each of `rows` rows."""
        zeros = jnp.zeros((rows, length), jnp.int32)
        return Past({name: zeros for name in Past.READ}, jnp.zeros((), jnp.int32))

    def _continue(self, batch, past):
        length = batch["tokens"].shape[1]
        write = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
        whole = {name: write(x, batch[name], past.length) for name, x in past.fields.items()}
        hidden = self(whole, train=False).hidden
        hidden = jax.lax.dynamic_slice_in_dim(hidden, past.length, length, axis=1)
        return transformer.Output(hidden, cache=Past(whole, past.length + length))

    def flops(self, rows: int, length: int) -> float:
        """Returns the operations of the products, forward, for B x T tokens, with the head."""
        c = self.config
        heads = c.heads * c.head_width
        keys = {  # that a query is multiplied with
            "lsh": c.rounds * min(2 * c.lsh_chunk, length),
            "local": min(2 * c.local_chunk, length),
            "full": length,
            "full_shared": length,
        }
        total = 2 * c.width * c.vocab_size
        for kind in c.kinds * (c.depth // len(c.kinds)):
            kernels = 3 if KINDS[kind] == "shared" else 4
            total += kernels * c.width * heads + 2 * c.width * c.mlp_width + 2 * keys[kind] * heads
        return 2.0 * rows * length * total


def _init_blocks(config, types, key):
    """Returns the parameters of all layers, stacked by what they have."""
    blocks = {}
    for name in sorted(set(KINDS.values())):
        if count := len(config.layers_with(name)):
            layer = Layer(config, types, next(k for k, has in KINDS.items() if has == name))
            key, own = jax.random.split(key)
            blocks[name] = stack.init_stacked(layer.init, own, count)
    return blocks


def _by_place(blocks, config):
    """Returns, for each place in the period, the parameters of its layers, [N / period ...]."""
    has = [KINDS[kind] for kind in config.kinds]
    places = []
    for place, name in enumerate(has):
        nth, count = has[:place].count(name), has.count(name)
        pick = lambda p, n=nth, m=count: p.reshape(-1, m, *p.shape[1:])[:, n]  # noqa: E731
        places.append(jax.tree.map(pick, blocks[name]))
    return tuple(places)
