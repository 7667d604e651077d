import gzip
import json

import pytest

from data_pipeline import remote
from data_pipeline.tasks import choices, published
from data_pipeline.tasks.choices import CHOICES
from errors import UserError

LETTERS = tuple("ABCDE")


def write(path, *rows):
    """Lines: objects as JSON, texts as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def stem(id="q", answer="B", choices=4, keys=LETTERS):
    options = [{"label": keys[i], "text": f"t{i}"} for i in range(choices)]
    return {"id": id, "question": {"stem": "What?", "choices": options}, "answerKey": answer}


# The layouts


def test_swag_is_csv_with_quotes_and_no_label_in_its_test_file(tmp_path):
    header = (
        ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3"
    )
    row = '7,v,3,x,"He said ""go"", then left.",The man,gold,"a, b.",b.,c.,d.'
    write(tmp_path / "swag/val.csv.gz", header + ",label", row + ",2")
    write(tmp_path / "swag/test.csv", header, row)
    found = ("7", 'He said "go", then left.', "The man", ("a, b.", "b.", "c.", "d."))
    keys = ("0", "1", "2", "3")
    for path in (tmp_path, tmp_path / "swag", tmp_path / "swag/val.csv.gz"):
        assert choices.read(CHOICES["swag"], path, "valid") == [(*found, 2, keys, "")]
    assert choices.read(CHOICES["swag"], tmp_path, "test") == [(*found, None, keys, "")]


def test_the_full_variant_of_swag_is_told_apart(tmp_path):
    write(tmp_path / "train.csv", "video-id,sent1,sent2,gold-ending", "v,One.,Two,goes.")
    with pytest.raises(UserError, match="Example 1 of .*has no field 'ending0' but 'video-id', 's"):
        choices.read(CHOICES["swag"], tmp_path, "train")


def test_hellaswag_with_and_without_the_begun_sentence(tmp_path):
    row = {"ind": 4, "activity_label": "Sailing", "ctx": "One. two", "endings": list("abcd")}
    parts = row | {"ctx_a": "One.", "ctx_b": "two", "label": 3}
    write(tmp_path / "hellaswag_train.jsonl", parts)
    write(tmp_path / "val.part.jsonl", row | {"label": 0})
    write(tmp_path / "hellaswag_test.jsonl", row)
    rest = (tuple("abcd"), ("0", "1", "2", "3"), "Sailing")
    for split, context, question, label in (
        ("train", "One.", "two", 3),
        ("valid", "One. two", "", 0),
        ("test", "One. two", "", None),
    ):
        found = choices.read(CHOICES["hellaswag"], tmp_path, split)
        assert found == [("4", context, question, rest[0], label, *rest[1:])]


def test_codah_has_no_header_and_its_quotes_are_text(tmp_path):
    write(tmp_path / "cv_split/fold_0/train.tsv", 'i\t"So it is." He\ta\tb "c\td\te\t1')
    expected = ("0", '"So it is." He', "", ("a", 'b "c', "d", "e"), 1, ("0", "1", "2", "3"), "")
    assert choices.read(CHOICES["codah"], tmp_path, "train") == [expected]
    assert choices.read(CHOICES["codah"], tmp_path / "cv_split/fold_0", "train") == [expected]


def test_arc_has_three_to_five_choices_under_letters_or_numbers(tmp_path):
    rows = stem("a", "3", 3, "12345"), stem("b", "E", 5), stem("c", "A", 4)
    write(tmp_path / "ARC-Easy/ARC-Easy-Test.jsonl", *rows)
    found = choices.read(CHOICES["arc-easy"], tmp_path, "test")
    assert [q.label for q in found] == [2, 4, 0]
    assert [len(q.choices) for q in found] == [3, 5, 4]
    assert found[0].keys == ("1", "2", "3") and found[1].keys == LETTERS
    assert (found[1].question, found[1].choices[4]) == ("What?", "t4")


def test_race_has_several_questions_in_a_passage(tmp_path):
    options = [["a", "b", "c", "d"], ["e", "f", "g", "h"]]
    passage = {"article": "Text.", "questions": ["Q _ .", "R?"], "options": options}
    passage |= {"answers": ["D", "A"]}
    write(tmp_path / "RACE/dev/middle/1.txt", json.dumps(passage | {"id": "middle1.txt"}, indent=1))
    # ALBERT's all.txt: one object after another.
    parts = (passage | {"id": f"high{i}.txt"} for i in (1, 2))
    write(tmp_path / "RACE/dev/high/all.txt", *parts)
    middle = choices.read(CHOICES["race-middle"], tmp_path, "valid")
    assert middle == [
        ("middle1.txt/0", "Text.", "Q _ .", ("a", "b", "c", "d"), 3, tuple("ABCD"), ""),
        ("middle1.txt/1", "Text.", "R?", ("e", "f", "g", "h"), 0, tuple("ABCD"), ""),
    ]
    high = choices.read(CHOICES["race-high"], tmp_path / "RACE", "valid")
    assert [q.id for q in high] == [f"high{i}.txt/{j}" for i in (1, 2) for j in (0, 1)]
    assert choices.read(CHOICES["race"], tmp_path, "valid") == middle + high


def test_labels_that_lie_in_a_file_of_their_own(tmp_path):
    rows = [{"goal": f"g{i}", "sol1": "x", "sol2": "y"} for i in range(3)]
    write(tmp_path / "piqa/train.jsonl", *rows)
    write(tmp_path / "piqa/train-labels.lst", "0", "1", "1")
    write(tmp_path / "piqa/tests.jsonl", *rows)
    task = CHOICES["piqa"]
    assert [q.label for q in choices.read(task, tmp_path, "train")] == [0, 1, 1]
    assert [q.id for q in choices.read(task, tmp_path, "train")] == ["0", "1", "2"]
    assert [q.label for q in choices.read(task, tmp_path, "test")] == [None] * 3
    write(tmp_path / "piqa/train-labels.lst", "0", "1")
    with pytest.raises(UserError, match="has 2 answers for the 3 questions"):
        choices.read(task, tmp_path, "train")


def test_winogrande_boolq_and_socialiqa(tmp_path):
    row = {"sentence": "A saw B as _ ran.", "option1": "A", "option2": "B", "answer": "2"}
    write(tmp_path / "winogrande/dev.jsonl", row | {"qID": "x-1"})
    assert choices.read(CHOICES["winogrande"], tmp_path, "valid") == [
        ("x-1", "A saw B as _ ran.", "", ("A", "B"), 1, ("1", "2"), "")
    ]
    row = {"question": "is it so", "title": "It", "answer": True, "passage": "It is."}
    write(tmp_path / "boolq/dev.jsonl", row)
    assert choices.read(CHOICES["boolq"], tmp_path, "valid") == [
        ("0", "It is.", "is it so", ("no", "yes"), 1, ("False", "True"), "It")
    ]
    row = {"context": "c", "question": "q", "answerA": "x", "answerB": "y", "answerC": "z"}
    write(tmp_path / "social_iqa/dev.jsonl", row | {"label": "3"})
    assert choices.read(CHOICES["socialiqa"], tmp_path, "valid") == [
        ("0", "c", "q", ("x", "y", "z"), 2, ("1", "2", "3"), "")
    ]


# Libraries

OPTIONS = {"text": ["x", "y", "z"], "label": ["A", "B", "C"]}
AB = ("A", "B", "C")
LIBRARY_ROWS = [
    (
        "swag",
        {
            "sent1": "One.",
            "sent2": "two",
            **{f"ending{i}": "abcd"[i] for i in range(4)},
            "label": 2,
        },
        ("0", "One.", "two", tuple("abcd"), 2, ("0", "1", "2", "3"), ""),
    ),
    (
        "codah",
        {
            "id": 9,
            "question_propmt": "p",
            "candidate_answers": list("abcd"),
            "correct_answer_idx": 1,
        },
        ("0", "p", "", tuple("abcd"), 1, ("0", "1", "2", "3"), ""),
    ),
    (
        "arc-easy",
        {"id": "i", "question": "q?", "choices": OPTIONS, "answerKey": "C"},
        ("i", "", "q?", ("x", "y", "z"), 2, AB, ""),
    ),
    (
        "openbookqa",
        {
            "id": "i",
            "question_stem": "q",
            "choices": {"text": list("wxyz"), "label": list("ABCD")},
            "answerKey": "A",
        },
        ("i", "", "q", tuple("wxyz"), 0, tuple("ABCD"), ""),
    ),
    (
        "race-high",
        {
            "example_id": "high1.txt",
            "article": "a",
            "question": "q",
            "options": list("wxyz"),
            "answer": "D",
        },
        ("0", "a", "q", tuple("wxyz"), 3, tuple("ABCD"), ""),
    ),
    (
        "boolq",
        {"question": "q", "passage": "p", "answer": False},
        ("0", "p", "q", ("no", "yes"), 0, ("False", "True"), ""),
    ),
]


@pytest.mark.parametrize(("name", "row", "expected"), LIBRARY_ROWS)
def test_rows_of_a_library(name, row, expected, monkeypatch):
    asked = []

    def table(*args):
        asked.append(args)
        return remote.Table([row], list(row), "", None)

    monkeypatch.setattr(remote, "hf_table", table)
    assert choices.read(CHOICES[name], None, "train") == [expected]
    source = published.PUBLISHED[name]
    assert asked == [(source.path.removeprefix("hf:"), source.config or None, "train")]


def test_a_label_of_a_library_that_is_not_public(monkeypatch):
    row = {"goal": "g", "sol1": "x", "sol2": "y", "label": -1}
    monkeypatch.setattr(remote, "hf_table", lambda *_: remote.Table([row], list(row), "", None))
    assert choices.read(CHOICES["piqa"], "hf:baber/piqa", "test")[0].label is None
    with pytest.raises(UserError, match="Example 1 of the train split of piqa has no 'label'"):
        choices.read(CHOICES["piqa"], None, "train")


def test_what_no_library_has(monkeypatch):
    with pytest.raises(UserError, match="No library is known to have commonsenseqa-1.0: set data"):
        choices.read(CHOICES["commonsenseqa-1.0"], None, "train")
    with pytest.raises(UserError, match="boolq has no test split"):
        choices.read(CHOICES["boolq"], None, "test")


# The real files

COMPLETE = [
    ("codah", "train"),
    ("codah", "valid"),
    ("commonsenseqa", "train"),
    ("commonsenseqa", "valid"),
    ("commonsenseqa-1.0", "train"),
    ("commonsenseqa-1.0", "valid"),
    ("commonsenseqa-1.0", "test"),
    ("arc-easy", "train"),
    ("arc-easy", "valid"),
    ("arc-challenge", "train"),
    ("arc-challenge", "valid"),
    ("openbookqa", "train"),
    ("openbookqa", "valid"),
    ("piqa", "train"),
    ("piqa", "valid"),
    ("winogrande", "train"),
    ("winogrande", "valid"),
    ("boolq", "train"),
    ("boolq", "valid"),
    ("socialiqa", "valid"),
]


@pytest.mark.parametrize(("name", "split"), COMPLETE, ids=map("-".join, COMPLETE))
def test_official_files_have_their_published_rows(shared, name, split):
    task = CHOICES[name]
    found = choices.read(task, shared / "data/multiple_choice", split)
    assert len(found) == task.rows[split]
    assert {q.label is None for q in found} == {split == "test"}
    if split == "train":  # every place is right sometimes, none almost always
        labels = [q.label for q in found]
        shares = [labels.count(i) / len(labels) for i in range(task.counts[0])]
        assert min(shares) > 0.15 and max(shares) < 0.65


def test_the_half_of_hellaswag_and_the_sample_of_swag(shared):
    found = choices.read(CHOICES["hellaswag"], shared / "data/multiple_choice", "valid")
    assert len(found) == 5021 and all(q.topic and int(q.id) % 2 == 0 for q in found)
    sample = shared / "data/few_shot/hf_tests_samples/swag.sample.json"
    found = choices.read(CHOICES["swag"], sample, "train")
    assert len(found) == 10 and found[0].question == "A drum line" and found[0].label == 0


def test_the_parts_of_race_add_up():
    for split in ("train", "valid", "test"):
        parts = [CHOICES[f"race-{level}"].rows[split] for level in ("middle", "high")]
        assert sum(parts) == CHOICES["race"].rows[split]


# Bad input


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        ("openbookqa", [{"goal": "g"}], "Example 1 of .* has no field 'question' but 'goal'"),
        ("openbookqa", [stem(), stem("b", "F")], "Example 2 .*has the answerKey 'F', which is non"),
        ("openbookqa", [stem(), stem()], "Example 2 .*has the id 'q' of one before it: correct"),
        ("openbookqa", [stem(choices=3)], "has 3 choices instead of 4: correct"),
        ("arc-easy", [stem(choices=2)], "has 2 choices instead of 3 or 4 or 5"),
        ("openbookqa", [stem(answer="")], "Example 1 of .* has no 'answerKey'"),
        ("openbookqa", [stem() | {"question": "What?"}], "Example 1 of .* is laid out otherwise"),
        ("piqa", [{"goal": 3, "sol1": "", "sol2": ""}], "something else than a text"),
        ("openbookqa", ["{"], "is no JSON"),
        ("openbookqa", ["[1]"], "holds a JSON value that is no object"),
        ("openbookqa", [], "holds no questions"),
        (
            "winogrande",
            [{"sentence": "A _ _.", "option1": "", "option2": "", "answer": "1"}],
            "has 2 blanks _ in its sentence instead of 1",
        ),
        (
            "boolq",
            [{"question": "", "title": "", "answer": "yes", "passage": ""}],
            "has the answer 'yes', which is none of False, True",
        ),
        ("codah", ["o\ta\tb\tc\td\t1"], "Example 1 of .* has 6 fields instead of 7"),
        ("swag", ["a,b", "1"], "Example 1 of .* has 1 fields instead of 2"),
        ("race-high", ["[]"], "holds a JSON value that is no object"),
        (
            "race-high",
            [{"id": "1", "article": "", "questions": ["a", "b"], "options": [], "answers": []}],
            "A passage of .* has not as many options and answers as questions",
        ),
        ("race-high", [{"id": "1"}], "A passage of .* has no field 'questions' but 'id'"),
    ],
)
def test_a_broken_file(tmp_path, task, rows, message):
    found = CHOICES[task]
    name = f"{found.files[0][0]}/1.txt" if found.ending == "" else found.files[0][0] + found.ending
    write(tmp_path / name, *rows)
    with pytest.raises(UserError, match=message):
        choices.read(found, tmp_path, "train")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no train.csv or train.csv.gz in .* or its folder swag"):
        choices.read(CHOICES["swag"], tmp_path, "train")
    with pytest.raises(UserError, match="nothing at .*: give the folder of piqa"):
        choices.read(CHOICES["piqa"], tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match="no folder train/middle with files"):
        choices.read(CHOICES["race"], tmp_path, "train")
