"""Several datasets as one, in fixed proportions: T5's multi-task mixture (section 3.5.2)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipeline import noise

BLOCK = 1 << 16  # rows in which the proportions are kept


def quotas(weights: Sequence[float], block: int = BLOCK) -> np.ndarray:
    """Returns how many of `block` rows belong to each dataset: by weight, but at least one.

    What rounding down leaves over goes to the largest remainders.
    """
    shares = np.asarray(weights, np.float64) / np.sum(weights) * block
    whole = np.floor(shares).astype(np.int64)
    whole[np.argsort(whole - shares, kind="stable")[: block - whole.sum()]] += 1
    whole[np.argmax(whole)] -= (whole == 0).sum()
    return np.maximum(whole, 1)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Rows by index, as `pipeline.Dataset` gives them; picklable.

    In training, each block of rows has its quota of each dataset in an order of its own, and each
    dataset goes on where the block before left it: row i is a pure function of (seed, i), and a
    dataset is seen whole before a row of it comes again. Held out, the datasets come one after
    another.
    """

    parts: Mapping[str, Any]  # `pipeline.Dataset`s whose rows have the same shapes
    weights: Mapping[str, float]  # examples, up to the artificial limit
    seed: int
    training: bool

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Returns the rows with these indices: the fields of model/batch.py, each [B, ...]."""
        indices = np.asarray(indices, np.int64)
        which, own = self._own_blocks(indices) if self.training else self._one_by_one(indices)
        rows: dict[str, np.ndarray] = {}
        for number, part in enumerate(self.parts.values()):
            here = np.nonzero(which == number)[0]
            if len(here):
                for name, value in part.batch(own[here]).items():
                    whole = rows.setdefault(
                        name, np.zeros((len(indices), *value.shape[1:]), value.dtype)
                    )
                    whole[here] = value
        return rows

    def example(self, index: int) -> dict[str, np.ndarray]:
        """Returns one row, without the axis B."""
        return {name: value[0] for name, value in self.batch([index]).items()}

    def _own_blocks(self, indices):
        """Returns which dataset each row is of, and its index there."""
        counts = quotas([self.weights[name] for name in self.parts])
        ends = np.cumsum(counts)
        blocks, places = np.divmod(indices, BLOCK)
        places = noise.shuffled(places, BLOCK, noise.make_keys(self.seed, 2, blocks))
        which = np.searchsorted(ends, places, side="right")
        return which, blocks * counts[which] + places - (ends - counts)[which]

    def _one_by_one(self, indices):
        """The same for held-out rows; those behind the end are behind that of the last dataset."""
        ends = np.cumsum([len(part) for part in self.parts.values()])
        which = np.minimum(np.searchsorted(ends, indices, side="right"), len(ends) - 1)
        starts = np.concatenate([[0], ends[:-1]])
        return which, indices - starts[which]
