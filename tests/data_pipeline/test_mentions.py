"""Tasks about mentions: their files, and rows with marks and entities."""

import json

import numpy as np
import pytest

from configs import finetune
from data_pipeline import entities
from data_pipeline import tokenizer_training as training
from data_pipeline.tasks import mention_rows, mentions
from errors import UserError

SENTENCE = "Ada Lovelace was born in London ."
OFFICIAL = {
    "P19": [
        {
            "tokens": f"Ada Lovelace was born in London {i}".split(),
            "h": ["ada lovelace", "Q1", [[0, 1]]],
            "t": ["london", "Q2", [[5]]],
        }
        for i in range(600)
    ],
    "P2": [
        {"tokens": ["Rome", "x", "y"], "h": ["y", "Q3", [[2]]], "t": ["rome", "Q4", [[0], [1]]]}
    ],
}
RELEASED = [
    {"text": SENTENCE, "ents": [["Q1", 1, 12, 0.5], ["Q2", 25, 31, 0.5]], "label": "P19"},
    {"text": "Rome is in Italy", "ents": [["Q5", 11, 16, 0.5], ["Q4", 0, 4, 0.5]], "label": "P7"},
]
TYPED = [
    {
        "sent": SENTENCE,
        "start": 25,
        "end": 31,
        "ents": [["Q2", 25, 31, 0.9], ["Q1", 0, 12, 0.8], ["Q7", 17, 21, 0.1]],
        "labels": ["place", "city"],
    },
    {"sent": "He left", "start": 0, "end": 2, "ents": [], "labels": []},
]


@pytest.fixture(scope="module")
def tokenizer():
    return training.train("wordpiece", [SENTENCE, "Rome is in Italy # $ @ He left"], 300, True)


def write(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return str(folder)


def shown(example, mention):
    return example.text[mention.start : mention.end]


def test_fewrel_as_published(tmp_path):
    """Every relation on all sides; a mention is the first of its places."""
    path = write(tmp_path, val_wiki=OFFICIAL)
    found = {split: mentions.read("fewrel", path, split) for split in ("train", "valid", "test")}
    assert [len(x) for x in found.values()] == [101, 200, 200]
    first = found["train"][0]
    assert [shown(first, m) for m in first.mentions] == ["Ada Lovelace", "London"]
    assert [m.names for m in first.mentions] == [("Q1", "ada lovelace"), ("Q2", "london")]
    assert first.labels == (0,) and found["train"][100].labels == (1,)
    assert [shown(found["train"][100], m) for m in found["train"][100].mentions] == ["y", "Rome"]
    texts = [{x.text for x in found[split] if x.labels == (0,)} for split in found]
    assert not texts[0] & texts[1] and not texts[1] & texts[2]


def test_fewrel_as_ernie_has_it(tmp_path):
    path = write(tmp_path, train=RELEASED, dev=RELEASED[1:], test=RELEASED)
    [example] = mentions.read("fewrel", path, "valid")
    assert example.labels == (1,)
    assert [(m.mark, shown(example, m), m.names) for m in example.mentions] == [
        ("head", "Italy", ("Q5",)),
        ("tail", "Rome", ("Q4",)),
    ]
    # The released files have 1 for the first character.
    assert shown(*(lambda x: (x, x.mentions[0]))(mentions.read("fewrel", path, "train")[0])) == (
        "Ada Lovelace"
    )


def test_types_as_ernie_has_them(tmp_path):
    path = write(tmp_path, train=TYPED, dev=TYPED[:1])
    for task in ("open-entity", "figer"):
        first, second = mentions.read(task, path, "train")
        assert first.labels == (0, 1) and second.labels == ()  # city, place
        assert [shown(first, m) for m in first.mentions] == ["London"]
        assert [(shown(first, m), m.names) for m in first.linked][1] == ("Ada Lovelace", ("Q1",))


def test_published_files(shared):
    folder = shared / "data/knowledge"
    found = [mentions.read("fewrel", folder, split) for split in ("train", "valid", "test")]
    assert [len(x) for x in found] == [1600, 3200, 3200]
    assert {x.labels[0] for x in found[0]} == set(range(16))
    for example in found[0][::50]:
        head = example.mentions[0]
        assert shown(example, head).replace(" ", "").lower() == head.names[1].replace(" ", "")
    gold = mentions.read("figer", folder, "test")
    assert len(gold) == mentions.TASKS["figer"].rows["test"] == 563
    assert max(max(x.labels) for x in gold) < 113
    assert shown(gold[1], gold[1].mentions[0]) == "Department of Chemistry"


@pytest.mark.parametrize(
    ("task", "files", "message"),
    [
        ("fewrel", {}, "There is no train_wiki.json"),
        ("open-entity", {}, "There is no train.json"),
        ("fewrel", {"train": [RELEASED[0] | {"ents": []}]}, "has 0 entities instead of 2"),
        (
            "fewrel",
            {"train": [RELEASED[0] | {"ents": [["Q1", 0, 99, 1], ["Q2", 1, 2, 1]]}]},
            "example 0 has the offsets 0 to 99, outside of its text of 33 characters",
        ),
        (
            "open-entity",
            {"train": [TYPED[0] | {"start": 31, "end": 25}]},
            "the offsets 31 to 25, outside",
        ),
        ("open-entity", {"train": [{"sent": "x"}]}, "has no 'labels'"),
        (
            "open-entity",
            {"train": [TYPED[0] | {"labels": list("abcdefg")}]},
            "has 7 classes, but open-entity only 6",
        ),
        (
            "fewrel",
            {"val_wiki": {"P1": [OFFICIAL["P2"][0] | {"h": ["y", "Q3", [[3]]]}]}},
            "example 0 has a mention outside of its 3 tokens",
        ),
    ],
)
def test_wrong_files_are_told(task, files, message, tmp_path):
    with pytest.raises(UserError, match=message):
        mentions.read(task, write(tmp_path, **files), "train")


def test_new_classes_are_told(tmp_path):
    path = write(tmp_path, train=RELEASED[:1], dev=RELEASED)
    with pytest.raises(UserError, match="example 1 has the class 'P7', which the training set"):
        mentions.read("fewrel", path, "valid")


def rows_of(data, tokenizer, task, examples):
    data.task, data.length = task, 32
    data.entities.count = 9
    pipeline = mention_rows.Mentions(data, tokenizer)
    records = pipeline.write(examples)
    rows = pipeline.read([*records, b""], np.zeros(len(records) + 1, np.uint64))
    return [
        " ".join(tokenizer.id_to_token(i) for i in row[:n])
        for row, n in zip(rows["tokens"], (rows["segment_ids"] > 0).sum(axis=1), strict=True)
    ], rows


def text_of(pieces):
    return pieces.replace(" ##", "")


def test_relations_in_rows(data, tokenizer, tmp_path):
    """# stands on both sides of the head, $ of the tail, whichever comes first."""
    entities.Entities(["Q4", "Q1", "london"]).save(tmp_path)
    data.entities.path = str(tmp_path)
    (tmp_path / "task").mkdir()
    path = write(tmp_path / "task", train=RELEASED)
    texts, rows = rows_of(data, tokenizer, "fewrel", mentions.read("fewrel", path, "train"))
    assert text_of(texts[0]) == "[CLS] # ada lovelace # was born in $ london $ . [SEP]"
    assert text_of(texts[1]) == "[CLS] $ rome $ is in # italy # [SEP]" and texts[2] == ""
    assert rows["label"].tolist() == [0, 1, 0]
    assert rows["example_weights"].tolist() == [1, 1, 0]
    places = [np.nonzero(row)[0].tolist() for row in rows["entities"]]
    assert places == [[2], [2], []]  # behind [CLS] and the mark; Q2 and Q5 are not known
    assert rows["entities"][:2, 2].tolist() == [2, 1]
    data.entities.marks = "none"
    _, rows = rows_of(data, tokenizer, "fewrel", mentions.read("fewrel", path, "train"))
    assert not rows["entities"].any()


def test_known_entities_are_counted(data, tokenizer, tmp_path, caplog):
    entities.Entities(["Q4", "Q1", "london"]).save(tmp_path)
    data.entities.path = str(tmp_path)
    (tmp_path / "task").mkdir()
    path = write(tmp_path / "task", train=RELEASED)
    rows_of(data, tokenizer, "fewrel", mentions.read("fewrel", path, "train"))
    assert "fewrel: 2 of 4 mentions are of an entity that the model knows." in caplog.text


def test_a_file_alone_has_the_classes_of_the_training_set_beside_it(tmp_path):
    path = write(tmp_path, train=TYPED, dev=TYPED[1:], test=[TYPED[0] | {"labels": ["place"]}])
    both = mentions.read("open-entity", path, "test")
    assert both[0].labels == (1,)
    assert mentions.read("open-entity", f"{path}/test.json", "test") == both
    (tmp_path / "fewrel").mkdir()
    path = write(tmp_path / "fewrel", train=RELEASED, dev=RELEASED[1:])
    both = mentions.read("fewrel", path, "valid")
    assert both[0].labels == (1,) and mentions.read("fewrel", f"{path}/dev.json", "valid") == both


def test_what_is_laid_out_otherwise_is_told(tmp_path):
    path = write(tmp_path, train=[TYPED[0] | {"ents": [["Q2", 25, 31]]}])
    with pytest.raises(UserError, match="not laid out as the published ones"):
        mentions.read("open-entity", path, "train")


def test_types_in_rows(data, tokenizer, tmp_path):
    entities.Entities(["Q7", "Q1", "Q2"]).save(tmp_path)
    data.entities.path = str(tmp_path)
    (tmp_path / "task").mkdir()
    path = write(tmp_path / "task", train=TYPED)
    examples = mentions.read("open-entity", path, "train")
    texts, rows = rows_of(data, tokenizer, "open-entity", examples)
    assert text_of(texts[0]) == "[CLS] ada lovelace was born in @ london @ . [SEP]"
    assert rows["labels"].tolist() == [[1, 1, 0, 0, 0, 0], [0] * 6, [0] * 6]
    # Q7 is below the threshold.
    pieces = texts[0].split()
    assert np.nonzero(rows["entities"][0])[0].tolist() == [1, pieces.index("@") + 1]
    assert rows["entities"][0][[1, pieces.index("@") + 1]].tolist() == [2, 3]


def test_what_rows_need_is_told(data, tokenizer, tmp_path):
    plain = training.train("wordpiece", ["a b"], 257, True)
    path = write(tmp_path, train=RELEASED)
    with pytest.raises(UserError, match="data.entities.path is not set"):
        rows_of(data, tokenizer, "fewrel", mentions.read("fewrel", path, "train"))
    data.entities.marks = "none"
    with pytest.raises(UserError, match="The vocabulary has none of #, which mark mentions"):
        rows_of(data, plain, "fewrel", mentions.read("fewrel", path, "train"))
    entities.Entities(map(str, range(10))).save(tmp_path)
    data.entities.update(path=str(tmp_path), marks="names")
    with pytest.raises(UserError, match="names 10 entities, but model.entities is 9"):
        rows_of(data, tokenizer, "fewrel", [])


def test_tasks_and_configs_agree():
    assert set(finetune.MENTIONS) == set(mentions.TASKS)
    for name, task in mentions.TASKS.items():
        section = finetune.MENTIONS[name]
        assert section["classes"] == task.classes and section["several"] == task.several
        assert section["rows"] == task.rows["train"]
