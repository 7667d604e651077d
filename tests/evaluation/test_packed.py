import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import packed
from model import transformer


def piece(tokens, places, entries):
    return packed.Piece(
        [7] * tokens, [0] * places, [0] * entries, [1] * entries, [0] * entries, range(tokens)
    )


def test_rows_are_of_few_lengths():
    lengths = sorted({packed.row_length(size) for size in range(1, 3000)})
    assert lengths == [256, 384, 512, 768, 1024, 1536, 2048, 3072]
    assert all(packed.row_length(size) >= size for size in range(1, 3000))


sizes = st.tuples(st.integers(1, 900), st.integers(1, 60), st.integers(1, 80))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(sizes, max_size=40),
    st.sampled_from(packed.SHORTEST),
    st.sampled_from(packed.FRACTIONS),
)
def test_all_pieces_are_in_a_row_that_has_room(shapes, shortest, fraction):
    pieces = [piece(*shape) for shape in shapes]
    rows = packed.pack(pieces, shortest, fraction)
    assert sorted(id(p) for row in rows for p in row.pieces) == sorted(map(id, pieces))
    for row in rows:
        assert row.length >= shortest
        assert sum(len(p.tokens) for p in row.pieces) <= row.length
        assert sum(len(p.places) for p in row.pieces) <= math.ceil(row.length * fraction)
        assert sum(len(p.targets) for p in row.pieces) <= row.length
    lengths = [row.length for row in rows]
    assert lengths == sorted(lengths, reverse=True)  # so that each length comes once


def test_hardly_anything_is_padding():
    rng = np.random.default_rng(0)
    pieces = [piece(*rng.integers((20, 2, 2), (150, 9, 9))) for _ in range(300)]
    rows = packed.pack(pieces, 256, 1 / 4)
    used = sum(len(p.tokens) for p in pieces) / sum(row.length for row in rows)
    assert used > 0.93


SIZES = transformer.TransformerConfig(50257, 768, 12, 12, 3072, 1024)  # GPT-2 124M


@pytest.mark.parametrize(
    "shapes, shortest, fraction",
    [
        ([(85, 2, 2)] * 90, 256, 1 / 32),  # three in a row, of each the last word
        ([(155, 90, 100)] * 90, 384, 1 / 2),  # two in a row; one in 256 leaves much unused
        ([(190, 1, 2)] * 90, 384, 1 / 32),
        ([(1024, 1024, 1024), (1024, 280, 280)], None, 1.0),  # else the first needs a longer row
    ],
)
def test_rows_are_chosen_by_what_they_cost(shapes, shortest, fraction):
    found = packed.choose([piece(*shape) for shape in shapes], SIZES)
    assert found[1] == fraction and shortest in (None, found[0])


def test_few_rows_are_no_whole_batch():
    rows = [packed.Row(256, []) for _ in range(3)]
    assert [(len(some), size) for some, _, size in packed._batches(rows, 1, 8192)] == [(3, 4)]
    assert [(len(some), size) for some, _, size in packed._batches(rows, 2, 256)] == [
        (2, 2),
        (1, 2),
    ]
