"""A graph of concepts, its bounded search for paths, and what TransE thinks of them.

Letters: `V` concepts, `R` relations, `M` edges.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_pipeline.knowledge import concepts, relations, store

# What KagNet leaves out besides stop words (pathfinder/graph_construction.py).
BLACKLIST = frozenset("uk us take make object person people".split())
_DROPPED = ("hascontext",)


class Path(NamedTuple):
    """A path of n hops: n + 1 concepts, n relations, and the product of its hops' scores.

    Relation r + R goes against the direction of relation r.
    """

    concepts: tuple[int, ...]
    relations: tuple[int, ...]
    score: float


class Graph:
    """The edges of a store that say something, both ways, with the best relation of each.

    Where several relations join two concepts, a path takes the one of the highest score (the
    released code scores by that one too, but hands the first one on to the network).
    """

    def __init__(self, found: store.Store):
        """Builds the graph and scores every edge."""
        self.size, count = len(found.entities), len(found.relations)
        shunned = BLACKLIST | concepts.STOP_WORDS
        good = np.array([name not in shunned for name in found.entities])
        of_use = np.array([name.lower() not in _DROPPED for name in found.relations])
        h, r, t = found.triples.T
        h, r, t = found.triples[good[h] & good[t] & of_use[r] & (h != t)].T
        symmetric = np.array([name.lower() in relations.SYMMETRIC for name in found.relations])
        scores = triple_scores(found, h, r, t, symmetric[r])
        # Each edge there and back; of those that join the same two, the best comes first.
        keys = np.concatenate([h * np.int64(self.size) + t, t * np.int64(self.size) + h])
        both, scores = np.concatenate([r, r + count]), np.concatenate([scores, scores])
        order = np.lexsort((both, -scores, keys))
        self._keys, first = np.unique(keys[order], return_index=True)
        self._relations, self._scores = both[order][first], scores[order][first]
        heads, self._tails = np.divmod(self._keys, self.size)
        self._starts = np.searchsorted(heads, np.arange(self.size + 1))  # of each concept's edges
        self._neighbors: dict[int, frozenset[int]] = {}

    def neighbors(self, concept: int) -> frozenset[int]:
        """Returns the concepts that an edge joins to this one."""
        if concept not in self._neighbors:
            part = slice(self._starts[concept], self._starts[concept + 1])
            self._neighbors[concept] = frozenset(self._tails[part].tolist())
        return self._neighbors[concept]

    def paths(self, source: int, target: int, *, hops: int, limit: int) -> list[Path]:
        """Returns the simple paths of at most `hops` edges, the shortest first.

        Args:
          source: a concept.
          target: another one.
          hops: the most edges.
          limit: paths after which the search ends.
        """
        if source == target:
            return []
        start, end = sorted((source, target), key=lambda x: (len(self.neighbors(x)), x))
        lengths = (self._search((start,), end, length) for length in range(1, hops + 1))
        found = itertools.islice(itertools.chain.from_iterable(lengths), limit)
        return [self._path(path if start == source else path[::-1]) for path in found]

    def _search(self, begun: tuple[int, ...], target: int, hops: int) -> Iterator[tuple[int, ...]]:
        """Yields the paths of so many hops more.

        The last two hops are one intersection of sets: a search that walks on to the end, as
        igraph's all simple paths, took thirty times as long on ConceptNet.
        """
        here = self.neighbors(begun[-1])
        if hops == 1:
            if target in here:
                yield (*begun, target)
            return
        if hops == 2:
            here = here & self.neighbors(target)
        for concept in sorted(here.difference(begun, (target,))):
            if hops == 2:
                yield (*begun, concept, target)
            else:
                yield from self._search((*begun, concept), target, hops - 1)

    def _path(self, nodes: Sequence[int]) -> Path:
        nodes = np.asarray(nodes, np.int64)
        places = np.searchsorted(self._keys, nodes[:-1] * self.size + nodes[1:])
        score = float(np.prod(self._scores[places]))
        return Path(tuple(nodes.tolist()), tuple(self._relations[places].tolist()), score)

    def joined(self, nodes: Sequence[int]) -> np.ndarray:
        """Returns whether an edge joins each two of n concepts: bool [n n]."""
        nodes = np.asarray(nodes, np.int64)
        keys = nodes[:, None] * self.size + nodes
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return self._keys[places] == keys if len(self._keys) else np.zeros(keys.shape, bool)


def triple_scores(
    found: store.Store, h: np.ndarray, r: np.ndarray, t: np.ndarray, symmetric: np.ndarray
) -> np.ndarray:
    """Returns (1 + cos(r, t - h)) / 2 of triples [M] (KagNet, pathfinder/path_scoring.py).

    Args:
      found: has the vectors.
      h: heads.
      r: relations.
      t: tails.
      symmetric: whether the relation holds both ways; then the better direction counts.
    """
    scores = np.zeros(len(h), np.float32)
    for start in range(0, len(h), 1 << 16):  # the vectors of all triples at once are too many
        part = slice(start, start + (1 << 16))
        move = found.entity_vectors[t[part]] - found.entity_vectors[h[part]]
        relation = found.relation_vectors[r[part]]
        norms = np.linalg.norm(move, axis=1) * np.linalg.norm(relation, axis=1)
        cosine = (move * relation).sum(1) / np.maximum(norms, 1e-9)
        scores[part] = (1 + np.where(symmetric[part], np.abs(cosine), cosine)) / 2
    return scores
