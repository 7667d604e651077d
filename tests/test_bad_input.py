"""Whatever a user gets wrong is one sentence that says what to change, and nothing is lost."""

import gzip
import pathlib
import subprocess
import sys

import pytest
import runs

import train
from configs import bert, gpt2
from data_pipeline import tokenizer_training
from errors import UserError
from training import resume

TEXT = "\n".join(
    f"The {a} {b} sees the {c}. It says that {a} is {b}.\n"
    for a in ("red", "blue", "old", "new")
    for b in ("cat", "dog", "bird")
    for c in ("house", "tree", "river", "road", "sky")
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def config(cache, page="bert", **overrides):
    c = {"bert": bert, "gpt2": gpt2}[page].get_config("tiny,quick=1")
    values = dict(runs.SMALL if page == "bert" else runs.SMALL_GPT)
    values |= {"data.cache_dir": str(cache), "mesh.data": 1, "mesh.fsdp": 8}
    c.update_from_flattened_dict(values | overrides)
    return c


# What is set, and what the sentence must contain.
VALUES = [
    ({"mesh.fsdp": 3}, "config.mesh"),
    ({"batch_size": 12}, "config.batch_size=12 must be a multiple of"),
    ({"batch_size": 0}, "config.batch_size=0 must be a multiple of"),
    ({"microbatches": 3}, "config.microbatches"),
    ({"total_steps": 0}, "config.total_steps"),
    ({"log.every": 0}, "config.log.every=0 must be at least 1"),
    ({"checkpoint.every": 0}, "config.checkpoint.every=0 must be at least 1"),
    ({"checkpoint.keep": 0}, "checkpoint.keep must be at least 1"),
    ({"data.workers": -1}, "config.data.workers=-1 must be at least 0"),
    ({"optim.name": "adamm"}, "Did you mean 'adamw'?"),
    ({"optim.schedule": "lineer"}, "Did you mean 'linear'?"),
    ({"optim.lr": -1.0}, "must not be negative"),
    ({"optim.warmup_steps": 21}, "config.optim.warmup_steps=21 must be between 0 and"),
    ({"optim.no_decay": ("(",)}, "config.optim.no_decay"),
    ({"model.name": "encode"}, "Did you mean 'encoder'?"),
    ({"model.heads": 3}, "must be a multiple of config.model.heads=3"),
    ({"model.activation": "relu6"}, "Unknown config.model.activation 'relu6'"),
    ({"objective.name": "masked"}, "Unknown config.objective.name 'masked'"),
    ({"rules": (("embed", "model"),)}, "config.rules sends 'embed' to 'model'"),
    ({"data.pipeline": "pairs"}, "data.pipeline"),
    ({"data.length": 1024}, "data.length=1024 is longer than model.max_positions=512"),
    ({"data.masking.max_predictions": 40}, "max_predictions"),
    ({"data.masking.rate": 1.5}, "data.masking.rate"),
    ({"data.valid_fraction": 1.0}, "valid_fraction"),
    ({"data.tokenizer.kind": "words"}, "words"),
    ({"data.tokenizer.path": "/does/not/exist"}, "/does/not/exist"),
    (
        {"data.tokenizer.vocab_size": 700},
        "The vocabulary has 700 tokens but model.vocab_size is 600",
    ),
    ({"data.source": ""}, "config.data.source is not set"),
    ({"data.source": "/does/not/exist.txt"}, "/does/not/exist.txt"),
    ({"data.source": "ftp:x"}, "ftp"),
    ({"data.layout": "books"}, "books"),
    ({"init_from": "/does/not/exist"}, "config.init_from=/does/not/exist"),
]


@pytest.mark.parametrize(("overrides", "message"), VALUES, ids=lambda x: str(x)[:60])
def test_a_wrong_value_is_told(overrides, message, cache, tmp_path):
    with pytest.raises(UserError) as error:
        train.train(config(cache, **overrides), tmp_path / "run")
    text = str(error.value)
    assert message in text and "\n" not in text and len(text) < 500


FILES = {
    "empty.txt": (b"", "empty"),
    "latin1.txt": ("Ein Tor läßt sich öffnen. ".encode("latin-1") * 50, "UTF-8"),
    "cut.txt.gz": (gzip.compress(TEXT.encode() * 50)[:-20], "cut.txt.gz"),
    "not.jsonl": (b'{"text": "one"}\nnot json\n', "not.jsonl"),
    "field.jsonl": (b'{"body": "one"}\n' * 3, "field"),
    "not.parquet": (b"PAR0 this is no parquet file", "not.parquet"),
    "short.txt": (b"One line only.\n", "short.txt"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_file_is_told(name, cache, tmp_path):
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        train.train(config(cache, **{"data.source": str(tmp_path / name)}), tmp_path / "run")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    """A run of 20 steps with the vocabulary of the embedded corpus."""
    workdir = tmp_path_factory.mktemp("run")
    train.train(config(cache, **{"evals.every": 0, "evals.batches": 1}), workdir)
    return workdir


def test_nan_stops_and_keeps_the_last_good_checkpoint(cache, tmp_path):
    c = config(cache, **{"optim.lr": 1e30, "optim.clip_norm": 0.0, "checkpoint.every": 1})
    c.update_from_flattened_dict({"optim.warmup_steps": 0, "optim.schedule": "constant"})
    with pytest.raises(UserError, match=r"(NaN|infinite|not finite).*step \d+") as error:
        train.train(c, tmp_path / "run")
    assert "lr" in str(error.value)
    for saved in (tmp_path / "run" / "checkpoints").iterdir():
        assert saved.name.isdigit()
    assert not list((tmp_path / "run").glob("**/*tmp*"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.width": 64}, "does not fit this config"),
        ({"model.depth": 3}, "does not fit this config"),
        ({"batch_size": 16}, "has config.batch_size=8: keep it"),
        ({"data.tokenizer.kind": "byte_bpe", "data.tokenizer.lowercase": False}, "wordpiece"),
        ({"optim.name": "lamb", "optim.frozen": ("stack",)}, "does not fit this config"),
    ],
    ids=str,
)
def test_a_run_is_not_continued_with_another_config(overrides, message, finished, cache):
    before = sorted(p.name for p in (finished / "checkpoints").iterdir())
    with pytest.raises(UserError) as error:
        train.train(config(cache, **{"total_steps": 30} | overrides), finished)
    assert message in str(error.value)
    assert sorted(p.name for p in (finished / "checkpoints").iterdir()) == before


def test_a_run_is_not_continued_with_other_text():
    saved = {"tokenizer": "a", "text": "b1", "batch_size": 8, "batch_ramp": {}}
    with pytest.raises(UserError, match="its hash was b1 and is c2. Restore the text"):
        resume.check_continues(saved, saved | {"text": "c2"}, "run")
    old = {name: value for name, value in saved.items() if name != "text"}
    resume.check_continues(old, saved, "run")


def test_a_run_is_not_continued_with_another_ramp():
    saved = {"tokenizer": "a", "text": "b", "batch_size": 8}
    saved["batch_ramp"] = {"start": 2, "steps": 9}
    with pytest.raises(UserError, match="has config.batch_ramp=.*'start': 2.*: keep it"):
        resume.check_continues(saved, saved | {"batch_ramp": {"start": 0, "steps": 0}}, "run")
    resume.check_continues(saved, saved, "run")


def test_init_from_refuses_another_vocabulary(finished, cache, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 30)
    texts = [TEXT]
    other = tokenizer_training.train("wordpiece", texts, 300, lowercase=True)
    other.save(tmp_path / "vocab")
    overrides = {"init_from": str(finished), "data.tokenizer.path": str(tmp_path / "vocab")}
    overrides |= {"model.vocab_size": other.vocab_size}
    with pytest.raises(UserError, match="vocabulary of config.init_from"):
        train.train(config(cache, **overrides), tmp_path / "run")


def test_init_from_refuses_other_sizes(finished, cache, tmp_path):
    overrides = {"init_from": str(finished), "model.width": 64}
    with pytest.raises(UserError, match="does not fit: .* set config.model to the sizes"):
        train.train(config(cache, **overrides), tmp_path / "run")


def test_init_from_starts_with_the_weights(finished, cache, tmp_path):
    c = config(cache, **{"init_from": str(finished), "evals.batches": 1, "evals.every": 0})
    c.update_from_flattened_dict({"optim.lr": 0.0, "total_steps": 1, "optim.warmup_steps": 0})
    before = runs.rows(finished)[-1]["valid/loss"]
    assert train.train(c, tmp_path / "run")["valid/loss"] == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/bert.py:tinny"], "Unknown size 'tinny'"),
        (["--config=configs/bret.py:tiny"], "No such file"),
        (["--config=configs/bert.py:tiny", "--config.model.widht=3"], 'Did you mean "width"'),
        (["--config=configs/bert.py:tiny", "--config.batch_size=many"], "batch_size"),
        (["--config=configs/bert.py:tiny", "--workdri=x"], "workdir"),
        (["--config=configs/bert.py:tiny"], "--workdir"),
        (["--workdir=x"], "--config"),
    ],
    ids=str,
)
def test_a_wrong_command_line_is_one_line(arguments, message, tmp_path):
    command = [sys.executable, str(runs.ROOT / "train.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=runs.ROOT)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()
    assert len(last) == 1 and last[0].startswith("error: ") and message in last[0], done.stderr
    assert not pathlib.Path("x").exists()
