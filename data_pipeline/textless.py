"""Pipelines without text: the copy task, and images as sequences of bytes (Reformer, section 5).

Letters: `B` rows, `T` tokens.
"""

import functools
import hashlib
import math
import pathlib
from collections.abc import Sequence

import ml_collections
import numpy as np

from data_pipeline import noise
from errors import UserError

SPLITS = ("train", "valid")


class Copy:
    """Rows 0w0w, w a random word: the second half is predicted (Reformer, section 2 and table 2).

    A row is a pure function of its key, so there is no end of them; a split's length only says
    after how many an epoch ends.
    """

    static = False
    ROWS = {"train": 1 << 30, "valid": 1024}

    def __init__(self, data: ml_collections.ConfigDict):
        """Takes the data section of a config.

        Raises:
          UserError: for a length or a number of symbols that leaves nothing to copy.
        """
        if data.length < 4 or data.length % 2:
            raise UserError(f"data.length={data.length} must be even and at least 4, for 0w0w.")
        if data.copy.symbols < 2:
            raise UserError(f"data.copy.symbols={data.copy.symbols} must be at least 2.")
        self.length, self.symbols = data.length, data.copy.symbols
        self.largest = self.symbols  # token

    def records(self, split: str) -> Sequence[bytes]:
        """Returns as many equal records, which tell the splits apart."""
        return Repeated(split.encode(), self.ROWS[split])

    def read(self, records: Sequence[bytes], keys: np.ndarray) -> dict[str, np.ndarray]:
        """See `rows.Pipeline`; targets are the next tokens, and those of the second w count."""
        splits = [SPLITS.index(record.decode()) if record else 0 for record in records]
        half = self.length // 2
        bits = noise.random_bits(noise.fold_in(keys, np.array(splits)), half - 1)
        word = np.zeros((len(records), half), np.int32)
        word[:, 1:] = 1 + bits % np.uint64(self.symbols)
        tokens = np.concatenate([word, word], axis=1)
        weights = np.zeros(tokens.shape, np.float32)
        weights[:, half : self.length - 1] = 1
        return _causal_rows(tokens, np.roll(tokens, -1, axis=1), weights, records)


class Images:
    """Images as rows of bytes, color by color and pixel by pixel from the top left.

    The source is a file .npy or .npz (its only array), uint8 [images, height, width, 3]. An image
    is held out by a hash of its bytes, as a document is.
    """

    static = True
    largest = 255  # token

    def __init__(self, data: ml_collections.ConfigDict):
        """Takes the data section of a config.

        Raises:
          UserError: for a share of held-out images that leaves none.
        """
        self.length = data.length
        if not 0 < data.valid_fraction < 1:
            raise UserError(f"data.valid_fraction={data.valid_fraction} must be between 0 and 1.")
        self.valid_fraction, self.source = data.valid_fraction, data.source

    @functools.cached_property
    def images(self) -> np.ndarray:
        """All images, uint8; opened when they are first asked for.

        Raises:
          UserError: for a file that is missing or holds something else.
        """
        path = pathlib.Path(self.source).expanduser()
        try:
            images = np.load(path, mmap_mode="r")
            if isinstance(images, np.lib.npyio.NpzFile):
                (name,) = images.files
                images = images[name]
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"data.source={self.source} must be a file .npy or .npz with one array of images: "
                f"{error}."
            ) from error
        shape = list(images.shape)
        if images.dtype != np.uint8 or len(shape) != 4 or math.prod(shape[1:]) != self.length:
            raise UserError(
                f"{path} holds {images.dtype} {shape}, but data.length={self.length} needs uint8 "
                "[images, height, width, 3] with height x width x 3 equal to it: give other images "
                "or another length."
            )
        return images

    def records(self, split: str) -> Sequence[bytes]:
        """Returns the images of a split.

        Raises:
          UserError: if there is none, or see `images`.
        """
        held_out = np.array([self._is_held_out(image) for image in self.images])
        found = np.flatnonzero(held_out == (split == "valid"))
        if not len(found):
            raise UserError(
                f"Of the {len(held_out)} images none falls into {split} with data.valid_fraction="
                f"{self.valid_fraction}: change it, or give more images."
            )
        return _Bytes(self.images, found)

    def _is_held_out(self, image):
        digest = hashlib.blake2b(image.tobytes(), digest_size=8).digest()
        return int.from_bytes(digest, "little") / 2**64 < self.valid_fraction

    def read(self, records: Sequence[bytes], keys: np.ndarray) -> dict[str, np.ndarray]:
        """See `rows.Pipeline`; every byte is predicted from those before it, the first from 0."""
        del keys
        empty = bytes(self.length)
        flat = np.frombuffer(b"".join(record or empty for record in records), np.uint8)
        targets = flat.reshape(len(records), self.length).astype(np.int32)
        tokens = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
        return _causal_rows(tokens, targets, np.ones(tokens.shape, np.float32), records)


PIPELINES = {"copy": Copy, "images": Images}


class Repeated(Sequence):
    """One record many times."""

    def __init__(self, record: bytes, count: int):
        self.record, self.count = record, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.record


class _Bytes(Sequence):
    """The bytes of some images, read when they are asked for."""

    def __init__(self, images: np.ndarray, indices: np.ndarray):
        self.images, self.indices = images, indices

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        return self.images[self.indices[index]].tobytes()


def _causal_rows(tokens, targets, weights, records):
    """Returns the fields of a causal LM; where the record is b"" all is padding."""
    real = np.array([bool(record) for record in records])[:, None]
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return {
        "tokens": tokens * real,
        "segment_ids": np.broadcast_to(real, tokens.shape).astype(np.int32),
        "positions": positions * real,
        "targets": targets * real,
        "weights": weights * real,
    }
