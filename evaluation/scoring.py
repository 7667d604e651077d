"""The metrics of tasks: those of GLUE (Wang et al., ICLR 2019, table 1), as fractions of 1."""

import functools
import warnings
from collections.abc import Callable, Sequence

import ml_collections
import numpy as np

from data_pipeline import pipeline
from errors import one_of
from evaluation import answers, evaluate

Score = Callable[[np.ndarray, np.ndarray], float]  # (predictions [B], targets [B])

# scikit-learn and SciPy are imported where they are used: pre-training need not wait for them.


def accuracy(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Returns the share of equal pairs."""
    return float(np.mean(predictions == targets))


def f1(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Returns the F1 of class 1; 0 where neither side has it."""
    from sklearn import metrics

    return float(metrics.f1_score(targets, predictions, pos_label=1, zero_division=0.0))


def matthews(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Returns Matthews' correlation; 0 where either side has one class only."""
    from sklearn import metrics

    return float(metrics.matthews_corrcoef(targets, predictions))


def pearson(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Returns the correlation; 0 where either side is constant."""
    from scipy import stats

    return _correlation(stats.pearsonr, predictions, targets)


def spearman(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Returns the correlation of the ranks, ties at their mean; 0 where either side is constant."""
    from scipy import stats

    return _correlation(stats.spearmanr, predictions, targets)


def _correlation(measure, predictions, targets):
    if len(targets) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a model that has learned nothing is constant
        value = float(measure(predictions.astype(float), targets.astype(float)).statistic)
    return value if np.isfinite(value) else 0.0


METRICS: dict[str, Score] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
# Those that the leaderboard shows.
TASK_METRICS: dict[str, tuple[str, ...]] = {
    "cola": ("matthews",),
    "sst-2": ("accuracy",),
    "mrpc": ("f1", "accuracy"),
    "sts-b": ("pearson", "spearman"),
    "qqp": ("f1", "accuracy"),
    "mnli": ("accuracy",),
    "mnli-mm": ("accuracy",),
    "qnli": ("accuracy",),
    "rte": ("accuracy",),
    "wnli": ("accuracy",),
}


def scorer(config: ml_collections.ConfigDict, data: pipeline.Data) -> evaluate.Score | None:
    """Returns what makes the metrics of a task from held-out rows; None where there is no task."""
    if data.windows is not None:
        return answers.scorer(config, data.windows)
    return functools.partial(score, config.data.task) if config.data.task else None


def score(
    task: str, predictions: Sequence[float] | np.ndarray, targets: Sequence[float] | np.ndarray
) -> dict[str, float]:
    """Returns the metrics of a task.

    Args:
      task: in TASK_METRICS.
      predictions: class numbers, or scores for STS-B; [B].
      targets: likewise.

    Raises:
      UserError: for an unknown task.
    """
    predictions, targets = np.asarray(predictions), np.asarray(targets)
    names = TASK_METRICS[one_of("task", task, TASK_METRICS)]
    return {name: METRICS[name](predictions, targets) for name in names}
