"""A clock that is set back, or far ahead, in the middle of a run changes nothing but times."""

import time

import pytest
import runs

import train
from configs import bert


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def run(cache, workdir, steps):
    c = bert.get_config("tiny,quick=1")
    values = runs.SMALL | {"data.cache_dir": str(cache), "log.every": 1, "log.tensorboard": True}
    values |= {"evals.every": 5, "evals.batches": 1, "checkpoint.every": 5, "total_steps": steps}
    c.update_from_flattened_dict(values | {"optim.decay_steps": 15, "optim.warmup_steps": 3})
    train.train(c, workdir)


@pytest.mark.slow
def test_the_clock_jumps(cache, tmp_path, monkeypatch):
    run(cache, tmp_path / "whole", 15)
    now, now_ns, offset = time.time, time.time_ns, [0.0]
    monkeypatch.setattr(time, "time", lambda: now() + offset[0])
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + int(offset[0] * 1e9))
    run(cache, tmp_path / "joined", 5)
    offset[0] = -86400.0 * 365
    run(cache, tmp_path / "joined", 10)
    offset[0] = 86400.0 * 365
    run(cache, tmp_path / "joined", 15)
    assert runs.rows(tmp_path / "joined") == runs.rows(tmp_path / "whole")[: 15 + 3]
    # TensorBoard reads the files of events by name: they must be in the order of the runs.
    from tensorboard.backend.event_processing import event_accumulator

    for name in ("whole", "joined"):
        events = event_accumulator.EventAccumulator(str(tmp_path / name / "tensorboard"))
        events.Reload()
        found = {e.step: e.value for e in events.Scalars("train/loss")}
        expected = {r["step"]: r["train/loss"] for r in runs.rows(tmp_path / "whole")
                    if "train/loss" in r}  # fmt: skip
        assert found == pytest.approx(expected)
