"""Multiple choice by an encoder: choices that do not meet, and some that are not there."""

import batches
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from model import batch as batch_lib
from training import state

ROWS, CHOICES, LENGTH = 4, 3, 8


def config(classes, **overrides):
    c = tiny.config("bert")
    c.objective = dict(name="classification", classes=classes, dropout=0.1)
    c.update_from_flattened_dict(overrides)
    return c


@pytest.fixture(scope="module")
def given():
    made = batches.choices(ROWS, CHOICES, LENGTH, tiny.VOCAB)
    batch_lib.check(made)
    return made


def run(classes, given):
    objective, params = tiny.objective(config(classes)), tiny.params(config(classes))

    @jax.jit
    def everything(params, given):
        logits = objective.apply({"params": params}, given, method="predict")["logits"]
        return logits, *objective.apply({"params": params}, given, train=False)

    return everything(params, given)


def test_a_choice_is_scored_as_if_it_were_alone(given):
    """By the same head as a number for a row (one class) that holds just this choice."""
    logits, terms, metrics = run(0, given)
    assert logits.shape == (ROWS, CHOICES) and logits.dtype == jnp.float32
    alone = {
        name: given[name].reshape(ROWS * CHOICES, LENGTH)
        for name in ("tokens", "token_types", "segment_ids", "positions")
    }
    alone["pair_positions"] = np.zeros((ROWS * CHOICES, 1), np.int32)
    alone["score"] = np.zeros(ROWS * CHOICES, np.float32)
    alone["example_weights"] = np.ones(ROWS * CHOICES, np.float32)
    scores = np.array(run(1, alone)[0]).reshape(ROWS, CHOICES)
    scores[0, -1] = scores[-1] = -1e9
    np.testing.assert_allclose(logits, scores, rtol=1e-5, atol=1e-6)

    # The softmax is over the choices that are there, the mean over the rows that are.
    chances = [np.exp(s[s > -1e8]) / np.exp(s[s > -1e8]).sum() for s in scores[:-1]]
    assert [len(p) for p in chances] == [2, 3, 3]
    wanted = -np.mean([np.log(p[given["label"][i]]) for i, p in enumerate(chances)])
    assert set(terms) == {"classification"} and float(terms["classification"].weight) == ROWS - 1
    assert float(terms["classification"].value) == pytest.approx(float(wanted), rel=1e-5)
    best = np.array([p.argmax() for p in chances])
    assert float(metrics["accuracy"].value) == pytest.approx((best == given["label"][:-1]).mean())
    np.testing.assert_array_equal(metrics["rows"].prediction[:-1], best)


def test_no_gradient_reaches_a_choice_that_is_not_there(given):
    """Tokens that occur in one choice only: a gradient says whether it is read."""
    c, made = config(0), {name: x.copy() for name, x in given.items()}
    tokens = made["tokens"].reshape(ROWS, CHOICES, LENGTH)
    tokens[tokens >= 90] = 5
    tokens[0, 0, 1], tokens[0, 2, 1], tokens[3, 1, 1], tokens[1, 2, 1] = 90, 91, 92, 93
    objective = tiny.objective(c)

    @jax.jit
    @jax.grad
    def gradient(params):
        return objective.apply({"params": params}, made, train=False)[0]["classification"].value

    found = gradient(tiny.params(c))
    table = np.abs(found["network"]["embedder"]["tokens"]["table"]).max(1)
    assert table[90] > 0 and table[93] > 0 and table[91] == table[92] == 0
    for name in ("pooler", "task_classifier"):
        assert max(np.abs(x).max() for x in jax.tree.leaves(found[name]["dense"]["kernel"])) > 0


def test_flops_and_parameters(given):
    """One head for all choices; of C short sequences, not of a long one."""
    c, shapes = config(0), {name: value.shape for name, value in given.items()}
    alone = shapes | {"tokens": (ROWS * CHOICES, LENGTH), "pair_positions": (ROWS * CHOICES, 1)}
    assert tiny.objective(c).flops(shapes) == tiny.objective(config(1)).flops(alone)
    count = state.count_parameters
    assert count(tiny.objective(c)) == count(tiny.objective(config(1)))
