"""Slices of TPUs: how they are written, and what is told of those that do not exist."""

import importlib.util

import pytest

from errors import UserError
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


def test_what_the_compiler_refuses():
    pytest.importorskip("libtpu")
    with pytest.raises(UserError, match="v5e:3x3 is none that the compiler knows"):
        topologies.devices(topologies.parse("v5e:3x3"))
    found = topologies.devices(topologies.parse("v5p:4x4x4"))
    with pytest.raises(UserError, match="cannot be laid over a torus of 4x4x4 chips"):
        sharding.make_mesh({"data": 1, "fsdp": 32, "tensor": 2}, found)
