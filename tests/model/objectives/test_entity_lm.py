"""The denoising entity auto-encoder: a softmax over the entities of the row, or of the batch."""

import functools

import batches
import jax
import numpy as np
import pytest
import tiny

from errors import UserError
from model import objectives


def config(candidates="row"):
    c = tiny.config("ernie")
    c.objective.candidates = candidates
    return c


def batch():
    return batches.entity_lm(5, 16, 4, tiny.VOCAB, padding=3)


@functools.partial(jax.jit, static_argnums=0)
def judged(objective, params, batch):
    return objective.apply({"params": params}, batch, train=False)


@functools.partial(jax.jit, static_argnums=0)
def read(objective, params, batch):
    hidden = objective.network.apply({"params": params["network"]}, batch, train=False).hidden
    return hidden, objective.apply({"params": params}, batch, method="predict")


@pytest.mark.parametrize("candidates", ["row", "batch"])
def test_the_loss_is_a_softmax_over_candidates(candidates):
    c, given = config(candidates), batch()
    params, objective = tiny.params(c), tiny.objective(c)
    terms, metrics = judged(objective, params, given)

    hidden, predicted = read(objective, params, given)
    head = params["entity_key"]
    x = np.take_along_axis(np.asarray(hidden), given["entity_positions"][..., None], axis=1)
    x = jax.nn.gelu(x @ head["dense"]["kernel"] + head["dense"]["bias"], approximate=False)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    table = np.asarray(params["network"]["knowledge"]["entities"]["table"])
    scores = np.asarray(x * head["norm"]["scale"] + head["norm"]["bias"]) @ table.T

    told = given["entity_weights"] > 0
    everyone = set(given["entity_targets"][told])
    losses, right = [], []
    for row, j in zip(*np.nonzero(told), strict=True):
        target = given["entity_targets"][row, j]
        among = everyone if candidates == "batch" else set(given["entity_targets"][row][told[row]])
        logits = {e: scores[row, j, e] for e in among}
        losses.append(np.log(sum(map(np.exp, logits.values()))) - logits[target])
        right.append(max(logits, key=logits.get) == target)
    assert told.sum() == 3 * 3 + 1 and not told[-1].any()
    np.testing.assert_allclose(terms["entity"].total, sum(losses), rtol=1e-4)
    assert terms["entity"].weight == len(losses)
    assert metrics["entity_accuracy"].total == sum(right)
    # A row with a single entity has nothing to choose from.
    if candidates == "row":
        assert predicted["candidates"].shape == (5, 3)
        assert (predicted["candidates"][-1] == 0).all()


def test_padding_and_other_objectives_are_as_in_bert():
    c, given = config(), batch()
    params, objective = tiny.params(c), tiny.objective(c)
    terms, _ = judged(objective, params, given)
    changed = dict(given)
    unused = given["entity_weights"] == 0
    changed["entity_targets"] = np.where(unused, 19, given["entity_targets"]).astype(np.int32)
    changed["entity_positions"] = np.where(unused, 9, given["entity_positions"]).astype(np.int32)
    again, _ = judged(objective, params, changed)
    np.testing.assert_allclose(again["entity"].total, terms["entity"].total, rtol=1e-6)

    c.objective = dict(name="masked_lm", sentence_pair=True)
    text = {k: v for k, v in params.items() if k != "entity_key"}
    plain, _ = judged(tiny.objective(c), text, given)
    assert set(terms) == {"masked_lm", "sentence_pair", "entity"}
    for name in plain:
        np.testing.assert_allclose(plain[name].total, terms[name].total, rtol=1e-6)


def test_flops_count_the_entities():
    c = config()
    shapes = {name: x.shape for name, x in batch().items()}
    with_entities = tiny.objective(c).flops(shapes)
    c.objective = dict(name="masked_lm", sentence_pair=True)
    # One layer that fuses, one that also attends; the head of 15 mentions among 3 each.
    y, f, d, tokens, length = 16, 128, 32, 5 * 16, 16
    layers = tokens * (2 * 2 * y * f + 4 * y * y + 2 * y * length)
    added = 3 * 2 * (layers + 15 * y * (d + 3))
    assert with_entities - tiny.objective(c).flops(shapes) == pytest.approx(added)


def test_wrong_settings_are_told():
    c = config("corpus")
    with pytest.raises(UserError, match="Unknown config.objective.candidates 'corpus'"):
        tiny.objective(c).init(jax.random.key(0), batch(), train=False)
    c = tiny.config("bert")
    c.objective = config().objective
    with pytest.raises(UserError, match="needs the table of entities"):
        objectives.build(c, "cpu")
