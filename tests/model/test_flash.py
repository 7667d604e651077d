"""The kernel of GPUs, interpreted: the same numbers as the plain sums, whole and on a mesh."""

import jax
import jaxprs
import numpy as np
import pytest
import test_splash

from model import attention, layers
from training import sharding

FUSED = test_splash.PLAIN._replace(kernel="flash", interpret=True)
DROP = layers.Drop(0.2, jax.random.key(3))


def values_and_gradients(types, causal, band, rate, q, k, v, weight, ids):
    drop = DROP._replace(rate=rate) if rate else None

    def f(q, k, v):
        visible = attention.within(attention.among(ids, causal=causal)[0], band)
        y, _ = attention.compute(q, k, v, visible, drop, types)
        return (y * weight).sum(), y

    return jax.grad(f, argnums=(0, 1, 2), has_aux=True)(q, k, v)


RUN = jax.jit(values_and_gradients, static_argnums=(0, 1, 2, 3))


def is_fused(*args):
    return "flash_forward" in str(
        jax.make_jaxpr(values_and_gradients, static_argnums=(0, 1, 2, 3))(*args)
    )


def assert_equal(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.2])
@pytest.mark.parametrize(("causal", "band"), [(False, 0), (True, 0), (True, 32), (True, 96)])
@pytest.mark.parametrize("length", [192, 256])
def test_equals_plain_attention(causal, band, rate, length):
    given = test_splash.arrays(length, heads=2)
    assert is_fused(FUSED, causal, band, rate, *given) == (not (band and rate))
    assert_equal(
        RUN(FUSED, causal, band, rate, *given), RUN(test_splash.PLAIN, causal, band, rate, *given)
    )


def test_on_a_mesh(devices):
    """Each device computes its own rows and heads, drops the same, and nothing is gathered."""
    given = test_splash.arrays()
    wanted = RUN(test_splash.PLAIN, True, 0, 0.2, *given)
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, devices)
    by_head = jax.NamedSharding(mesh, jax.P(("data", "fsdp"), None, "tensor"))
    by_row = jax.NamedSharding(mesh, jax.P(("data", "fsdp")))
    *qkvw, ids = given
    with test_splash.placed(mesh):
        placed = *jax.device_put(qkvw, by_head), jax.device_put(ids, by_row)
        compiled = RUN.lower(FUSED, True, 0, 0.2, *placed).compile()
        ours = compiled(*placed)
    assert "all-gather" not in compiled.as_text()
    assert_equal(ours, wanted)


def test_what_does_not_suit_is_computed_plainly():
    assert not is_fused(FUSED, True, 0, 0.0, *test_splash.arrays(length=96))
    float32 = FUSED._replace(interpret=False)
    assert not is_fused(float32, True, 0, 0.0, *test_splash.arrays())


def test_every_read_is_of_an_own_block():
    """Interpreted, a read behind the end would be moved to the end; on a GPU it is not."""
    given = test_splash.arrays(256, heads=2)
    jaxpr = jax.make_jaxpr(values_and_gradients, static_argnums=(0, 1, 2, 3))(
        FUSED, True, 0, 0.2, *given
    )
    calls = [e for e in jaxprs.equations(jaxpr.jaxpr) if e.primitive.name == "pallas_call"]
    assert len(calls) == 3
    for call in calls:
        grid = call.params["grid_mapping"]
        last = [np.int32(size - 1) for size in grid.grid]
        for mapping in grid.block_mappings:
            index = jax.core.eval_jaxpr(
                mapping.index_map_jaxpr.jaxpr, mapping.index_map_jaxpr.consts, *last
            )
            sizes = [getattr(x, "block_size", 1) for x in mapping.block_shape]
            whole = mapping.array_aval.shape
            assert all((i + 1) * n <= of for i, n, of in zip(index, sizes, whole, strict=True))


@pytest.mark.parametrize("causal", [False, True])
def test_cudnn_is_asked_for_what_it_can(causal, monkeypatch):
    """Its numbers are those of XLA's part of the same function; the rest is computed plainly.

    A length of 120 is not for our own kernel.
    """
    asked, compute = [], jax.nn.dot_product_attention

    def by_xla(*args, implementation, **kwargs):
        asked.append(implementation)
        return compute(*args, implementation="xla", **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    types = layers.numerics("bfloat16", "gpu")
    *given, ids = test_splash.arrays(120, heads=2)
    given = [x.astype(types.compute) for x in given]
    # Compared without jit, so that nothing is compiled before the function is replaced.
    found = values_and_gradients(types, causal, 0, 0.0, *given, ids)
    assert asked == ["cudnn"]
    plain = types._replace(kernel="xla")
    for a, b in zip(
        jax.tree.leaves(found),
        jax.tree.leaves(values_and_gradients(plain, causal, 0, 0.0, *given, ids)),
        strict=True,
    ):
        assert np.linalg.norm(np.float32(a - b)) < 0.02 * np.linalg.norm(np.float32(b))
    values_and_gradients(types, causal, 0, 0.2, *given, ids)  # there is dropout
    assert asked == ["cudnn"]
