"""Fine-tuning on a handful of questions, from the files of SQuAD to those of its answers."""

import numpy as np
import pytest
import runs
import squads

import train
from configs import finetune
from data_pipeline import tokenizer_training

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
    vocab = [*tokenizer_training.WORDPIECE_SPECIALS, *dict.fromkeys(WORDS)]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
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


def test_a_classifier_tells_what_has_no_answer(folder, tmp_path):
    c = config(
        folder,
        "squad-v2.0",
        **{"objective.head": "xlnet", "objective.answerable": 0.5, "objective.beam": 5},
    )
    results = train.train(c, tmp_path)
    assert results["valid/f1"] > 90 and results["valid/answerable"] < 0.3
