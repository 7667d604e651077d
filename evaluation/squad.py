"""SQuAD's official scores, in percent: evaluate-v1.1.py and evaluate-v2.0.py, to the last digit.

Sums are taken in the order of the questions, as the official programs do.
"""

import collections
import json
import math
import os
import pathlib
import re
import string
from collections.abc import Callable, Mapping, Sequence

from absl import logging

from data_pipeline.tasks import squad, task_files
from errors import UserError

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
Scores = dict[str, float]


def normalize(text: str) -> str:
    """Returns text in lower case, without ASCII punctuation, articles and needless space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(prediction: str, gold: str) -> float:
    """Returns 1 if two texts are the same once they are normalized, else 0."""
    return float(normalize(prediction) == normalize(gold))


def f1(prediction: str, gold: str) -> float:
    """Returns the harmonic mean of precision and recall of the words of the normalized texts.

    Where either has none it is 1 if neither has any, as in v2.0.
    """
    predicted, wanted = normalize(prediction).split(), normalize(gold).split()
    if not predicted or not wanted:
        return float(predicted == wanted)
    common = (collections.Counter(predicted) & collections.Counter(wanted)).total()
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(wanted)
    return (2 * precision * recall) / (precision + recall)


def score(
    task: str,
    questions: Sequence[squad.Question],
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float] | None = None,
    threshold: float = 1.0,
) -> Scores:
    """Returns what the official program of a task prints.

    Args:
      task: of squad.TASKS.
      questions: with their answers.
      predictions: id -> text; "" means that there is no answer.
      null_odds: id -> how sure it is that there is no answer, in any unit; v2.0 only.
      threshold: predictions whose null odds are higher count as "".

    Returns:
      For v1.1 exact_match and f1. For v2.0 exact, f1 and total, of all questions and of those with
      (HasAns_) and without an answer (NoAns_); with null odds also the best_exact and best_f1 that
      any threshold gives, and that threshold.

    Raises:
      UserError: for predictions of other questions, and in v2.0 for missing ones: the official
        program leaves those out of the total, and fails then.
    """
    if squad.TASKS[task].impossible:
        return _score_v2(questions, predictions, null_odds, threshold)
    if null_odds is not None:
        raise UserError(f"Null odds are of no use to {task}: leave them out.")
    return _score_v1(questions, predictions)


def _score_v1(questions, predictions):
    missing = _check_ids(questions, predictions, "predictions")
    if missing:
        logging.warning(
            "%d questions have no prediction and score 0, the first is %s.",
            *(len(missing), missing[0].id),
        )
    exact_match = f1_sum = 0.0
    for question in questions:
        if question.id not in predictions:
            continue
        golds = [answer.text for answer in question.answers]
        prediction = predictions[question.id]
        exact_match += max(exact(prediction, gold) for gold in golds)
        # In v1.1 a gold without words is not even met by an empty prediction.
        f1_sum += max(f1(prediction, gold) if normalize(gold) else 0.0 for gold in golds)
    return {
        "exact_match": 100.0 * exact_match / len(questions),
        "f1": 100.0 * f1_sum / len(questions),
    }


def _score_v2(questions, predictions, null_odds, threshold):
    for values, what in ((predictions, "predictions"), (null_odds, "null odds")):
        if values is not None and (missing := _check_ids(questions, values, what)):
            raise UserError(
                f"There are no {what} for {len(missing)} of {len(questions)} questions, such as "
                f"{missing[0].id}: give all; evaluate-v2.0.py would not count these questions."
            )
    answered = {question.id: bool(question.answers) for question in questions}
    raw = {
        "exact": {q.id: _best(exact, q, predictions[q.id]) for q in questions},
        "f1": {q.id: _best(f1, q, predictions[q.id]) for q in questions},
    }
    kept = raw
    if null_odds is not None:
        kept = {
            name: {
                key: float(not answered[key]) if null_odds[key] > threshold else value
                for key, value in values.items()
            }
            for name, values in raw.items()
        }
    results = _means(kept, list(answered), "")
    for prefix, wanted in (("HasAns_", True), ("NoAns_", False)):
        keys = [key for key, has in answered.items() if has is wanted]
        if keys:
            results |= _means(kept, keys, prefix)
    if null_odds is not None:
        for name, values in raw.items():
            best, where = _best_threshold(predictions, values, null_odds, answered)
            results |= {f"best_{name}": best, f"best_{name}_thresh": where}
    return results


def _best(measure: Callable[[str, str], float], question: squad.Question, prediction: str) -> float:
    """Returns the best score over the golds that have words; without any the gold is ""."""
    golds = [answer.text for answer in question.answers if normalize(answer.text)] or [""]
    return max(measure(prediction, gold) for gold in golds)


def _means(scores, keys, prefix):
    total = len(keys)
    means = {name: 100.0 * sum(values[k] for k in keys) / total for name, values in scores.items()}
    return {f"{prefix}{name}": value for name, value in (means | {"total": total}).items()}


def _best_threshold(predictions, scores, null_odds, answered):
    """Returns the best mean score over all thresholds, and where it is.

    From the threshold below all null odds, where nothing is answered, to that above all.
    """
    current = best = sum(not has for has in answered.values())
    where = 0.0
    for key in sorted(null_odds, key=null_odds.__getitem__):
        if key not in scores:
            continue
        if answered[key]:
            current += scores[key]
        elif predictions[key]:
            current -= 1
        if current > best:
            best, where = current, null_odds[key]
    return 100.0 * best / len(scores), where


def _check_ids(questions, values, what):
    """Returns the questions without a value; refuses values of other questions altogether."""
    missing = [question for question in questions if question.id not in values]
    if len(missing) == len(questions):
        raise UserError(
            f"None of the {len(values)} {what} is for one of these questions, such as "
            f"{questions[0].id}: give the {what} for this file."
        )
    unknown = len(values) - (len(questions) - len(missing))
    if unknown:
        logging.warning("%d %s are for questions that the file has not.", unknown, what)
    return missing


def read_predictions(path: str | os.PathLike, kind: type = str) -> dict:
    """Reads a file of predictions (id -> text) or of null odds (id -> number), perhaps gzipped.

    Args:
      path: the file.
      kind: str, or float for null odds.

    Raises:
      UserError: for a file that is missing or holds something else.
    """
    path = pathlib.Path(path).expanduser()
    try:
        found = json.loads(task_files.read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): give the file of predictions.") from error
    kinds, what = (str, "text") if kind is str else ((int, float), "a finite number")
    if not isinstance(found, dict):
        raise UserError(f"{path} must be an object of JSON, from the id of a question to {what}.")
    for key, value in found.items():
        if not isinstance(value, kinds) or (kind is float and not math.isfinite(value)):
            raise UserError(f"{path} has {value!r} for question {key}: it must be {what}.")
    return found
