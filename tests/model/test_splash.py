"""The kernel of TPUs, interpreted: the same numbers as the plain sums, whole and on a mesh."""

import contextlib

import flax.linen as nn
import jax
import numpy as np
import pytest

from configs import common
from model import attention, layers
from training import sharding

PLAIN = layers.numerics("float32", "cpu")
FUSED = PLAIN._replace(kernel="splash", interpret=True)


def arrays(length=128, heads=4):
    rng = np.random.default_rng(length)
    q, k, v, weight = rng.normal(size=(4, 8, length, heads, 64)).astype(np.float32)
    ids = np.sort(rng.integers(1, 4, (8, length)).astype(np.int32))  # segments of several lengths
    ids[0], ids[1, -9:] = 1, 0
    return q, k, v, weight, ids


def values_and_gradients(types, causal, band, q, k, v, weight, ids):
    def f(q, k, v):
        visible = attention.within(attention.among(ids, causal=causal)[0], band)
        y, _ = attention.compute(q, k, v, visible, None, types)
        return (y * weight).sum(), y

    return jax.grad(f, argnums=(0, 1, 2), has_aux=True)(q, k, v)


@contextlib.contextmanager
def placed(mesh):
    rules = sharding.check_rules(common.RULES)
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        yield


def is_fused(f, *args):
    return "pallas_call" in str(jax.make_jaxpr(f, static_argnums=(0, 1, 2))(*args))


@pytest.mark.parametrize(("causal", "band"), [(False, 0), (True, 0), (True, 32)])
def test_equals_plain_attention(causal, band):
    given = arrays()
    assert is_fused(values_and_gradients, FUSED, causal, band, *given)
    assert not is_fused(values_and_gradients, PLAIN, causal, band, *given)
    run = jax.jit(values_and_gradients, static_argnums=(0, 1, 2))
    for ours, wanted in zip(
        *(jax.tree.leaves(run(types, causal, band, *given)) for types in (FUSED, PLAIN)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


def test_on_a_mesh(devices):
    """Each device computes its own rows and heads, and nothing is gathered."""
    given = arrays()
    run = jax.jit(values_and_gradients, static_argnums=(0, 1, 2))
    wanted = run(PLAIN, True, 0, *given)
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, devices)
    by_head = jax.NamedSharding(mesh, jax.P(("data", "fsdp"), None, "tensor"))
    by_row = jax.NamedSharding(mesh, jax.P(("data", "fsdp")))
    *qkvw, ids = given
    with placed(mesh):
        lowered = run.lower(
            FUSED, True, 0, *jax.device_put(qkvw, by_head), jax.device_put(ids, by_row)
        )
        compiled = lowered.compile()
        ours = compiled(*jax.device_put(qkvw, by_head), jax.device_put(ids, by_row))
    assert "all-gather" not in compiled.as_text()
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_what_does_not_suit_is_computed_plainly(devices):
    q, k, v, weight, ids = arrays(length=64)
    assert not is_fused(values_and_gradients, FUSED, True, 0, q, k, v, weight, ids)
    three = arrays(heads=3)
    assert is_fused(values_and_gradients, FUSED, True, 0, *three)
    with placed(sharding.make_mesh({"data": 4, "fsdp": 1, "tensor": 2}, devices)):
        assert not is_fused(values_and_gradients, FUSED, True, 0, *three)
