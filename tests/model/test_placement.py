"""Where parameters lie: the first rule of an axis that is free and divides."""

import pytest
from jax.sharding import PartitionSpec as P

from configs import common
from model import placement

MESH = {"data": 1, "fsdp": 4, "tensor": 8}


@pytest.mark.parametrize(
    ("names", "shape", "where"),
    [
        (("vocab_table", "embed_table"), (64, 32), P("tensor", "fsdp")),
        (("vocab_table", "embed_table"), (50257, 64), P(None, ("fsdp", "tensor"))),
        (("vocab_table", "embed_table"), (50257, 36), P(None, "fsdp")),
        (("vocab_table", "embed_table"), (50257, 33), P(None, None)),
        ((None, "embed_table"), (512, 64), P(None, ("fsdp", "tensor"))),
        (("layers", "embed", "heads", "head_width"), (3, 32, 12, 64), P(None, "fsdp", None, None)),
        (("norm",), (32,), P("tensor")),
        (("norm",), (36,), P(None)),
    ],
)
def test_rules(names, shape, where):
    assert placement.spec(names, shape, common.RULES, MESH) == where


def test_a_rule_for_one_axis_as_a_tuple_is_dropped_too():
    rules = (("embed", ("fsdp",)),)
    assert placement.spec(("embed",), (6,), rules, MESH) == P(None)
