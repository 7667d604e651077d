import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import packing


@given(st.lists(st.integers(1, 20), max_size=80), st.integers(1, 5), st.integers(1, 6))
def test_first_fit_keeps_its_promises(lengths, max_items, open_bins):
    bins = packing.first_fit(lengths, 20, max_items, open_bins)
    assert sorted(i for b in bins for i in b) == list(range(len(lengths)))
    assert all(b == sorted(b) and 1 <= len(b) <= max_items for b in bins)
    assert all(sum(lengths[i] for i in b) <= 20 for b in bins)


def test_first_fit_takes_the_oldest_bin_with_room():
    assert packing.first_fit([6, 7, 4, 3, 2], 10, 9) == [[0, 2], [1, 3], [4]]
    assert packing.first_fit([6, 7, 4, 3, 2], 10, 9, open_bins=1) == [[0], [1], [2, 3, 4]]
    assert packing.first_fit([1, 1, 1], 10, 1) == [[0], [1], [2]]


def test_first_fit_refuses_what_never_fits():
    with pytest.raises(ValueError, match="Item 1 has length 11"):
        packing.first_fit([3, 11], 10, 2)


def test_first_fit_fills_rows_of_random_examples():
    lengths = np.random.default_rng(0).integers(4, 129, 5000).tolist()
    bins = packing.first_fit(lengths, 128, 4)
    assert sum(lengths) / (128 * len(bins)) > 0.93


def test_layout():
    segment_ids, positions = packing.layout(np.array([[2, 3, 0], [6, 0, 0], [0, 0, 0]]), 6)
    assert segment_ids.tolist() == [[1, 1, 2, 2, 2, 0], [1] * 6, [0] * 6]
    assert positions.tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5], [0] * 6]
    assert segment_ids.dtype == positions.dtype == np.int32


@pytest.mark.parametrize("vocab_size, width", [(65536, 2), (65537, 4)])
def test_codec_returns_what_it_got(vocab_size, width):
    codec = packing.Codec(3, vocab_size)
    last = vocab_size - 1
    records = [codec.encode([7], [1], np.array([last, 2])), b"", codec.encode([1, 2, 3], [5])]
    assert len(records[0]) == 6 * width
    header, tokens = codec.decode(records)
    assert header.tolist() == [[7, 0, 0], [0, 0, 0], [1, 2, 3]]
    assert tokens.tolist() == [1, last, 2, 5] and tokens.dtype == np.int32
