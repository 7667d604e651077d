"""Small checkpoints to save, damage and compare."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from training import checkpoint, digests
from training import state as state_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]


def make_state(step, *, vocab=96, width=32, optimizer=None, sharding=None):
    keys = jax.random.split(jax.random.key(step), 3)
    params = {
        "embedding": jax.random.normal(keys[0], (vocab, width)),
        "layers": {
            "kernel": jax.random.normal(keys[1], (16, width, width)),
            "bias": jax.random.normal(keys[2], (16, width), jnp.bfloat16),
        },
    }
    optimizer = optimizer or optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    state = state_lib.TrainState(jnp.int32(step), params, optimizer.init(params))
    return state if sharding is None else jax.device_put(state, shardings(state, sharding))


def shardings(state, sharding):
    """Shards the first axis of every array that has one."""
    spread = sharding.mesh.axis_names
    return jax.tree.map(
        lambda x: NamedSharding(sharding.mesh, P(spread) if x.ndim else P()),
        state,
    )


def mesh_sharding(*shape):
    names = ("data", "fsdp", "tensor")[: len(shape)]
    devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
    return NamedSharding(jax.sharding.Mesh(devices, names), P())


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for name, leaf in digests.named_leaves(a).items():
        other = digests.named_leaves(b)[name]
        assert leaf.dtype == other.dtype, name
        assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes(), name


def open_at(directory, keep=3, keep_best=1, **kwargs):
    return checkpoint.Checkpointer(directory, keep=keep, keep_best=keep_best, **kwargs)


def save(directory, *steps, metrics=lambda step: None, **kwargs):
    checkpointer = open_at(directory, **kwargs)
    for step in steps:
        checkpointer.save(step, make_state(step), meta={"at": step}, metrics=metrics(step))
    checkpointer.close()


def restore(directory):
    """Returns (state, meta) of a fresh Checkpointer."""
    checkpointer = open_at(directory)
    try:
        return checkpointer.restore(abstract(make_state(0)))
    finally:
        checkpointer.close()


def data_files(directory):
    files = [path for path in (directory / "state").rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: path.stat().st_size, reverse=True)


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)
