"""Locally banded attention: the same numbers as a mask gives, for fewer operations."""

import batches
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from configs import gpt3
from errors import UserError
from model import attention, layers, networks, objectives, transformer
from training import optimizer, state, step

TYPES = layers.numerics("float32", "cpu")


def keep(p):
    return p


def dropped(p):
    key = {"dropout": jax.random.key(5)}
    return layers.Dropout(0.5).apply({}, p, train=True, rngs=key)


@pytest.mark.parametrize(("length", "band"), [(24, 4), (23, 4), (9, 4), (7, 3), (5, 1)])
def test_chunks_equal_a_mask(length, band):
    """Values and gradients, for lengths that the band does and does not divide."""
    assert attention.skips(length, band)
    rng = np.random.default_rng(length)
    q, k, v, weight = rng.normal(size=(4, 2, length, 3, 5)).astype(np.float32)
    ids = np.sort(rng.integers(1, 4, (2, length)).astype(np.int32))  # segments of several lengths
    ids[0], ids[1, -2:] = 1, 0
    allowed = attention.mask(ids, ids, causal=True)
    distance = np.arange(length)[:, None] - np.arange(length)

    def masked(q, k, v):
        return attention.attend(q, k, v, allowed & (distance < band), keep, TYPES)[0]

    def banded(q, k, v):
        chunks = attention.within(attention.Visible(allowed), band).allowed
        assert chunks.shape[1:] == (-(-length // band), 1, band, 2 * band)
        return attention.attend_band(q, k, v, chunks, keep, TYPES)

    def value_and_gradients(f):
        loss = lambda *x: (f(*x) * weight).sum()  # noqa: E731
        return f(q, k, v), *jax.grad(loss, argnums=(0, 1, 2))(q, k, v)

    for ours, wanted in zip(*map(jax.jit(value_and_gradients, static_argnums=0), (banded, masked))):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5)


def test_short_rows_are_masked():
    ids = np.ones((1, 8), np.int32)
    allowed = attention.mask(ids, ids, causal=True)
    for band in (4, 5, 7, 8, 100):
        distance = np.arange(8)[:, None] - np.arange(8)
        wanted = (distance >= 0) & (distance < band)
        narrowed = attention.within(attention.Visible(allowed), band).allowed
        np.testing.assert_array_equal(narrowed[0, 0], wanted)


def test_dropout_inside_a_band():
    """Half of the probabilities is dropped, the rest doubled: with equal values the mean stays."""
    ids = np.ones((4, 256), np.int32)
    visible = attention.Visible(attention.mask(ids, ids, causal=True))
    chunks = attention.within(visible, 32).allowed
    x = jnp.zeros((4, 256, 4, 2))
    y = jax.jit(lambda x: attention.attend_band(x, x, x + 1, chunks, dropped, TYPES))(x)
    assert float(y.mean()) == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(float(y[:, 64:].std()), 32**-0.5, rtol=0.05)


def test_layers_take_turns():
    """Which tokens change what the first and the second layer say about token 12."""
    fields = batches.causal_lm(1, 16, tiny.VOCAB)
    params = tiny.params(tiny.config("gpt2"))["network"]
    seen = {}
    for bands in ((3,), (0, 3), (3, 0)):
        network = networks.build(tiny.config("gpt2", **{"model.bands": bands}).model, "cpu")

        def layers_of(changed, network=network):
            tokens = jnp.asarray(fields["tokens"]).at[0, changed].add(1) % tiny.VOCAB
            batch = fields | {"tokens": tokens}
            output = network.apply({"params": params}, batch, train=False, return_layers=True)
            return output.layers[:, 0, 12]

        outputs = jax.jit(jax.vmap(layers_of))(jnp.arange(16))  # [changed, layer, width]
        differ = (outputs != outputs[15]).any(-1)
        seen[bands] = [set(np.flatnonzero(differ[:, layer]).tolist()) for layer in (0, 1)]
    everything, near, further = set(range(13)), {10, 11, 12}, {8, 9, 10, 11, 12}
    assert seen == {
        (3,): [near, further],
        (0, 3): [everything, everything],
        (3, 0): [near, everything],
    }


def test_operations_fall_as_counted():
    """Those of the compiled program, and ours for the MFU."""
    c = tiny.config("gpt3", **{"model.max_positions": 1024, "model.remat": "none"})
    c.model.head_size = 64  # so that products outweigh what softmax costs for each pair
    batch, params = batches.causal_lm(1, 1024, tiny.VOCAB), tiny.params(c)
    compiled, counted = {}, {}
    for bands in ((0,), (0, 32)):
        c.model.bands = bands
        network = networks.build(c.model, "cpu")
        apply = lambda p, n=network: n.apply({"params": p}, batch, train=False).hidden  # noqa: E731
        program = jax.jit(apply).lower(params["network"]).compile()
        turns = c.model.depth // len(bands)  # of the loop, whose body is counted once
        compiled[bands] = program.cost_analysis()["flops"] * turns
        counted[bands] = transformer.flops(network.config, 1, 1024)
    assert compiled[(0, 32)] < 0.65 * compiled[(0,)]
    # What XLA counts beside products: softmax, norms, activations.
    for bands, flops in counted.items():
        assert flops < compiled[bands] < 1.35 * flops
    saved = compiled[(0,)] - compiled[(0, 32)]
    assert saved == pytest.approx(counted[(0,)] - counted[(0, 32)], rel=0.1)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_175b_lowers_without_memory(platform):
    """The whole train step, on shapes alone."""
    c = gpt3.get_config("175b")
    c.batch_size = c.microbatches = 2
    init = state.Init(objectives.build(c, platform), optimizer.build(c.optim, c.total_steps))
    abstract = state.unbox(jax.eval_shape(init, jax.random.key(0)))
    assert sum(x.size for x in jax.tree.leaves(abstract.params)) == 174_604_259_328
    batch = batches.causal_lm(2, 2048, 50257)
    schedule = optimizer.schedule(c.optim, c.total_steps)
    train_step = step.make_train_step(init.objective, init.optimizer, schedule, 2)
    traced = jax.jit(train_step).trace(abstract, batch, jax.random.key(0))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    plain = platform == "cuda"
    assert ("1x16x96x128x256xf32" in text) == plain  # scores: of 16 chunks of a band
    assert ("1x96x2048x2048xf32" in text) == plain  # and of a dense layer
    assert ("tpu_custom_call" in text) == (not plain)


@pytest.mark.parametrize(
    ("bands", "message"),
    [((), "one or several"), ((0, -1), "at least 0"), ((0, 4, 4), "divide the 2 layers")],
)
def test_wrong_bands_are_told(bands, message):
    with pytest.raises(UserError, match=message):
        tiny.objective(tiny.config("gpt3", **{"model.bands": bands}))
    with pytest.raises(UserError, match="bands=.* has no effect on the network encoder"):
        c = tiny.config("bert")
        c.model.bands = (0, 4)
        tiny.objective(c)
