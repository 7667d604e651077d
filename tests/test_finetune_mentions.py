"""Fine-tuning on mentions: what only entities tell, an ERNIE learns; a BERT learns from words."""

import json

import numpy as np
import pytest
import vocabularies

import train
from configs import finetune
from data_pipeline import entities

CITIES = "paris rome london".split()
PEOPLE = "anna john mary".split()
WORDS = "it is near that place then who saw".split()


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    tokenizer = vocabularies.wordpiece(folder, [*CITIES, *PEOPLE, *WORDS, *"#$@"])
    tokenizer.save(folder / "saved")
    entities.Entities([f"Q{i}" for i in range(6)]).save(folder / "saved")
    return folder / "saved", tokenizer.vocab_size


def relations(count, seed):
    """The relation is told by the entity of the head alone, which is always called "it"."""
    rng = np.random.default_rng(seed)
    for entity in rng.integers(0, 6, count):
        words = " ".join(rng.choice(WORDS[1:], 4))
        text = f"it {words} {rng.choice(WORDS)}"
        tail = ["Q9", len(text) - len(text.split()[-1]), len(text), 1.0]
        yield {"text": text, "ents": [[f"Q{entity}", 0, 2, 1.0], tail], "label": f"P{entity % 2}"}


def types(count, seed):
    """A name is a city or a person, and one in two is also told to be near."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        city, near = rng.integers(0, 2, 2)
        name, end = rng.choice(CITIES if city else PEOPLE), "near" if near else "place"
        text = f"{rng.choice(WORDS)} {name} {end}"
        start = text.index(name)
        labels = ["city" if city else "person", *["near"] * int(near)]
        yield {
            "sent": text,
            "start": start,
            "end": start + len(name),
            "ents": [],
            "labels": labels,
        }


def config(model, task, rows, vocabulary, tmp_path, **overrides):
    for name, count in (("train", 320), ("dev", 64)):
        content = list(rows(count, seed=len(name)))
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    c = finetune.get_config(f"{model},task={task},quick=1")
    path, size = vocabulary
    c.data.update(path=str(tmp_path), length=16)
    c.data.tokenizer.path = str(path)
    c.data.entities.path = str(path)
    c.model.update(vocab_size=size, dtype="float32", dropout=0.0, attention_dropout=0.0)
    c.batch_size, c.total_steps = 32, 120
    c.optim.update(lr=3e-3, bias_correction=True)
    c.evals.update({"every": 0, "batches": 0})
    c.checkpoint.every = 1000
    c.log.tensorboard = False
    c.mesh.update({"data": 1, "fsdp": 8})
    c.update_from_flattened_dict(overrides)
    return c


@pytest.mark.slow
def test_an_ernie_learns_what_entities_tell(vocabulary, tmp_path):
    c = config("ernie-tiny", "fewrel", relations, vocabulary, tmp_path)
    c.model.entities = 6
    results = train.train(c, tmp_path / "with")
    assert results["valid/macro_f1"] > 0.95
    assert results["valid/accuracy"] > 0.95
    c = config("ernie-tiny", "fewrel", relations, vocabulary, tmp_path)
    c.model.entities = 6
    c.data.entities.marks = "none"
    assert train.train(c, tmp_path / "without")["valid/macro_f1"] < 0.75


@pytest.mark.slow
def test_a_bert_learns_several_types(vocabulary, tmp_path):
    c = config("bert-tiny", "open-entity", types, vocabulary, tmp_path)
    c.data.entities.path = None
    results = train.train(c, tmp_path / "run")
    assert results["valid/micro_f1"] > 0.95
    assert {"valid/micro_precision", "valid/micro_recall", "valid/typing"} <= set(results)
