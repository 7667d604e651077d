"""GLUE's files of predictions: the layout of the server, and what must not be scored."""

import numpy as np
import pytest

from data_pipeline.tasks.glue import TASKS
from errors import UserError
from evaluation import submissions

RTE = "index\tsentence1\tsentence2\tlabel\n" + "".join(
    f"{i}\tA.\tB.\t{label}\n"
    for i, label in enumerate(["entailment", "not_entailment", "entailment", "not_entailment"])
)


@pytest.fixture
def glue(tmp_path):
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE" / "dev.tsv").write_text(RTE)
    (tmp_path / "RTE" / "test.tsv").write_text(
        "index\tsentence1\tsentence2\n7\tA.\tB.\n9\tC.\tD.\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("task", "predictions", "name", "lines"),
    [
        ("cola", [1, 0], "CoLA.tsv", ["3\t1", "4\t0"]),
        ("rte", [0.0, 1.0], "RTE.tsv", ["3\tentailment", "4\tnot_entailment"]),
        ("mnli-mm", [0, 2], "MNLI-mm.tsv", ["3\tcontradiction", "4\tneutral"]),
        ("ax", [1, 1], "AX.tsv", ["3\tentailment", "4\tentailment"]),
        ("sts-b", [-0.2, 3.14159], "STS-B.tsv", ["3\t0.000", "4\t3.142"]),
        ("sts-b", [5.7, 5.0], "STS-B.tsv", ["3\t5.000", "4\t5.000"]),
    ],
)
def test_files_are_the_servers(task, predictions, name, lines, tmp_path):
    path = submissions.write(tmp_path / "new", task, ["3", "4"], np.array(predictions))
    assert path.name == name
    assert path.read_text() == "\n".join(["index\tprediction", *lines]) + "\n"
    if TASKS[task].classes:
        assert submissions.read(path, task, ["3", "4"]) == predictions
        assert submissions.read(path, task, ["4", "3"]) == predictions[::-1]


def test_every_task_has_a_file():
    assert set(submissions.FILES) == set(TASKS)
    assert len(set(submissions.FILES.values())) == len(TASKS)


def test_an_answer_that_means_nothing_is_written_as_a_class_and_told(tmp_path, caplog):
    path = submissions.write(tmp_path, "rte", ["0", "1"], np.array([-1.0, 1.0]))
    assert path.read_text().splitlines()[1:] == ["0\tentailment", "1\tnot_entailment"]
    assert "1 of 2 answers for rte name no class" in caplog.text


def test_scores(glue, tmp_path):
    """Whatever the order of the lines, and whatever ends them."""
    path = tmp_path / "RTE.tsv"
    path.write_text(
        "index\tprediction\r\n2\tentailment\r\n0\tentailment\r\n1\tentailment\r\n"
        "3\tnot_entailment\r\n"
    )
    assert submissions.score("rte", path, glue) == {"accuracy": 0.75}


WHOLE = ["0\tentailment", "1\tentailment", "2\tentailment", "3\tentailment"]


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        ("index,prediction", WHOLE, "begins with 'index,prediction': its columns must be"),
        ("id\tlabel", WHOLE, "its columns must be 'index' and 'prediction'"),
        (None, [*WHOLE[:3], "3"], "Line 5 of .* has 1 fields instead of 2"),
        (None, [*WHOLE[:3], "3\tneutral"], "Line 5 of .* predicts 'neutral': for rte it must be"),
        (None, [*WHOLE[:3], "3\t1"], "predicts '1': for rte it must be one of entailment, not_ent"),
        (None, [*WHOLE, WHOLE[2]], "predicts 2 twice"),
        (None, WHOLE[:2], "lacks 2 of 4 predictions, the first of them for 2"),
        (None, [*WHOLE, "4\tentailment"], "predicts 4, which .* another data set"),
        (None, [f"x{line}" for line in WHOLE], "predicts x0, which .* another data set"),
        (None, [], "lacks 4 of 4"),
    ],
)
def test_what_must_not_be_scored_is_told(header, lines, message, glue, tmp_path):
    path = tmp_path / "predictions.tsv"
    path.write_text("\n".join([header or "index\tprediction", *lines]) + "\n")
    with pytest.raises(UserError, match=message) as error:
        submissions.score("rte", path, glue)
    assert "\n" not in str(error.value)


def test_numbers_and_labels_must_be_there(glue, tmp_path):
    path = tmp_path / "p.tsv"
    path.write_text("index\tprediction\n0\thigh\n")
    with pytest.raises(UserError, match="predicts 'high': for sts-b it must be a number"):
        submissions.read(path, "sts-b", ["0"])
    path.write_text("index\tprediction\n7\tentailment\n9\tentailment\n")
    with pytest.raises(UserError, match="labels of the test split of rte are not public"):
        submissions.score("rte", path, glue, "test")
    with pytest.raises(UserError, match="Unknown task 'rt'. Did you mean 'rte'"):
        submissions.score("rt", path, glue)
