"""SQuAD's scores: by hand, and to the last digit those of real systems."""

import json

import pytest

from data_pipeline.tasks import squad as tasks
from errors import UserError
from evaluation import squad


def question(key, *golds):
    answers = tuple(tasks.Answer(gold, 0) for gold in golds)
    return tasks.Question(key, "What?", 0, answers, not answers)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  U.S.A.'s \t end!", "usas end"),
        ("a an the theme An-the", "theme anthe"),
        ("“quoted” – £5", "“quoted” – £5"),  # ASCII's punctuation alone
        ("1,000.5", "10005"),
        ("a_the", "athe"),
        ("THE", ""),
    ],
)
def test_normalization(text, expected):
    assert squad.normalize(text) == expected


def test_f1_counts_words_as_often_as_both_have_them():
    assert squad.f1("to be or not to be", "to be to") == pytest.approx(2 * 3 / (6 + 3))
    assert squad.f1("red", "blue") == 0.0 and squad.f1("the red car", "Red, car.") == 1.0
    assert squad.f1("the", "a") == 1.0 and squad.f1("", "red") == squad.f1("red", "a") == 0.0


def test_the_best_gold_counts():
    questions = [question("a", "the red car", "car"), question("b", "Paris"), question("c", ".")]
    predictions = {"a": "Car!", "b": "in Paris", "c": ""}
    found = squad.score("squad-v1.1", questions, predictions)
    f1 = 100 * (1 + 2 / 3 + 0) / 3
    assert found == pytest.approx({"exact_match": 200 / 3, "f1": f1})


def test_missing_and_unknown_ids_of_v1(caplog):
    questions = [question("a", "x"), question("b", "y")]
    found = squad.score("squad-v1.1", questions, {"a": "x", "other": "z"})
    assert found == {"exact_match": 50.0, "f1": 50.0}
    assert "1 questions have no prediction and score 0, the first is b." in caplog.text
    assert "1 predictions are for questions that the file has not." in caplog.text
    with pytest.raises(UserError, match="None of the 1 predictions is for one of these questions"):
        squad.score("squad-v1.1", questions, {"other": "z"})


def test_v2_by_hand():
    questions = [question("a", "red car"), question("b", "y"), question("c"), question("d")]
    predictions = {"a": "car", "b": "y", "c": "", "d": "wrong"}
    found = squad.score("squad-v2.0", questions, predictions)
    f1 = 2 / 3
    assert found == pytest.approx(
        {
            "exact": 50.0,
            "f1": 100 * (f1 + 1 + 1 + 0) / 4,
            "total": 4,
            "HasAns_exact": 50.0,
            "HasAns_f1": 100 * (f1 + 1) / 2,
            "HasAns_total": 2,
            "NoAns_exact": 50.0,
            "NoAns_f1": 50.0,
            "NoAns_total": 2,
        }
    )
    # d has higher odds than what is answered rightly: it is better left without an answer.
    odds = {"a": -2.0, "b": -1.0, "c": 3.0, "d": 2.0, "other": 9.0}
    found = squad.score("squad-v2.0", questions, predictions, odds)
    assert (found["exact"], found["NoAns_exact"]) == (75.0, 100.0)  # above 1.0 nothing is answered
    best = {name: found[name] for name in found if name.startswith("best")}
    assert best == {
        "best_exact": 75.0,
        "best_exact_thresh": -1.0,
        "best_f1": pytest.approx(100 * (f1 + 3) / 4),
        "best_f1_thresh": -1.0,
    }
    assert squad.score("squad-v2.0", questions, predictions, odds, 2.5)["exact"] == 50.0
    # Where nothing gains, the threshold stays 0, that of no answers at all.
    nothing = dict.fromkeys("abcd", "nonsense")
    found = squad.score("squad-v2.0", questions, nothing, odds)
    assert (found["best_f1"], found["best_f1_thresh"]) == (50.0, 0.0)


def test_only_questions_with_answers(caplog):
    found = squad.score("squad-v2.0", [question("a", "x")], {"a": "x"})
    assert found == {
        **{"exact": 100.0, "f1": 100.0, "total": 1},
        **{"HasAns_exact": 100.0, "HasAns_f1": 100.0, "HasAns_total": 1},
    }
    assert not caplog.text


def test_v2_takes_no_missing_ids():
    questions = [question("a", "x"), question("b")]
    with pytest.raises(UserError, match="no predictions for 1 of 2 questions, such as b: give all"):
        squad.score("squad-v2.0", questions, {"a": "x"})
    whole = {"a": "x", "b": ""}
    with pytest.raises(UserError, match="no null odds for 1 of 2 questions, such as a"):
        squad.score("squad-v2.0", questions, whole, {"b": 0.5})
    with pytest.raises(UserError, match="of no use to squad-v1.1"):
        squad.score("squad-v1.1", questions[:1], whole, {"b": 0.5})


FILES = {"squad-v1.1": "v1.1", "squad-v2.0": "v2.0-part"}


@pytest.mark.parametrize("task", FILES)
def test_real_predictions_score_what_the_official_programs_print(shared, task):
    data = shared / "data" / "squad"
    questions = tasks.read(tasks.TASKS[task], data, "valid").questions
    folder = data / "predictions" / FILES[task]
    systems = json.loads((folder / "expected_scores.json").read_text())
    assert len(systems) >= 3
    for name, system in systems.items():
        predictions = squad.read_predictions(folder / f"{name}.json.gz")
        expected = system.get("no_na_prob") or {k: system[k] for k in ("exact_match", "f1")}
        assert squad.score(task, questions, predictions) == expected, name  # every digit
        if "with_na_prob" in system:
            odds = squad.read_predictions(folder / f"{name}.na_prob.synthetic.json.gz", float)
            found = squad.score(task, questions, predictions, odds)
            assert found == system["with_na_prob"], name


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ("[]", str, "must be an object of JSON, from the id of a question to text"),
        ('{"a": 1}', str, "has 1 for question a: it must be text"),
        ('{"a": "x"}', float, "has 'x' for question a: it must be a finite number"),
        ('{"a": NaN}', float, "it must be a finite number"),
        ("{", str, "is no JSON"),
    ],
)
def test_a_wrong_file_of_predictions_is_told(tmp_path, content, kind, message):
    path = tmp_path / "predictions.json"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        squad.read_predictions(path, kind)
    assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        squad.read_predictions(tmp_path / "nowhere.json")
