"""Shared layers and narrow embeddings (ALBERT): what is stored, and that it computes the same."""

import batches
import jax
import numpy as np
import pytest
import tiny

from errors import UserError
from model import attention, losses, transformer
from model import stack as stack_lib

BATCH = batches.masked_lm(3, 12, 4, tiny.VOCAB, padding=3)


def shared_config(sharing, groups=1, **knobs):
    c = tiny.config("bert", **{"model.depth": 4})
    c.model.update(sharing=sharing, groups=groups, **knobs)
    return c


def loss_and_gradients(c, params):
    objective = tiny.objective(c)

    def loss(params):
        terms, _ = objective.apply({"params": params}, BATCH, train=False)
        return losses.combine({k: v.value for k, v in terms.items()}, objective.weights)

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("sharing", list(transformer.SHARING))
@pytest.mark.parametrize("groups", [1, 2])
def test_stored_layers(sharing, groups):
    if sharing == "none":
        groups = 1
    blocks = tiny.params(shared_config(sharing, groups))["network"]["stack"]["blocks"]
    for name, module in blocks.items():
        first = groups if name in transformer.SHARING[sharing] else 4
        assert {len(x) for x in jax.tree.leaves(module)} == {first}, name


@pytest.mark.parametrize(("sharing", "groups"), [("attention", 1), ("mlp", 2), ("all", 1)])
def test_sharing_equals_equal_layers(sharing, groups):
    """A network whose layers hold copies gives the same loss; gradients are the copies' sums."""
    c = shared_config(sharing, groups)
    params = tiny.params(c)
    # Layer i of 4 belongs to group int(i / 4 * groups) (ALBERT, modeling.py).
    group_of = [int(i / 4 * groups) for i in range(4)]
    common = transformer.SHARING[sharing]

    def copy(name, module):
        return jax.tree.map(lambda x: x[np.array(group_of)], module) if name in common else module

    blocks = params["network"]["stack"]["blocks"]
    copies = {name: copy(name, module) for name, module in blocks.items()}
    plain = {**params, "network": {**params["network"], "stack": {"blocks": copies}}}
    value, gradient = loss_and_gradients(c, params)
    expected, apart = loss_and_gradients(shared_config("none"), plain)
    np.testing.assert_allclose(value, expected, rtol=1e-6)

    def check(name, shared, own):
        if name not in common:
            return np.testing.assert_allclose(shared, own, rtol=1e-3, atol=1e-6)
        total = np.zeros(shared.shape, np.float32)
        np.add.at(total, group_of, np.asarray(own))
        np.testing.assert_allclose(shared, total, rtol=1e-3, atol=1e-6)

    ours = gradient["network"]["stack"]["blocks"]
    theirs = apart["network"]["stack"]["blocks"]
    for name in ours:
        jax.tree.map(lambda x, y, name=name: check(name, x, y), ours[name], theirs[name])


def test_narrow_tables_are_projected():
    params = tiny.params(shared_config("all", embed_width=8))
    network = params["network"]
    assert network["embedder"]["tokens"]["table"].shape == (tiny.VOCAB, 8)
    assert network["embedder"]["positions"]["table"].shape == (64, 8)
    assert network["embed_norm"]["scale"].shape == (8,)
    assert network["project"]["kernel"].shape == (8, 32)
    assert params["masked_lm"]["dense"]["kernel"].shape == (32, 8)
    assert "project" not in tiny.params(shared_config("all", embed_width=32))["network"]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_layers_have_dropout_of_their_own(dropout):
    """Two shared layers are one applied twice, but for what they drop."""
    c = shared_config("all", dropout=dropout)
    params = tiny.params(c)["network"]["stack"]
    x = jax.random.normal(jax.random.key(1), (2, 8, 32))
    visible = attention.Visible(np.ones((2, 1, 8, 8), bool))

    def run(depth, x):
        c.model.depth = depth
        network = tiny.objective(c).network
        stack = stack_lib.Stack(network.config, network.types)
        key = {"dropout": jax.random.key(0)}
        options = dict(train=True, return_layers=True, rngs=key)
        return stack.apply({"params": params}, x, visible, **options).layers

    two = run(2, x)
    first = run(1, x)[0]
    second = run(1, first)[0]
    np.testing.assert_allclose(two[0], first, rtol=1e-5, atol=1e-5)
    assert np.allclose(two[1], second, rtol=1e-5, atol=1e-5) == (dropout == 0.0)


def test_a_causal_encoder_sees_to_the_left_only():
    c = tiny.config("bert")
    c.model.causal = True
    network, params = tiny.objective(c).network, tiny.params(c)["network"]
    later = {**BATCH, "tokens": BATCH["tokens"].copy()}
    later["tokens"][:, 6:9] = 7
    one, two = (network.apply({"params": params}, b, train=False).hidden for b in (BATCH, later))
    np.testing.assert_array_equal(one[:, :6], two[:, :6])
    assert not np.allclose(one[:, 6:9], two[:, 6:9])


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (dict(sharing="al"), "Did you mean 'all'"),
        (dict(sharing="all", groups=3), "groups=3 must divide"),
        (dict(groups=2), "groups nothing"),
        (dict(embed_width=-1), "embed_width"),
    ],
)
def test_wrong_knobs_are_told(knobs, message):
    c = tiny.config("bert", **{"model.depth": 4})
    c.model.update(knobs)
    with pytest.raises(UserError, match=message):
        tiny.objective(c)
