"""Several examples in one row: which go together, and the segment ids that keep them apart.

Letters: `B` rows, `T` tokens, `G` examples per row.
"""

from collections.abc import Sequence

import numpy as np


def max_examples(length: int) -> int:
    """Returns `G`, how many examples a packed row may hold: one for each 32 of its tokens."""
    return max(1, length // 32)


def first_fit(
    lengths: Sequence[int], capacity: int, max_items: int, open_bins: int = 64
) -> list[list[int]]:
    """Packs items, in order, each into the oldest open bin that has room for it.

    Args:
      lengths: sizes of the items, each in 1..capacity.
      capacity: size of a bin.
      max_items: most items in a bin.
      open_bins: when one more bin is needed, the oldest is closed; bounds the time for an item.

    Returns:
      The bins as lists of item indices, in the order in which they were closed.
    """
    done: list[list[int]] = []
    bins: list[list[int]] = []
    room: list[int] = []
    for item, length in enumerate(lengths):
        if not 0 < length <= capacity:
            raise ValueError(f"Item {item} has length {length}, not 1..{capacity}.")
        found = next((i for i, left in enumerate(room) if length <= left), None)
        if found is None:
            if len(bins) == open_bins:
                done.append(bins.pop(0))
                room.pop(0)
            found = len(bins)
            bins.append([])
            room.append(capacity)
        bins[found].append(item)
        room[found] -= length
        if not room[found] or len(bins[found]) == max_items:
            done.append(bins.pop(found))
            room.pop(found)
    return done + bins


def segments(starts: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the segments of each row and the tokens in each segment.

    Args:
      starts: [B T] bool, the first token of each segment; column 0 is one in any row that is not
        empty.
      real: [B T] bool, tokens that are not padding.

    Returns:
      segment_ids [B T] int32: 1, 2, ..., and 0 for padding; positions [B T] int32: from 0 in each
      segment, and 0 for padding.
    """
    columns = np.arange(starts.shape[1], dtype=np.int32)
    first = np.maximum.accumulate(np.where(starts, columns, 0), axis=1)
    return np.cumsum(starts, axis=1, dtype=np.int32) * real, (columns - first) * real


def layout(lengths: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Lays examples side by side into rows of `width` tokens.

    Args:
      lengths: [B G] integers, 0 for none.
      width: `T`.

    Returns:
      What `segments` does.
    """
    ends = np.cumsum(lengths, axis=1)
    starts = np.zeros((len(lengths), width), bool)
    rows, examples = np.nonzero(lengths)
    starts[rows, (ends - lengths)[rows, examples]] = True
    return segments(starts, np.arange(width) < ends[:, -1:])


class Codec:
    """Example records: a header of a fixed size, then tokens; decoded a whole batch at a time.

    `b""` is accepted as a row with nothing in it: header 0 and no tokens.
    """

    def __init__(self, header: int, vocab_size: int):
        """Takes the numbers in the header, each below 2**16, and the number of different tokens."""
        self.header = header
        self.dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")

    def encode(self, header: Sequence[int], *tokens: Sequence[int] | np.ndarray) -> bytes:
        """Returns a record: `header`, filled up with 0, and `tokens` one after another."""
        padding = [0] * (self.header - len(header))
        return np.concatenate([header, padding, *tokens]).astype(self.dtype).tobytes()

    def decode(self, records: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the headers, int64 [B, header], and the tokens of all records joined, int32."""
        nothing = bytes(self.header * self.dtype.itemsize)
        flat = np.frombuffer(b"".join(record or nothing for record in records), self.dtype)
        sizes = np.array([len(record or nothing) for record in records]) // self.dtype.itemsize
        headers = (np.cumsum(sizes) - sizes)[:, None] + np.arange(self.header)
        return flat[headers].astype(np.int64), np.delete(flat, headers.ravel()).astype(np.int32)
