"""Filtered ranks against their definition, one by one."""

import jax
import numpy as np
import pytest

from evaluation import link_prediction
from model import layers, transe
from training import state

ENTITIES, RELATIONS = 30, 2


@pytest.fixture(scope="module")
def graph():
    rng = np.random.default_rng(0)
    sizes = (8, RELATIONS, ENTITIES)  # heads that repeat have several right answers
    triples = np.unique(np.stack([rng.integers(0, n, 150) for n in sizes], 1), axis=0)
    rng.shuffle(triples)
    return triples[:-40].astype(np.int32), triples[-40:].astype(np.int32)


def by_definition(train, test, score):
    """Ranks by a score of (h, r, t), the higher the better; ties share the mean of their ranks."""
    true, found = {tuple(x) for x in np.concatenate([train, test]).tolist()}, []
    for h, r, t in test.tolist():
        for own, others in (
            ((h, r, t), [(h, r, e) for e in range(ENTITIES)]),
            ((h, r, t), [(e, r, t) for e in range(ENTITIES)]),
        ):
            rest = [score(x) for x in others if x == own or x not in true]
            better = sum(s > score(own) for s in rest)
            found.append(1 + better + (sum(s == score(own) for s in rest) - 1) / 2)
    return np.array(found)


def test_ranks_of_vectors(graph):
    train, test = graph
    config = transe.Config(ENTITIES, RELATIONS, 4, 1.0, "l2", 1)
    module = transe.TransE(config, layers.numerics("float32", "cpu"))
    fields = {k: np.zeros(1, np.int32) for k in ("head", "relation", "tail")}
    params = state.unbox(module.init(jax.random.key(0), fields, train=False)["params"])
    entities, relations = (np.asarray(params[k]["table"]) for k in ("entities", "relations"))

    def score(triple):
        h, r, t = triple
        return -np.round(np.linalg.norm(entities[h] + relations[r] - entities[t]), 6)

    asked = link_prediction.queries(test, [train, test])
    found = link_prediction.ranks(module, params, asked)
    np.testing.assert_allclose(found, by_definition(train, test, score))
    assert link_prediction.scores(found)["hits@10"] == pytest.approx((found <= 10).mean())


def test_ranks_of_frequencies(graph):
    train, test = graph
    asked = link_prediction.queries(test, [train, test])
    found = link_prediction.frequency_ranks(train, ENTITIES, asked)
    tails = by_definition(
        train, test, lambda x: int(((train[:, 1] == x[1]) & (train[:, 2] == x[2])).sum())
    )
    heads = by_definition(
        train, test, lambda x: int(((train[:, 1] == x[1]) & (train[:, 0] == x[0])).sum())
    )
    np.testing.assert_array_equal(found[::2], tails[::2])
    np.testing.assert_array_equal(found[1::2], heads[1::2])


def test_a_random_order_is_expected_in_the_middle(graph):
    train, test = graph
    asked = link_prediction.queries(test, [train, test])
    constant = by_definition(train, test, lambda x: 0)  # all alike: the mean of all ranks
    expected = link_prediction.random_scores(ENTITIES, asked)
    assert expected["mean_rank"] == pytest.approx(constant.mean())
    assert expected["hits@10"] == pytest.approx(np.minimum(10 / (2 * constant - 1), 1).mean())
