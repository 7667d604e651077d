"""How well a graph's triples are completed: filtered ranks, beside two baselines.

For each triple held out its head, and then its tail, is ranked among all entities; those that make
another true triple are left out (Bordes et al., 2013, section 4.2). Entities that score alike share
the mean of their ranks. Letters: `V` entities, `Q` queries, `N` the most other answers of a query.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from model import transe

CHUNK = 64  # queries at a time


class Queries(NamedTuple):
    """Triples with one entity to find."""

    known: np.ndarray  # int32 [Q]: the entity that is given
    relation: np.ndarray  # int32 [Q]
    is_head: np.ndarray  # int32 [Q]: 1: what is given is the head
    answer: np.ndarray  # int32 [Q]
    others: np.ndarray  # int32 [Q N]: other right answers; filled up with the answer itself


def queries(test: np.ndarray, true: Sequence[np.ndarray]) -> Queries:
    """Returns the two queries of each triple.

    Args:
      test: int32 [M 3].
      true: all arrays of triples that are true, `test` included.
    """
    answers = collections.defaultdict(set)
    for h, r, t in np.unique(np.concatenate(true), axis=0).tolist():
        answers[h, r, 1].add(t)
        answers[t, r, 0].add(h)
    found = []
    for h, r, t in test.tolist():
        found += [(h, r, 1, t), (t, r, 0, h)]
    longest = max(len(answers[query[:3]]) for query in found)
    others = np.array([[query[3]] * longest for query in found], np.int32)
    for row, query in zip(others, found, strict=True):
        rest = sorted(answers[query[:3]] - {query[3]})
        row[: len(rest)] = rest
    columns = np.array(found, np.int32).T
    return Queries(*columns, others)


def ranks(module: transe.TransE, params: PyTree, asked: Queries) -> np.ndarray:
    """Returns the filtered rank of each answer, float64 [Q]; 1 is the best.

    Args:
      module: of the vectors.
      params: its parameters, perhaps sharded.
      asked: the queries.
    """

    @jax.jit
    def compute(params, known, relation, is_head, answer, others):
        distances = module.apply({"params": params}, known, relation, is_head, method="distances")
        at = lambda index: jnp.take_along_axis(distances, index, axis=1)  # noqa: E731
        own, rest, real = at(answer[:, None]), at(others), others != answer[:, None]
        nearer = (distances < own).sum(1) - ((rest < own) & real).sum(1)
        alike = (distances == own).sum(1) - ((rest == own) & real).sum(1)  # itself among them
        return 1 + nearer + (alike - 1) / 2

    found, count = [], len(asked.answer)
    for start in range(0, count, CHUNK):
        part = [x[start : start + CHUNK] for x in asked]
        filled = [np.concatenate([x, x[:1].repeat(CHUNK - len(x), axis=0)]) for x in part]
        found.append(np.asarray(compute(params, *filled), np.float64))
    return np.concatenate(found)[:count]


def frequency_ranks(train: np.ndarray, entities: int, asked: Queries) -> np.ndarray:
    """Returns the ranks by how often an entity stands there with the relation in training.

    Args:
      train: int32 [M 3].
      entities: V.
      asked: the queries.
    """
    found = np.zeros(len(asked.answer))
    for relation, is_head in sorted(set(zip(asked.relation.tolist(), asked.is_head.tolist()))):
        chosen = train[train[:, 1] == relation]
        counts = np.bincount(chosen[:, 2 if is_head else 0], minlength=entities)
        ordered = np.sort(counts)
        for q in np.flatnonzero((asked.relation == relation) & (asked.is_head == is_head)):
            own, others = counts[asked.answer[q]], asked.others[q]
            rest = counts[others[others != asked.answer[q]]]
            more = entities - np.searchsorted(ordered, own, "right") - (rest > own).sum()
            first = np.searchsorted(ordered, own, "left")
            alike = np.searchsorted(ordered, own, "right") - first - (rest == own).sum()
            found[q] = 1 + more + (alike - 1) / 2
    return found


def random_scores(entities: int, asked: Queries) -> Mapping[str, float]:
    """Returns what is expected of a random order."""
    candidates = entities - (asked.others != asked.answer[:, None]).sum(1)
    return {
        "mean_rank": float((candidates + 1).mean() / 2),
        "hits@10": float(np.minimum(10 / candidates, 1).mean()),
    }


def scores(found: np.ndarray) -> Mapping[str, float]:
    """Returns the mean of ranks, and the share of those that are at most 10."""
    return {"mean_rank": float(found.mean()), "hits@10": float((found <= 10).mean())}
