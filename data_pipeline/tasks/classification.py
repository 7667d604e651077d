"""The pipeline `classification`: a text or a pair of texts in a row, and its label."""

from collections.abc import Iterable, Sequence

import ml_collections
import numpy as np

from data_pipeline import packing, tokenizers
from data_pipeline.tasks import Labeled, glue
from errors import UserError


class Classification(Labeled):
    """Rows `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]` (BERT, section 4.1).

    A vocabulary whose first token is `<s>` is RoBERTa's: `<s> A </s></s> B </s>`, without token
    types. One with `<cls>` is XLNet's: `A <sep> B <sep> <cls>`, where the last has token type 2
    (its code pads on the left, which masks make needless). A record is (tokens of the first
    segment, of all after it, the bits of the float32 label), then the tokens.
    """

    def __init__(self, data: ml_collections.ConfigDict, tokenizer: tokenizers.Tokenizer):
        """Takes the data section of a config.

        Raises:
          UserError: for a tokenizer or a length that does not suit.
        """
        if None in (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id):
            raise UserError(
                f"data.pipeline={data.pipeline} needs [CLS], [SEP] and [PAD], which the "
                f"{tokenizer.kind} vocabulary lacks: start from a model that has them."
            )
        if data.length < 8:
            raise UserError(
                f"data.length={data.length} has no room for a pair: make it at least 8."
            )
        self.length = data.length
        self.tokenizer = tokenizer
        self.doubles_sep, self.cls_last = tokenizer.doubles_sep, tokenizer.cls_last
        self.codec = packing.Codec(3, 1 << 32)  # four bytes a number: one is a float

    def write(self, examples: Iterable[glue.Example]) -> list[bytes]:
        """Returns a record for each example; a label that is not given counts as 0."""
        examples = list(examples)
        columns = zip(*(example.texts for example in examples), strict=True)
        ids = [self.tokenizer.encode_batch(texts) for texts in columns]
        return [
            self._record(example, *texts) for example, *texts in zip(examples, *ids, strict=True)
        ]

    def _record(self, example, a, b=None):
        if b is None:
            a = a[: self.length - 2]
        else:
            a, b = truncate(a, b, self.length - self.specials)
        first, second = self.join(a, b)
        bits = int(np.float32(example.label or 0).view(np.uint32))
        return self.codec.encode([len(first), len(second), bits], first, second)

    @property
    def specials(self) -> int:
        """How many special tokens a pair has."""
        return 4 if self.doubles_sep else 3

    def join(self, a: Sequence[int], b: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
        """Returns the first segment and all after it, with the special tokens."""
        cls, sep = [self.tokenizer.cls_id], [self.tokenizer.sep_id]
        if b is None:
            first, second = [*a, *sep], []
        else:
            first, second = [*a, *sep * (self.specials - 2)], [*b, *sep]
        if self.cls_last:
            return first, [*second, *cls]
        return [*cls, *first], second

    def read(self, records: Sequence[bytes], keys: np.ndarray) -> dict[str, np.ndarray]:
        """Returns a row for each record; `b""` is a row of padding, of weight 0."""
        del keys
        header, flat = self.codec.decode(records)
        values = header[:, 2].astype(np.uint32).view(np.float32)
        return self.lay_out(header, flat) | {
            "label": values.astype(np.int32),
            "score": values,
        }

    def lay_out(self, header: np.ndarray, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the fields of the tokens, whatever the task.

        Args:
          header: [B ...], first the numbers of tokens of the first segment and of all after it.
          flat: these tokens of all rows.
        """
        sizes = header[:, :2].sum(axis=1)
        segment_ids, positions = packing.layout(sizes[:, None], self.length)
        real = segment_ids > 0
        tokens = np.full(real.shape, self.tokenizer.pad_id, np.int32)
        tokens[real] = flat
        second = real & (positions >= header[:, :1]) & (not self.doubles_sep)
        types, cls = second.astype(np.int32), np.zeros_like(sizes)
        if self.cls_last:
            cls = np.maximum(sizes - 1, 0)
            types[np.arange(len(sizes)), cls] = np.where(sizes > 0, 2, 0)
        return {
            "tokens": tokens,
            "token_types": types,
            "segment_ids": segment_ids,
            "positions": positions,
            "pair_positions": cls[:, None].astype(np.int32),
            "example_weights": (sizes > 0).astype(np.float32),
        }


def truncate(a: list[int], b: list[int], room: int) -> tuple[list[int], list[int]]:
    """Cuts the ends of two texts, always of the longer one, until they fit; ties cut the second.

    As `_truncate_seq_pair` in BERT's run_classifier.py, in one step.
    """
    if len(a) + len(b) > room:
        half = room // 2
        keep_b = min(len(b), max(half, room - len(a)))
        a, b = a[: room - keep_b], b[:keep_b]
    return a, b
