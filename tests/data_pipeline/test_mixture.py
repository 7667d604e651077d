"""Tasks as text, and several datasets in fixed proportions."""

import numpy as np
import pytest
import vocabularies

from configs import finetune, t5
from data_pipeline import mixture, noise, pipeline, tokenizer_training, tokenizers
from data_pipeline.tasks import TASKS, glue, squad, text_to_text
from errors import UserError
from model import batch as batch_lib

TEXTS = ["a good film , not bad .", "the cat sat ; it slept", "is it so ? yes it is"] * 40


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_training.train("sentencepiece", TEXTS, 270 + 20, False, "t5", 20)


EXAMPLES = [
    ("cola", ("It is so.",), 1, "cola sentence: It is so.", "acceptable"),
    ("sst-2", ("bad",), 0, "sst2 sentence: bad", "negative"),
    ("mrpc", ("a", "b"), 0, "mrpc sentence1: a sentence2: b", "not_equivalent"),
    ("sts-b", ("a", "b"), 3.75, "stsb sentence1: a sentence2: b", "3.8"),
    ("qqp", ("a?", "b?"), 1, "qqp question1: a? question2: b?", "duplicate"),
    ("mnli", ("P", "H"), 2, "mnli hypothesis: H premise: P", "neutral"),
    ("qnli", ("q", "s"), 0, "qnli question: q sentence: s", "entailment"),
    ("rte", ("a", "b"), 1, "rte sentence1: a sentence2: b", "not_entailment"),
    ("boolq", ("is it", "It is."), 1, "boolq passage: It is. question: is it", "True"),
]


@pytest.mark.parametrize(("name", "texts", "label", "source", "target"), EXAMPLES)
def test_tasks_are_written_as_in_the_paper(name, texts, label, source, target):
    form = text_to_text.FORMS[name]
    assert text_to_text.write(form, glue.Example(texts, label)) == (source, target)
    assert len(form.answers) == len(TASKS[name].classes)
    assert len(form.order) == len(TASKS[name].texts)


def test_rows_of_a_task(tokenizer):
    task = text_to_text.TextTask(text_to_text.FORMS["sst-2"], tokenizer, 24, 12)
    long = " ".join(["the cat sat"] * 20)
    examples = [glue.Example(("it is good",), 1), glue.Example((long,), 0)]
    rows = task.read([*task.write(examples), b""], noise.make_keys(0, np.arange(3)))
    for i, (text, target) in enumerate(text_to_text.write(task.form, x) for x in examples):
        ids = [*tokenizer.encode(text)[:23], tokenizer.eot_id]
        assert rows["tokens"][i][: len(ids)].tolist() == ids
        assert rows["segment_ids"][i].sum() == len(ids)
        answer = [*tokenizer.encode(target)[:11], tokenizer.eot_id]
        assert rows["targets"][i][rows["weights"][i] > 0].tolist() == answer
        assert rows["decoder_tokens"][i][: len(answer)].tolist() == [0, *answer[:-1]]
    assert rows["tokens"].shape == (3, 24) and rows["targets"].shape == (3, 12)
    assert not any(value[2].any() for value in rows.values())


def test_rows_of_a_task_with_its_labels(tokenizer):
    """For scoring; a row of padding has no weight, an example without label no target."""
    data = finetune.get_config("t5-tiny,task=sts-b").data
    data.update(length=24)
    task = text_to_text.LabeledText(data, tokenizer)
    texts = ("One.", "Two.")
    examples = [glue.Example(texts, 3.8125), glue.Example(texts, None)]
    rows = task.read([*task.write(examples), b""], None)
    batch_lib.check(rows)
    assert rows["score"].tolist() == [3.8125, 0.0, 0.0]
    assert rows["example_weights"].tolist() == [1.0, 1.0, 0.0]
    plain = text_to_text.TextTask(text_to_text.FORMS["sts-b"], tokenizer, 24, 84)
    for name, value in plain.read(plain.write(examples), None).items():
        np.testing.assert_array_equal(rows[name][:2], value)
    assert rows["weights"].sum(1).tolist()[1:] == [0.0, 0.0]
    with pytest.raises(UserError, match="Unknown data.task in text 'wnli'"):
        text_to_text.LabeledText(finetune.get_config("t5-tiny,task=wnli").data, tokenizer)


@pytest.mark.parametrize(
    ("task", "text", "value"),
    [
        ("mnli", "neutral", 2),
        ("mrpc", " equivalent ", 1),
        ("mrpc", "equivalents", -1),
        ("sts-b", "3.8", 3.8),
        ("sts-b", "nan", -1),
        ("sts-b", "", -1),
    ],
)
def test_what_an_answer_means(task, text, value):
    assert text_to_text.read_answer(text_to_text.FORMS[task], text) == value


class Numbers:
    """A dataset whose row i is (own number, i)."""

    def __init__(self, number, size):
        self.number, self.size = number, size

    def __len__(self):
        return self.size

    def batch(self, indices):
        return {"tokens": np.stack([np.full(len(indices), self.number), indices], axis=1)}


def mixed(weights, training=True, seed=0):
    parts = {name: Numbers(i, 100 * (i + 1)) for i, name in enumerate(weights)}
    return mixture.Mixture(parts, weights, seed, training)


def test_proportions_hold_in_every_block_and_no_row_is_left_out():
    weights = {"a": 1000, "b": 3000, "c": 0.001}
    many = mixed(weights).batch(np.arange(3 * mixture.BLOCK))["tokens"]
    for block in np.split(many[:, 0], 3):
        counts = np.bincount(block, minlength=3)
        assert counts.tolist() == mixture.quotas(list(weights.values())).tolist()
        assert counts[2] == 1 and counts[1] / counts[0] == pytest.approx(3, rel=0.01)
    for number in range(3):
        own = many[many[:, 0] == number, 1]
        assert sorted(own) == list(range(len(own)))  # each once, and none left out
    first, second = np.split(many[: 2 * mixture.BLOCK, 0], 2)
    assert (first != second).any()  # every block has an order of its own


def test_a_row_is_a_function_of_seed_and_index():
    data = mixed({"a": 5, "b": 9})
    whole = data.batch(np.arange(5000))["tokens"]
    order = np.random.default_rng(0).permutation(5000)[:100]
    np.testing.assert_array_equal(data.batch(order)["tokens"], whole[order])
    np.testing.assert_array_equal(data.example(4321)["tokens"], whole[4321])
    assert (mixed({"a": 5, "b": 9}, seed=1).batch(np.arange(5000))["tokens"] != whole).any()


def test_held_out_rows_come_one_dataset_after_another():
    data = mixed({"a": 1, "b": 1}, training=False)
    assert len(data) == 300
    rows = data.batch(np.arange(302))["tokens"].tolist()
    assert rows[99:101] == [[0, 99], [1, 0]] and rows[299:] == [[1, 199], [1, 200], [1, 201]]


def write_tasks(folder):
    """CoLA and SST-2 of 60 and 40 rows."""
    (folder / "CoLA").mkdir(parents=True)
    (folder / "SST-2").mkdir()
    for name in ("train", "dev"):
        lines = [f"x\t{i % 2}\t\tthe cat sat {i}" for i in range(60)]
        (folder / "CoLA" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
        lines = ["sentence\tlabel", *(f"a film {i}\t{i % 2}" for i in range(40))]
        (folder / "SST-2" / f"{name}.tsv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("unsupervised", [0, 50])
def test_a_mixture_from_a_config(tmp_path, tokenizer, unsupervised):
    write_tasks(tmp_path / "glue")
    tokenizer.save(tmp_path / "vocabulary")
    (tmp_path / "text.txt").write_text("\n\n".join(f"{text} {i}" for i, text in enumerate(TEXTS)))
    config = t5.get_config("tiny,mixture=1,quick=1")
    config.data.update(
        source=str(tmp_path / "text.txt"),
        layout="blank_lines",
        path=str(tmp_path / "glue"),
        cache_dir=str(tmp_path / "cache"),
        length=32,
    )
    config.data.tokenizer.update(path=str(tmp_path / "vocabulary"), sentinels=20)
    config.model.vocab_size = tokenizer.vocab_size
    config.data.mixture.update(tasks=("cola", "sst-2"), limit=50, unsupervised=unsupervised)
    data = pipeline.prepare_data(config)
    assert data.train.weights == {"cola": 50, "sst-2": 40} | ({"text": 50} if unsupervised else {})
    batch = data.train.batch(np.arange(16))
    assert batch["tokens"].shape == (16, 32) and batch["targets"].shape == (16, 84)
    for changed in [tmp_path / "glue", tmp_path / "text.txt"][: 2 if unsupervised else 1]:
        path = next(changed.rglob("train.tsv")) if changed.is_dir() else changed
        before = path.read_text()
        path.write_text(before.replace("a", "o"))
        assert pipeline.prepare_data(config).fingerprint != data.fingerprint
        path.write_text(before)
    assert pipeline.prepare_data(config).fingerprint == data.fingerprint
    rows = data.valid.batch(np.arange(len(data.valid) + 1))
    assert (rows["weights"][:-1].sum(axis=1) > 1).all() and not rows["weights"][-1].any()

    config.data.mixture.tasks = ("cola", "wnli")
    with pytest.raises(UserError, match="Unknown data.mixture.tasks 'wnli'"):
        pipeline.prepare_data(config)
    config.data.mixture.tasks = ()
    with pytest.raises(UserError, match="data.mixture.tasks is empty"):
        pipeline.prepare_data(config)


# By hand from the released code's rules: a space on both sides of what is no ASCII letter, digit or
# underscore, then one space for several.
CONTEXT = 'In 1.5\tyears, "St. Paul\'s"  caf\u00e9_1 (U.S.) opened.'
SPACED = 'In 1 . 5 years , " St . Paul \' s " caf \u00e9 _1 ( U . S . ) opened .'


def test_a_question_is_written_as_in_the_released_code():
    written = text_to_text.write_question(" Where's it?", CONTEXT, "U.S.")
    assert written == (f"question: Where ' s it ? context: {SPACED}", "U . S .")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("St . Paul ' s", "St. Paul's"),
        (" 1 . 5 years ", "1.5\tyears"),
        ("U.S .", "U.S."),
        ("aul ' s", "aul ' s"),  # no word begins there
        ("In", "In"),
        ("opened .", "opened."),
        (" Paris ", "Paris"),
        ("", ""),
    ],
)
def test_an_answer_is_read_as_its_context_writes_it(text, answer):
    assert text_to_text.read_span(CONTEXT, text) == answer


def test_answers_survive_the_round_trip(shared):
    """All of the dev set that T5's vocabulary has the characters of."""
    tokenizer = tokenizers.load(shared / "data" / "vocab" / "t5" / "spiece.model")
    found = squad.read(squad.TASKS["squad-v1.1"], str(shared / "data"), "valid")
    kept = []
    for question in found.questions[::5]:
        gold, context = question.answers[0].text, found.contexts[question.context]
        _, target = text_to_text.write_question(question.text, context, gold)
        text = tokenizer.decode(tokenizer.encode(target))
        if "\u2047" not in text:  # the sign of an unknown character
            kept.append(text_to_text.read_span(context, text) == gold)
    assert len(kept) > 2080 and np.mean(kept) > 0.999


def test_rows_of_questions(tokenizer):
    """The first answer is the target, a context that is too long loses its end."""
    data = finetune.get_config("t5-tiny,task=squad-v1.1").data
    assert data.mixture.target_length == 97
    data.update(length=40)
    task = text_to_text.SquadText(data, tokenizer)
    answers = (squad.Answer("a cat.", 0), squad.Answer("cat", 2))
    found = squad.Questions(
        "here",
        ["a cat. " + "it slept " * 40],
        [squad.Question("x", "it?", 0, answers, False), squad.Question("y", "so?", 0, (), False)],
    )
    asked = task.write(found, training=False)
    assert asked.questions is found
    rows = task.read([*asked.records, b""], None)
    batch_lib.check(rows)
    assert rows["example_weights"].tolist() == [1.0, 1.0, 0.0]
    target = [*tokenizer.encode("a cat ."), tokenizer.eot_id]
    assert rows["targets"][0][: len(target)].tolist() == target
    assert rows["weights"].sum(1).tolist() == [len(target), 0, 0]
    text = "question: it ? context: a cat . " + "it slept " * 40
    assert rows["tokens"][0].tolist() == [*tokenizer.encode(text)[:39], tokenizer.eot_id]
    with pytest.raises(UserError, match="Unknown data.task in text 'squad-v2.0'"):
        data.task = "squad-v2.0"
        text_to_text.SquadText(data, tokenizer)


def test_a_task_in_text_needs_an_end_of_text(tmp_path):
    data = finetune.get_config("t5-tiny,task=squad-v1.1").data
    wordpiece = vocabularies.wordpiece(tmp_path, ["cat"])
    with pytest.raises(UserError, match="which the wordpiece vocabulary lacks: start from a T5"):
        text_to_text.SquadText(data, wordpiece)
