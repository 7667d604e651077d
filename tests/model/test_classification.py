"""The objective of fine-tuning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from errors import UserError
from model import batch as batch_lib
from model import losses, objectives
from training import state


def config(classes, **overrides):
    c = tiny.config("bert")
    c.objective = dict(name="classification", classes=classes, dropout=0.1, scale=1.0)
    c.update_from_flattened_dict(overrides)
    return c


def batch(rows=6, length=12, classes=2, *, padding=4, seed=0):
    """Pairs whose last `padding` tokens are padding; the last row is nothing but that."""
    rng = np.random.default_rng(seed)
    ids = np.ones((rows, length), np.int32)
    ids[:, length - padding :] = ids[-1] = 0
    types = np.zeros((rows, length), np.int32)
    types[:, length // 2 : length - padding] = 1
    made = {
        "tokens": rng.integers(5, tiny.VOCAB, (rows, length)).astype(np.int32) * ids,
        "token_types": types * ids,
        "segment_ids": ids,
        "positions": np.arange(length, dtype=np.int32) * ids,
        "pair_positions": np.zeros((rows, 1), np.int32),
        "label": rng.integers(0, max(classes, 2), rows).astype(np.int32),
        "score": rng.uniform(0, 5, rows).astype(np.float32),
        "example_weights": (np.arange(rows) < rows - 1).astype(np.float32),
    }
    batch_lib.check(made)
    return made


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_shapes_and_values(classes):
    c = config(classes)
    objective, params, given = tiny.objective(c), tiny.params(c), batch(classes=classes)

    @jax.jit
    def run(params):
        predicted = objective.apply({"params": params}, given, method="predict")
        return predicted["logits"], *objective.apply({"params": params}, given, train=False)

    logits, terms, metrics = run(params)
    assert logits.shape == (6, classes) and logits.dtype == jnp.float32
    logits, weights = np.asarray(logits)[:5], given["example_weights"]
    rows = metrics.pop("rows")
    np.testing.assert_array_equal(rows.weight, weights)
    if classes == 1:
        expected = np.square(logits[:, 0] - given["score"][:5]).mean()
        assert set(terms) == {"mse"} and not metrics
        np.testing.assert_array_equal(rows.prediction[:5], logits[:, 0])
        np.testing.assert_array_equal(rows.target, given["score"])
    else:
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        label = given["label"][:5]
        expected = -np.log(p[np.arange(5), label]).mean()
        assert set(terms) == {"classification"} and set(metrics) == {"accuracy"}
        hits = logits.argmax(1) == label
        assert float(metrics["accuracy"].value) == pytest.approx(hits.mean())
        np.testing.assert_array_equal(rows.prediction[:5], logits.argmax(1))
        np.testing.assert_array_equal(rows.target, given["label"])
    (term,) = terms.values()
    assert float(term.weight) == 5
    assert float(term.value) == pytest.approx(float(expected), rel=1e-5)


def test_a_scaled_regression_is_measured_in_the_unit_of_the_scores():
    """As if the scores were divided by 5 (RoBERTa, ELECTRA), but told as they are."""
    plain, scaled = tiny.objective(config(1)), tiny.objective(config(1, **{"objective.scale": 5.0}))
    params, given = {"params": tiny.params(config(1))}, batch(classes=1)
    fifth = given | {"score": given["score"] / 5}
    wanted, got = (
        jax.jit(lambda b, o=o: o.apply(params, b, train=False))(b)
        for o, b in ((plain, fifth), (scaled, given))
    )
    np.testing.assert_allclose(got[1]["rows"].prediction, 5 * wanted[1]["rows"].prediction)
    loss, other = (
        losses.combine({k: t.value for k, t in terms.items()}, o.weights)
        for o, (terms, _) in ((plain, wanted), (scaled, got))
    )
    assert float(other) == pytest.approx(float(loss), rel=1e-5)


def test_rows_are_collected_only_where_it_does_not_train():
    c = config(2)
    variables = {"params": tiny.params(c)}
    keys = {"dropout": jax.random.key(0)}
    _, metrics = tiny.objective(c).apply(variables, batch(), train=True, rngs=keys)
    assert set(metrics) == {"accuracy"}


@pytest.mark.parametrize("classes", [1, 3])
def test_gradients_reach_every_parameter_and_no_padding(classes):
    c = config(classes)
    objective, given = tiny.objective(c), batch(classes=classes)

    @jax.jit
    def loss(params, given):
        terms, _ = objective.apply({"params": params}, given, train=False)
        return sum(term.value for term in terms.values())

    gradients = jax.jit(jax.grad(loss))(tiny.params(c), given)
    for path, g in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        if "key" in name and "bias" in name:
            continue  # shifts all scores of a query alike
        assert np.abs(g).max() > 0, name
    # Neither the last row, which has no weight, nor padding changes the loss.
    other = {name: value.copy() for name, value in given.items()}
    other["tokens"][:, -4:] = other["tokens"][-1] = 7
    other["label"][-1], other["score"][-1] = 1 - other["label"][-1] % 2, 99
    params = tiny.params(c)
    assert float(loss(params, other)) == float(loss(params, given))


def test_the_classifier_has_dropout_of_its_own():
    c = config(2)  # the network has none
    objective, params = tiny.objective(c), {"params": tiny.params(c)}

    def logits(seed, train=True, o=objective):
        keys = {"dropout": jax.random.key(seed)}
        return np.asarray(
            o.apply(params, batch(), train=train, rngs=keys, method="predict")["logits"]
        )

    assert (logits(0) != logits(1)).any() and (logits(0) == logits(0)).all()
    assert (logits(0, False) == logits(1, False)).all()
    off = tiny.objective(config(2, **{"objective.dropout": 0.0}))
    assert (logits(0, o=off) == logits(0, False)).all()


def test_heads_are_named_after_what_they_inherit():
    pretraining = tiny.params(tiny.config("bert"))
    params = tiny.params(config(2))
    assert set(params) == {"network", "pooler", "task_classifier"}
    assert set(pretraining) == {"network", "pooler", "classifier", "masked_lm"}
    shapes = [jax.tree.map(jnp.shape, p["pooler"]) for p in (params, pretraining)]
    assert shapes[0] == shapes[1]


def test_flops_and_parameters():
    c = config(3)
    shapes = {name: value.shape for name, value in batch(classes=3).items()}
    width = c.model.width
    two = tiny.objective(config(2)).flops(shapes)
    assert tiny.objective(c).flops(shapes) - two == 3 * 2 * 6 * width
    count = state.count_parameters
    assert count(tiny.objective(c)) - count(tiny.objective(config(2))) == width + 1


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (dict(classes=2), "lacks dropout"),
        (dict(classes=2, dropout=1.0), r"dropout must be in \[0, 1\)"),
        (dict(classes=1, dropout=0.1, scale=0.0), "scale must be above 0"),
        (dict(classes=2, dropout=0.1, labels=2), "Unknown key in config.objective: 'labels'"),
    ],
)
def test_a_wrong_section_is_told(section, message):
    c = tiny.config("bert")
    c.objective = dict(name="classification", **section)
    with pytest.raises(UserError, match=message):
        objectives.build(c, "cpu")
