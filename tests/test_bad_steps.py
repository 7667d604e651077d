"""A run whose loss becomes NaN at one batch: it stops, skips it, or goes back and around it."""

import json

import numpy as np
import pytest
import runs

import train
from configs import bert
from data_pipeline import pipeline
from errors import UserError

BAD = 13  # the step, the first being 1, that has a row with a weight of NaN


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def asked(monkeypatch):
    """The first row of every training batch that is built; row BAD * 8 - 5 is poisoned."""
    indices = []
    whole = pipeline.Dataset.batch

    def batch(self, index):
        rows = whole(self, index)
        if self.training:
            indices.append(int(index[0]))
            rows["weights"][np.asarray(index) == BAD * 8 - 5] = np.nan
        return rows

    monkeypatch.setattr(pipeline.Dataset, "batch", batch)
    return indices


def run(cache, workdir, **overrides):
    c = bert.get_config("tiny,quick=1")
    values = runs.SMALL | {"data.cache_dir": str(cache), "log.every": 1, "evals.every": 0}
    values |= {"evals.batches": 1, "checkpoint.every": 5, "data.prefetch": 1}
    c.update_from_flattened_dict(values | overrides)
    return train.train(c, workdir)


def losses(workdir):
    return {r["step"]: r["train/loss"] for r in runs.rows(workdir) if "train/loss" in r}


@pytest.mark.slow
def test_the_run_stops(cache, asked, tmp_path):
    with pytest.raises(UserError, match=f"became NaN at step {BAD}: lower optim.lr"):
        run(cache, tmp_path)
    assert list(losses(tmp_path)) == list(range(1, BAD))
    assert (tmp_path / "checkpoints" / "10").is_dir()


@pytest.mark.slow
def test_the_step_is_skipped(cache, asked, tmp_path, capsys):
    result = run(cache, tmp_path, **{"guard.policy": "skip"})
    assert np.isfinite(result["valid/loss"])
    assert f"Skipped step {BAD}:" in capsys.readouterr().out
    found = losses(tmp_path)
    assert list(found) == list(range(1, 21)) and found.pop(BAD) is None
    assert np.isfinite(list(found.values())).all()


def test_the_run_goes_back_and_around(cache, asked, tmp_path, capsys):
    result = run(cache, tmp_path, **{"guard.policy": "rollback"})
    assert np.isfinite(result["valid/loss"])
    assert json.loads((tmp_path / "left_out.json").read_text()) == [[10, BAD]]
    found = losses(tmp_path)
    assert list(found) == list(range(1, 21)) and np.isfinite(list(found.values())).all()
    # Steps 1, ..., and behind step 10 those of step 14, ...
    asked = [index for i, index in enumerate(asked) if index and index not in asked[:i]]
    assert asked[-7:] == [8 * step for step in range(BAD, 20 + BAD - 10)][-7:]
    assert f"Step {BAD} was bad: from step 10 on" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_that_is_bad_everywhere_stops_all_the_same(cache, tmp_path):
    bad = {"optim.lr": 1e30, "optim.clip_norm": 0.0, "optim.schedule": "constant"}
    bad |= {"optim.warmup_steps": 0, "guard.limit": 2}
    with pytest.raises(UserError, match="lower optim.lr"):
        run(cache, tmp_path / "back", **bad, **{"guard.policy": "rollback"})
    assert len(json.loads((tmp_path / "back" / "left_out.json").read_text())) == 2
    with pytest.raises(UserError, match="lower optim.lr|is not finite"):
        run(cache, tmp_path / "skip", **bad, **{"guard.policy": "skip"})


@pytest.mark.slow
def test_another_text_is_refused_with_both_hashes(cache, tmp_path):
    text = tmp_path / "text.txt"
    words = [f"The {a} {b} is here. It is {a}.\n" for a in ("red", "old") for b in ("cat", "dog")]
    text.write_text("\n".join(words * 40))
    few = {"data.source": str(text), "total_steps": 2, "optim.warmup_steps": 1}
    few |= {"data.valid_fraction": 0.3, "data.tokenizer.vocab_size": 300, "model.vocab_size": 300}
    run(cache, tmp_path / "run", **few)
    text.write_text(text.read_text().replace("red", "blue"))
    few["total_steps"] = 3
    with pytest.raises(UserError, match=r"its hash was [0-9a-f]{32} and is [0-9a-f]{32}\. Restore"):
        run(cache, tmp_path / "run", **few)
