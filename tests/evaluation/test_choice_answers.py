"""Files of answers: the layouts of the leaderboards, and what must not be scored."""

import json

import numpy as np
import pytest

from data_pipeline.tasks import choices
from errors import UserError
from evaluation import choice_answers

PIQA = [{"goal": f"g{i}", "sol1": "x", "sol2": "y", "label": i % 2} for i in range(4)]


def asked(task, *ids, keys="ABC"):
    texts, keys = ("x", "y", "z")[: len(keys)], tuple(keys)
    return [choices.Question(id, "", "q?", texts, 0, keys) for id in ids]


@pytest.mark.parametrize(
    ("task", "keys", "name", "lines"),
    [
        ("arc-easy", "ABC", "arc-easy.csv", ["q-1,B", '"q,2",C']),
        ("openbookqa", "123", "openbookqa.csv", ["q-1,2", '"q,2",3']),
        ("winogrande", "123", "winogrande.lst", ["2", "3"]),
        (
            "swag",
            "012",
            "swag.jsonl",
            ['{"id": "q-1", "answer": "1"}', '{"id": "q,2", "answer": "2"}'],
        ),
    ],
)
def test_files_are_the_leaderboards(task, keys, name, lines, tmp_path):
    questions = asked(task, "q-1", "q,2", keys=keys)
    path = choice_answers.write(tmp_path / "new", task, questions, np.array([1, 2]))
    assert path == tmp_path / "new" / name
    assert path.read_text().splitlines() == lines
    assert choice_answers.read(path, task, questions) == [1, 2]


def test_every_task_has_a_layout():
    assert set(choice_answers.ENDINGS) == set(choices.CHOICES)


def test_scores(tmp_path):
    (tmp_path / "valid.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PIQA))
    answers = tmp_path / "answers.lst"
    answers.write_text("0\n1\n1\n1\n")
    assert choice_answers.score("piqa", answers, tmp_path) == {"accuracy": 0.75}
    (tmp_path / "tests.jsonl").write_text(json.dumps(PIQA[0] | {"label": ""}) + "\n")
    with pytest.raises(UserError, match="answers to the test split of piqa are not public"):
        choice_answers.score("piqa", answers, tmp_path, "test")


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("arc-easy", "q1,A\nq3,B\n", "predicts q3, which is not among the 2 examples"),
        ("arc-easy", "q1,A\n", "lacks 1 of 2 predictions, the first of them for q2"),
        ("arc-easy", "q1,A\nq1,B\n", "predicts q1 twice"),
        ("arc-easy", "q1,A\nq2,D\n", "answers q2 with 'D': it must be one of A, B, C"),
        ("arc-easy", "q1,A\nq2 B\n", "Line 2 of .* is 'q2 B': for arc-easy it must be id,answer"),
        ("arc-easy", "q1,A\n\n", "Line 2 of .* is ''"),
        ("swag", '{"id": "q1"}\n', 'Line 1 of .* for swag it must be {"id": ..., "answer": ...}'),
        ("swag", '{"id": "q1"\n', "Line 1 of"),
        ("swag", "3\n", "Line 1 of"),
        ("piqa", "A\n", "has 1 answers for 2 questions: it belongs to another data set or split"),
        ("piqa", "A\n2\n", "answers q2 with '2'"),
    ],
)
def test_a_wrong_file_is_told(task, text, message, tmp_path):
    path = tmp_path / "answers"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        choice_answers.read(path, task, asked(task, "q1", "q2"))
    assert "\n" not in str(error.value)
