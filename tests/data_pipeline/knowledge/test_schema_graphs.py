"""Schema graphs of questions: written out by hand, pruned, cut to size, kept in the cache."""

import graphs
import numpy as np
import pytest
import vocabularies

from configs import common
from data_pipeline import pipeline
from data_pipeline.knowledge import relations, schema_graphs, store
from data_pipeline.tasks import choices, knowledge
from errors import UserError
from model import batch as batch_lib

pytest.importorskip("simplemma")

NAMES = ["animal", "cat", "dog", "house", "milk", "zoo"]
TRIPLES = [  # head, relation, tail; a third word is between cat and house twice
    ("cat", "isa", "animal"),
    ("dog", "isa", "animal"),
    ("dog", "atlocation", "house"),
    ("animal", "atlocation", "zoo"),
    ("cat", "desires", "milk"),
    ("milk", "atlocation", "house"),
]
LIMITS = schema_graphs.Limits(hops=3, threshold=0.0, search=100, concepts=8, pairs=4, paths=6)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    kinds = list(relations.MERGED)
    triples = [(NAMES.index(h), kinds.index(r), NAMES.index(t)) for h, r, t in TRIPLES]
    vectors = [rng.normal(size=(n, 4)).astype(np.float32) for n in (len(NAMES), len(kinds))]
    store.save(tmp_path / "graph", store.Store(NAMES, kinds, np.array(triples, np.int32), *vectors))
    return tmp_path / "graph"


def asked(*choices):
    return schema_graphs.Question("Where do cats and dogs stay?", choices)


def named_paths(found):
    """Each path's pair, concepts and relations in words."""
    kinds = list(relations.MERGED)
    names = ["", *(NAMES[i] for i in found.concepts)]
    ends = np.cumsum(found.path_hops)
    result = set()
    for k, hops in enumerate(found.path_hops):
        nodes = found.path_concepts[ends[k] - hops + k : ends[k] + k + 1]
        steps = [r - 1 for r in found.path_relations[ends[k] - hops : ends[k]]]
        words = tuple(("^" if r >= 17 else "") + kinds[r % 17] for r in steps)
        pair = found.path_pair[k] - 1
        assert nodes[0] == found.pair_question[pair] and nodes[-1] == found.pair_answer[pair]
        result.add((tuple(names[i] for i in nodes), words))
    return result


def test_a_graph_by_hand(folder):
    house, nothing = schema_graphs.Builder(folder, LIMITS).build(asked("the houses", "nothing"))
    names = [NAMES[i] for i in house.concepts]
    pairs = [
        (names[q - 1], names[a - 1])
        for q, a in zip(house.pair_question, house.pair_answer, strict=True)
    ]
    assert pairs == [("cat", "house"), ("dog", "house")]
    assert named_paths(house) == {
        (("dog", "house"), ("atlocation",)),
        (("cat", "milk", "house"), ("desires", "atlocation")),
        (("cat", "animal", "dog", "house"), ("isa", "^isa", "atlocation")),
    }
    edges = {frozenset((names[e // 8 - 1], names[e % 8 - 1])) for e in house.edges.tolist()}
    joined = {frozenset((h, t)) for h, _, t in TRIPLES if t != "zoo"}
    assert edges == joined
    assert not len(nothing.concepts) and not len(nothing.pair_answer)
    assert house.left_out.tolist() == [0, 0, 0]


def test_concepts_of_the_choice_are_not_those_of_the_question(folder):
    (found,) = schema_graphs.Builder(folder, LIMITS).build(asked("a cat"))
    assert [NAMES[i] for i in found.concepts[:2]] == ["dog", "cat"] and len(found.pair_answer) == 1


def test_paths_below_the_threshold_are_pruned_and_counted(folder):
    """The sum of what stays and what goes is all; nothing stays at a threshold above 1."""
    whole = schema_graphs.Builder(folder, LIMITS)._find(1, 3)[0]
    scores = sorted(path.score for path in whole)
    middle = LIMITS._replace(threshold=(scores[0] + scores[1]) / 2)
    kept, pruned = schema_graphs.Builder(folder, middle)._find(1, 3)
    assert (len(kept), pruned) == (1, 1) and kept[0].score == scores[1]
    (none,) = schema_graphs.Builder(folder, LIMITS._replace(threshold=1.5)).build(asked("houses"))
    assert not len(none.path_pair) and len(none.pair_answer) == 2 and none.left_out[2] == 3


def test_what_has_no_room_is_left_out_and_counted(folder):
    few = LIMITS._replace(pairs=1, paths=1)
    (found,) = schema_graphs.Builder(folder, few).build(asked("houses"))
    assert len(found.pair_answer) == len(found.path_pair) == 1 and found.left_out.tolist() == [
        1,
        2,
        0,
    ]
    narrow = LIMITS._replace(concepts=5)
    (found,) = schema_graphs.Builder(folder, narrow).build(asked("houses"))
    assert len(found.concepts) == 4 and found.left_out.tolist() == [0, 1, 0]
    counts = schema_graphs.count([found])
    assert counts["choices"] == 1 and counts["paths"] == 2 and counts["paths without room"] == 1


def test_the_cache_is_used_and_follows_what_goes_in(folder, tmp_path):
    questions = [asked("houses"), asked("zoo", "milk")]
    cache = tmp_path / "cache"
    made = schema_graphs.prepare(questions, folder, LIMITS, cache, workers=1)
    assert len(made) == 2 and len(schema_graphs.decode(made[1])) == 2
    (path,) = cache.rglob("*.array_record")
    before = path.stat().st_mtime_ns
    again = schema_graphs.prepare(questions, folder, LIMITS, cache, workers=1)
    assert again[0] == made[0] and path.stat().st_mtime_ns == before
    schema_graphs.prepare(questions, folder, LIMITS._replace(hops=2), cache, workers=1)
    schema_graphs.prepare(questions[:1], folder, LIMITS, cache, workers=1)
    assert len(list(cache.rglob("*.array_record"))) == 3


def test_processes_make_the_same(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(schema_graphs, "SHARD", 2)
    questions = [asked("houses"), asked("zoo"), asked("milk"), asked("dogs", "animals")]
    one = schema_graphs.prepare(questions, folder, LIMITS, tmp_path / "a", workers=1)
    two = schema_graphs.prepare(questions, folder, LIMITS, tmp_path / "b", workers=2)
    assert [one[i] for i in range(4)] == [two[i] for i in range(4)]


def test_rows(folder, tmp_path):
    tokenizer = vocabularies.wordpiece(tmp_path, "where do cats and dogs stay ? houses a".split())
    data = common.data()
    data.update(task="commonsenseqa-1.0", length=12, pipeline="knowledge_choice")
    data.graphs.update(LIMITS._asdict())
    data.graphs.path, data.cache_dir = str(folder), str(tmp_path / "cache")
    assert pipeline.PIPELINES["knowledge_choice"] is knowledge.KnowledgeChoice
    made = knowledge.KnowledgeChoice(data, tokenizer)
    question = choices.Question(
        "q", "", asked().question, ("houses", "a", "zoo"), 1, ("A", "B", "C")
    )
    rows = made.read([*made.write([question]), b""], None)
    batch_lib.check(rows)
    assert rows["label"].tolist() == [1, 0] and rows["example_weights"].tolist() == [1, 0]
    assert rows["tokens"][0, :9].tolist() == [2, 5, 6, 7, 8, 9, 10, 11, 3]
    graph = {name: value[0, 0] for name, value in rows.items() if value.ndim > 2}
    place = {NAMES[i - 1]: n for n, i in enumerate(graph["concepts"]) if i}
    assert graph["concepts"][0] == 0 and len(place) == 5
    at, isa = (1 + list(relations.MERGED).index(x) for x in ("atlocation", "isa"))
    paths = {
        tuple(
            map(
                tuple, np.stack([graph[f"path_{x}"][k] for x in ("heads", "relations", "tails")], 1)
            )
        )
        for k in np.flatnonzero(graph["path_pair"])
    }
    cat, animal, dog, house = (place[x] for x in ("cat", "animal", "dog", "house"))
    assert ((dog, at, house), (0, 0, 0), (0, 0, 0)) in paths
    assert ((cat, isa, animal), (animal, isa + 17, dog), (dog, at, house)) in paths
    assert len(paths) == 3
    edges = graph["concept_edges"]
    assert (edges == edges.T).all() and edges.sum() == 2 * 5 and edges[dog, house]
    assert not rows["pair_answer"][0, 1].any() and not rows["concepts"][1].any()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"pairs": 0}, "data.graphs.pairs=0 must be at least 1"),
        ({"threshold": -0.1}, "data.graphs.threshold=-0.1 must be at least 0"),
        ({"concepts": 4}, "no room for a path of 3 hops: make it at least 5"),
    ],
)
def test_wrong_limits_are_told(limits, message, folder, tmp_path):
    with pytest.raises(UserError, match=message):
        schema_graphs.prepare([asked("zoo")], folder, LIMITS._replace(**limits), tmp_path)


def test_real_questions_find_real_concepts(shared, tmp_path):
    """ConceptNet-100k and the questions of CommonsenseQA that are here: most are grounded."""
    from data_pipeline.knowledge import triples

    read = triples.read(
        shared / "data/knowledge/conceptnet100k/train.txt.gz", {}, "rht", merge=True
    )
    rng = np.random.default_rng(0)
    tables = [
        rng.normal(size=(len(x), 8)).astype(np.float32) for x in (read.entities, read.relations)
    ]
    store.save(tmp_path, store.Store(read.entities, read.relations, read.train, *tables))
    task = choices.CHOICES["commonsenseqa-1.0"]
    questions = choices.read(task, shared / "data/multiple_choice", "valid")[:40]
    limits = LIMITS._replace(hops=2, concepts=64, pairs=32, paths=48)
    builder = schema_graphs.Builder(tmp_path, limits)
    found = [
        g for q in questions for g in builder.build(schema_graphs.Question(q.question, q.choices))
    ]
    counts = schema_graphs.count(found)
    assert counts["choices"] == 120 and counts["without pairs"] < 15
    assert counts["without paths"] < 60 and counts["paths"] > 400


def test_the_folder_of_the_toy_graph(tmp_path):
    """What tests/graphs.py makes is what it says."""
    home = graphs.folder(tmp_path / "graph")
    graphs.questions(tmp_path / "q", home)
    assert len(home) == len(graphs.THINGS) == 120
    names = store.load(tmp_path / "graph").entities
    assert names[: len(graphs.PLACES)] == graphs.PLACES
