"""GPT-1's fine-tuning: sequences that do not meet, their heads, and the language model beside."""

import batches
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from errors import UserError
from model import batch as batch_lib

ROWS, PARTS, LENGTH = 4, 2, 8


def config(classes, **options):
    c = tiny.config("gpt1")
    c.objective = dict(
        name="gpt_classification", classes=classes, lm_weight=0.5, logit_chunks=2, dropout=0.1
    )
    c.update_from_flattened_dict(options)
    return c


def batch(parts=PARTS, seed=0):
    made = batches.sequences(ROWS, parts, LENGTH, tiny.VOCAB, seed=seed)
    batch_lib.check(made)
    return made


def exchanged(made):
    """The same rows with their two sequences in the other order."""
    other = {name: np.roll(made[name], LENGTH, axis=1) for name in made if made[name].ndim == 2}
    positions = made["pair_positions"]
    other["pair_positions"] = positions[:, ::-1] + np.array([-LENGTH, LENGTH], np.int32)
    return made | other


def run(c, made):
    objective, params = tiny.objective(c), tiny.params(c)

    @jax.jit
    def everything(params, made):
        logits = objective.apply({"params": params}, made, method="predict")["logits"]
        return logits, *objective.apply({"params": params}, made, train=False)

    return everything(params, made)


def test_a_similarity_does_not_know_the_order():
    c, made = config(2), batch()
    (logits, terms, _), (other, _, _) = run(c, made), run(c, exchanged(made))
    assert logits.shape == (ROWS, 2)
    np.testing.assert_allclose(logits, other, rtol=1e-5, atol=1e-6)
    assert set(terms) == {"causal_lm", "classification"}
    assert float(terms["classification"].weight) == 3


def test_candidates_are_scored_alone():
    """A multiple choice equals each of its candidates in a row of its own; exchanged, exchanged."""
    c, made = config(0), batch()
    logits, terms, metrics = run(c, made)
    alone = config(1)  # the same head, for one sequence
    for part in range(PARTS):
        cut = slice(part * LENGTH, (part + 1) * LENGTH)
        own = made | {n: made[n][:, cut] for n in ("tokens", "segment_ids", "positions")}
        own |= {n: made[n][:, cut] for n in ("targets", "weights")}
        own["pair_positions"] = made["pair_positions"][:, part : part + 1] - part * LENGTH
        score, _, _ = run(alone, own)
        np.testing.assert_allclose(score[:3, 0], logits[:3, part], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run(c, exchanged(made))[0], logits[:, ::-1], rtol=1e-5, atol=1e-6)
    chosen = np.asarray(jax.nn.log_softmax(logits))[range(3), made["label"][:3]]
    assert float(terms["classification"].value) == pytest.approx(-chosen.mean(), rel=1e-5)
    assert set(metrics) == {"accuracy", "rows"}


def test_the_auxiliary_loss_is_that_of_a_language_model():
    """By sequence, for the mean is over sequences whatever their lengths."""
    c, made = config(2), batch(parts=1)
    _, terms, _ = run(c, made)
    lm = tiny.config("gpt1")
    objective, params = tiny.objective(lm), {"network": tiny.params(c)["network"]}
    fields = ("tokens", "segment_ids", "positions", "targets", "weights")
    loss = jax.jit(lambda x: objective.apply({"params": params}, x, train=False)[0]["causal_lm"])
    rows = [{name: made[name][i : i + 1] for name in fields} for i in range(ROWS - 1)]
    wanted = np.mean([float(loss(row).value) for row in rows])
    assert float(terms["causal_lm"].value) == pytest.approx(wanted, rel=1e-5)
    assert float(terms["causal_lm"].weight) == pytest.approx(ROWS - 1, rel=1e-6)
    assert tiny.objective(c).weights == {"causal_lm": 0.5, "mse": 1.0}


def test_what_each_loss_moves():
    """The language model does not move the head, the task moves both, padding nothing."""
    c, made = config(2), batch()
    objective, params = tiny.objective(c), tiny.params(c)

    @jax.jit
    def gradients(params, made):
        def term(params, name):
            return objective.apply({"params": params}, made, train=False)[0][name].value

        return {n: jax.grad(term)(params, n) for n in ("causal_lm", "classification")}

    found = gradients(params, made)
    size = lambda tree: max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))  # noqa: E731
    assert size(found["causal_lm"]["task_classifier"]) == 0 < size(found["causal_lm"]["network"])
    assert 0 < size(found["classification"]["task_classifier"])
    assert 0 < size(found["classification"]["network"])
    other = {n: x.copy() for n, x in made.items()}
    other["tokens"][other["segment_ids"] == 0] = 7
    other["label"][-1] = 1 - other["label"][-1]
    for a, b in zip(*(jax.tree.leaves(gradients(params, x)) for x in (made, other))):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_without_the_language_model():
    _, terms, _ = run(config(1, **{"objective.lm_weight": 0.0}), batch())
    assert set(terms) == {"mse"}
    with pytest.raises(UserError, match="lm_weight must be at least 0"):
        tiny.objective(config(2, **{"objective.lm_weight": -1.0}))
