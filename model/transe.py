"""TransE: a relation is a translation from head to tail (Bordes et al., NeurIPS 2013).

`B` rows, `K` corrupted triples of each, `V` entities, `D` width.
"""

import dataclasses
import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from model import layers, losses

# Table rows are filled up to a multiple, so that they divide over any usual mesh.
ROWS = 128
NORMS = ("l1", "l2")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, and the paper's choices."""

    entities: int
    relations: int
    width: int  # D
    margin: float
    norm: str  # of the distance, one of NORMS
    negatives: int  # K


class TransE(nn.Module):
    """d(h, r, t) = |h + r - t|, with vectors h and t of length 1 (section 2, algorithm 1).

    The rows of the entity table past the last entity are never read.
    """

    config: Config
    types: layers.Numerics
    weights = losses.ONCE

    def setup(self):
        """Declares the two tables."""
        c = self.config
        rows = -(-c.entities // ROWS) * ROWS
        self.entities = layers.Embed(rows, c.width, unit_rows, self.types, axis="entity_table")
        self.relations = layers.Embed(c.relations, c.width, unit_rows, self.types, axis=None)

    def __call__(self, batch: Mapping[str, Array], *, train: bool):
        """Returns the margin loss of head, relation and tail, each [B], against corrupted ones.

        In training the corrupted ones are drawn by the key "negatives".
        """
        h, r, t = batch["head"], batch["relation"], batch["tail"]
        key = self.make_rng("negatives") if train else jax.random.key(0)
        heads, tails = corrupt(key, h, t, self.config.entities, self.config.negatives)
        true = self.distance(h, r, t)[:, None]
        other = self.distance(heads, jnp.broadcast_to(r[:, None], heads.shape), tails)
        hinge = jax.nn.relu(self.config.margin + true - other)  # [B K]
        ones = jnp.ones_like(hinge)
        return {"margin": losses.mean(hinge, ones)}, {"violated": losses.mean(hinge > 0, ones)}

    def distance(
        self, h: Int[Array, "..."], r: Int[Array, "..."], t: Int[Array, "..."]
    ) -> Float[Array, "..."]:
        """Returns |h + r - t|."""
        return _length(self.entities(h) + self.relations(r) - self.entities(t), self.config.norm)

    def distances(
        self, known: Int[Array, "B"], r: Int[Array, "B"], is_head: Int[Array, "B"]
    ) -> Float[Array, "B V"]:
        """Returns the distances of the triples that any entity completes.

        Args:
          known: the entity that is given.
          r: the relation.
          is_head: 1: what is given is the head; 0: the tail.
        """
        sign = jnp.where(is_head > 0, 1.0, -1.0)[:, None]
        wanted = self.entities(known) + sign * self.relations(r)  # where the other one should be
        table, norm = self.entities.table, self.config.norm
        near = jax.lax.map(lambda x: _length(x - table, norm), wanted)
        return near[:, : self.config.entities]


def _length(x, norm):
    if norm == "l1":
        return jnp.abs(x).sum(-1)
    return jnp.sqrt(jnp.square(x).sum(-1) + 1e-12)


def corrupt(
    key: Array, h: Int[Array, "B"], t: Int[Array, "B"], entities: int, negatives: int
) -> tuple[Int[Array, "B K"], Int[Array, "B K"]]:
    """Returns heads and tails of which one, as likely either, is replaced by any entity."""
    which, what = jax.random.split(key)
    shape = len(h), negatives
    head = jax.random.bernoulli(which, 0.5, shape)
    other = jax.random.randint(what, shape, 0, entities)
    return jnp.where(head, other, h[:, None]), jnp.where(head, t[:, None], other)


def unit_rows(key: Array, shape: tuple[int, int], dtype=jnp.float32) -> Float[Array, "V D"]:
    """Draws as algorithm 1 does: uniform up to 6 / sqrt(D), then each row of length 1."""
    bound = 6.0 / math.sqrt(shape[1])
    return normalize_rows(jax.random.uniform(key, shape, dtype, -bound, bound))


def normalize_rows(x: Float[Array, "V D"]) -> Float[Array, "V D"]:
    """Scales each row to length 1."""
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def project(params: PyTree) -> PyTree:
    """Returns the parameters with entities of length 1, as after every step of algorithm 1."""
    entities = jax.tree.map(normalize_rows, params["entities"])
    return {**params, "entities": entities}
