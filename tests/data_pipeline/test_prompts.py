import json

import pytest

from data_pipeline.tasks import completions, prompts
from errors import UserError


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def stem(number, text):
    choices = [{"text": f"{text}{letter}", "label": letter} for letter in "ABCD"]
    return {
        "id": str(number),
        "question": {"stem": text, "choices": choices},
        "answerKey": "B",
    }


@pytest.fixture
def data(tmp_path):
    write(tmp_path / "lambada/test.jsonl", [{"text": f"a b {word}"} for word in ("c.", "d", "e")])
    write(tmp_path / "arc/ARC-Easy-Dev.jsonl", [stem(1, "why?"), stem(2, "how?")])
    write(tmp_path / "arc/ARC-Easy-Train.jsonl", [stem(i, "what?") for i in range(4)])
    boolq = {"question": "is it so", "title": "t", "answer": True, "passage": "It is."}
    write(tmp_path / "boolq/dev.jsonl", [boolq])
    hellaswag = {
        "ind": 4,
        "activity_label": "Baking",
        "ctx_a": "A man [step] bakes.",
        "ctx_b": "he",
        "endings": ["a  b", "[x] c", "d", "e"],
        "label": 3,
    }
    write(tmp_path / "hellaswag/val.jsonl", [hellaswag])
    blank = {"sentence": "He saw _ there.", "option1": "a", "option2": "b", "answer": "2"}
    write(tmp_path / "winogrande/dev.jsonl", [blank])
    for name in ("one", "two"):
        pair = {"sentence_good": f"{name}.", "sentence_bad": "no.", "UID": name}
        rows = [pair | {"linguistics_term": "term", "n": i} for i in range(2)]
        write(tmp_path / f"blimp/{name}.jsonl", rows)
    return tmp_path


def first(name, data, shots=0):
    documents = prompts.read(name, [data], shots)
    return documents.splits[documents.measured][0]


def test_frames_of_the_paper(data):
    assert first("lambada", data) == {"query": "a b", "target": " c."}
    assert first("lambada", data, 2) == {"query": "a b ____. ->", "target": " c."}
    assert first("arc-easy", data) == {
        "query": "Question: why?\nAnswer:",
        "choices": ["why?A", "why?B", "why?C", "why?D"],
        "gold": 1,
    }
    assert first("boolq", data) == {
        "query": "It is.\nquestion: is it so?\nanswer:",
        "choices": ["no", "yes"],
        "gold": 1,
    }
    assert first("hellaswag", data) == {
        "query": "Baking: A man bakes. He",
        "choices": ["a b", "c", "d", "e"],
        "gold": 3,
    }
    assert first("winogrande", data) == {
        "choices": ["He saw a", "He saw b"],
        "target": "there.",
        "gold": 1,
    }


def test_pairs_of_all_paradigms_by_turns(data):
    pairs = completions.read_blimp(data)
    assert [pair.good for pair in pairs] == ["one.", "two."] * 2
    assert first("blimp", data) == {
        "query": "", "choices": ["one.", "no."], "gold": 0, "term": "term"
    }  # fmt: skip


def test_splits(data):
    documents = prompts.read("arc-easy", [data], 3)  # there is no test file
    assert (documents.measured, documents.demonstrations) == ("valid", "train")
    assert {split: len(rows) for split, rows in documents.splits.items()} == {
        "valid": 2, "train": 4
    }  # fmt: skip
    write(data / "arc/ARC-Easy-Test.jsonl", [stem(7, "who?")])
    assert prompts.read("arc-easy", [data], 0).measured == "test"
    documents = prompts.read("lambada", [data], 2)
    assert documents.measured == documents.demonstrations == "test"


def test_the_folder_that_holds_the_task(data, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for folders in ([other, data], [data, other], [data / "boolq"], [other, data / "boolq"]):
        documents = prompts.read("boolq", folders, 0)
        assert len(documents.splits["valid"]) == 1


@pytest.mark.parametrize(
    "name, shots, message",
    [
        ("arc-easy", 5, "has 4 documents to draw 5 demonstrations from .its split train."),
        ("lambada", 3, "has 2 documents to draw 3"),  # not itself
        ("blimp", 1, "set --shots=0"),
        ("piqa", 0, "There is no valid.jsonl"),
    ],
)
def test_what_is_missing(data, name, shots, message):
    with pytest.raises(UserError, match=message):
        prompts.read(name, [data], shots)


def test_no_folder(data):
    with pytest.raises(UserError, match="There is no folder .*nowhere"):
        prompts.read("boolq", [data, data / "nowhere"], 0)


def test_answers_that_are_kept_back(data):
    row = stem(7, "who?")
    del row["answerKey"]
    write(data / "arc/ARC-Easy-Test.jsonl", [row])
    with pytest.raises(UserError, match="test file of arc-easy has no answers"):
        prompts.read("arc-easy", [data], 0)


@pytest.mark.parametrize(
    "row, message",
    [
        ({"text": "word"}, "has a single word"),
        ({"txt": ""}, "no field 'text'"),
        ({"text": ""}, "no"),
    ],
)
def test_broken_passages(tmp_path, row, message):
    write(tmp_path / "test.jsonl", [{"text": "a b"}, row])
    with pytest.raises(UserError, match=f"Example 2 of .*{message}"):
        completions.read_lambada(tmp_path)


def test_no_paradigms(tmp_path):
    with pytest.raises(UserError, match="put BLiMP's paradigms there"):
        completions.read_blimp(tmp_path)


def test_real_files(shared):
    folders = [shared / "data", shared / "data" / "multiple_choice"]
    counts = {
        "lambada": 1000, "hellaswag": 5021, "piqa": 1838, "winogrande": 1267, "arc-easy": 570,
        "arc-challenge": 299, "openbookqa": 500, "boolq": 3270, "commonsenseqa": 1221,
        "blimp": 13000, "squad-v1.1": 10570, "squad-v2.0": 3292,
    }  # fmt: skip
    for name, count in counts.items():
        documents = prompts.read(name, folders, 0)
        rows = documents.splits[documents.measured]
        assert len(rows) == count, name
        assert all(row["gold"] < len(row["choices"]) for row in rows if "choices" in row)
