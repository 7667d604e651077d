"""The matrix product's gradient rule, normalization and the hashed dropout."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import layers

F32 = layers.numerics("float32", "cpu")
BF16 = layers.numerics("bfloat16", "cpu")


def test_numerics_keep_small_activations_on_accelerators():
    assert layers.numerics("bfloat16", "tpu").result == jnp.bfloat16
    assert layers.numerics("bfloat16", "cpu").result == jnp.float32


@pytest.mark.parametrize("transposed", [False, True])
def test_product_has_the_gradient_of_a_product(transposed):
    keys = jax.random.split(jax.random.key(0), 3)
    x, k = jax.random.normal(keys[0], (3, 5, 7)), jax.random.normal(keys[1], (7, 4))
    g, b = jax.random.normal(keys[2], (3, 5, 4)), jnp.arange(4.0)
    kernel = k.T if transposed else k
    y, pull = jax.vjp(lambda x, k, b: layers.product(x, k, b, F32, transposed), x, kernel, b)
    expected, pull_expected = jax.vjp(
        lambda x, k, b: x @ (k.T if transposed else k) + b, x, kernel, b
    )
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    for got, want in zip(pull(g), pull_expected(g), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_product_gradient_of_the_kernel_is_accumulated_in_float32():
    x = jnp.ones((1, 4096, 1), jnp.bfloat16)
    kernel = jnp.ones((1, 1), jnp.float32)
    gradient = jax.jit(
        jax.grad(lambda k: layers.product(x, k, None, BF16).astype(jnp.float32).sum())
    )
    assert gradient(kernel).dtype == jnp.float32
    assert float(gradient(kernel)[0, 0]) == 4096.0  # a bfloat16 sum would stop at 256


def test_dense_over_several_axes_equals_einsum():
    init = nn.initializers.normal(1.0)
    dense = layers.Dense((3, 4), ("embed", "heads", "head_width"), init, F32)
    x = jax.random.normal(jax.random.key(0), (2, 5, 6))
    y, variables = dense.init_with_output(jax.random.key(1), x)
    p = nn.meta.unbox(variables["params"])
    expected = jnp.einsum("btd,dhk->bthk", x, p["kernel"]) + p["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_norm_does_not_compute_the_layers_before_it_anew():
    norm = layers.Norm(1e-6, F32)
    params = {"params": {"scale": jnp.ones(64), "bias": jnp.zeros(64)}}

    def most_operands(depth):  # of any fused computation
        def stack(x, kernels, key):
            for i, kernel in enumerate(kernels):
                y = layers.product(x, kernel, jnp.zeros(64), F32)
                x = norm.apply(params, x + layers.Drop(0.1, jax.random.fold_in(key, i))(y))
            return x

        lowered = jax.jit(stack).lower(
            jnp.ones((4, 8, 64)), [jnp.eye(64)] * depth, jax.random.key(0)
        )
        text = lowered.compile().as_text()
        fused = re.findall(r"^%?fused_computation\S* \((.*)\) -> ", text, re.MULTILINE)
        return max(operands.count(": ") for operands in fused)

    assert most_operands(6) == most_operands(3)


def bits(key, shape):
    return np.asarray(jax.jit(layers.hash_bits, static_argnums=1)(jax.random.key(key), shape))


def test_dropout_rate_is_right_in_every_row_and_column():
    kept = bits(0, (64, 128, 96)) >= np.uint32(0.1 * 2**32)
    assert kept.mean() == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / kept.size))
    for axes in ((1, 2), (0, 2), (0, 1)):
        rates = kept.mean(axes)
        spread = np.sqrt(0.09 / (kept.size / rates.size))
        assert np.abs(rates - 0.9).max() < 5 * spread
        assert rates.std() == pytest.approx(spread, rel=0.35)


@pytest.mark.parametrize("other", ["key", "row", "column", "neighbor"])
def test_dropout_masks_are_independent(other):
    a = bits(0, (32, 256, 64))
    b = {
        "key": lambda: bits(1, a.shape),
        "row": lambda: np.roll(a, 1, 0),
        "column": lambda: np.roll(a, 1, 1),
        "neighbor": lambda: np.roll(a, 1, 2),
    }[other]()
    for threshold in (0.1, 0.5):
        x, y = ((v < np.uint32(threshold * 2**32)) - threshold for v in (a, b))
        correlation = (x * y).mean() / (threshold * (1 - threshold))
        assert abs(correlation) < 5 / np.sqrt(a.size)


def test_every_bit_is_balanced():
    a = bits(3, (16, 512, 128))
    for bit in range(32):
        assert ((a >> bit) & 1).mean() == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(a.size))


def test_dropout_scales_and_differs_between_layers_and_steps():
    drop = layers.Dropout(0.25)
    x = jnp.ones((8, 1000))

    def run(key):
        return np.asarray(drop.apply({}, x, train=True, rngs={"dropout": jax.random.key(key)}))

    assert set(np.unique(run(0))) == {0.0, np.float32(1 / 0.75)}
    assert run(0).mean() == pytest.approx(1.0, abs=0.05)
    assert (run(0) == run(0)).all() and (run(0) != run(1)).any()
    assert (drop.apply({}, x, train=False) == x).all()
