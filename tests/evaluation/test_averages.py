"""GLUE's averages, against those that are printed beside the numbers they are of."""

import pytest

from evaluation import averages, scoring


def scores(row):
    """From "task metric ..." to nested dictionaries."""
    found = {}
    for key, value in row.items():
        task, _, metric = key.partition("/")
        found.setdefault(task, {})[metric or scoring.TASK_METRICS[task][0]] = value
    return found


BERT_TABLE = ("mnli", "mnli-mm", "qqp", "qnli", "sst-2", "cola", "sts-b/spearman", "mrpc", "rte")
ELECTRA_TABLE = ("cola", "sst-2", "mrpc/accuracy", "sts-b/spearman", "qqp/accuracy")
ELECTRA_TABLE += ("mnli", "qnli", "rte")


@pytest.mark.parametrize(
    ("name", "columns", "numbers", "printed"),
    [
        # BERT, table 1: BERT-base, BERT-large, OpenAI GPT.
        ("BERT", BERT_TABLE, (84.6, 83.4, 71.2, 90.5, 93.5, 52.1, 85.8, 88.9, 66.4), 79.6),
        ("BERT", BERT_TABLE, (86.7, 85.9, 72.1, 92.7, 94.9, 60.5, 86.5, 89.3, 70.1), 82.1),
        ("BERT", BERT_TABLE, (82.1, 81.4, 70.3, 87.4, 91.3, 45.4, 80.0, 82.3, 56.0), 75.1),
        # ELECTRA, table 2: BERT, ELECTRA-400K, ELECTRA-1.75M.
        ("ELECTRA", ELECTRA_TABLE, (60.6, 93.2, 88.0, 90.0, 91.3, 86.6, 92.3, 70.4), 84.0),
        ("ELECTRA", ELECTRA_TABLE, (69.3, 96.0, 90.6, 92.1, 92.4, 90.5, 94.5, 86.8), 89.0),
        ("ELECTRA", ELECTRA_TABLE, (69.1, 96.9, 90.8, 92.6, 92.4, 90.9, 95.0, 88.0), 89.5),
    ],
)
def test_one_number_each(name, columns, numbers, printed):
    found = averages.average(name, scores(dict(zip(columns, numbers, strict=True))))
    assert found == pytest.approx(printed, abs=0.051)


def test_two_numbers_of_a_task_count_once():
    """The released BERT-Mini (README, test server)."""
    row = {"cola": 0.0, "sst-2": 85.9, "mrpc/f1": 81.1, "mrpc/accuracy": 71.8}
    row |= {"sts-b/pearson": 75.4, "sts-b/spearman": 73.3, "qqp/f1": 66.4, "qqp/accuracy": 86.2}
    row |= {"mnli": 74.8, "mnli-mm": 74.3, "qnli": 84.1, "rte": 57.9, "wnli": 62.3}
    assert averages.average("GLUE", scores(row)) == pytest.approx(65.8, abs=0.05)
    # Without the mismatched half that of DistilBERT's table can still be told.
    del row["mnli-mm"]
    assert averages.average("GLUE", scores(row)) is None
    assert averages.missing("GLUE", scores(row)) == ["mnli-mm"]
    assert averages.average("DistilBERT", scores(row)) == pytest.approx(
        (0.0 + 85.9 + 76.45 + 74.35 + 76.3 + 74.8 + 84.1 + 57.9 + 62.3) / 9
    )


def test_distilberts_score():
    """Table 1, where the two numbers of a task are one already."""
    tasks = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst-2", "sts-b", "wnli")
    numbers = (51.3, 82.2, 87.5, 89.2, 88.5, 59.9, 91.3, 86.9, 56.3)
    row = {
        task: dict.fromkeys(scoring.TASK_METRICS[task], number)
        for task, number in zip(tasks, numbers, strict=True)
    }
    assert averages.average("DistilBERT", row) == pytest.approx(77.0, abs=0.05)


def test_every_number_exists():
    for columns in averages.AVERAGES.values():
        for key in (key for column in columns for key in column):
            task, _, metric = key.partition("/")
            assert metric in ("accuracy", *scoring.TASK_METRICS[task])
