"""The pipeline `gpt_classification`: GPT-1's input transformations (Radford et al., 2018, 3.3)."""

from collections.abc import Sequence

import ml_collections
import numpy as np

from data_pipeline import packing, tokenizers
from data_pipeline.tasks import classification
from errors import UserError


class GptClassification(classification.Classification):
    """Sequences `_start_ A _classify_` or `_start_ A _delimiter_ B _classify_`.

    For a similarity a row holds both orders of the pair, each in a half of it of its own, else one
    sequence. `pair_positions` are their extract tokens `_classify_`; every token but the last of a
    sequence predicts the next one. A record is (tokens of each sequence, the bits of the float32
    label), then the tokens.
    """

    def __init__(self, data: ml_collections.ConfigDict, tokenizer: tokenizers.Tokenizer):
        """Takes the data section of a config.

        Raises:
          UserError: for a length that does not suit.
        """
        sequences = 2 if self.TASKS[data.task].symmetric else 1
        if data.length % sequences or data.length < 8 * sequences:
            raise UserError(
                f"data.length={data.length} cannot be {sequences} sequences: make it a multiple of "
                f"{sequences} and at least {8 * sequences}."
            )
        self._divide(data.length, sequences, tokenizer)

    def _divide(self, length, sequences, tokenizer):
        """Sets the sizes: a row has `length` tokens, in as many sequences."""
        self.room = length // sequences
        self.length, self.sequences, self.tokenizer = length, sequences, tokenizer  # T, G
        self.codec = packing.Codec(sequences + 1, 1 << 32)

    @staticmethod
    def adapt(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
        """Returns the vocabulary with the three special tokens.

        Raises:
          UserError: for a vocabulary that is not GPT-1's.
        """
        if not isinstance(tokenizer, tokenizers.WordBpe):
            raise UserError(
                f"data.pipeline=gpt_classification needs GPT-1's word_bpe vocabulary, not a "
                f"{tokenizer.kind}: start from a GPT-1."
            )
        return tokenizer.with_specials()

    def _record(self, example, a, b=None):
        t = self.tokenizer
        if b is None:
            texts = [a[: self.room - 2]]
        else:
            a, b = classification.truncate(a, b, self.room - 3)
            texts = [[*x, t.sep_id, *y] for x, y in ((a, b), (b, a))][: self.sequences]
        return self._join(texts, example.label)

    def _join(self, texts, label):
        """Returns the record of at most G sequences: the others are empty."""
        t = self.tokenizer
        sequences = [[t.start_id, *text, t.cls_id] for text in texts]
        sizes = [*map(len, sequences), *[0] * (self.sequences - len(sequences))]
        bits = int(np.float32(label or 0).view(np.uint32))
        return self.codec.encode([*sizes, bits], *sequences)

    def read(self, records: Sequence[bytes], keys: np.ndarray) -> dict[str, np.ndarray]:
        """Returns a row for each record; `b""` is a row of padding, of weight 0."""
        del keys
        header, flat = self.codec.decode(records)
        sizes, shape = header[:, :-1], (len(records), self.sequences, self.room)  # [B G], [B G L]
        place = np.broadcast_to(np.arange(self.room), shape)
        real = place < sizes[..., None]
        predicts = place < sizes[..., None] - 1
        tokens = np.zeros(shape, np.int32)
        tokens[real] = flat
        values = header[:, -1].astype(np.uint32).view(np.float32)
        starts = self.room * np.arange(self.sequences)

        def row(x, dtype=np.int32):
            return x.astype(dtype).reshape(len(records), self.length)

        return {
            "tokens": row(tokens),
            "segment_ids": row(real * (1 + np.arange(self.sequences))[:, None]),
            "positions": row(place * real),
            "targets": row(np.roll(tokens, -1, axis=-1) * predicts),
            "weights": row(predicts, np.float32),
            "pair_positions": (starts + np.maximum(sizes - 1, 0)).astype(np.int32),
            "label": values.astype(np.int32),
            "score": values,
            "example_weights": (sizes[:, 0] > 0).astype(np.float32),
        }
