"""Entities and phrases: from files and from text to tokens, masks and rows."""

import gzip
import json
import pickle
import random

import numpy as np
import pytest

from data_pipeline import annotated_rows, annotations, entities, noise, sources, tokenizers
from data_pipeline import tokenizer_training as training
from errors import UserError

TEXT = "Anna Smith of Paris saw the old town hall. She liked New York too."
DOCUMENT = {
    "text": TEXT,
    "entities": [[0, 10, "Q1"], [14, 19, "Q2"], [53, 61, "Q9"]],
    "phrases": [[24, 41], [28, 41], [53, 65]],
}


@pytest.fixture(scope="module")
def tokenizer():
    return training.train("wordpiece", [TEXT, "a b c d e f g h"], 300, True)


def annotated(folder, *rows):
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return sources.open_source(f"annotated:{path}")


def words(tokenizer, document, numbers):
    """(first token, its entity) of what is aligned, and the tokens of each span."""
    ids = [i for sentence in document.sentences for i in sentence]
    assert len(ids) == len(document.entities) == len(document.marks)
    tokens = [tokenizer.id_to_token(i) for i in ids]
    aligned = [(i, int(e)) for i, e in enumerate(document.entities) if e]
    return tokens, aligned


def test_annotated_json_is_aligned_to_first_tokens(tokenizer, tmp_path):
    source = annotated(tmp_path, DOCUMENT)
    names = entities.Entities(["Q1", "Q2"])
    [found] = annotations.Annotator(tokenizer, names, "given").read(list(source.documents()))
    tokens, aligned = words(tokenizer, found, names)
    assert len(found.sentences) == 2

    def place(word):  # the piece with which a word begins
        joined, at = "", []
        for i, token in enumerate(tokens):
            at.append(i if not token.startswith("##") else at[-1])
            joined += ("" if token.startswith("##") else " ") + token.removeprefix("##")
        starts = [i for i, token in enumerate(tokens) if not token.startswith("##")]
        return starts[joined.split().index(word)]

    # Q9 is none of the entities: its mention is one all the same.
    assert aligned == [(place("anna"), 1), (place("paris"), 2)]
    marks = found.marks
    m = annotations.MARKS
    assert marks[place("anna")] == m["entity"] and marks[place("smith")] == m["in entity"]
    assert marks[place("of")] == 0 and marks[place("new")] == m["entity"]
    assert marks[place("york")] == m["in entity"]
    assert marks[place("too")] == m["phrase"]  # the rest of a phrase that an entity cut
    # The later of two phrases counts where both are.
    assert marks[place("the")] == m["phrase"] and marks[place("old")] == m["phrase"]
    assert marks[place("town")] == marks[place("hall")] == m["in phrase"]
    assert marks[place("old") + 1 : place("town")].tolist() == [m["in phrase"]] * (
        place("town") - place("old") - 1
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"entities": [[3, 99, "Q1"]]},
            "line 1 has the offsets 3 to 99, outside of its text of 66",
        ),
        ({"entities": [[4, 4, "Q1"]]}, "the offsets 4 to 4, outside"),
        ({"entities": [[-1, 4, "Q1"]]}, "the offsets -1 to 4, outside"),
        ({"phrases": [["a", 4]]}, "the offsets 'a' to 4, outside"),
        ({"entities": [[0, 4]]}, r"among its entities: give \[start, end, name\]"),
        ({"text": 7}, "is no text"),
        ({"entities": None, "phrases": [[0]]}, "among its phrases: give"),
    ],
)
def test_wrong_annotations_are_told(row, message, tmp_path):
    with pytest.raises(UserError, match=message):
        list(annotated(tmp_path, DOCUMENT | row).documents())


def test_names_are_words_with_capitals():
    text = (
        "Mr. Darcy of Pemberley Hall went. Then the King met Anne Elliot\nand Jean-Paul in Bath. "
        "A cat. I saw the University of New York, and The End. It went über die Straße to Östersund"
    )
    names = [s.name for s in annotations.find_names(text)]
    assert names == [
        *("darcy of pemberley hall", "king", "anne elliot", "jean-paul", "bath"),
        *("university of new york", "the end", "straße", "östersund"),
    ]
    assert all(text[s.start : s.end].lower() == s.name for s in annotations.find_names(text))


def test_most_frequent_names_and_their_file(tmp_path):
    found = entities.most_frequent("b a c b a d".split(), 3)
    assert found.names == ("a", "b", "c") and found.number("x", "b") == 2 and not found.number("x")
    found.save(tmp_path)
    assert (tmp_path / entities.FILE).read_text() == "3\na\t0\nb\t1\nc\t2\n"
    loaded = entities.load(tmp_path)
    assert loaded.fingerprint == found.fingerprint
    assert pickle.loads(pickle.dumps(loaded)).names == loaded.names
    assert len(pickle.dumps(loaded)) < 200 + len(str(tmp_path))  # the file, not what it holds
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / entities.PLAIN).write_text("x\ny\n")
    assert entities.load(tmp_path / "other").number("y") == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("2\nQ1\t0\nQ2\t2\n", "gives Q2 the id 2, out of range: 2 entities have the ids 0 to 1"),
        ("2\nQ1\t0\nQ2\t-1\n", "gives Q2 the id -1, out of range"),
        ("2\nQ1\t0\nQ2\t0\n", "gives the id 0 to Q1 and to Q2"),
        ("0\n", "names no entities"),
    ],
)
def test_wrong_ids_of_entities_are_told(lines, message, tmp_path):
    (tmp_path / entities.FILE).write_text(lines)
    with pytest.raises(UserError, match=message):
        entities.load(tmp_path)
    with pytest.raises(UserError, match="There is no entity2id.txt or entities.txt"):
        entities.load(tmp_path / "nowhere")


def wiki(folder, tokens, names):
    (folder / "0_token").write_text(tokens)
    (folder / "0_entity").write_text(names)
    return sources.open_source(f"wiki_entity:{folder}")


def test_the_released_layout(tokenizer, tmp_path):
    source = wiki(
        tmp_path,
        "2\t3\t10\t11\t12\t2\t13\t14\n0\n",
        "2\t3\tQ5\tQ5\tQ6\t2\t#UNK#\tQ6\n0\n",
    )
    names = entities.Entities(["Q6", "Q5"])
    [found] = annotations.Annotator(tokenizer, names, "given").read(list(source.documents()))
    assert found.sentences == [(10, 11, 12), (13, 14)]
    assert found.entities.tolist() == [2, 0, 1, 0, 1]
    m = annotations.MARKS
    assert found.marks.tolist() == [m["entity"], m["in entity"], m["entity"], 0, m["entity"]]
    assert list(annotations.names_of(source, "given")) == ["Q5", "Q6", "Q6"]
    before = source.fingerprint()
    assert wiki(tmp_path, "1\t1\t10\n", "1\t1\tQ5\n").fingerprint() != before
    assert source.tokenized


@pytest.mark.parametrize(
    ("tokens", "names", "message"),
    [
        ("1\t2\t10\t11\n", "1\t2\tQ5\n", "line 1 and the line of its entities do not tell"),
        ("1\t2\t10\n", "1\t2\tQ5\n", "do not tell the same sentences"),
        ("1\t2\t10\t11\n", "1\t1\tQ5\tQ5\n", "do not tell the same sentences"),
        ("2\t1\t10\n", "2\t1\tQ5\n", "do not tell the same sentences"),
        ("1\tx\t10\n", "1\tx\tQ5\n", "do not tell the same sentences"),
        ("1\t1\t10\n", "", "do not tell the same sentences"),
    ],
)
def test_a_wrong_released_layout_is_told(tokens, names, message, tmp_path):
    with pytest.raises(UserError, match=message):
        list(wiki(tmp_path, tokens, names).documents())


def test_ids_must_be_of_the_vocabulary(tokenizer, tmp_path):
    documents = list(wiki(tmp_path, "1\t1\t9000\n", "1\t1\tQ5\n").documents())
    annotator = annotations.Annotator(tokenizer, entities.Entities(()), "given")
    with pytest.raises(UserError, match="has the token 9000, but the vocabulary only"):
        list(annotator.read(documents))
    (tmp_path / "0_entity").unlink()
    with pytest.raises(UserError, match="has no file of entities beside it"):
        list(sources.open_source(f"wiki_entity:{tmp_path}").documents())


def test_the_released_sample(shared):
    """100 documents: every id is one of BERT's vocabulary, and a mention counts once."""
    folder = shared / "data/knowledge/ernie_sample"
    source = sources.open_source(f"wiki_entity:{folder}")
    documents = list(source.documents())
    vocabulary = tokenizers.load(shared / "data/vocab/bert-base-uncased-vocab.txt")
    names = entities.most_frequent(annotations.names_of(source, "given"), 1 << 20)
    found = list(annotations.Annotator(vocabulary, names, "given").read(documents))
    with gzip.open(folder / "wiki_token.gz", "rt") as file:
        first = file.readline().split()
    assert len(documents) == 100 and len(found[0].sentences) == int(first[0])
    assert len(found[0].sentences[0]) == int(first[1])
    assert found[0].sentences[0] == tuple(map(int, first[2 : 2 + int(first[1])]))
    mentions = sum((f.entities > 0).sum() for f in found)
    assert mentions == sum(1 for _ in annotations.names_of(source, "given"))
    assert all(f.entities.max() <= len(names) for f in found)
    assert "Q179805" in names.names


# Rows


def rows_of(data, tokenizer, documents, names=("a", "b"), **overrides):
    data.pipeline = "annotated_lm"
    data.update_from_flattened_dict(overrides)
    pipeline = annotated_rows.AnnotatedLM(data, tokenizer, entities.Entities(names))
    records = list(pipeline.write(documents, random.Random(0)))
    keys = noise.make_keys(0, 1, 0, np.arange(len(records)))
    return pipeline, records, pipeline.read(records, keys)


@pytest.fixture
def marked(documents):
    """Documents whose token t has the entity t % 7 where that is below 3, and marks by fives."""
    found = []
    for tokens, sizes in documents:
        kinds = np.array([3, 4, 0, 1, 2])[np.arange(len(tokens)) % 5]
        found.append((tokens, sizes, np.where(tokens % 7 < 3, tokens % 7, 0), kinds))
    return found


def test_rows_have_the_entities_of_their_tokens(data, tokenizer, marked):
    overrides = {"entities.replace": 0.0, "entities.drop": 0.0, "entities.predictions": 6}
    _, records, rows = rows_of(data, tokenizer, marked, **overrides)
    original = np.array(rows["tokens"])
    np.put_along_axis(original, rows["masked_positions"], rows["targets"], axis=1)
    unmasked = np.where((rows["weights"] > 0).any(axis=1, keepdims=True), original, rows["tokens"])
    real = (rows["segment_ids"] > 0) & ~np.isin(unmasked, (2, 3))
    real[:, 0] = False  # where padded predictions point to
    want = np.where(unmasked % 7 < 3, unmasked % 7, 0)
    np.testing.assert_array_equal(rows["entities"][real], want[real])
    assert (rows["entities"][rows["segment_ids"] == 0] == 0).all()
    weights = rows["entity_weights"] > 0
    there = np.take_along_axis(rows["entities"], rows["entity_positions"], axis=1)
    np.testing.assert_array_equal(rows["entity_targets"][weights], there[weights])
    counts = np.minimum((rows["entities"] > 0).sum(axis=1), 6)
    np.testing.assert_array_equal(weights.sum(axis=1), counts)


def test_examples_with_few_entities_are_left_out(data, tokenizer, marked):
    overrides = {"entities.replace": 0.0, "entities.drop": 0.0, "entities.predictions": 60}
    _, every, rows = rows_of(data, tokenizer, marked, **overrides)
    enough = (rows["entity_weights"].sum(axis=1) >= 9).sum()
    _, some, rows = rows_of(data, tokenizer, marked, **overrides, **{"entities.least": 9})
    assert len(some) == enough < len(every)
    assert (rows["entity_weights"].sum(axis=1) >= 9).all()


@pytest.mark.parametrize("spans", ["phrase", "entity"])
def test_spans_are_masked_as_one(data, tokenizer, marked, spans):
    """Baidu's ERNIE: a span is chosen whole, and all of it is masked, random or kept."""
    overrides = {"masking.spans": spans, "masking.mask": 0.5, "masking.random": 0.0}
    pipeline, records, rows = rows_of(data, tokenizer, marked, **overrides)
    header, flat = pipeline.codec.decode(records)
    marks = np.zeros(rows["tokens"].shape, int)
    marks[rows["segment_ids"] > 0] = flat.reshape(-1, 3)[:, 2]
    chosen = np.zeros(marks.shape, bool)
    at = np.nonzero(rows["weights"])
    chosen[at[0], rows["masked_positions"][at]] = True
    inside = np.isin(marks, annotated_rows.SPANS[spans])
    inside[:, 0] = False
    before = np.nonzero(inside)[0], np.nonzero(inside)[1] - 1
    text = marks[before] > 0  # a span that begins with the row's text was cut off
    np.testing.assert_array_equal(chosen[inside][text], chosen[before][text])
    both = inside & chosen & (np.roll(marks, 1, axis=1) > 0)
    assert both.sum() > 100
    masked = rows["tokens"] == tokenizer.mask_id
    np.testing.assert_array_equal(masked[both], np.roll(masked, 1, axis=1)[both])
    assert 0.3 < masked[both].mean() < 0.7
    assert "entities" not in rows


def test_wrong_numbers_are_told(data, tokenizer):
    for key, value, message in (
        ("entities.predictions", 65, "must be between 0 and data.length=64"),
        ("entities.drop", 0.99, "must be shares of 1"),
        ("masking.spans", "entities", "Did you mean 'entity'"),
    ):
        changed = type(data)(data.to_dict())
        with pytest.raises(UserError, match=message):
            rows_of(changed, tokenizer, [], **{key: value})
