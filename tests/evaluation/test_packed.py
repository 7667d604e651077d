import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import packed


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
@given(st.lists(sizes, max_size=40), st.sampled_from(packed.FRACTIONS))
def test_all_pieces_are_in_a_row_that_has_room(shapes, fraction):
    pieces = [piece(*shape) for shape in shapes]
    rows = packed.pack(pieces, fraction)
    assert sorted(id(p) for row in rows for p in row.pieces) == sorted(map(id, pieces))
    for row in rows:
        assert sum(len(p.tokens) for p in row.pieces) <= row.length
        assert sum(len(p.places) for p in row.pieces) <= math.ceil(row.length * fraction)
        assert sum(len(p.targets) for p in row.pieces) <= row.length
    lengths = [row.length for row in rows]
    assert lengths == sorted(lengths, reverse=True)  # so that each length comes once


def test_hardly_anything_is_padding():
    rng = np.random.default_rng(0)
    pieces = [piece(*rng.integers((20, 2, 2), (150, 9, 9))) for _ in range(300)]
    rows = packed.pack(pieces, 1 / 4)
    used = sum(len(p.tokens) for p in pieces) / sum(row.length for row in rows)
    assert used > 0.93
