"""Paths against networkx's, scores against their formula, concepts of texts by hand."""

import numpy as np
import pytest

from data_pipeline.knowledge import concepts, graph, store


def random_store(entities=40, triples=160, seed=0):
    rng = np.random.default_rng(seed)
    names = ["antonym", "isa", "hascontext", "relatedto"]
    made = np.stack([rng.integers(0, n, triples) for n in (entities, len(names), entities)], 1)
    table = lambda n: rng.normal(size=(n, 8)).astype(np.float32)  # noqa: E731
    concepts = [f"c{i}" for i in range(entities - 2)] + ["people", "without"]
    return store.Store(concepts, names, made.astype(np.int32), table(entities), table(len(names)))


def edges(found):
    """The triples that KagNet keeps."""
    for h, r, t in found.triples.tolist():
        names = {found.entities[h], found.entities[t]}
        if h != t and found.relations[r] != "hascontext" and not names & {"people", "without"}:
            yield h, r, t


@pytest.mark.parametrize("hops", [1, 2, 3, 4])
def test_paths_are_networkxs(hops):
    networkx = pytest.importorskip("networkx")
    found = random_store()
    wanted = networkx.Graph([(h, t) for h, _, t in edges(found)])
    made = graph.Graph(found)
    for source, target in [(0, 1), (1, 0), (3, 7), (5, 5), (2, 39), (8, 38), (10, 20)]:
        paths = made.paths(source, target, hops=hops, limit=10**6)
        some = [path.concepts for path in paths]
        assert len(set(some)) == len(some)
        assert [len(p) for p in some] == sorted(len(p) for p in some)  # the shortest first
        official = set()
        if source in wanted and target in wanted and source != target:
            official = set(map(tuple, networkx.all_simple_paths(wanted, source, target, hops)))
        assert set(some) == official
        assert [p.concepts for p in made.paths(source, target, hops=hops, limit=3)] == some[:3]


def test_a_path_has_the_best_relations_and_the_product_of_their_scores():
    found = random_store(entities=12, triples=200)  # several relations between most
    made, best = graph.Graph(found), {}
    e, r = found.entity_vectors, found.relation_vectors

    def cosine(h, k, t):
        move = e[t] - e[h]
        return (move @ r[k]) / (np.linalg.norm(move) * np.linalg.norm(r[k]))

    for h, k, t in edges(found):
        value = cosine(h, k, t)
        if found.relations[k] in ("antonym", "relatedto"):
            value = max(value, cosine(t, k, h))
        for key, relation in (((h, t), k), ((t, h), k + 4)):
            best[key] = max(best.get(key, (0, 0)), ((1 + value) / 2, relation))
    paths = made.paths(0, 1, hops=3, limit=1000)
    assert {len(p.relations) for p in paths} == {1, 2, 3}
    for path in paths:
        hops = list(zip(path.concepts, path.concepts[1:], strict=False))
        assert path.score == pytest.approx(np.prod([best[x][0] for x in hops]), rel=1e-4)
        for relation, hop in zip(path.relations, hops, strict=True):
            assert relation == best[hop][1] or best[hop][0] == pytest.approx(
                best[hop[0], hop[1]][0], rel=1e-5
            )


def test_edges_among_some_concepts():
    found = random_store()
    pairs = {frozenset((h, t)) for h, _, t in edges(found)}
    nodes = [3, 7, 1, 38, 20]
    joined = graph.Graph(found).joined(nodes)
    for i, a in enumerate(nodes):
        for j, b in enumerate(nodes):
            assert joined[i, j] == (frozenset((a, b)) in pairs and a != b)


def test_a_graph_without_edges():
    found = random_store()._replace(triples=np.zeros((0, 3), np.int32))
    made = graph.Graph(found)
    assert made.paths(0, 1, hops=3, limit=5) == [] and not made.joined([0, 1]).any()


NAMES = ["fountain pen", "pen", "fountain", "run_fast", "it", "the", "one thing", "with the", "run"]
NAMES += ["running", "runs", "ran", "a very long name here", "ice cream", "play on ice"]


def test_concepts_of_a_text():
    pytest.importorskip("simplemma")
    made = concepts.Recognizer(NAMES)
    spans = made.spans("The fountain pens ran on ice-creams.")
    assert [(s.start, s.words) for s in spans] == [(1, 2), (5, 2), (1, 1), (2, 1), (3, 1)]
    assert [NAMES[i] for i in spans[0].concepts] == ["fountain pen"]
    # Of the four that the same words may mean, the three shortest.
    assert [NAMES[i] for i in spans[-1].concepts] == ["run", "ran", "runs"]
    assert made.concepts("pen, pens: PEN!") == [1]
    assert made.concepts("It is with the one thing a very long name here") == []
    assert [NAMES[i] for i in made.concepts("they play on ice")] == ["play on ice"]
    assert made.concepts("") == []
    assert concepts.Recognizer(["pen", "pen!", "2 pens", "pen-knife"]).concepts(
        "2 pen pen-knife"
    ) == [3, 0]


@pytest.mark.parametrize(
    ("word", "wanted"), [("dogs", "dog"), ("ran", "run"), ("better", "good"), ("xyzzy", "xyzzy")]
)
def test_lemmas(word, wanted):
    pytest.importorskip("simplemma")
    assert concepts.lemma(word) == wanted
