"""A digest notices every change of an array, and does not notice the mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from training import digests


def digest(x):
    return digests.describe({"x": x}).leaves["x"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "bool"])
def test_every_bit_counts(dtype):
    x = np.array(jax.random.normal(jax.random.key(0), (4, 6)).astype(dtype))
    raw, whole = x.view(np.uint8), digest(x)
    assert whole[:2] == [dtype, [4, 6]]
    for byte in range(raw.size):
        for bit in range(1 if dtype == "bool" else 8):
            changed = raw.copy()
            changed.flat[byte] ^= 1 << bit
            assert digest(changed.view(x.dtype)) != whole


def test_every_swap_counts():
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    seen = {digest(x)[2]}
    for i in range(24):
        for j in range(i):
            swapped = x.copy()
            swapped.flat[[i, j]] = swapped.flat[[j, i]]
            seen.add(digest(swapped)[2])
    assert len(seen) == 1 + 24 * 23 // 2


@pytest.mark.parametrize("spec", [P("a"), P("b", "a"), P(None, ("a", "b")), P("a", None, "b")])
def test_the_mesh_does_not_count(devices, spec):
    mesh = jax.sharding.Mesh(np.array(devices).reshape(4, 2), ("a", "b"))
    x = jax.random.normal(jax.random.key(0), (8, 16, 4))
    assert digest(jax.device_put(x, NamedSharding(mesh, spec))) == digest(x)


def test_a_sharded_array_is_not_gathered(devices):
    mesh = jax.sharding.Mesh(np.array(devices), ("a",))
    x = jax.device_put(jnp.ones((64, 128)), NamedSharding(mesh, P("a")))
    text = jax.jit(digests._digest).lower(x).compile().as_text()
    assert "all-reduce" in text and "all-gather" not in text


def test_names_and_what_is_not_finite():
    tree = {"a": {"b": jnp.zeros(3)}, "c": [jnp.array(jnp.nan), jnp.array([1.0, jnp.inf])]}
    described = digests.describe(tree)
    assert list(described.leaves) == ["a/b", "c/0", "c/1"]
    assert described.not_finite == ["c/0", "c/1"]
