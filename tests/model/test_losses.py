"""Losses against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import losses


def test_cross_entropy_is_minus_log_softmax():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 7))
    targets = jnp.array([[0, 6, 2], [1, 1, 5]])
    expected = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(losses.cross_entropy(logits, targets), expected, rtol=1e-6)


def test_mean_ignores_what_has_no_weight():
    m = losses.mean(jnp.array([1.0, 5.0, 100.0]), jnp.array([1.0, 1.0, 0.0]))
    assert float(m.value) == 3.0
    assert float(losses.mean(jnp.ones(2), jnp.zeros(2)).value) == 0.0


@pytest.mark.parametrize("chunks", [1, 3, 4, 5, 12, 50])
def test_chunks_change_nothing(chunks):
    hidden = jax.random.normal(jax.random.key(0), (2, 12, 5))
    table = jax.random.normal(jax.random.key(1), (9, 5))
    targets = jax.random.randint(jax.random.key(2), (2, 12), 0, 9)
    weights = (jax.random.uniform(jax.random.key(3), (2, 12)) < 0.7).astype(jnp.float32)

    def loss(table, chunks):
        def score(h, t, w):
            return (losses.mean(losses.cross_entropy(h @ table.T, t), w),)

        return losses.in_chunks(score, chunks, hidden, targets, weights)[0].value

    value, gradient = jax.value_and_grad(loss)(table, chunks)
    expected, expected_gradient = jax.value_and_grad(loss)(table, 1)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)


def test_chunks_save_memory():
    """The compiler's own count: with 8 chunks, the logits are about an eighth."""
    hidden = jax.ShapeDtypeStruct((4, 256, 64), jnp.float32)
    table = jax.ShapeDtypeStruct((8192, 64), jnp.float32)
    targets = jax.ShapeDtypeStruct((4, 256), jnp.int32)

    def loss(table, hidden, targets, chunks):
        def score(h, t):
            return (losses.mean(losses.cross_entropy(h @ table.T, t), jnp.ones(t.shape)),)

        return losses.in_chunks(score, chunks, hidden, targets)[0].value

    def memory(chunks):
        compiled = jax.jit(jax.grad(loss), static_argnums=3).lower(table, hidden, targets, chunks)
        return compiled.compile().memory_analysis().temp_size_in_bytes

    assert memory(8) < memory(1) / 3
