"""ERNIE's network: a text encoder whose upper layers fuse entities into tokens (THU, 2019).

The lower layers are BERT's. Then comes a stream of entity vectors beside the text, one for each
token: that of the entity whose mention begins there, and zeros elsewhere. Its first layer only
fuses, in the others the entities first attend to each other. These are the layers of the released
code (`sim` x 5, `mix`, `norm` x 6 in its config); the paper, section 3, has six plain layers and
six that are all alike.

The text's layers are parameters of one stack, as in BERT, so that a BERT checkpoint fills them;
those of the entities are a group of their own, `knowledge`.

`B` rows, `T` tokens, `D` width of tokens, `Y` width of entities, `F` feed-forward width, `N`
layers.
"""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

import errors
from model import attention, encoder, layers, placement, stack, transformer

ALIGNED = 128  # entries of the table are a multiple of it: whatever the mesh, it divides them


@dataclasses.dataclass(frozen=True)
class Config(transformer.TransformerConfig):
    """The knobs of the plain stack, and those of the entities."""

    entities: int = 5_040_986  # numbered from 1; 0 is no entity
    entity_width: int = 100  # Y
    entity_heads: int = 4
    plain_layers: int = 5  # below the first that fuses

    def of_entities(self) -> transformer.TransformerConfig:
        """Returns the knobs of attention among entities."""
        return dataclasses.replace(
            self, width=self.entity_width, heads=self.entity_heads, head_size=0
        )


class Entities(NamedTuple):
    """The entities of the rows."""

    vectors: Float[Array, "B T Y"]  # zeros where no mention begins
    there: Bool[Array, "B T"]  # an entity, or the place in whose vector nothing is yet: see `read`
    near: Bool[Array, "B T"]  # of an example that has entities at all
    visible: attention.Visible  # the entities of an example


class Knowledge(nn.Module):
    """The parameters of the entities: their table, and what each fusing layer adds to a block."""

    config: Config
    types: layers.Numerics

    def setup(self):
        """Declares the table, the layer that only fuses, and the others, stacked."""
        c = self.config
        entries = -(-(c.entities + 1) // ALIGNED) * ALIGNED
        # As long as TransE's, whose entities have length 1.
        init = nn.initializers.normal(c.entity_width**-0.5)
        self.entities = layers.Embed(entries, c.entity_width, init, self.types, "entity_table")
        mix = functools.partial(_init_aggregator, c, self.types, False)
        self.mix = layers.params(self, "mix", mix)
        attending = functools.partial(_init_aggregator, c, self.types, True)
        count = c.depth - c.plain_layers - 1
        blocks = functools.partial(stack.init_stacked, attending, count=count)
        self.blocks = layers.params(self, "blocks", blocks)

    def vectors(self, index: Int[Array, "..."]) -> Float[Array, "... Y"]:
        """Returns the vectors of entities as they are stored, float32; those of 0 are zeros."""
        return self.entities.stored(index) * (index > 0)[..., None]


class Blocks(nn.Module):
    """The parameters of the text's layers, as `stack.Stack` has them."""

    config: Config
    types: layers.Numerics

    def setup(self):
        """Declares them."""
        block = transformer.Block(self.config, self.types, train=False, parent=None)
        init = functools.partial(stack.init_blocks, block, False)
        self.blocks = layers.params(self, "blocks", init)


class Aggregator(nn.Module):
    """A block whose feed-forward network reads and writes entities too (section 3.3).

    Where the paper has no residual connections and norms but activations of what is put out, this
    is the released code: with the former, without the latter. Its text parameters are named as
    those of `transformer.Block`.
    """

    config: Config
    types: layers.Numerics
    attends: bool  # whether the entities attend to each other
    train: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], e: Float[Array, "B T Y"], visible, entities: Entities
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B T Y"]]:
        """Returns tokens and entities after this layer.

        Args:
          x: tokens.
          e: entities; what it holds where none is does not matter.
          visible: which token may look at which.
          entities: where they are.
        """
        c, types = self.config, self.types
        init, out = (layers.INITIALIZERS[c.init](s) for s in (c.init_std, c.residual_init_std))

        def residual(x, y, norm):
            drop = layers.Dropout(c.dropout, name=norm.replace("norm", "dropout"))
            norm = layers.NORMS[c.norm](c.norm_eps, types, name=norm)
            return norm(x + drop(y, train=self.train))

        attend = transformer.Attention(c, types, name="attention")
        x = residual(x, attend(x, visible, train=self.train)[0], "attention_norm")
        if self.attends:
            attend = transformer.Attention(c.of_entities(), types, name="entity_attention")
            y = attend(e, entities.visible, train=self.train)[0]
            e = residual(e, y, "entity_attention_norm")
        e = jnp.where(entities.there[..., None], e, 0)

        known = layers.Dense((c.mlp_width,), ("embed", "mlp"), init, types, name="entity_up")
        known = known(placement.entering(e))
        known = jnp.where(entities.near[..., None], known, 0)
        h, y = _Fusion(c, types, name="mlp")(x, known)
        x = residual(x, y, "mlp_norm")
        down = layers.Dense((c.entity_width,), ("mlp", "embed"), out, types, name="entity_down")
        e = residual(e, placement.leaving(down(h)), "entity_norm")
        return placement.stream(x), e


class _Fusion(nn.Module):
    """`layers.Mlp`, with more than its input in the hidden layer, which is returned as well."""

    config: Config
    types: layers.Numerics

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], known: Float[Array, "B T F"]):
        c = self.config
        init, out = (layers.INITIALIZERS[c.init](s) for s in (c.init_std, c.residual_init_std))
        up = layers.Dense((c.mlp_width,), ("embed", "mlp"), init, self.types, name="up")
        up = up(placement.entering(x))
        h = layers.ACTIVATIONS[c.activation](up + known)
        down = layers.Dense((c.width,), ("mlp", "embed"), out, self.types, name="down")
        return h, placement.leaving(down(h))


def _init_aggregator(config: Config, types: layers.Numerics, attends: bool, key: Array):
    """Returns the boxed parameters that a layer has besides those of a block."""
    x, e = (jnp.zeros((1, 1, w), types.compute) for w in (config.width, config.entity_width))
    yes = jnp.ones((1, 1), bool)
    visible = attention.Visible(yes[None, None])
    layer = Aggregator(config, types, attends, train=False, parent=None)
    params = layer.init({"params": key}, x, e, visible, Entities(e, yes, yes, visible))["params"]
    return {name: value for name, value in params.items() if name.startswith("entity_")}


class Ernie(encoder.Encoder):
    """An encoder that reads entities besides its tokens; without any it is BERT's, to the bit."""

    config: Config
    Config = Config
    # The layers are no longer all alike, and no page of this network has the rest.
    UNUSED = (
        *("bands", "sharing", "groups", "norm_first", "gated", "mlp_dropout", "bias", "causal"),
        "scan_layers",
    )

    def setup(self):
        """Declares the embedder, the text's layers, and all of the entities."""
        super().setup()
        c = self.config
        if not 0 <= c.plain_layers < c.depth - 1:
            raise errors.UserError(
                f"config.model.plain_layers={c.plain_layers} must leave two or more of "
                f"config.model.depth={c.depth} layers to the entities."
            )
        if c.entities < 1 or c.entity_heads < 1 or c.entity_width % c.entity_heads:
            raise errors.UserError(
                f"config.model.entities={c.entities} must be at least 1, and config.model."
                f"entity_width={c.entity_width} a multiple of entity_heads={c.entity_heads}."
            )
        self.knowledge = Knowledge(c, self.types)

    def make_stack(self) -> Blocks:
        """Returns the text's layers."""
        return Blocks(self.config, self.types)

    def read(self, batch) -> Entities | None:
        """Returns the entities of a batch; None if it has no such field.

        As in the released code the first token of an example has a vector too, zeros at first, so
        that what is known of its entities can gather there. An example without entities has not,
        which that code overlooks: so it is read as by BERT.

        Args:
          batch: entities [B T]: the number of the one whose mention begins at a token, or 0;
            segment_ids and positions [B T].
        """
        if "entities" not in batch:
            return None
        index = batch["entities"]
        visible, _ = attention.among(batch["segment_ids"], causal=False)
        near = (visible.allowed[:, 0] & (index > 0)[:, None, :]).any(axis=-1)
        there = (index > 0) | (near & (batch["positions"] == 0))
        return Entities(
            self.knowledge.vectors(index).astype(self.types.compute),
            there,
            near,
            attention.Visible(visible.allowed & there[:, None, None, :]),
        )

    def encode(
        self, x: Float[Array, "B T E"], batch, *, train: bool, return_layers: bool = False
    ) -> transformer.Output:
        """Returns the `Output` for embeddings x.

        Args:
          x: embeddings.
          batch: segment_ids [B T]; positions and entities [B T], see `read`.
          train: whether there is dropout.
          return_layers: whether x after every layer is wanted too.
        """
        c, x = self.config, self.widened(x)
        visible, _ = attention.among(batch["segment_ids"], causal=False)
        entities = self.read(batch)
        key = self.make_rng("dropout") if train and self.has_rng("dropout") else None

        def rngs(index):
            return {} if key is None else {"dropout": jax.random.fold_in(key, index)}

        def plain(carry, inputs):
            params, index = inputs
            block = transformer.Block(c, self.types, train, parent=None)
            x, *_ = block.apply({"params": params}, carry[0], None, visible, None, rngs=rngs(index))
            return (x, *carry[1:]), x if return_layers else None

        def fuse(attends, carry, inputs):
            params, known, index = inputs
            layer = Aggregator(c, self.types, attends, train, parent=None)
            carry = layer.apply(
                {"params": {**params, **known}}, *carry, visible, entities, rngs=rngs(index)
            )
            return carry, carry[0] if return_layers else None

        blocks, index, first = self.stack.blocks, jnp.arange(c.depth), c.plain_layers
        if entities is None:
            (x,), after = _scan(c, plain, (x,), (blocks, index))
            return transformer.Output(x, after)
        cut = lambda start, stop=None: jax.tree.map(lambda p: p[start:stop], (blocks, index))  # noqa: E731
        carry, after = (x, entities.vectors), []
        mix = jax.tree.map(lambda p: p[None], self.knowledge.mix)
        for layer, inputs in (
            (plain, cut(0, first)),
            (functools.partial(fuse, False), _with(cut(first, first + 1), mix)),
            (functools.partial(fuse, True), _with(cut(first + 1), self.knowledge.blocks)),
        ):
            carry, outputs = _scan(c, layer, carry, inputs)
            after.append(outputs)
        return transformer.Output(carry[0], jnp.concatenate(after) if return_layers else None)


def _with(inputs, known):
    params, index = inputs
    return params, known, index


def _scan(config, layer, carry, inputs):
    """Applies like layers to the carry; returns it and their outputs, stacked."""
    return jax.lax.scan(transformer.rematerialized(layer, config), carry, inputs)


def added_flops(config: Config, rows: int, length: int) -> float:
    """Returns the operations of the products of entities, forward, for B x T tokens."""
    fusing = config.depth - config.plain_layers
    fusion = fusing * 2 * config.entity_width * config.mlp_width
    attend = (fusing - 1) * (4 * config.entity_width**2 + 2 * config.entity_width * length)
    return 2.0 * rows * length * (fusion + attend)
