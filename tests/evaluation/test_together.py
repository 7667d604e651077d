"""Runs trained as one program equal runs of their own."""

import json

import jax
import numpy as np
import pytest
import runs

import train
from configs import bert
from errors import UserError
from evaluation import together
from training import checkpoint


def make(cache, seed, lr, **more):
    c = bert.get_config("tiny,quick=1")
    values = {**runs.SMALL, "data.cache_dir": str(cache), "seed": seed, "optim.lr": lr}
    values |= {"model.dtype": "float32", "model.dropout": 0.1, "log.every": 1, "evals.batches": 2}
    values |= {"total_steps": 12, "evals.every": 6, "mesh.data": 8, "optim.warmup_steps": 3}
    c.update_from_flattened_dict(values | more)
    return c


@pytest.mark.slow
def test_seeds_and_rates_together_equal_separate_runs(tmp_path):
    settings = [(0, 1e-3), (1, 1e-3), (1, 3e-3)]
    folders = [tmp_path / f"together{i}" for i in range(3)]
    results = together.train([make(tmp_path / "cache", *s) for s in settings], folders)
    for (seed, lr), folder, result in zip(settings, folders, results, strict=True):
        alone = tmp_path / f"alone-{seed}-{lr}"
        expected = train.train(make(tmp_path / "cache", seed, lr), alone)
        assert result == pytest.approx(expected, rel=1e-5)
        ours, theirs = runs.rows(folder), runs.rows(alone)
        assert [row.keys() for row in ours] == [row.keys() for row in theirs]
        for a, b in zip(ours, theirs, strict=True):
            assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
        configs = [json.loads((path / "config.json").read_text()) for path in (folder, alone)]
        assert configs[0] == configs[1]
        shapes = checkpoint.saved_params(alone / "checkpoints")
        assert checkpoint.saved_params(folder / "checkpoints") == shapes
    assert results[0] != results[1] != results[2]
    # The run goes on by itself from what was left: the optimizer's state has its structure.
    c = make(tmp_path / "cache", 0, 1e-3, total_steps=14)
    assert np.isfinite(train.train(c, folders[0])["valid/loss"])


def test_what_cannot_be_trained_together_is_told(tmp_path):
    a = make(tmp_path, 0, 1e-3)
    with pytest.raises(UserError, match="seed and optim.lr only"):
        together.train(
            [a, make(tmp_path, 0, 1e-3, batch_size=16)], [tmp_path / "a", tmp_path / "b"]
        )
    (tmp_path / "a/checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="holds a run already"):
        together.train([a, a], [tmp_path / "a", tmp_path / "b"])
    assert jax.process_count() == 1
