"""A checksum of every array of a tree, computed where the arrays are and the same on any mesh."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


class Described(NamedTuple):
    """Path -> [dtype, shape, digest], as JSON can say it; and the paths that are not all finite."""

    leaves: dict[str, list]
    not_finite: list[str]


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Returns path -> leaf, with paths such as "params/encoder/kernel"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def dtype_and_shape(leaf: jax.Array | jax.ShapeDtypeStruct) -> list:
    """Returns what must agree before an array can be restored."""
    return [str(leaf.dtype), list(leaf.shape)]


def describe(tree: PyTree) -> Described:
    """Describes all arrays of `tree`. Waits for them; only scalars reach the host."""
    leaves = named_leaves(tree)
    sums = jax.device_get(_digests(leaves))
    table = {
        name: [*dtype_and_shape(leaf), f"{sums[name][1]:08x}{sums[name][0]:08x}"]
        for name, leaf in leaves.items()
    }
    return Described(table, [name for name in leaves if not sums[name][2]])


@jax.jit  # one program: XLA's CPU backend can deadlock where several with collectives are in flight
def _digests(leaves: dict[str, jax.Array]) -> dict[str, tuple]:
    return {name: _digest(leaf) for name, leaf in leaves.items()}


def _digest(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sums a hash of every (index, value): integer addition does not know the order of a mesh.

    At a given index the hash is a bijection of the value, so one changed word always changes the
    sums; any other damage goes unnoticed with probability 2^-64.

    Returns:
      The low and the high half as uint32 scalars, and whether all of `x` is finite.
    """
    finite = jnp.isfinite(x).all()
    bits = x.astype(jnp.uint8) if x.dtype == bool else x
    word = jnp.dtype(f"uint{min(32, 8 * bits.dtype.itemsize)}")
    words = jax.lax.bitcast_convert_type(bits, word).astype(jnp.uint32)
    # The row-major index, one iota an axis: a reshape to one axis would gather a sharded array.
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        stride = np.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
        index += stride * jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    hashed = words ^ (index * np.uint32(0x9E3779B9))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):  # the finalizer of MurmurHash3
        hashed = (hashed ^ (hashed >> shift)) * np.uint32(factor)
    hashed ^= hashed >> 16
    low = jnp.sum(hashed, dtype=jnp.uint32)
    high = jnp.sum(hashed * (2 * index + 1), dtype=jnp.uint32)  # odd factors: still bijective
    return low, high, finite
