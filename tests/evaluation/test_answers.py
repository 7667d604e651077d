"""Answers from the scores of windows, beside run_squad.py's way to choose them in plain loops."""

import json
import math

import numpy as np
import pytest

from data_pipeline import alignment
from data_pipeline.tasks import spans
from data_pipeline.tasks import squad as tasks
from errors import UserError
from evaluation import answers

LENGTH, OFFSET = 16, 3  # of a row; where windows begin, behind [CLS] "what" [SEP]


def made(contexts, room=10, stride=4):
    """A question on each context; every word is a piece."""
    located, questions, places = [], [], []
    for number, context in enumerate(contexts):
        found, at = [], 0
        for word in context.split():
            at = context.index(word, at)
            found.append((at, at + len(word)))
            at += len(word)
        located.append(alignment.Located(np.zeros(len(found), np.int32), np.array(found)))
        answer = (tasks.Answer("x", 0),)
        questions.append(tasks.Question(f"q{number}", "what", number, answer, False))
        places += [
            (number, first, size, OFFSET) for first, size in spans.cut(len(found), room, stride)
        ]
    found = tasks.Questions("it", list(contexts), questions)
    return spans.Windows(found, located, [b""] * len(places), *np.array(places).T)


def rows(start, end, beam):
    """What the objective gives for logits [W T] of an independent head."""
    best = lambda x: np.argsort(-x, axis=1, kind="stable")[:, :beam]  # noqa: E731
    first, last = best(start), best(end)
    return {
        "start": first,
        "start_score": np.take_along_axis(start, first, axis=1),
        "end": last[:, None],
        "end_score": np.take_along_axis(end, last, axis=1)[:, None],
        "no_answer": np.stack([start[:, 0], end[:, 0]], axis=1),
    }


def slowly(windows, start, end, rule, beam):
    """write_predictions of run_squad.py, with texts by characters."""
    predictions, n_best, odds = {}, {}, {}
    for number, question in enumerate(windows.questions.questions):
        own = np.flatnonzero(windows.question == number)
        where = [(windows.first[i], windows.size[i]) for i in own]
        prelim, null, null_scores = [], math.inf, None
        for w, i in enumerate(own):
            order = lambda x: sorted(range(LENGTH), key=lambda t: -x[t])[:beam]  # noqa: E731
            if start[i, 0] + end[i, 0] < null:
                null, null_scores = start[i, 0] + end[i, 0], (start[i, 0], end[i, 0])
            for s in order(start[i]):
                for e in order(end[i]):
                    a, b = s - OFFSET, e - OFFSET
                    if not 0 <= a < where[w][1] or not 0 <= b < where[w][1]:
                        continue
                    piece = a + where[w][0]
                    scores = [
                        min(piece - f, f + n - 1 - piece) + 0.01 * n if f <= piece < f + n else -9
                        for f, n in where
                    ]
                    if scores.index(max(scores)) != w:
                        continue
                    if e < s or e - s + 1 > rule.max_answer:
                        continue
                    prelim.append((piece, piece + e - s, start[i, s], end[i, e]))
        if rule.impossible:
            prelim.append((None, None, *null_scores))
        prelim.sort(key=lambda p: -(p[2] + p[3]))
        kept = {}
        for a, b, s, e in prelim:
            if len(kept) >= rule.n_best:
                break
            text = ""
            if a is not None:
                places = windows.located[number].spans
                text = windows.questions.contexts[number][places[a, 0] : places[b, 1]]
            kept.setdefault(text, (s, e))
        if rule.impossible:
            kept.setdefault("", null_scores)
        best = next((text for text in kept if text), None)
        predictions[question.id] = best
        if best is None:  # where it would fail
            predictions[question.id] = "" if rule.impossible else "empty"
            kept = kept or {"empty": (0.0, 0.0)}
        if rule.impossible:
            odds[question.id] = null - sum(kept.get(best, ()))
            if odds[question.id] > rule.null_threshold:
                predictions[question.id] = ""
        n_best[question.id] = list(kept.items())
    return predictions, n_best, odds


@pytest.mark.parametrize("impossible", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_answers_are_those_of_run_squad(impossible, seed):
    rng = np.random.default_rng(seed)
    words = "a bb ccc dd e ff".split()
    contexts = [" ".join(rng.choice(words, size)) for size in (3, 10, 25, 18, 1)]
    windows = made(contexts)
    assert np.bincount(windows.question).tolist() == [1, 1, 5, 3, 1]
    # Rounded, so that some are equal.
    start, end = rng.normal(size=(2, len(windows.question), LENGTH)).round(1)
    rule = answers.Rule(impossible, n_best=6, max_answer=4, null_threshold=-0.5)
    found = answers.choose(windows, rows(start, end, 10), rule)
    predictions, n_best, odds = slowly(windows, start, end, rule, 10)
    assert found.predictions == predictions
    assert found.null_odds == pytest.approx(odds)
    for key, entries in found.n_best.items():
        assert [e["text"] for e in entries] == [text for text, _ in n_best[key]]
        scores = np.array([list(pair) for _, pair in n_best[key]])
        assert [e["start_logit"] for e in entries] == scores[:, 0].tolist()
        assert [e["end_logit"] for e in entries] == scores[:, 1].tolist()
        p = np.exp(scores.sum(axis=1))
        assert [e["probability"] for e in entries] == pytest.approx((p / p.sum()).tolist())


def scores_of(windows, **high):
    """Logits of 0, and of 5 at (window, token)."""
    both = np.zeros((2, len(windows.question), LENGTH))
    for side, places in enumerate((high["start"], high["end"])):
        for w, t in places:
            both[side, w, t] = 5
    return both


def test_the_best_window_answers_and_the_least_sure_one_denies():
    windows = made(["one two three four five six seven eight nine ten eleven twelve"])
    assert windows.first.tolist() == [0, 4] and windows.size.tolist() == [10, 8]
    rule = answers.Rule(True, 20, 30, 0.0)
    # "two three" in the first window; the second denies more than the first does.
    start, end = scores_of(windows, start=[(0, OFFSET + 1), (1, 0)], end=[(0, OFFSET + 2), (1, 0)])
    found = answers.choose(windows, rows(start, end, 10), rule)
    assert found.predictions == {"q0": "two three"} and found.null_odds == {"q0": -10.0}
    # A classifier's logits, likewise the least one.
    by_classifier = rows(start, end, 10) | {"no_answer": np.array([[1.5], [0.5]])}
    found = answers.choose(windows, by_classifier, rule)
    assert found.predictions == {"q0": ""} and found.null_odds == {"q0": 0.5}
    assert [e["text"] for e in found.n_best["q0"]][0] == "two three"
    assert "" not in [e["text"] for e in found.n_best["q0"]]
    found = answers.choose(windows, by_classifier, rule._replace(null_threshold=0.5))
    assert found.predictions == {"q0": "two three"}


def test_an_answer_begins_where_its_window_has_the_most_context():
    windows = made(["one two three four five six seven eight nine ten eleven twelve"])
    rule = answers.Rule(False, 20, 30, 0.0)
    # "ten" is the last word of the first window, and has context in the second.
    start, end = scores_of(windows, start=[(0, OFFSET + 9)], end=[(0, OFFSET + 9)])
    assert answers.choose(windows, rows(start, end, 3), rule).predictions != {"q0": "ten"}
    start, end = scores_of(windows, start=[(1, OFFSET + 5)], end=[(1, OFFSET + 5)])
    assert answers.choose(windows, rows(start, end, 3), rule).predictions == {"q0": "ten"}


def test_text_is_that_of_the_context_character_by_character():
    windows = made(["In  Paris,\train (and  SNOW) fell."])
    start, end = scores_of(windows, start=[(0, OFFSET + 1)], end=[(0, OFFSET + 4)])
    found = answers.choose(windows, rows(start, end, 3), answers.Rule(False, 1, 30, 0.0))
    assert found.predictions == {"q0": "Paris,\train (and  SNOW)"}


def test_without_any_candidate():
    windows = made(["one two three"])
    start, end = scores_of(windows, start=[(0, 1)], end=[(0, 2)])  # in the question
    found = answers.choose(windows, rows(start, end, 1), answers.Rule(False, 20, 30, 0.0))
    assert found.predictions == {"q0": "empty"} and len(found.n_best["q0"]) == 1
    found = answers.choose(windows, rows(start, end, 1), answers.Rule(True, 20, 30, 9.0))
    assert found.predictions == {"q0": ""} and found.null_odds == {"q0": 0.0}
    assert found.n_best["q0"] == [
        {"text": "", "probability": 1.0, "start_logit": 0.0, "end_logit": 0.0}
    ]


def test_questions_that_are_cut_off_do_not_count():
    windows = made(["one two", "a b c d e f g h i j k l", "x"])
    start, end = np.random.default_rng(0).normal(size=(2, 4, LENGTH))
    rule = answers.Rule(False, 20, 30, 0.0)
    for count, keys in ((1, ["q0"]), (2, ["q0"]), (3, ["q0", "q1"]), (4, ["q0", "q1", "q2"])):
        found = answers.choose(windows, rows(start[:count], end[:count], 5), rule)
        assert list(found.predictions) == keys
    long = made(["a b c d e f g h i j k l"])
    with pytest.raises(UserError, match="raise config.evals.batches"):
        answers.choose(long, rows(start[:1], end[:1], 5), rule)


def test_last_tokens_may_depend_on_the_first():
    windows = made(["one two three four"])
    given = {
        "start": np.array([[OFFSET, OFFSET + 1]]),
        "start_score": np.array([[-0.5, -1.0]]),
        "end": np.array([[[OFFSET, OFFSET + 3], [OFFSET + 2, OFFSET + 1]]]),
        "end_score": np.array([[[-2.0, -3.0], [-0.1, -4.0]]]),
        "no_answer": np.array([[0.0]]),
    }
    rule = answers.Rule(False, 20, 30, 0.0, scores="log_prob")
    found = answers.choose(windows, given, rule)
    assert found.predictions == {"q0": "two three"}
    texts = [e["text"] for e in found.n_best["q0"]]
    assert texts == ["two three", "one", "one two three four", "two"]
    assert set(found.n_best["q0"][0]) == {"text", "probability", "start_log_prob", "end_log_prob"}


def test_files_have_their_official_layouts(tmp_path):
    windows = made(["one two"])
    start, end = scores_of(windows, start=[(0, OFFSET)], end=[(0, OFFSET)])
    for impossible in (False, True):
        rule = answers.Rule(impossible, 20, 30, 0.0)
        found = answers.choose(windows, rows(start, end, 5), rule)
        folder = tmp_path / str(impossible)
        paths = answers.write(folder, found)
        names = ["predictions.json", "nbest_predictions.json"] + ["null_odds.json"] * impossible
        assert [p.name for p in paths] == names
        read = {p.name: json.loads(p.read_text()) for p in paths}
        assert read["predictions.json"] == {"q0": "one"}
        assert read["nbest_predictions.json"] == found.n_best
        assert read.get("null_odds.json", {}) == found.null_odds
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        answers.write(tmp_path / "file", found)
