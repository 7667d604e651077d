"""Schedules at their corners, BERT's Adam by hand, decay and freezing by path, LAMB by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from configs import common
from errors import UserError
from training import matrices as matrices_lib
from training import optimizer, setup, state

PARAMS = {
    "stack": {"blocks": {"up": {"kernel": jnp.ones((3, 4, 5)), "bias": jnp.ones((3, 5))}}},
    "norm": {"scale": jnp.full((4,), 2.0), "bias": jnp.ones((4,))},
    "table": jnp.arange(8.0).reshape(2, 4),
}


def config(**overrides):
    c = common.optim()
    c.update(schedule="constant", lr=0.1, clip_norm=0.0, **overrides)
    return c


def gradients(seed=0):
    leaves, tree = jax.tree.flatten(PARAMS)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return tree.unflatten(
        [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", {0: 0, 5: 0.5, 10: 1, 60: 1, 110: 1}),
        ("linear", {0: 0, 5: 0.5, 10: 1, 60: 0.55, 110: 0.1, 200: 0.1}),
        ("cosine", {0: 0, 5: 0.5, 10: 1, 60: 0.55, 110: 0.1, 200: 0.1}),
        ("inverse_square_root", {0: 10**-0.5, 10: 10**-0.5, 40: 40**-0.5, 110: 110**-0.5}),
        ("linear_from_start", {0: 0, 5: 0.5, 9: 0.9, 11: 0.91, 55: 0.55, 110: 0.1}),
    ],
)
def test_schedules(name, expected):
    c = config()
    c.update(schedule=name, lr=1.0, warmup_steps=10, final_lr=0.1)
    schedule = optimizer.schedule(c, 110)
    for step, lr in expected.items():
        assert float(schedule(jnp.asarray(step))) == pytest.approx(lr, abs=1e-6)


def test_decay_steps_end_the_schedule_elsewhere():
    c = config()
    c.update(schedule="linear", lr=1.0, decay_steps=200)
    assert float(optimizer.schedule(c, 100)(jnp.asarray(100))) == pytest.approx(0.5)


def assert_three_steps_equal(ours, theirs):
    a, b = PARAMS, PARAMS
    sa, sb = ours.init(a), theirs.init(b)
    for i in range(3):
        u, sa = ours.update(gradients(i), sa, a)
        a = optax.apply_updates(a, u)
        u, sb = theirs.update(gradients(i), sb, b)
        b = optax.apply_updates(b, u)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


def test_adamw_equals_optax():
    c = config(weight_decay=0.01, no_decay=(), b1=0.8, b2=0.95, eps=1e-6)
    ours = optimizer.build(c, 10)
    theirs = optax.adamw(0.1, 0.8, 0.95, 1e-6, weight_decay=0.01)
    assert_three_steps_equal(ours, theirs)


def test_bert_adam_has_no_bias_correction():
    """Two steps written out from optimization.py."""
    c = config(weight_decay=0.01, no_decay=(), eps=1e-6, bias_correction=False)
    ours = optimizer.build(c, 10)
    p, m, v = np.asarray(PARAMS["table"]), 0.0, 0.0
    params, state = PARAMS, ours.init(PARAMS)
    for i in range(2):
        g = np.asarray(gradients(i)["table"])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        p = p - 0.1 * (m / (np.sqrt(v) + 1e-6) + 0.01 * p)
        u, state = ours.update(gradients(i), state, params)
        params = optax.apply_updates(params, u)
    np.testing.assert_allclose(params["table"], p, rtol=2e-5)


def test_biases_and_norms_do_not_decay():
    ours = optimizer.build(config(weight_decay=0.5), 10)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = ours.update(zeros, ours.init(PARAMS), PARAMS)
    assert (updates["table"] == -0.1 * 0.5 * PARAMS["table"]).all()
    assert (updates["stack"]["blocks"]["up"]["kernel"] < 0).all()
    for still in (updates["norm"]["scale"], updates["norm"]["bias"]):
        assert (still == 0).all()
    assert (updates["stack"]["blocks"]["up"]["bias"] == 0).all()


def test_frozen_parameters_stay_and_cost_no_state():
    ours = optimizer.build(config(frozen=("^stack/", "table")), 10)
    state = ours.init(PARAMS)
    trained = sum(x.size for x in jax.tree.leaves(PARAMS["norm"]))
    assert sum(x.size for x in jax.tree.leaves(state) if x.ndim) == 2 * trained
    updates, _ = ours.update(gradients(), state, PARAMS)
    assert (updates["table"] == 0).all() and (updates["norm"]["scale"] != 0).all()


def test_lamb_treats_each_layer_of_a_stack_alone():
    c = config(weight_decay=0.01, no_decay=())
    c.name = "lamb"
    ours, theirs = optimizer.build(c, 10), optax.lamb(0.1, 0.9, 0.999, 1e-8, weight_decay=0.01)
    grads, _ = gradients(), None
    got, _ = ours.update(grads, ours.init(PARAMS), PARAMS)
    for layer in range(3):
        one, g = ({"k": t["stack"]["blocks"]["up"]["kernel"][layer]} for t in (PARAMS, grads))
        want, _ = theirs.update(g, theirs.init(one), one)
        np.testing.assert_allclose(
            got["stack"]["blocks"]["up"]["kernel"][layer], want["k"], rtol=1e-5
        )
    table, g = {"t": PARAMS["table"]}, {"t": grads["table"]}
    want, _ = theirs.update(g, theirs.init(table), table)
    np.testing.assert_allclose(got["table"], want["t"], rtol=1e-5)


def test_lamb_leaves_alone_what_does_not_decay():
    """ALBERT's lamb_optimizer.py: biases and norms get plain Adam."""
    c = config(weight_decay=0.01)
    c.name = "lamb"
    adam = optimizer.build(config(weight_decay=0.01), 10)
    ours = optimizer.build(c, 10)
    got, _ = ours.update(gradients(), ours.init(PARAMS), PARAMS)
    plain, _ = adam.update(gradients(), adam.init(PARAMS), PARAMS)
    for path in (("norm", "scale"), ("norm", "bias")):
        np.testing.assert_array_equal(got[path[0]][path[1]], plain[path[0]][path[1]])
    assert not np.allclose(got["table"], plain["table"])


def test_layer_decay_is_electras():
    """lr * d^(N + 2 - depth): embeddings 0, layer i at i + 1, heads N + 2 (optimization.py)."""
    ones = jnp.ones((3, 4))
    params = {
        "network": {
            "embedder": {"tokens": {"table": ones}},
            "embed_norm": {"scale": ones[0]},
            "project": {"kernel": ones},
            "stack": {"blocks": {"mlp": {"up": {"kernel": ones}}}},
        },
        "classifier": {"dense": {"kernel": ones}},
    }
    plain, scaled = config(weight_decay=0.1), config(weight_decay=0.1)
    scaled.layer_decay = 0.8
    (want, _), (got, _) = (
        o.update(params, o.init(params), params)
        for o in (optimizer.build(c, 10) for c in (plain, scaled))
    )
    ratio = jax.tree.map(lambda a, b: np.asarray(a / b), got, want)
    for embeds in (ratio["network"][k] for k in ("embedder", "embed_norm", "project")):
        for leaf in jax.tree.leaves(embeds):
            np.testing.assert_allclose(leaf, 0.8**5, rtol=1e-5)
    blocks = ratio["network"]["stack"]["blocks"]["mlp"]["up"]["kernel"]
    np.testing.assert_allclose(blocks[:, 0], [0.8**4, 0.8**3, 0.8**2], rtol=1e-5)
    np.testing.assert_allclose(ratio["classifier"]["dense"]["kernel"], 1.0, rtol=1e-6)


@pytest.mark.parametrize("page", ["t5", "reformer"])
def test_layer_decay_is_refused_where_layers_are_not_one_stack(page):
    c = tiny.config(page)
    c.optim.layer_decay = 0.9
    optim = optimizer.build(c.optim, c.total_steps)
    init = state.Init(tiny.objective(c), optim)
    with pytest.raises(UserError, match="layer_decay=0.9 needs a network whose layers are one"):
        jax.eval_shape(init, jax.random.key(0))


def test_clipping_uses_the_global_norm():
    c = config(weight_decay=0.0)
    c.update(clip_norm=1e-3, eps=1.0)  # so large an eps keeps Adam linear in the gradient
    clipped, plain = optimizer.build(c, 10), optimizer.build(config(weight_decay=0.0, eps=1.0), 10)
    g = gradients()
    scale = 1e-3 / optax.tree.norm(g)
    small = jax.tree.map(lambda x: x * scale, g)
    a, _ = clipped.update(g, clipped.init(PARAMS), PARAMS)
    b, _ = plain.update(small, plain.init(PARAMS), PARAMS)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), a, b)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "adam2", "Choose one of: adafactor, adamw, lamb, lion, muon"),
        ("layer_decay", 1.5, "layer_decay=1.5 must be in"),
        ("schedule", "cosin", "Did you mean 'cosine'"),
        ("no_decay", ("(",), "config.optim.no_decay"),
        ("frozen", ("[",), "config.optim.frozen"),
        ("lr", -1.0, "must not be negative"),
        ("warmup_steps", 11, "between 0 and"),
    ],
)
def test_wrong_values_are_told(key, value, message):
    c = config()
    c[key] = value
    with pytest.raises(UserError, match=message):
        optimizer.build(c, 10)


MATRICES = {"square": (130, 200), "heads": (150, 4, 40), "narrow": (300, 100), "gain": (200,)}


def matrices(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)  # noqa: E731
    blocks = {name: draw(2, *shape) for name, shape in MATRICES.items()}
    return {"stack": {"blocks": blocks}, "table": draw(256, 130)}


def test_adafactor_equals_optax_matrix_by_matrix():
    """Layers and heads as the matrices that they are; the library's own takes one array for one."""
    ours = optimizer.build(config(name="adafactor", weight_decay=0.0), 10)
    theirs = optax.chain(
        optax.scale_by_factored_rms(),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
        optax.scale(-0.1),
    )

    def apart(tree):
        """Each layer's matrix by itself."""
        blocks = tree["stack"]["blocks"]
        layers = {f"{name}{i}": x[i] for name, x in blocks.items() for i in (0, 1)}
        layers = {k: x.reshape(len(x), -1) if x.ndim > 1 else x for k, x in layers.items()}
        return layers | {"table": tree["table"]}

    a = matrices(0, scale=0.3)
    b = apart(a)
    sa, sb = ours.init(a), theirs.init(b)
    for i in range(1, 4):
        g = matrices(i, scale=10.0 if i == 2 else 0.1)  # one that is clipped
        u, sa = jax.jit(ours.update)(g, sa, a)
        a = optax.apply_updates(a, u)
        u, sb = theirs.update(apart(g), sb, b)
        b = optax.apply_updates(b, u)
    for name, value in apart(a).items():
        np.testing.assert_allclose(value, b[name], rtol=2e-5, atol=1e-7, err_msg=name)


def test_adafactor_keeps_rows_and_columns_where_both_are_long():
    state = matrices_lib.scale_by_adafactor().init(matrices(0))
    shapes = {
        name: [None if x is None else x.shape for x in moments]
        for name, moments in state.moments["stack"]["blocks"].items()
    }
    assert shapes == {
        "square": [(2, 130), (2, 200), None],
        "heads": [(2, 150), (2, 4, 40), None],
        "narrow": [None, None, (2, 300, 100)],
        "gain": [None, None, (2, 200)],
    }


def test_frozen_parameters_have_no_moments():
    ours = optimizer.build(config(name="adafactor", frozen=("table",)), 10)
    params = matrices(0)
    updates, _ = ours.update(matrices(1), ours.init(params), params)
    assert not updates["table"].any() and updates["stack"]["blocks"]["heads"].any()


def test_lion_equals_optax():
    ours = optimizer.build(config(name="lion", weight_decay=0.3, no_decay=()), 10)
    theirs = optax.lion(0.1, 0.9, 0.999, weight_decay=0.3)
    assert_three_steps_equal(ours, theirs)


def test_muon_equals_optax_matrix_by_matrix():
    """A layer's kernels as the matrices that they are, and Adam for everything else."""
    shapes = {"query": (2, 8, 2, 4), "out": (2, 2, 4, 8), "up": (2, 8, 16)}
    rng = np.random.default_rng(0)

    def draw():
        blocks = {k: {"kernel": rng.normal(size=s), "bias": s[:1]} for k, s in shapes.items()}
        for k, s in shapes.items():
            blocks[k]["bias"] = rng.normal(size=(2, s[-1]))
        tree = {"stack": {"blocks": blocks}, "head": {"kernel": rng.normal(size=(8, 3))}}
        return jax.tree.map(jnp.float32, tree)

    c = config(name="muon", weight_decay=0.1, no_decay=())
    ours, adam = optimizer.build(c, 10), optax.adamw(0.1, 0.9, 0.999, weight_decay=0.1)
    theirs = optax.contrib.muon(0.1, weight_decay=0.1, consistent_rms=0.2)
    params = draw()
    state, states = ours.init(params), {}
    for _ in range(2):
        grads = draw()
        got, state = ours.update(grads, state, params)
        for name, shape in shapes.items():
            sides = (16 if name == "up" else 8,)
            for layer in range(2):
                p, g, u = (
                    {"m": t["stack"]["blocks"][name]["kernel"][layer].reshape(8, *sides)}
                    for t in (params, grads, got)
                )
                before = states.get((name, layer), theirs.init(p))
                want, states[name, layer] = theirs.update(g, before, p)
                np.testing.assert_allclose(u["m"], want["m"], rtol=2e-4, atol=1e-6)
            assert u["m"].size == np.prod(shape[1:])
        rest = lambda t: (t["head"], t["stack"]["blocks"]["up"]["bias"])  # noqa: E731
        before = states.get("rest", adam.init(rest(params)))
        want, states["rest"] = adam.update(rest(grads), before, rest(params))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), rest(got), want)


@pytest.mark.parametrize("name", sorted(optimizer.OPTIMIZERS))
def test_every_optimizer_has_a_place_on_a_mesh(name, devices):
    """Its state lies where the parameters do, and takes at most Adam's memory."""
    c = tiny.config("bert", **{"optim.name": name, "mesh.fsdp": 8, "mesh.data": 1})
    abstract = setup.prepare(c, devices).abstract()
    size = lambda t: sum(x.size for x in jax.tree.leaves(t))  # noqa: E731
    assert size(abstract.opt_state) < 2.1 * size(abstract.params)
    kernels = [
        x for x in jax.tree.leaves(abstract.opt_state) if x.ndim == 3 and x.size >= 128 * 128
    ]
    assert all(not x.sharding.is_fully_replicated for x in kernels)
