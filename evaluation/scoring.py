"""The metrics of tasks: those of GLUE (Wang et al., ICLR 2019, table 1), as fractions of 1.

And those of mentions (ERNIE, section 4.3): of relations the macro average over these; of types the
share of mentions all of whose types are right, the micro average, and the loose macro average, in
which precision and recall are means over mentions (Ling and Weld, 2012).
"""

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ml_collections
import numpy as np

from data_pipeline import pipeline, tokenizers
from data_pipeline.tasks import choices, text_to_text
from errors import UserError, one_of
from evaluation import answers, evaluate

Score = Callable[[np.ndarray, np.ndarray], float]  # (predictions [B], targets [B])

# scikit-learn and SciPy are imported where they are used: pre-training need not wait for them.


def accuracy(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Returns the share of equal pairs."""
    return float(np.mean(predictions == targets))


def f1(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Returns the F1 of class 1; 0 where neither side has it. -1 is the wrong one of the two."""
    from sklearn import metrics

    predictions = np.where(predictions < 0, 1 - targets, predictions)
    return float(metrics.f1_score(targets, predictions, pos_label=1, zero_division=0.0))


def _average(measure: str, average: str, predictions: np.ndarray, targets: np.ndarray) -> float:
    """Returns precision, recall or F1, as scikit-learn averages them; 0 stands for 0 / 0."""
    from sklearn import metrics

    score = getattr(metrics, f"{measure}_score")
    return float(score(targets, predictions, average=average, zero_division=0.0))


def strict_accuracy(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Returns the share of rows [B C] that are equal in all classes."""
    return float(np.mean((predictions == targets).all(axis=-1)))


def loose_macro_f1(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Returns the F1 of the mean precision and the mean recall of rows [B C]."""
    p, r = (_average(m, "samples", predictions, targets) for m in ("precision", "recall"))
    return 2 * p * r / (p + r) if p + r else 0.0


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
    "strict_accuracy": strict_accuracy,
    "loose_macro_f1": loose_macro_f1,
    **{
        f"{average}_{measure}": functools.partial(_average, measure, average)
        for average in ("micro", "macro")
        for measure in ("precision", "recall", "f1")
    },
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
    "ax": ("matthews",),  # of three classes
    "fewrel": ("macro_f1", "macro_precision", "macro_recall", "accuracy"),
    "open-entity": ("micro_f1", "micro_precision", "micro_recall"),
    "figer": ("strict_accuracy", "loose_macro_f1", "micro_f1"),
    **dict.fromkeys(choices.CHOICES, ("accuracy",)),
}


def scorer(config: ml_collections.ConfigDict, data: pipeline.Data) -> evaluate.Score | None:
    """Returns what makes the metrics of a task from held-out rows; None where there is no task."""
    if data.asked is not None:
        return answers.scorer(config, data)
    if not config.data.task:
        return None
    return lambda rows, targets: score(
        config.data.task, meanings(config, data.tokenizer, rows), targets
    )


def meanings(
    config: ml_collections.ConfigDict, tokenizer: tokenizers.Tokenizer, rows: np.ndarray
) -> np.ndarray:
    """Returns the class numbers or scores [B] of predictions by row; -1: a text that means none.

    Args:
      config: a whole config.
      tokenizer: the run's vocabulary.
      rows: class numbers or scores [B]; where the task is text, tokens [B R], see
        evaluate.make_step.
    """
    if config.data.pipeline != "text_to_text":
        return rows
    form = text_to_text.FORMS[config.data.task]
    texts = (tokenizer.decode(row[row >= 0].tolist()) for row in rows)
    return np.array([text_to_text.read_answer(form, text) for text in texts])


def score(
    task: str, predictions: Sequence[float] | np.ndarray, targets: Sequence[float] | np.ndarray
) -> dict[str, float]:
    """Returns the metrics of a task.

    Args:
      task: in TASK_METRICS.
      predictions: class numbers (-1: of none), or scores for STS-B; [B].
      targets: likewise.

    Raises:
      UserError: for an unknown task.
    """
    predictions, targets = np.asarray(predictions), np.asarray(targets)
    names = TASK_METRICS[one_of("task", task, TASK_METRICS)]
    return {name: METRICS[name](predictions, targets) for name in names}


def by_id(path: str | os.PathLike, found: Iterable[tuple[str, Any]], ids: Sequence[str]) -> list:
    """Returns what a file predicts for each of some examples.

    Args:
      path: of the file.
      found: the ids and predictions in it, in any order.
      ids: of the examples.

    Raises:
      UserError: for an id that comes twice, is none of the examples', or is missing.
    """
    said = {}
    for key, value in found:
        if key in said:
            raise UserError(f"{path} predicts {key} twice: keep one of the predictions.")
        said[key] = value
    known = set(ids)
    for key in said:
        if key not in known:
            raise UserError(
                f"{path} predicts {key}, which is not among the {len(ids)} examples: it belongs to "
                "another data set or split."
            )
    if missing := [key for key in ids if key not in said]:
        raise UserError(
            f"{path} lacks {len(missing)} of {len(ids)} predictions, the first of them for "
            f"{missing[0]}: predict all examples."
        )
    return [said[key] for key in ids]
