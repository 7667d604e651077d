"""The metrics of GLUE, by hand and by the libraries that define them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.tasks import TASKS, mentions
from data_pipeline.tasks.choices import CHOICES
from errors import UserError
from evaluation import evaluate, scoring
from model import losses

# TP 3, FN 1, FP 2, TN 4
TARGETS = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
PREDICTIONS = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]


def test_by_hand():
    assert scoring.score("sst-2", PREDICTIONS, TARGETS) == {"accuracy": pytest.approx(0.7)}
    f1 = 2 * 3 / (2 * 3 + 1 + 2)  # of class 1 only
    assert scoring.score("mrpc", PREDICTIONS, TARGETS) == pytest.approx({"f1": f1, "accuracy": 0.7})
    matthews = (3 * 4 - 2 * 1) / np.sqrt((3 + 2) * (3 + 1) * (4 + 2) * (4 + 1))
    assert scoring.score("cola", PREDICTIONS, TARGETS) == pytest.approx({"matthews": matthews})
    values = scoring.score("sts-b", [1.0, 2.0, 3.0, 10.0], [1.0, 3.0, 2.0, 4.0])
    a, b = np.array([-3, -2, -1, 6]), np.array([-1.5, 0.5, -0.5, 1.5])
    pearson = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
    assert values == pytest.approx({"pearson": pearson, "spearman": 1 - 6 * 2 / (4 * 15)})


def test_by_the_libraries():
    stats = pytest.importorskip("scipy.stats")
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(5):
        p, t = rng.integers(0, 2, (2, 50))
        assert scoring.score("qqp", p, t)["f1"] == pytest.approx(metrics.f1_score(t, p))
        expected = metrics.matthews_corrcoef(t, p)
        assert scoring.score("cola", p, t)["matthews"] == pytest.approx(expected)
        x, y = np.round(rng.normal(size=(2, 50)), 1).astype(np.float32)  # with ties
        found = scoring.score("sts-b", x, y)
        assert found["pearson"] == pytest.approx(stats.pearsonr(x, y)[0], rel=1e-5)
        assert found["spearman"] == pytest.approx(stats.spearmanr(x, y)[0], rel=1e-5)


def test_types_by_hand():
    """Three mentions: one right, one with a type too many, one without any prediction."""
    targets = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1]], np.float32)
    found = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], np.float32)
    scores = scoring.score("figer", found, targets)
    precision, recall = (1 + 1 / 2 + 0) / 3, (1 + 1 + 0) / 3
    macro = 2 * precision * recall / (precision + recall)
    micro = 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)
    want = {"strict_accuracy": 1 / 3, "loose_macro_f1": macro, "micro_f1": micro}
    assert scores == pytest.approx(want)
    scores = scoring.score("open-entity", found, targets)
    assert scores == pytest.approx(
        {"micro_f1": micro, "micro_precision": 2 / 3, "micro_recall": 1 / 2}
    )
    assert scoring.score("figer", 0 * found, targets)["loose_macro_f1"] == 0


def test_relations_by_hand():
    """Class 0: 1 of 2 found; class 1: 1 found, 2 said; class 5: never found."""
    scores = scoring.score("fewrel", [0, 1, 1, 0], [0, 0, 1, 5])
    precision, recall = (1 / 2 + 1 / 2 + 0) / 3, (1 / 2 + 1 + 0) / 3
    f1 = (1 / 2 + 2 / 3 + 0) / 3
    want = {"macro_f1": f1, "macro_precision": precision, "macro_recall": recall, "accuracy": 0.5}
    assert scores == pytest.approx(want)


def test_constant_predictions_score_nothing():
    assert scoring.score("cola", [1] * 10, TARGETS) == {"matthews": 0.0}
    assert scoring.score("mrpc", [0] * 10, TARGETS)["f1"] == 0.0
    assert scoring.score("mrpc", [0] * 10, [0] * 10) == {"f1": 0.0, "accuracy": 1.0}
    assert scoring.score("sts-b", [2.5] * 10, TARGETS) == {"pearson": 0.0, "spearman": 0.0}


def test_an_answer_that_means_no_class_is_the_wrong_one():
    """As T5's f1_score_with_invalid counts it: where it stands for a 1 as a 0, and the reverse."""
    predictions = [-1 if p != t else p for p, t in zip(PREDICTIONS, TARGETS)]
    assert scoring.score("mrpc", predictions, TARGETS) == scoring.score(
        "mrpc", PREDICTIONS, TARGETS
    )


def test_every_task_has_metrics():
    assert set(scoring.TASK_METRICS) == set(TASKS) | set(CHOICES) | set(mentions.TASKS)
    with pytest.raises(UserError, match="Did you mean 'mrpc'"):
        scoring.score("mprc", PREDICTIONS, TARGETS)


def test_evaluation_scores_the_rows_of_all_batches_together():
    """F1 of the whole, not the mean of the batches'; rows of weight 0 do not count."""
    weights = np.float32([1] * 10 + [0] * 2)
    predictions = np.int32([*PREDICTIONS, 1, 0])
    targets = np.int32([*TARGETS, 0, 1])
    names = ("prediction", "target", "example_weights")
    whole = dict(zip(names, (predictions, targets, weights)))

    @jax.jit
    def eval_step(params, batch):
        rows = losses.Rows(batch["prediction"], batch["target"], batch["example_weights"])
        hits = (rows.prediction == rows.target).astype(jnp.float32)
        mean = losses.mean(hits, rows.weight)
        return {"classification": mean}, {"accuracy": mean, "rows": rows}

    batches = [{k: v[i : i + 3] for k, v in whole.items()} for i in range(0, 12, 3)]
    score = functools.partial(scoring.score, "mrpc")
    found = evaluate.evaluate(eval_step, {}, batches, score=score)
    assert set(found) == {"classification", "loss", "accuracy", "f1"}
    assert found["f1"] == pytest.approx(2 / 3) and found["accuracy"] == pytest.approx(0.7)
    assert "f1" not in evaluate.evaluate(eval_step, {}, batches)
