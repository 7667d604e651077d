"""From the scores of windows (run_squad.py, write_predictions) or from texts to SQuAD's answers.

Letters: `W` windows, `K` candidates for the first token of a row, `L` for the last one of each.
"""

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from data_pipeline import files, pipeline, tokenizers
from data_pipeline.tasks import spans, text_to_text
from data_pipeline.tasks import squad as tasks
from errors import UserError
from evaluation import squad

Rows = Mapping[str, np.ndarray]
PREDICTIONS, N_BEST, NULL_ODDS = "predictions.json", "nbest_predictions.json", "null_odds.json"


class Answers(NamedTuple):
    """The answers to some questions, by their ids.

    Attributes:
      predictions: the answer; "" if there is none.
      n_best: several, the best first, each with its text, probability and scores; {} where answers
        are written.
      null_odds: how sure it is that there is none; {} where there always is one.
    """

    predictions: dict[str, str]
    n_best: dict[str, list[dict[str, Any]]]
    null_odds: dict[str, float]


class Rule(NamedTuple):
    """How answers are chosen.

    Attributes:
      impossible: whether there may be no answer.
      n_best: most answers that are kept for a question.
      max_answer: most pieces in an answer.
      null_threshold: there is no answer where the null odds are higher.
      scores: what they are called in the file of the n best.
    """

    impossible: bool
    n_best: int
    max_answer: int
    null_threshold: float
    scores: str = "logit"


def rule(config: ml_collections.ConfigDict) -> Rule:
    """Returns the rule of a whole config.

    Raises:
      UserError: for numbers that do not suit.
    """
    evals = config.evals
    if evals.n_best < 1 or evals.max_answer < 1:
        raise UserError("evals.n_best and evals.max_answer must be at least 1.")
    return Rule(
        tasks.TASKS[config.data.task].impossible,
        evals.n_best,
        evals.max_answer,
        evals.null_threshold,
        "logit" if config.objective.head == "independent" else "log_prob",
    )


def choose(windows: spans.Windows, rows: Rows, rule: Rule) -> Answers:
    """Returns the answers to the questions all of whose windows have been scored.

    The candidates of all windows of a question compete by the sum of their two scores. Each must
    lie in its window, and begin where no other window has more context. That there is no answer
    must hold in every window: of its scores the least one counts.

    Args:
      windows: of the questions.
      rows: what the objective `span` found in the first windows: start [W K], start_score [W K],
        end [W K L] or [W 1 L], end_score likewise, no_answer [W 2] or [W 1].
      rule: how to choose.

    Raises:
      UserError: if the windows of no question are complete.
    """
    scored = len(rows["start"])
    ends = np.searchsorted(windows.question, windows.question, side="right")
    complete = np.flatnonzero(ends <= scored)
    if not len(complete):
        raise UserError("No question was read whole: raise config.evals.batches, or set it to 0.")
    w, first, last, scores = _candidates(windows, rows, rule.max_answer)
    found = Answers({}, {}, {})
    for number in np.unique(windows.question[complete]):
        question = windows.questions.questions[number]
        begin, end = np.searchsorted(windows.question, [number, number + 1])
        here = slice(*np.searchsorted(w, [begin, end]))
        context = windows.questions.contexts[question.context]
        places = windows.located[question.context].spans
        null = rows["no_answer"][begin:end].astype(np.float64)
        null = null[null.sum(axis=1).argmin()]
        order = np.argsort(-scores[here].sum(axis=1), kind="stable")
        texts: dict[str, np.ndarray] = {}  # with their scores, the best first
        for i in order + here.start:
            text = context[places[first[i], 0] : places[last[i], 1]].strip()
            if text:
                texts.setdefault(text, scores[i])
            if len(texts) == rule.n_best:
                break
        _decide(found, question.id, texts, null, rule)
    return found


def _candidates(windows, rows, max_answer):
    """Returns of all candidates the window, the first and last piece [n], and both scores [n 2].

    In the order of run_squad.py: by window, then by the first token's score, then by the last's.
    """
    scored = len(rows["start"])
    offset, size, base = (x[:scored] for x in (windows.offset, windows.size, windows.first))
    start, end = rows["start"][:, :, None], rows["end"]
    shape = np.broadcast_shapes(start.shape, end.shape)
    low, high = offset[:, None, None], (offset + size)[:, None, None]
    good = (start >= low) & (start <= end) & (end < high) & (end - start < max_answer)
    w, k, n = np.nonzero(good)
    first = rows["start"][w, k] - offset[w] + base[w]
    last = np.broadcast_to(end, shape)[w, k, n] - offset[w] + base[w]
    keep = _has_most_context(windows, w, first)
    w, k, n, first, last = (x[keep] for x in (w, k, n, first, last))
    scores = rows["start_score"][w, k], np.broadcast_to(rows["end_score"], shape)[w, k, n]
    return w, first, last, np.stack(scores, axis=1).astype(np.float64)


def _has_most_context(windows, w, pieces):
    """Returns for some windows and pieces whether the window is to tell about the piece."""
    keep = np.ones(len(w), bool)
    numbers, begins, counts = np.unique(windows.question, return_index=True, return_counts=True)
    for begin, count in zip(begins[counts > 1], counts[counts > 1], strict=True):
        here = slice(*np.searchsorted(w, [begin, begin + count]))
        own = slice(begin, begin + count)
        best = spans.most_context(windows.first[own], windows.size[own])
        keep[here] = best[pieces[here]] == w[here] - begin
    return keep


def _decide(found, key, texts, null, rule):
    """Adds the answers to one question: `texts` with their scores, or none, of the score `null`."""
    by_span = rule.impossible and len(null) == 2  # the null answer is a span like others
    best = next(iter(texts), "")
    if by_span:
        ranked = sorted([*texts.items(), ("", null)], key=lambda item: -item[1].sum())
        ranked = ranked[: rule.n_best]
        if all(text for text, _ in ranked):
            ranked.append(("", null))
    else:
        ranked = [*texts.items()]
    if rule.impossible:
        odds = float(null.sum())
        if by_span and texts:
            odds -= float(texts[best].sum())
        found.null_odds[key] = odds
        found.predictions[key] = "" if odds > rule.null_threshold else best
    else:
        found.predictions[key] = best or "empty"  # as run_squad.py says it
    if not ranked:
        ranked = [(found.predictions[key], np.zeros(2))]
    totals = np.array([scores.sum() for _, scores in ranked])
    probabilities = np.exp(totals - totals.max())
    found.n_best[key] = [
        {
            "text": text,
            "probability": float(p),
            f"start_{rule.scores}": float(scores[0]),
            f"end_{rule.scores}": float(scores[1]),
        }
        for (text, scores), p in zip(ranked, probabilities / probabilities.sum(), strict=True)
    ]


def read(asked: text_to_text.Asked, rows: np.ndarray, tokenizer: tokenizers.Tokenizer) -> Answers:
    """Returns the answers to the first questions from the tokens [B R] of evaluate.make_step.

    T5 compares them with golds that are spaced off too; here an answer that its context has is
    taken from there, so that it can be compared with the golds of the official file.
    """
    predictions = {}
    for question, row in zip(asked.questions.questions, rows):
        text = tokenizer.decode(row[row >= 0].tolist())
        context = asked.questions.contexts[question.context]
        predictions[question.id] = text_to_text.read_span(context, text)
    return Answers(predictions, {}, {})


def reader(config: ml_collections.ConfigDict, data: pipeline.Data) -> Callable[[Any], Answers]:
    """Returns what makes answers of the predictions by row of an evaluation.

    Args:
      config: a whole config.
      data: of the pipeline `spans` or `squad_text`.
    """
    if config.data.pipeline == "squad_text":
        return lambda rows: read(data.asked, rows, data.tokenizer)
    how = rule(config)
    return lambda rows: choose(data.asked, rows, how)


def scorer(
    config: ml_collections.ConfigDict, data: pipeline.Data
) -> Callable[[Any, np.ndarray], dict[str, float]]:
    """Returns what makes metrics of the rows of an evaluation: exact_match, f1, ..., in percent."""
    answer = reader(config, data)

    def score(rows, targets):
        del targets  # the golds are texts
        found = answer(rows)
        asked = [q for q in data.asked.questions.questions if q.id in found.predictions]
        odds = found.null_odds or None
        scores = squad.score(config.data.task, asked, found.predictions, odds, threshold=math.inf)
        return {
            "exact_match" if name == "exact" else name: value
            for name, value in scores.items()
            if not name.endswith("total")
        }

    return score


def write(folder: str | os.PathLike, found: Answers) -> list[pathlib.Path]:
    """Writes the files in their official layouts, and returns them.

    Those are predictions.json (id -> text) and, of spans, nbest_predictions.json and, where there
    may be no answer, null_odds.json (id -> number).

    Raises:
      UserError: if they cannot be written.
    """
    folder = pathlib.Path(folder).expanduser()
    contents = {PREDICTIONS: found.predictions}
    contents |= {N_BEST: found.n_best} if found.n_best else {}
    contents |= {NULL_ODDS: found.null_odds} if found.null_odds else {}
    for name, content in contents.items():
        files.write_text(folder / name, json.dumps(content, indent=4) + "\n")
    return [folder / name for name in contents]
