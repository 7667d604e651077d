import math

import batches
import jax
import numpy as np
import pytest

from errors import UserError
from evaluation import evaluate
from model import losses
from training import step as step_lib


def rows_of(batch, rows):
    return {name: value[rows] for name, value in batch.items()}


def test_cut_into_batches_gives_the_same_means(bert):
    objective, params = bert
    batch = batches.masked_lm(8, 16, 4, 40, padding=3)
    batch["weights"][:3] = 0  # batches of unequal weight
    eval_step = jax.jit(step_lib.make_eval_step(objective))
    whole = evaluate.evaluate(eval_step, params, [batch])
    assert set(whole) == {
        "masked_lm", "sentence_pair", "accuracy", "sentence_pair_accuracy", "loss"
    }  # fmt: skip
    cut = [rows_of(batch, slice(i, i + 2)) for i in range(0, 8, 2)]
    assert evaluate.evaluate(eval_step, params, iter(cut)) == pytest.approx(whole, rel=1e-5)
    assert whole["loss"] == whole["masked_lm"] + whole["sentence_pair"]

    logits = objective.apply({"params": params}, batch, method="predict")["logits"]
    nats = np.asarray(losses.cross_entropy(logits, batch["targets"]))
    expected = (nats * batch["weights"]).sum() / batch["weights"].sum()
    assert whole["masked_lm"] == pytest.approx(expected, rel=1e-5)


def test_perplexity_is_of_causal_models(gpt):
    objective, params = gpt
    eval_step = step_lib.make_eval_step(objective)
    values = evaluate.evaluate(eval_step, params, [batches.causal_lm(2, 16, 40)])
    assert set(values) == {"causal_lm", "accuracy", "loss", "perplexity"}
    assert values["perplexity"] == math.exp(values["causal_lm"]) == math.exp(values["loss"])


def test_nothing_to_measure_is_an_error(gpt):
    objective, params = gpt
    eval_step = step_lib.make_eval_step(objective)
    with pytest.raises(UserError, match="no held-out rows"):
        evaluate.evaluate(eval_step, params, [])
    batch = batches.causal_lm(2, 16, 40)
    with pytest.raises(UserError, match="nothing to predict for causal_lm"):
        evaluate.evaluate(eval_step, params, [batch | {"weights": 0 * batch["weights"]}])


def test_unigram_entropy_is_that_of_the_weighted_targets():
    first = {"targets": np.array([[3, 1], [1, 7]]), "weights": np.float32([[1, 1], [1, 0]])}
    second = {"targets": np.array([[9]]), "weights": np.float32([[1]])}
    counts = evaluate.target_counts([first, second, first])
    assert counts.tolist() == [0, 4, 0, 2, 0, 0, 0, 0, 0, 1]
    p = np.array([4, 2, 1]) / 7
    assert evaluate.unigram_entropy(counts) == pytest.approx(-(p * np.log(p)).sum())
    assert evaluate.unigram_entropy(np.ones(8)) == pytest.approx(math.log(8))


def test_no_model_without_context_is_better_than_the_unigram_entropy():
    rng = np.random.default_rng(0)
    targets = rng.zipf(1.5, (64, 16)) % 50
    weights = (rng.random(targets.shape) < 0.5).astype(np.float32)
    counts = evaluate.target_counts([{"targets": targets, "weights": weights}])
    entropy = evaluate.unigram_entropy(counts)

    def loss(p):
        return -(np.log(p)[targets] * weights).sum() / weights.sum()

    best = np.maximum(np.resize(counts / counts.sum(), 50), 1e-30)
    assert loss(best) == pytest.approx(entropy)
    assert loss(0.99 * best + 0.01 / 50) > entropy
