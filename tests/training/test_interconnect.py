"""Seconds of collectives on the links of a slice."""

import numpy as np
import pytest

from training import chips as chips_lib
from training import hlo
from training.interconnect import seconds


def test_seconds_of_collectives():
    """Rings of the scaling book's formulas: bytes x (n - 1) / n over all links of the group."""

    class Chip:
        device_kind = "TPU v5 lite"

        def __init__(self, *coords):
            self.coords = coords

    class Slice:
        def __init__(self, x, y):
            self.devices = np.array([Chip(i, j, 0) for i in range(x) for j in range(y)], object)

    link = chips_lib.memory("TPU v5 lite").link
    row = hlo.Collective("all-gather", tuple(range(4)), 1e9, 1, 3)
    assert seconds(row, Slice(4, 4)) == pytest.approx(3 * 0.75e9 / link)  # a line
    ring = hlo.Collective("all-reduce", tuple(range(16)), 1e9, 1, 1)
    assert seconds(ring, Slice(16, 16)) == pytest.approx(2 * 15 / 16 * 1e9 / (2 * link))
    both = hlo.Collective("reduce-scatter", tuple(range(256)), 1e9, 1, 1)
    assert seconds(both, Slice(16, 16)) == pytest.approx(255 / 256 * 1e9 / (4 * link))
    hop = hlo.Collective("collective-permute", (0, 1), 1e9, 1, 1)
    assert seconds(hop, Slice(4, 4)) == pytest.approx(1e9 / link)
