"""Runs of several processes: the losses of one, whoever wrote the checkpoint, and what a kill does.

Each process has one CPU device, or two: more of them on a few cores starve XLA's pool of threads.
"""

import shutil
import signal
import time

import numpy as np
import pytest
import runs

pytestmark = pytest.mark.slow
STEPS = 20


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def overrides(page, cache, steps=STEPS, **more):
    small = runs.SMALL if page == "bert" else runs.SMALL_GPT
    values = {"data.cache_dir": cache, **small, "model.dropout": 0.1, "model.dtype": "float32"}
    values |= {"log.every": 1, "evals.every": 0, "checkpoint.every": 10, "total_steps": steps}
    return values | {"optim.decay_steps": STEPS} | more


def numbers(workdir, name):
    return np.array([row[name] for row in runs.rows(workdir) if name in row])


@pytest.mark.parametrize("page", ["bert", "gpt2"])
def test_four_processes_train_as_one_and_any_number_goes_on(page, cache, tmp_path):
    """A checkpoint of four is continued by one, by two, and by one on another mesh."""
    runs.finish(runs.start(page, tmp_path / "one", overrides(page, cache)))
    half = tmp_path / "four"
    four = overrides(page, cache, STEPS // 2, **{"mesh.data": 2, "mesh.fsdp": 2})
    runs.finish_all(runs.start_several(4, page, half, four))

    ways = {
        "by one": (1, 1, {}),
        "by two": (2, 1, {"mesh.data": 1, "mesh.fsdp": 2}),
        "on another mesh": (1, 4, {"mesh.data": 1, "mesh.fsdp": 2, "mesh.tensor": 2}),
    }
    for name, (count, devices, mesh) in ways.items():
        workdir = tmp_path / name
        shutil.copytree(half, workdir)
        whole = overrides(page, cache, **mesh)
        if count == 1:
            runs.finish(runs.start(page, workdir, whole, devices=devices))
        else:
            runs.finish_all(runs.start_several(count, page, workdir, whole, devices=devices))
        for metric in ("train/loss", "train/grad_norm", "train/tokens"):
            found, expected = numbers(workdir, metric), numbers(tmp_path / "one", metric)
            assert len(found) == STEPS
            np.testing.assert_allclose(found, expected, rtol=5e-5, err_msg=f"{name}: {metric}")


@pytest.mark.parametrize("victim", [0, 1], ids=["the first", "the other"])
def test_one_of_two_processes_is_killed(victim, cache, tmp_path):
    """The other one ends by itself and says so; the same command continues to the same numbers."""
    long = overrides("bert", cache, 120, **{"mesh.data": 1, "mesh.fsdp": 2})
    runs.finish_all(runs.start_several(2, "bert", tmp_path / "whole", long))
    joined = tmp_path / "joined"
    both = runs.start_several(2, "bert", joined, long)
    end = time.monotonic() + 250
    while not (joined / "checkpoints" / "10").exists():
        assert time.monotonic() < end, "no checkpoint"
        time.sleep(0.01)
    both[victim].send_signal(signal.SIGKILL)
    both[victim].wait()
    output, _ = both[1 - victim].communicate(timeout=150)
    # By our own words, or by JAX's where its service went with the first process.
    own = "another process of this run has ended" in output
    jaxs = "most likely indicates that another task died" in output
    assert (both[1 - victim].returncode, own or jaxs) in ((3, True), (-signal.SIGABRT, True)), (
        output
    )
    runs.finish_all(runs.start_several(2, "bert", joined, long))
    assert runs.rows(joined) == runs.rows(tmp_path / "whole")
