"""Whole runs: they learn, are killed and continued, and are the same on other meshes."""

import functools
import importlib
import pathlib
import random
import signal
import time

import numpy as np
import pytest
import runs

import train
from configs import bert


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def small(cache, **overrides):
    return {"data.cache_dir": cache, **runs.SMALL, **overrides}


def small_gpt(cache, **overrides):
    return {"data.cache_dir": cache, **runs.SMALL_GPT, **overrides}


def wait_until(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "the run makes no progress"
        time.sleep(0.002)


def newest_row(workdir):
    path = pathlib.Path(workdir) / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


LONG = {
    "total_steps": 240,
    "checkpoint.every": 8,
    "evals.every": 24,
    "log.every": 1,
    "model.dropout": 0.1,
}


# The batch grows during the first kill and beyond.
RAMP = {"microbatches": 4, "batch_ramp.start": 2, "batch_ramp.steps": 40}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "kills", "steps"),
    [("bert", 5, 240), ("gpt3", 1, 48)],
)
def test_a_run_killed_and_continued_equals_an_uninterrupted_one(
    page, kills, steps, cache, tmp_path
):
    """SIGKILL at random moments, every other time while a checkpoint is being written."""
    overrides = small_gpt(cache, **LONG, **RAMP) if page == "gpt3" else small(cache, **LONG)
    overrides["total_steps"] = steps
    runs.finish(runs.start(page, tmp_path / "whole", overrides))
    whole = runs.rows(tmp_path / "whole")
    assert len(whole) == steps + steps // 24
    if page == "gpt3":
        tokens = [row["train/tokens"] for row in whole if "train/tokens" in row]
        rows = [2 * (1 + (6 * min(step, 40) + 40) // 80) for step in range(steps)]
        assert tokens == [32 * n for n in rows]

    rng = random.Random(0)
    joined = tmp_path / "joined"
    for kill in range(kills):
        process = runs.start(page, joined, overrides)
        before = newest_row(joined)
        goal = min(before + rng.randrange(5, 40), steps - 5)
        # The file is cut back to the checkpoint when the run starts: first see it shrink or grow.
        wait_until(functools.partial(lambda b: b == 0 or newest_row(joined) != b, before), process)
        wait_until(functools.partial(lambda g: newest_row(joined) >= g, goal), process)
        if kill % 2:  # while Orbax writes
            wait_until(lambda: any(joined.glob("checkpoints/*tmp*")), process)
        else:
            time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    runs.finish(runs.start(page, joined, overrides))
    assert runs.rows(joined) == whole
    # Once more, on the finished run: nothing is added.
    output = runs.finish(runs.start(page, joined, overrides))
    assert "Nothing to do" in output
    assert runs.rows(joined) == whole


def test_sigterm_saves_first(cache, tmp_path):
    overrides = small_gpt(cache, **LONG) | {"checkpoint.every": 1000}
    process = runs.start("gpt2", tmp_path / "run", overrides)
    wait_until(lambda: newest_row(tmp_path / "run") > 20, process)
    process.send_signal(signal.SIGTERM)
    output = runs.finish(process, status=128 + signal.SIGTERM)
    assert "the same command continues" in output
    [saved] = [int(p.name) for p in (tmp_path / "run/checkpoints").iterdir() if p.name.isdigit()]
    assert saved >= 20
    output = runs.finish(runs.start("gpt2", tmp_path / "run", overrides))
    assert f"step {saved} of 240" in output
    assert [r["step"] for r in runs.rows(tmp_path / "run") if "train/loss" in r] == list(
        range(1, 241)
    )


def losses(workdir, name="train/loss"):
    return np.array([row[name] for row in runs.rows(workdir) if name in row])


def test_another_mesh_continues_with_the_same_losses(cache, tmp_path, devices):
    """8 steps on 8 x 1 x 1, then 8 on 2 x 2 x 2, against 16 on the first, in float32."""

    def train_to(steps, workdir, data, fsdp, tensor):
        c = bert.get_config("tiny,quick=1")
        c.update_from_flattened_dict(small(str(cache)))
        c.update_from_flattened_dict({"model.dtype": "float32", "model.dropout": 0.1})
        c.update_from_flattened_dict({"log.every": 1, "evals.batches": 1, "evals.every": 0})
        c.update_from_flattened_dict({"optim.decay_steps": 16, "optim.warmup_steps": 5})
        c.mesh.update(data=data, fsdp=fsdp, tensor=tensor)
        c.total_steps = steps
        train.train(c, workdir)
        return losses(workdir)

    whole = train_to(16, tmp_path / "whole", 8, 1, 1)
    train_to(8, tmp_path / "joined", 8, 1, 1)
    joined = train_to(16, tmp_path / "joined", 2, 2, 2)
    np.testing.assert_allclose(joined, whole, rtol=2e-5)


@pytest.mark.slow
def test_two_processes_train_the_same_losses_as_one(cache, tmp_path):
    # One device alone: four in one process on two cores starve XLA's thread pool now and then.
    overrides = small(cache, **{"log.every": 1, "evals.every": 10, "model.dtype": "float32"})
    runs.finish(runs.start("bert", tmp_path / "one", overrides))
    overrides["mesh.fsdp"] = 2
    runs.finish_all(runs.start_several(2, "bert", tmp_path / "two", overrides, devices=2))
    for name in ("train/loss", "valid/loss", "train/grad_norm"):
        one, two = losses(tmp_path / "one", name), losses(tmp_path / "two", name)
        np.testing.assert_allclose(two, one, rtol=2e-5)
    assert len(losses(tmp_path / "two")) == 20


@pytest.fixture(scope="module")
def teacher(cache, tmp_path_factory):
    """A finished run of a masked LM with two layers."""
    workdir = tmp_path_factory.mktemp("teacher")
    train.train(encoder_config("bert", cache), workdir)
    return workdir


def encoder_config(page, cache, arg="", **overrides):
    c = importlib.import_module(f"configs.{page}").get_config("tiny,quick=1" + arg)
    values = small(str(cache), **{"batch_size": 32, "total_steps": 40, "optim.lr": 3e-3})
    values |= {"evals.every": 0, "evals.batches": 4, "log.every": 1, "mesh.data": 8}
    values |= {
        "model.heads": 2,
        "model.depth": 2,
        "checkpoint.every": 40,
        "checkpoint.keep_best": 0,
    }
    c.update_from_flattened_dict(values | overrides)
    return c


HALVES = {f"data.permutation.{name}": 16 for name in ("reuse", "block", "memory")}


@pytest.mark.parametrize(
    ("page", "arg", "overrides"),
    [
        pytest.param("gpt1", "", {}, marks=pytest.mark.slow),
        ("gpt3", "", {}),
        pytest.param("roberta", "", {}, marks=pytest.mark.slow),
        pytest.param("albert", "", {"model.embed_width": 16}, marks=pytest.mark.slow),
        ("electra", "", {"model.embed_width": 16}),
        pytest.param("ernie", "", {}, marks=pytest.mark.slow),
        pytest.param("ernie_baidu", "", {}, marks=pytest.mark.slow),
        pytest.param("distilbert", "", {"model.depth": 1}, marks=pytest.mark.slow),
        pytest.param("tinybert", "", {"model.depth": 1}, marks=pytest.mark.slow),
        pytest.param("xlnet", "", HALVES, marks=pytest.mark.slow),
        pytest.param("xlnet", ",objective=masked_lm", HALVES, marks=pytest.mark.slow),
        pytest.param("reformer", "", {"optim.lr": 1e-2}, marks=pytest.mark.slow),
        pytest.param("t5", "", {"optim.lr": 1.0}, marks=pytest.mark.slow),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_tiny_one_of_every_page_trains(page, arg, overrides, cache, tmp_path, request):
    """From text to a checkpoint: the loss of the last steps is below that of the first."""
    c = encoder_config(page, cache, arg, **overrides)
    if "teacher" in c.objective:
        c.part_from.teacher = str(request.getfixturevalue("teacher"))
    results = train.train(c, tmp_path)
    train_losses = losses(tmp_path)
    assert len(train_losses) == 40 and np.isfinite(results["valid/loss"])
    assert train_losses[-5:].mean() < train_losses[:5].mean() - 0.01 * train_losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["bert", "gpt2"])
def test_a_small_model_learns_real_text(page, tmp_path, cache):
    """On English prose the held-out loss falls far below that of the first steps, and goes on."""
    make = {"bert": small, "gpt2": small_gpt}[page]
    overrides = make(
        cache,
        **{
            "total_steps": 400,
            "evals.every": 40,
            "evals.batches": 10,
            "batch_size": 32,
            "optim.lr": 1e-3,
            "model.width": 64,
        },
    )
    runs.finish(runs.start(page, tmp_path, overrides))
    valid = losses(tmp_path, "valid/loss")
    assert valid[-1] < losses(tmp_path)[0] - 0.7
    assert valid[-1] < valid[0] - 0.1  # of step 40, when the frequencies of tokens are learned
