"""Slices of TPUs: how they are written, and what is told of those that do not exist."""

import importlib.util
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from configs import common
from errors import UserError
from model import attention, layers
from training import chips, sharding, topologies


def test_parse():
    assert topologies.parse("v5p:8x8x8") == ("v5p", (8, 8, 8))
    slice = topologies.parse("v5e:4x16")
    assert (slice.name, slice.chips) == ("v5e:4x16", 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5q:2x2", "Unknown chip in --topology 'v5q'. Did you mean 'v5p'?"),
        ("v5e", "has no shape: write it like v5e:4x4"),
        ("v5p:8", "has 3 dimensions, such as v5p:4x4x4"),
        ("v6e:2x2x2", "has 2 dimensions, such as v6e:4x4"),
        ("v5e:0x2", "has no shape"),
        ("v5e:2xtwo", "has no shape"),
    ],
)
def test_wrong_slices_are_told(text, message):
    with pytest.raises(UserError) as error:
        topologies.parse(text)
    assert message in str(error.value)


def test_without_the_compiler(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'\.\[tpu\]'"):
        topologies.devices(topologies.parse("v5e:2x2"))


@pytest.mark.parametrize(
    ("text", "count"), [("v4:2x2x1", 4), ("v5e:1x1", 1), ("v5p:2x2x2", 8), ("v6e:4x4", 16)]
)
def test_devices(text, count):
    """A chip is one device, and all is known about it."""
    pytest.importorskip("libtpu")
    found = topologies.devices(topologies.parse(text))
    assert len(found) == count
    kind = found[0].device_kind
    assert chips.memory(kind).dims == topologies.DIMS[topologies.parse(text).chip]
    assert chips.peak_flops(kind)


@pytest.mark.parametrize("own", ["", "--x=1", "--x=1 --fibers_default_thread_stack_size=9"])
def test_arguments_of_the_user_stay(own, monkeypatch):
    """Beside them stands the size of stack without which some programs end the compiler."""
    pytest.importorskip("libtpu")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", own)
    topologies.devices(topologies.parse("v5e:2x2"))
    arguments = os.environ["LIBTPU_INIT_ARGS"]
    assert arguments.startswith(own) and arguments.count("--fibers_default_thread_stack_size=") == 1


def test_what_the_compiler_refuses():
    pytest.importorskip("libtpu")
    with pytest.raises(UserError, match="v5e:3x3 is none that the compiler knows"):
        topologies.devices(topologies.parse("v5e:3x3"))
    found = topologies.devices(topologies.parse("v5p:4x4x4"))
    with pytest.raises(UserError, match="cannot be laid over a torus of 4x4x4 chips"):
        sharding.make_mesh({"data": 1, "fsdp": 32, "tensor": 2}, found)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_compiled_as_a_kernel(causal):
    """On a v5e, forward and backward, with less memory than the scores of one head would take."""
    pytest.importorskip("libtpu")
    rows, length, heads = 4, 4096, 8
    mesh = sharding.make_mesh(
        {"data": 2, "fsdp": 1, "tensor": 2}, topologies.devices(topologies.parse("v5e:2x2"))
    )
    types = layers.numerics("bfloat16", "tpu")

    def loss(q, k, v, ids):
        visible = attention.among(ids, causal=causal)[0]
        return attention.compute(q, k, v, visible, None, types)[0].astype(jnp.float32).sum()

    by_head = jax.NamedSharding(mesh, jax.P("data", None, "tensor"))
    by_row = jax.NamedSharding(mesh, jax.P("data"))
    x = jax.ShapeDtypeStruct((rows, length, heads, 64), jnp.bfloat16, sharding=by_head)
    ids = jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=by_row)
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.check_rules(common.RULES)):
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x, ids).compile()
    text = compiled.as_text()
    assert text.count('custom_call_target="tpu_custom_call"') >= 3
    assert "all-gather" not in text and "all-reduce" not in text
    scores = 4 * length * length  # of one head of one row
    assert compiled.memory_analysis().temp_size_in_bytes < scores
