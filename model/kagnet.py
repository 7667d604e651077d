"""KagNet's reasoner over the graph of a question and a choice (Lin et al., EMNLP 2019).

GCN, LSTM over paths, attention over the paths of each pair of concepts and then over the pairs. The
parts whose paper and code (github.com/INK-USC/KagNet, models/models.py) differ are named in tables;
"paper" and "code" say whose an entry is. Letters: `B` choices, `N` concepts, `J` pairs, `K` paths,
`L` hops, `E` width of the table, `C` of a concept, `H` of the LSTM, `D` of the statement.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from model import attention, layers

ROWS = 128  # tables are filled up to a multiple, so that they divide over any usual mesh
FORMS = ("paper", "code")
_XAVIER = nn.initializers.glorot_normal()


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, and whose form each part has."""

    entities: int
    relations: int  # R; the tables have 2 R, for each goes backward too
    width: int  # E
    gcn: tuple[int, ...]  # widths of its layers; (): no GCN
    gcn_form: str  # paper: W_self h + mean of W h over neighbors; code: W times their sum
    concept_form: str  # what stands for a concept: paper: what the GCN says; code: TransE's too
    lstm: int  # H
    path_form: str  # steps: paper: triples; code: concepts with the relation that leaves them
    path_attention: bool  # False: the mean of a pair's paths
    pair_widths: tuple[int, ...]  # of the layers of T
    score_form: str  # paper: an MLP over g; code: linear over [g; s]


class Attended(NamedTuple):
    """What the reasoner thinks of choices."""

    score: Float[Array, "B"]
    pairs: Float[Array, "B J"]  # attention over the pairs; sums to 1
    paths: Float[Array, "B K"]  # over the paths of each pair; sums to 1 for each pair with paths


class Reasoner(nn.Module):
    """score(question, choice) of statement vectors and schema graphs.

    A choice without a pair of concepts is scored by its statement: one pair of zero vectors without
    a path stands for it, as in the code.
    """

    config: Config
    types: layers.Numerics

    @nn.compact
    def __call__(self, statement: Float[Array, "B D"], batch: Mapping[str, Array]) -> Attended:
        """Reads the fields of a graph in model/batch.py, each [B ...] without the axis G."""
        c, types = self.config, self.types
        statement = statement.astype(types.compute)
        concepts = _Concepts(c, types, name="concepts")(batch)  # [B N C]

        question = at(concepts, batch["pair_question"])
        answer = at(concepts, batch["pair_answer"])
        repeated = jnp.broadcast_to(statement[:, None], (*question.shape[:2], statement.shape[-1]))
        pairs = jnp.concatenate([question, answer, repeated], axis=-1)
        for i, width in enumerate(c.pair_widths):  # T
            pairs = nn.leaky_relu(_dense(width, types, f"pair_{i}")(pairs))

        real = batch["path_pair"] > 0
        paths = _Paths(c, types, name="paths")(concepts, batch)  # [B K H]
        member = batch["path_pair"][:, None] == 1 + jnp.arange(pairs.shape[1])[:, None]  # [B J K]
        if c.path_attention:
            keys = _dense(c.lstm, types, "path_query")(pairs)
            scores = jnp.einsum("bjh,bkh->bjk", keys, paths, preferred_element_type=jnp.float32)
        else:
            scores = jnp.zeros(member.shape, jnp.float32)
        weights = jax.nn.softmax(jnp.where(member, scores, attention.MASKED), axis=-1) * member
        joined = jnp.einsum("bjk,bkh->bjh", weights.astype(types.compute), paths)

        there = (batch["pair_answer"] > 0) | (jnp.arange(pairs.shape[1]) == 0)
        query = _dense(c.pair_widths[-1], types, "pair_query")(statement)
        scores = jnp.einsum("bd,bjd->bj", query, pairs, preferred_element_type=jnp.float32)
        attended = jax.nn.softmax(jnp.where(there, scores, attention.MASKED), axis=-1)
        both = jnp.concatenate([joined, pairs], axis=-1)
        graph = jnp.einsum("bj,bjd->bd", attended.astype(types.compute), both)

        if c.score_form == "paper":  # which does not tell the width of the hidden layer
            hidden = nn.leaky_relu(_dense(c.pair_widths[-1], types, "hidden")(graph))
        else:
            hidden = jnp.concatenate([graph, statement], axis=-1)
        score = _dense(1, types, "score")(hidden)[..., 0].astype(jnp.float32)
        of_paths = jnp.where(real, weights.sum(1), 0.0)
        return Attended(score, attended, of_paths)


def _dense(features, types, name, *, bias=True, initializer=_XAVIER):
    """A linear layer by the code's initial weights; biases start at 0, in the code at N(0, 1)."""
    return layers.Dense((features,), ("embed", "features"), initializer, types, bias, name=name)


def at(concepts: Float[Array, "B N C"], places: Int[Array, "B ..."]) -> Float[Array, "B ... C"]:
    """Returns the vectors at some places; zeros at place 0, which stands for none."""
    flat = places.reshape(len(places), -1)
    found = jnp.take_along_axis(concepts, flat[..., None], axis=1)
    found = jnp.where(flat[..., None] > 0, found, 0)
    return found.reshape(*places.shape, concepts.shape[-1])


class _Concepts(nn.Module):
    """A table of concepts, and a GCN over the edges among those of a graph."""

    config: Config
    types: layers.Numerics

    @nn.compact
    def __call__(self, batch):
        """Returns [B N C]; what it says of places without a concept means nothing."""
        c, types = self.config, self.types
        init = nn.initializers.normal(c.width**-0.5)  # as long as TransE's vectors
        rows = -(-(c.entities + 1) // ROWS) * ROWS  # the first one stands for none
        table = layers.Embed(rows, c.width, init, types, axis="entity_table", name="table")
        vectors = table.stored(batch["concepts"]).astype(types.compute)
        vectors = jnp.where(batch["concepts"][..., None] > 0, vectors, 0)
        hidden, edges = vectors, batch["concept_edges"].astype(types.compute)
        degree = jnp.maximum(edges.sum(-1, keepdims=True), 1)
        for i, width in enumerate(c.gcn):
            around = jnp.einsum("bnm,bmd->bnd", edges, hidden)
            if c.gcn_form == "paper":
                own = _dense(width, types, f"self_{i}")(hidden)
                near = _dense(width, types, f"gcn_{i}", bias=False)(around / degree)
                hidden = jax.nn.relu(own + near)
            else:
                hidden = jax.nn.relu(_dense(width, types, f"gcn_{i}")(around))
        if c.gcn and c.concept_form == "code":
            return jnp.concatenate([vectors, hidden], axis=-1)
        return hidden


class _Paths(nn.Module):
    """An LSTM over the hops of each path."""

    config: Config
    types: layers.Numerics

    @nn.compact
    def __call__(self, concepts, batch):
        """Returns [B K H]: the state after a path's last step.

        The code's steps are one more than hops, of which shorter paths leave some empty: its last
        state is that after the empty ones.
        """
        c, types = self.config, self.types
        heads, relations, tails = (batch[f"path_{x}"] for x in ("heads", "relations", "tails"))
        init = nn.initializers.normal(c.width**-0.5)
        table = layers.Embed(2 * c.relations + 1, c.width, init, types, axis=None, name="relations")

        def related(index):
            return jnp.where(index[..., None] > 0, table(index), 0)

        if c.path_form == "paper":
            real = relations > 0
            steps = [at(concepts, heads), related(relations), at(concepts, tails)]
        else:
            places = jnp.concatenate([heads[..., :1], tails], axis=-1)
            relations = jnp.pad(relations, ((0, 0), (0, 0), (0, 1)))
            real = jnp.ones(places.shape, bool)
            steps = [at(concepts, places), related(relations)]
        return Lstm(c.lstm, types, name="lstm")(jnp.concatenate(steps, axis=-1), real)


class Lstm(nn.Module):
    """One layer, one direction, with PyTorch's two biases; gates in its order: i, f, g, o."""

    width: int
    types: layers.Numerics

    @nn.compact
    def __call__(
        self, x: Float[Array, "B K L I"], real: Float[Array, "B K L"]
    ) -> Float[Array, "B K H"]:
        """Returns the state after the last step that is real; zeros if none is."""
        orthogonal = nn.initializers.orthogonal()
        inputs = _dense(4 * self.width, self.types, "inputs", initializer=orthogonal)(x)
        recur = _dense(4 * self.width, self.types, "recur", initializer=orthogonal)
        hidden = jnp.zeros((*x.shape[:2], self.width), self.types.compute)
        cell = hidden.astype(jnp.float32)
        for step in range(x.shape[2]):  # few: a path has three hops
            gates = (inputs[:, :, step] + recur(hidden)).astype(jnp.float32)
            i, f, g, o = jnp.split(gates, 4, axis=-1)
            new = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            output = (jax.nn.sigmoid(o) * jnp.tanh(new)).astype(self.types.compute)
            there = real[:, :, step, None]
            cell, hidden = jnp.where(there, new, cell), jnp.where(there, output, hidden)
        return hidden


def flops(config: Config, shapes: Mapping[str, tuple[int, ...]], statement: int) -> float:
    """Returns the operations of the products, forward.

    Args:
      config: sizes.
      shapes: of the batch, by field.
      statement: D.
    """
    c = config
    rows, choices, n = shapes["concepts"]
    pairs, (paths, hops) = shapes["pair_answer"][2], shapes["path_heads"][2:]
    total, before = 0.0, c.width
    for width in c.gcn:
        ways = 2 if c.gcn_form == "paper" else 1
        total += n * before * (n + ways * width)
        before = width
    concept = before + (c.width if c.gcn and c.concept_form == "code" else 0)
    if c.path_form == "paper":
        steps, inputs = hops, 2 * concept + c.width
    else:
        steps, inputs = hops + 1, concept + c.width
    total += paths * steps * 4 * c.lstm * (inputs + c.lstm)
    before = 2 * concept + statement
    for width in c.pair_widths:
        total += pairs * before * width
        before = width
    total += pairs * before * c.lstm * c.path_attention + statement * before
    total += 2 * pairs * paths * c.lstm + pairs * (c.lstm + 2 * before)
    return 2.0 * rows * choices * total
