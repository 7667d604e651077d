"""Triples of files: layouts, numbers, merged relations, and what a wrong line is told."""

import gzip

import numpy as np
import pytest

from data_pipeline.knowledge import relations, store, triples
from errors import UserError

LINES = "cat\tIsA\tanimal\ncat\tHasA\ttail\nzebra\tIsA\tanimal\ncat\tIsA\tanimal\n"


@pytest.fixture
def train(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text(LINES)
    return path


def test_numbers_follow_the_alphabet_and_repeated_lines_count_once(train, tmp_path):
    test = tmp_path / "test.txt.gz"
    test.write_bytes(gzip.compress(b"bird\tIsA\tanimal\nzebra\tHasA\ttail\n"))
    found = triples.read(train, {"test": test}, "hrt")
    assert found.entities == ["animal", "bird", "cat", "tail", "zebra"]
    assert found.relations == ["HasA", "IsA"]
    assert found.train.tolist() == [[2, 1, 0], [2, 0, 3], [4, 1, 0]]
    assert found.held_out["test"].tolist() == [[1, 1, 0], [4, 0, 3]]
    assert found.unseen == {"test": 1} and found.dropped == 0


def test_the_layouts_say_the_same(train, tmp_path):
    wanted = triples.read(train, {}, "hrt")
    rows = [line.split("\t") for line in LINES.splitlines()]
    first, official = tmp_path / "first.txt", tmp_path / "assertions.csv"
    first.write_text("".join(f"{r}\t{h}\t{t}\n" for h, r, t in rows))
    lines = [f"/a/x\t/r/{r}\t/c/en/{h}/n\t/c/en/{t}\t{{}}\n" for h, r, t in rows]
    # Another language, and what is no word.
    lines += [
        "/a/x\t/r/IsA\t/c/fr/chat\t/c/en/cat\t{}\n",
        "/a/x\t/r/IsA\t/c/en/r2d2\t/c/en/cat\t{}\n",
    ]
    official.write_text("".join(lines))
    for path, layout in ((first, "rht"), (official, "conceptnet")):
        found = triples.read(path, {}, layout)
        assert found.entities == wanted.entities
        np.testing.assert_array_equal(found.train, wanted.train)


def test_merging_turns_some_relations_around(train):
    found = triples.read(train, {}, "hrt", merge=True)
    assert found.relations == list(relations.MERGED) and len(found.relations) == 17
    named = {(found.entities[h], found.relations[r], found.entities[t]) for h, r, t in found.train}
    assert named == {
        ("cat", "isa", "animal"),
        ("tail", "partof", "cat"),
        ("zebra", "isa", "animal"),
    }


def test_the_merged_relations_are_those_of_the_released_file(shared):
    """One a line, then what is merged into it."""
    text = (shared / "data/knowledge/kagnet/merge_relation.txt").read_text()
    official = {line.split("/")[0]: set(line.split("/")[1:]) for line in text.split()}
    assert official == {name: set(others) for name, others in relations.MERGED.items()}


def test_real_files_are_read(shared):
    folder = shared / "data/knowledge"
    whole = folder / "conceptnet100k"
    found = triples.read(whole / "train.txt.gz", {"test": whole / "test.txt"}, "rht")
    # All but the three that differ in spaces alone; the names that its list of nodes has, and those
    # of the test set.
    assert (len(found.train), len(found.relations)) == (99_997, 34)
    assert len(found.held_out["test"]) == 1200
    merged = triples.read(whole / "train.txt.gz", {}, "rht", merge=True)
    assert merged.dropped == 339 + 159 + 152 + 120 + 56 + 14 + 13 + 3 + 1 + 1
    sample = triples.read(folder / "conceptnet5_sample/assertions.csv.gz", {}, "conceptnet")
    assert "hard questions" in sample.entities and "AtLocation" in sample.relations


@pytest.mark.parametrize(
    ("content", "layout", "message"),
    [
        ("cat\tIsA\n", "hrt", "line 1 has 2 fields instead of 3"),
        ("cat\tIsA\t \n", "rht", "line 1 has 3 fields instead of 3 that are filled"),
        ("cat\tIsA\tanimal\n", "conceptnet", "line 1 is no assertion"),
        ("cat\tEats\tmouse\n", "hrt", "line 1 has the relation 'Eats'"),
        ("cat\tIsA\tmouse\n", "rth", "Did you mean 'hrt'|Choose one of"),
    ],
)
def test_a_wrong_line_is_told(content, layout, message, train, tmp_path):
    test = tmp_path / "test.txt"
    test.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        if layout == "hrt":
            triples.read(train, {"test": test}, layout)
        else:
            triples.read(test, {}, layout)
    assert "\n" not in str(error.value)


def test_a_file_without_triples_is_told(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="holds no triple"):
        triples.read(tmp_path / "empty.txt", {}, "hrt")
    (tmp_path / "train.txt").write_text("a\tr\tb\n")
    with pytest.raises(UserError, match="holds no triple of use: leave data.test out"):
        triples.read(tmp_path / "train.txt", {"test": tmp_path / "empty.txt"}, "hrt")
    with pytest.raises(UserError, match="There is no file"):
        triples.read(tmp_path / "absent.txt", {}, "hrt")


def made():
    rng = np.random.default_rng(0)
    table = lambda n: rng.normal(size=(n, 3)).astype(np.float32)  # noqa: E731
    return store.Store(["a", "b c"], ["isa"], np.array([[0, 0, 1]], np.int32), table(2), table(1))


def test_a_folder_gives_back_what_was_saved(tmp_path):
    store.save(tmp_path / "new", made())
    found = store.load(tmp_path / "new")
    assert found[:2] == made()[:2]
    for a, b in zip(found[2:], made()[2:], strict=True):
        np.testing.assert_array_equal(a, b)
    assert store.shapes(tmp_path / "new") == {
        "entities": (2, 3),
        "relations": (1, 3),
        "triples": (1, 3),
    }


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "entities.txt").write_text("a\n"), "1 names for 2 rows"),
        (lambda p: (p / "vectors.safetensors").write_bytes(b"x"), "cannot be read"),
        (lambda p: (p / "vectors.safetensors").unlink(), "holds no vectors.safetensors"),
        (lambda p: (p / "relations.txt").unlink(), "cannot be read"),
        (
            lambda p: store.save(p, made()._replace(triples=np.array([[0, 0, 2]], np.int32))),
            "name entities that it has not",
        ),
    ],
)
def test_a_spoilt_folder_is_told(spoil, message, tmp_path):
    store.save(tmp_path, made())
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        store.load(tmp_path)
