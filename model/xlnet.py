"""XLNet's network: two streams with the same parameters, relative positions, memory (section 2).

The content stream is the text. The query stream has a row for each token that is predicted, which
knows where that token stands but not what it is. Both read the keys and values of the content
stream, so they are kept in one array [B T+P D]: whatever a layer does to a row, it does in both.

Who sees whom is a matter of ranks, a number for each token: content sees what does not rank above
itself, a query what ranks below it. Equal ranks see each other, so without ranks the network is a
bidirectional encoder, and with ranks that rise from left to right it is a left-to-right one.

`B` rows, `T` tokens, `P` queries a row, `M` tokens of memory, `S` = M + T keys, `R` distances, `D`
width, `H` heads, `K` head width, `N` layers, `V` vocabulary.
"""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from model import attention, layers, placement, stack, transformer
from model import distances as distances_lib

_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


@dataclasses.dataclass(frozen=True)
class Config(transformer.TransformerConfig):
    """The knobs of the plain stack, as far as this network has them.

    `max_positions` is the longest text that is generated; nothing is learned for a position.
    """


class Queries(NamedTuple):
    """The tokens that the query stream predicts."""

    positions: Int[Array, "B P"]  # index in the row; T is the token that would come next
    rank: Int[Array, "B P"]
    segment_ids: Int[Array, "B P"]
    token_types: Int[Array, "B P"]

    @classmethod
    def gather(cls, batch, positions: Int[Array, "B P"]) -> "Queries":
        """Asks for tokens of the rows themselves; reads rank, segment_ids and token_types."""
        fields = (batch[name] for name in cls._fields[1:])
        return cls(positions, *(jnp.take_along_axis(x, positions, axis=1) for x in fields))


class Memory(NamedTuple):
    """The text before these rows, as the layers saw it (section 2.4)."""

    hidden: Float[Array, "N B M D"]  # what each layer read
    segment_ids: Int[Array, "B M"]  # 0: there is no such token


class Cache(NamedTuple):
    """Keys and values of the tokens so far, which rank from left to right.

    As `attention.Cache`, with the keys of the distances, which all rows have in common.
    """

    keys: tuple[Float[Array, "B S H K"], ...]
    values: tuple[Float[Array, "B S H K"], ...]
    distances: tuple[Float[Array, "S+1 H K"], ...]  # of S, S - 1, ..., 0
    segment_ids: Int[Array, "B S"]
    length: Int[Array, ""]  # tokens written so far

    def take(self, rows: Int[Array, "rows"]) -> "Cache":
        """Returns a cache of these rows, each of them as often as it is named."""
        plain = attention.Cache(self.keys, self.values, self.segment_ids, self.length).take(rows)
        return self._replace(keys=plain.keys, values=plain.values, segment_ids=plain.segment_ids)

    reorder = take


class View(NamedTuple):
    """What the queries of all layers see, and from where; content first, then queries."""

    allowed: Bool[Array, "B 1 T+P S"]
    same: Bool[Array, "B 1 T+P S"]  # of one segment (section 2.5)
    encodings: Float[Array, "X R D"]  # of falling distances; X = 2: and of their negatives
    negated: Bool[Array, "B"] | None  # which of the two a row takes; None: X = 1
    content_start: Int[Array, ""] | int  # where the distance from token 0 to key 0 is among the R
    query_starts: Int[Array, "B P"]  # and that from each query to key 0
    columns: int  # of scores by distance that are read from, those past the R never seen


class RelativeAttention(nn.Module):
    """Attention by content, distance and segment, each with a query bias of its own.

    score = (q + b1) k + (q + b2) W_r R_distance + (q + b3) s_same (sections 2.4 and 2.5; the biases
    are those of Transformer-XL, one set for each layer). The products have no bias.
    """

    config: Config
    types: layers.Numerics

    @nn.compact
    def __call__(self, x, memory, cached, view: View, *, train):
        """Returns [B T+P D] and, given a layer's (keys, values, distances, length), the new two."""
        c = self.config
        init = layers.INITIALIZERS[c.init](c.init_std)
        x = placement.entering(x)

        def project(name, x):
            axes, features = ("embed", "heads", "head_width"), (c.heads, c.head_width)
            y = layers.Dense(features, axes, init, self.types, bias=False, name=name)(x)
            return y.astype(self.types.attention)

        def constrain(y):
            return nn.with_logical_constraint(y, ("act_batch", "act_length", "act_heads", None))

        content = x[:, : x.shape[1] - view.query_starts.shape[1]]
        if memory is not None:
            content = jnp.concatenate([memory, content], axis=1)
        q = constrain(project("query", x))
        k, v = (constrain(project(name, content)) for name in ("key", "value"))
        if cached is None:
            distances = project("distance", view.encodings)
        else:
            keys, values, distances, length = cached
            k = jax.lax.dynamic_update_slice_in_dim(keys, k, length, axis=1)
            v = jax.lax.dynamic_update_slice_in_dim(values, v, length, axis=1)
            distances, cached = distances[None], (k, v)

        def biased(name):
            bias = layers.param(self, name, init, (c.heads, c.head_width), ("heads", "head_width"))
            return q + bias.astype(q.dtype)

        shape, axes = (2, c.heads, c.head_width), (None, "heads", "head_width")
        segments = layers.param(self, "segments", init, shape, axes).astype(q.dtype)
        scores = _product("bthk,bshk->bhts", biased("content_bias"), k)
        scores += self._by_distance(biased("distance_bias"), distances, view, k.shape[1])
        same, other = _product("bthk,xhk->xbht", biased("segment_bias"), segments)[..., None]
        scores = (scores + jnp.where(view.same, same, other)) * c.head_width**-0.5
        weights = jax.nn.softmax(jnp.where(view.allowed, scores, attention.MASKED), axis=-1)
        # What sees nothing attends to nothing: the first of an order would average all tokens,
        # its own included.
        weights = jnp.where(view.allowed, weights, 0.0)
        weights = layers.Dropout(c.attention_dropout)(weights, train=train).astype(v.dtype)
        y = jnp.einsum("bhts,bshk->bthk", weights, v, preferred_element_type=self.types.attention)
        out_init = layers.INITIALIZERS[c.init](c.residual_init_std)
        axes = ("heads", "head_width", "embed")
        out = layers.Dense((c.width,), axes, out_init, self.types, bias=False, name="out")
        return placement.leaving(out(y.astype(self.types.compute))), cached

    def _by_distance(self, q, distances, view, keys):
        """Returns the float32 scores [B H T+P S] of how far each query is from each key."""
        if view.negated is None:
            scores = _product("bthk,rhk->bhtr", q, distances[0])
        else:
            chosen = jnp.where(view.negated[:, None, None, None], distances[1], distances[0])
            scores = _product("bthk,brhk->bhtr", q, chosen)
        starts = view.content_start, view.query_starts
        return distances_lib.read(scores, *starts, keys, view.columns)


class Block(nn.Module):
    """Attention and feed-forward network, both post-norm, for both streams."""

    config: Config
    types: layers.Numerics
    train: bool

    @nn.compact
    def __call__(self, x, memory, cached, view: View):
        """Returns x [B T+P D] after this layer, and (this layer's new cache, x)."""
        c = self.config
        init = layers.INITIALIZERS[c.init](c.init_std)
        out_init = layers.INITIALIZERS[c.init](c.residual_init_std)

        def add(x, y, name):
            y = layers.Dropout(c.dropout, name=f"{name}_dropout")(y, train=self.train)
            return layers.Norm(c.norm_eps, self.types, name=f"{name}_norm")(x + y)

        attend = RelativeAttention(c, self.types, name="attention")
        y, cached = attend(x, memory, cached, view, train=self.train)
        x = add(x, y, "attention")
        mlp = layers.Mlp(
            c.mlp_width,
            c.activation,
            init,
            out_init,
            self.types,
            dropout=c.mlp_dropout,
            name="mlp",
        )
        x = add(x, mlp(x, train=self.train), "mlp")
        x = placement.stream(x)
        return x, (cached, x)


class Stack(nn.Module):
    """N blocks as one scan over stacked parameters, as in `stack.Stack`."""

    config: Config
    types: layers.Numerics

    @nn.compact
    def __call__(self, x, memory, cache, view: View, *, train: bool, return_layers: bool = False):
        """Returns x [B T+P D] after all layers, after each where asked for, and the new cache."""
        c = self.config
        block = Block(c, self.types, train, parent=None)  # applied to one layer's parameters
        init = functools.partial(_init_blocks, block)
        params = layers.params(self, "blocks", init)
        if not c.scan_layers:
            params = stack.apart(params, c.depth)
        key = self.make_rng("dropout") if train and self.has_rng("dropout") else None

        def layer(_, x, inputs):
            params, stored, past, index = inputs
            memory = None if past is None else past[0]
            rngs = {} if key is None else {"dropout": jax.random.fold_in(key, index)}
            cached = None if stored is None else (*stored, cache.length)
            x, (stored, y) = block.apply({"params": params}, x, memory, cached, view, rngs=rngs)
            return x, (stored, y if return_layers else None, None)

        layer = transformer.rematerialized(layer, c)
        stored = None if cache is None else (cache.keys, cache.values, cache.distances)
        past = None if memory is None else (memory,)
        if isinstance(params, tuple):
            x, outputs = stack.loop(layer, (None,), x, params, stored, past)
        else:
            inputs = (params, stack.together(stored), past, jnp.arange(c.depth))
            x, outputs = jax.lax.scan(functools.partial(layer, None), x, inputs)
        stored, after_layers, _ = outputs
        if cache is not None:
            keys, values = (tuple(of_layers) for of_layers in stored)
            cache = cache._replace(keys=keys, values=values)
        return x, after_layers, cache

    def distances(self, encodings: Float[Array, "R D"]) -> tuple[Float[Array, "R H K"], ...]:
        """Returns the keys of distances for every layer: made once, they cost more than a token."""
        kernels = self.get_variable("params", "blocks")["attention"]["distance"]["kernel"]
        flat = kernels.reshape(*kernels.shape[:2], -1)
        project = lambda kernel: layers.product(encodings, kernel, None, self.types)  # noqa: E731
        keys = jax.lax.map(project, flat).astype(self.types.attention)
        return tuple(keys.reshape(*keys.shape[:2], *kernels.shape[2:]))


def _init_blocks(block: Block, key: Array):
    """Returns the parameters of all layers, boxed with their axis names."""
    c = block.config
    x = jnp.zeros((1, 1, c.width), block.types.compute)
    true = jnp.ones((1, 1, 1, 1), bool)
    view = View(true, true, jnp.zeros((1, 2, c.width), x.dtype), None, 1, _no_places(1), 2)
    init = lambda key: block.init({"params": key}, x, None, None, view)["params"]  # noqa: E731
    return stack.init_stacked(init, key, c.depth)


def _no_places(rows):
    return jnp.zeros((rows, 0), jnp.int32)


class Embedder(nn.Module):
    """The tokens' vectors, and the one that every query starts from."""

    config: Config
    types: layers.Numerics

    def setup(self):
        """Declares the tables."""
        c = self.config
        init = layers.INITIALIZERS[c.init](c.init_std)
        self.tokens = layers.Embed(c.vocab_size, c.width, init, self.types)
        start = nn.initializers.glorot_uniform()  # TensorFlow's default, as in modeling.py
        self.query = layers.Embed(1, c.width, start, self.types, axis=None)


class XLNet(nn.Module):
    """Embeddings, then the stack over content and queries."""

    config: Config
    types: layers.Numerics
    Config = Config
    UNUSED = (
        "gpu_attention",
        *("norm_first", "norm", "bias", "gated", "scaled_scores", "token_types", "embed_width"),
        *("sharing", "groups", "causal", "bands"),
    )

    def setup(self):
        """Declares the embedder and the stack."""
        self.embedder = Embedder(self.config, self.types)
        self.dropout = layers.Dropout(self.config.dropout)
        self.stack = Stack(self.config, self.types)

    def __call__(
        self,
        batch: dict[str, Int[Array, "B T"]],
        *,
        train: bool,
        queries: Queries | None = None,
        memory: Memory | None = None,
        cache: Cache | None = None,
        return_layers: bool = False,
    ) -> transformer.Output:
        """Returns what the queries found [B P D]; without queries the content [B T D].

        Without queries there is no query stream, and no cost of one. Layers are those of the
        content.

        Args:
          batch: tokens and segment_ids [B T]; where they are not there, token_types [B T] are all 0
            and rank [B T] lets all see each other; `reversed` [B] is 1 for text from right to left.
          train: whether there is dropout.
          queries: what is predicted.
          memory: of the text before, or None.
          cache: of the tokens before these, or None. With one, rank and token_types are not read:
            the order is from left to right.
          return_layers: whether the content after each layer is wanted.
        """
        T = batch["tokens"].shape[1]
        x = self.embedder.tokens(batch["tokens"])
        if queries is not None:
            start = self.embedder.query(jnp.zeros_like(queries.positions))
            x = jnp.concatenate([x, start], axis=1)
        x = placement.stream(x)
        x = self.dropout(x, train=train)
        if cache is not None:
            ids = batch["segment_ids"]
            ids = jax.lax.dynamic_update_slice_in_dim(cache.segment_ids, ids, cache.length, axis=1)
            cache = cache._replace(segment_ids=ids)
        view = self._view(batch, queries, memory, cache, train)
        hidden = None if memory is None else memory.hidden
        x, after, cache = self.stack(
            x, hidden, cache, view, train=train, return_layers=return_layers
        )
        if cache is not None:
            cache = cache._replace(length=cache.length + T)
        x = self.dropout(x if queries is None else x[:, T:], train=train)
        return transformer.Output(x, after if after is None else after[:, :, :T], cache=cache)

    def remember(self, batch: dict[str, Int[Array, "B M"]], memory: Memory | None = None) -> Memory:
        """Returns the memory of these rows behind that of the text before them.

        Reads what `__call__` does, as a single stream without dropout; no gradient enters it.
        """
        output = self(batch, train=False, memory=memory, return_layers=True)
        first = self.embedder.tokens(batch["tokens"])[None]
        hidden = jnp.concatenate([first, output.layers[:-1]])
        ids = batch["segment_ids"]
        if memory is not None:
            hidden = jnp.concatenate([memory.hidden, hidden], axis=2)
            ids = jnp.concatenate([memory.segment_ids, ids], axis=1)
        return Memory(jax.lax.stop_gradient(hidden), ids)

    def _view(self, batch, queries, memory, cache, train):
        """Returns the `View` of these rows."""
        ids = key_ids = batch["segment_ids"]
        B, T = ids.shape
        rank = batch.get("rank", jnp.zeros_like(ids))
        types = key_types = batch.get("token_types", jnp.zeros_like(ids))
        M = offset = 0 if memory is None else memory.segment_ids.shape[1]
        key_rank = rank
        if cache is not None:  # ranks are places, and all is one segment
            offset, key_ids = cache.length, cache.segment_ids
            key_rank = jnp.broadcast_to(jnp.arange(key_ids.shape[1]), key_ids.shape)
            rank = jnp.broadcast_to(offset + jnp.arange(T), ids.shape)
            types, key_types = jnp.zeros_like(ids), jnp.zeros_like(key_ids)

        limit = rank + 1  # content sees ranks below its own + 1, a query those below its own
        if queries is not None:
            limit = jnp.concatenate([limit, queries.rank], axis=1)
            ids = jnp.concatenate([ids, queries.segment_ids], axis=1)
            types = jnp.concatenate([types, queries.token_types], axis=1)
        allowed = key_rank[:, None, :] < limit[:, :, None]
        allowed &= key_ids[:, None, :] == ids[:, :, None]
        same = key_types[:, None, :] == types[:, :, None]
        if memory is not None:  # all of it is seen, as a part of segment 0
            there = jnp.broadcast_to(memory.segment_ids[:, None, :] > 0, (B, ids.shape[1], M))
            allowed = jnp.concatenate([there, allowed], axis=2)
            first = jnp.broadcast_to(types[:, :, None] == 0, there.shape)
            same = jnp.concatenate([first, same], axis=2)

        S = allowed.shape[2]
        # Falling distances: a key further to the right stands in a later column. With a cache,
        # what is to the right is never seen, and needs no key.
        falling = jnp.arange(S, -1 if cache is not None else -T, -1, dtype=jnp.float32)
        negated = None if "reversed" not in batch else batch["reversed"] > 0
        signs = (1,) if negated is None else (1, -1)
        encodings = jnp.stack(
            [distances_lib.encode(sign * falling, self.config.width) for sign in signs]
        )
        # One mask for all rows, where the code draws one for each and projects the encodings of
        # each row by themselves.
        encodings = self.dropout(encodings.astype(self.types.compute), train=train)
        places = _no_places(B) if queries is None else S - offset - queries.positions
        columns = 2 * S if cache is not None else S + T
        return View(
            allowed[:, None], same[:, None], encodings, negated, S - offset, places, columns
        )

    def empty_cache(self, rows: int, length: int) -> Cache:
        """Returns a cache with room for `length` tokens in each of `rows` rows."""
        plain = transformer.empty_cache(self.config, self.types, rows, length)
        encodings = distances_lib.encode(jnp.arange(length, -1, -1.0), self.config.width)
        distances = self.stack.distances(encodings.astype(self.types.compute))
        return Cache(plain.keys, plain.values, distances, plain.segment_ids, plain.length)
