"""Fine-tuning on a handful of questions, from the files of SQuAD to those of its answers."""

import json

import numpy as np
import pytest
import runs
import squads
import vocabularies

import train
from configs import finetune
from data_pipeline import tokenizer_training
from evaluation import load
from training import huggingface

PLACES = "paris rome oslo cairo lima delhi tokyo quito".split()
THINGS = "rain snow wind sun fog hail heat ice".split()
WORDS = [*PLACES, *THINGS, *"where is it there was and then some .".split()]


def paragraphs(count):
    """Contexts of five facts each in long text, questions about three of them and one not there."""
    rng = np.random.default_rng(0)
    for i in range(count):
        things, places = rng.permutation(THINGS), rng.permutation(PLACES)
        facts = [f"there was {t} and then some in {p} ." for t, p in zip(things[:5], places)]
        known = [(f"{i}-{t}", f"where was {t}", p) for t, p in zip(things[:3], places)]
        yield " ".join(facts).replace(" in ", " "), [*known, (f"{i}-no", f"where was {things[7]}")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("squad")
    for split in ("train", "dev"):
        squads.write(folder / f"{split}-v2.0.json", *paragraphs(4))
    vocabularies.wordpiece(folder, WORDS)
    return folder


def config(folder, task, **overrides):
    c = finetune.get_config(f"bert-tiny,task={task},quick=1")
    c.data.path = str(folder)
    c.data.tokenizer.path = str(folder / "vocab.txt")
    c.data.length = 30  # a context of 40 words makes three windows
    c.data.spans.update(stride=10, question_length=4)
    c.model.update(vocab_size=5 + len(dict.fromkeys(WORDS)), dtype="float32")
    c.model.update(dropout=0.0, attention_dropout=0.0)
    c.batch_size, c.total_steps = 16, 300
    c.optim.update(lr=3e-3, bias_correction=True, warmup_steps=10)
    c.evals.update({"every": 150, "batches": 0})
    c.checkpoint.every = 150
    c.log.update(tensorboard=False, every=50)
    c.mesh.update({"data": 1, "fsdp": 8})
    c.update_from_flattened_dict(overrides)
    return c


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """(workdir, results) of a run with BERT's head."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train.train(config(folder, "squad-v2.0"), workdir)


def test_a_handful_of_questions_is_learned(finished):
    workdir, results = finished
    assert results["valid/f1"] > 90 and results["valid/exact_match"] > 90
    names = {"f1", "exact_match", "HasAns_f1", "HasAns_exact", "NoAns_f1", "NoAns_exact"}
    names |= {"best_f1", "best_f1_thresh", "best_exact", "best_exact_thresh"}
    assert set(results) == {f"valid/{name}" for name in names | {"span", "span_accuracy", "loss"}}
    assert results["valid/best_f1"] >= results["valid/f1"]
    rows = [row for row in runs.rows(workdir) if "valid/f1" in row]
    assert [row["step"] for row in rows] == [150, 300]
    assert rows[-1]["valid/f1"] == results["valid/f1"]
    assert rows[0]["valid/loss"] > rows[-1]["valid/loss"]


@pytest.mark.slow
def test_a_classifier_tells_what_has_no_answer(folder, tmp_path):
    c = config(
        folder,
        "squad-v2.0",
        **{"objective.head": "xlnet", "objective.answerable": 0.5, "objective.beam": 5},
    )
    results = train.train(c, tmp_path)
    assert results["valid/f1"] > 90 and results["valid/answerable"] < 0.3


@pytest.fixture(scope="module")
def written(finished, tmp_path_factory):
    """(folder of predictions, what the script printed)."""
    out = tmp_path_factory.mktemp("written") / "out"
    checkpoint = f"--checkpoint={finished[0]}"
    return out, runs.script("predict.py", checkpoint, f"--out={out}", "--batch_size=8")


def test_predictions_are_written_and_scored(finished, written, folder, tmp_path):
    """The files score what the training measured, by the official rules."""
    results, (out, printed) = finished[1], written
    names = ("predictions.json", "nbest_predictions.json", "null_odds.json")
    assert printed.split() == [str(out / name) for name in names]
    given = [f"--predictions={out / names[0]}", f"--data.path={folder / 'dev-v2.0.json'}"]
    odds = [f"--null_odds={out / names[2]}", "--null_threshold=1e9"]
    scores = json.loads(runs.script("score.py", "--task=squad-v2.0", *given, *odds))
    assert scores["f1"] == pytest.approx(results["valid/f1"])
    assert scores["exact"] == pytest.approx(results["valid/exact_match"])
    assert scores["best_f1"] == pytest.approx(results["valid/best_f1"])
    assert scores["total"] == 16 and scores["NoAns_total"] == 4
    n_best = json.loads((out / names[1]).read_text())
    assert all(1 < len(entries) <= 21 for entries in n_best.values())
    # What is asked about a file that these are not the predictions of.
    other = squads.write(tmp_path / "other.json", ("A b.", [("x", "A?", "b")]))
    message = runs.script(
        "score.py", "--task=squad-v1.1", given[0], f"--data.path={other}", status=2
    )
    assert "None of the 16 predictions is for one of these questions, such as x" in message


def test_a_threshold_and_a_file_without_answers(finished, folder, tmp_path):
    workdir, _ = finished
    layout = json.loads((folder / "dev-v2.0.json").read_text())
    for paragraph in layout["data"][0]["paragraphs"]:
        for question in paragraph["qas"]:
            del question["answers"], question["is_impossible"]
    (tmp_path / "test.json").write_text(json.dumps(layout))
    runs.script(
        "predict.py",
        *(f"--checkpoint={workdir}", "--step=best", f"--out={tmp_path / 'out'}", "--split=test"),
        *(f"--data.path={tmp_path / 'test.json'}", "--override=evals.null_threshold=-1e9"),
    )
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(predictions) == 16 and set(predictions.values()) == {""}


def test_a_published_checkpoint_answers(finished, written, folder, tmp_path):
    """Exported and read again, by a config that knows of no run, it answers the same."""
    run = load.load(finished[0])
    hf, out = tmp_path / "hf", tmp_path / "out"
    huggingface.save(hf, run.config.model, run.config.objective, run.params, run.tokenizer)
    settings = ("data.spans.stride=10", "data.spans.question_length=4", "data.length=30")
    runs.script(
        "predict.py",
        *(f"--checkpoint={hf}", f"--out={out}", f"--data.path={folder}"),
        *(f"--override={value}" for value in settings),
    )
    name = "predictions.json"
    assert (out / name).read_bytes() == (written[0] / name).read_bytes()


@pytest.mark.slow
def test_t5_answers_in_words(tmp_path):
    """Decoded and put back as the context writes them, in training and by the script."""
    asked = [
        (
            f"There was {thing} in St. {place}'s.",
            [(str(i), f"Where was {thing}?", f"St. {place}'s")],
        )
        for i, (thing, place) in enumerate(zip(THINGS, PLACES))
    ]
    for split in ("train", "dev"):
        squads.write(tmp_path / f"{split}-v1.1.json", *asked)
    words = [*WORDS, *"question: context: Where There was St . ' s ?".split()]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 8)) for _ in range(2000)]
    tokenizer = tokenizer_training.train(
        "sentencepiece", texts, 420, False, specials="t5", sentinels=100
    )
    tokenizer.save(tmp_path / "vocabulary")
    c = finetune.get_config("t5-tiny,task=squad-v1.1,quick=1")
    c.data.path, c.data.tokenizer.path = str(tmp_path), str(tmp_path / "vocabulary")
    c.data.length, c.data.mixture.target_length = 32, 10
    c.model.update(vocab_size=tokenizer.vocab_size, dtype="float32", dropout=0.0)
    c.batch_size, c.total_steps = 8, 80
    c.optim.lr = 0.03
    c.evals.update(every=0, batches=0)
    c.checkpoint.every = 1000
    c.log.update(tensorboard=False, every=100)
    c.mesh.update({"data": 1, "fsdp": 8})
    results = train.train(c, tmp_path / "run")
    names = {"loss", "seq2seq_lm", "z_loss", "accuracy", "exact_match", "f1"}
    assert set(results) == {f"valid/{name}" for name in names}
    assert results["valid/exact_match"] == results["valid/f1"] == 100.0

    out = tmp_path / "out"
    given = (f"--checkpoint={tmp_path / 'run'}", "--step=best", f"--out={out}", "--batch_size=16")
    assert runs.script("predict.py", *given).split() == [str(out / "predictions.json")]
    predictions = json.loads((out / "predictions.json").read_text())
    assert predictions == {key: answer for _, [(key, _, answer)] in asked}
