"""Pipelines: how documents become example records, and records the rows of a batch.

A pipeline has two halves. `write` cuts the documents of a corpus shard into records; this is done
once. `read` turns records into rows, with new noise in every epoch. It takes a whole batch at a
time: numpy calls for each row would cost more than all the rest. Letters: `B` rows, `T` tokens, `P`
predictions per row, `G` examples per row.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Protocol

import ml_collections
import numpy as np

from data_pipeline import formats, noise, packing, tokenizers
from errors import UserError, one_of

Rows = dict[str, np.ndarray]  # fields of model/batch.py, each [B, ...]


class Pipeline(Protocol):
    """One way to make rows out of documents; picklable."""

    recipe: dict  # what the records depend on besides corpus and seed, in JSON's types
    passes: int  # how many times the corpus is cut
    static: bool  # the same noise in every epoch

    def write(self, documents: list[formats.Document], rng: random.Random) -> Iterator[bytes]:
        """Yields the records of one pass over the documents of one shard."""

    def read(self, records: Sequence[bytes], keys: np.ndarray) -> Rows:
        """Returns a row for each record (`b""`: padding only), noise by its key (uint64 [B])."""


class MaskedLM:
    """Masked rows of one or two segments, `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`.

    RoBERTa's vocabulary has `<s> A </s> </s> B </s>`. How text is cut is a name in
    `formats.FORMATS`. Several examples go into a row if it is packed: then the budget of
    predictions belongs to the row, so that `P` is the same. A record is (tokens up to the first
    [SEP], tokens after it, label) of each example, then the tokens of the row.
    """

    annotated = False

    def __init__(self, data: ml_collections.ConfigDict, tokenizer: tokenizers.Tokenizer):
        """Takes the data section of a config.

        Raises:
          UserError: for a tokenizer or numbers that do not suit.
        """
        masking, form = data.masking, data.format
        self.cls_id, self.sep_id = tokenizer.cls_id, tokenizer.sep_id
        if None in (self.cls_id, self.sep_id, tokenizer.mask_id):
            raise UserError(
                f"data.pipeline=masked_lm needs tokens for the beginning, the end and the mask "
                f"([CLS], [SEP], [MASK]), which the {tokenizer.kind} vocabulary lacks: set "
                "data.tokenizer.kind=wordpiece, or data.tokenizer.specials=roberta."
            )
        if data.length < 8:
            raise UserError(
                f"data.length={data.length} has no room for a pair: make it at least 8."
            )
        if not 0 < masking.max_predictions <= data.length:
            raise UserError(
                f"data.masking.max_predictions={masking.max_predictions} must be between 1 and "
                f"data.length={data.length}."
            )
        if not (0 < masking.rate < 1 and masking.mask >= 0 <= masking.random) or (
            masking.mask + masking.random > 1
        ):
            raise UserError(
                "data.masking.rate must lie between 0 and 1, and mask + random must not exceed 1."
            )
        if masking.ngram < 1:
            raise UserError(f"data.masking.ngram={masking.ngram} must be at least 1.")
        self.cut = formats.FORMATS[one_of("data.format.name", form.name, formats.FORMATS)]
        one_of("data.format.negatives", form.negatives, formats.NEGATIVES)
        self.labeled = form.negatives != "none"
        if self.labeled and form.name not in formats.LABELED:
            raise UserError(
                f"data.format.name={form.name} has no pairs to label: set "
                f"data.format.negatives=none, or the name to one of {', '.join(formats.LABELED)}."
            )
        if not 0 <= form.negative_rate <= 1 or not 0 <= form.short_seq_prob <= 1:
            raise UserError(
                "data.format.negative_rate and short_seq_prob must lie between 0 and 1."
            )
        if form.passes < 1:
            raise UserError(f"data.format.passes={form.passes} must be at least 1.")
        self.rules = formats.Rules(
            length=data.length,
            sep_id=tokenizer.sep_id,
            separators=2 if tokenizer.doubles_sep else 1,
            negatives=form.negatives,
            negative_rate=form.negative_rate,
            short_seq_prob=form.short_seq_prob,
        )
        self.length = data.length
        self.examples = packing.max_examples(data.length) if data.packing else 1  # G
        self.recipe = {"length": data.length, "packing": data.packing, "format": form.to_dict()}
        self.passes = form.passes
        self.static = masking.static
        self.masking = noise.Masking(
            rate=masking.rate,
            max_predictions=masking.max_predictions,
            mask=masking.mask,
            random=masking.random,
            ngram=masking.ngram,
            mask_id=tokenizer.mask_id,
            vocab_size=tokenizer.vocab_size,
            together=bool(masking.spans),
        )
        if masking.spans and not self.annotated:
            raise UserError(
                f"data.masking.spans={masking.spans} needs annotated text: set data.pipeline="
                "annotated_lm."
            )
        self.pad_id = tokenizer.pad_id
        self.continues_word = tokenizer.continues_word if masking.whole_word else None
        self.codec = packing.Codec(3 * self.examples, tokenizer.vocab_size)

    def write(self, documents, rng):
        """See `Pipeline`."""
        cls, sep = self.special(self.cls_id), self.special(self.sep_id)
        between = sep * (self.rules.separators - 1)
        examples = [self._lay_out(x, cls, sep, between) for x in self.examples_of(documents, rng)]
        lengths = [first + second for (first, second, _), _ in examples]
        for row in packing.first_fit(lengths, self.length, self.examples):
            header, tokens = [], []
            for i in row:
                header += examples[i][0]
                tokens += examples[i][1]
            yield self.codec.encode(header, *map(np.ravel, tokens))

    def examples_of(
        self, documents: list[formats.Document], rng: random.Random
    ) -> Iterator[formats.Example]:
        """Yields the examples that documents are cut into."""
        return self.cut(documents, self.rules, rng)

    def special(self, token: int) -> list:
        """Returns a special token as a stretch of text."""
        return [token]

    def _lay_out(self, example, cls, sep, between):
        """Returns (tokens up to the first [SEP], tokens after it, label), and the tokens."""
        first = [cls, example.a, sep]
        second = [] if example.b is None else [between, example.b, sep]
        return (sum(map(len, first)), sum(map(len, second)), example.label), first + second

    def read(self, records, keys):
        """See `Pipeline`."""
        header, flat = self.codec.decode(records)
        return self.rows_of(header, flat, keys)

    def rows_of(
        self,
        header: np.ndarray,
        flat: np.ndarray,
        keys: np.ndarray,
        continues: np.ndarray | None = None,
    ) -> Rows:
        """Returns what `read` does.

        Args:
          header: [B 3G], of the records.
          flat: the tokens of all rows.
          keys: [B].
          continues: bool, whether such a token is masked together with the one before it.
        """
        first, second, labels = np.moveaxis(header.reshape(len(header), self.examples, 3), 2, 0)
        sizes = first + second  # [B G]
        segment_ids, positions = packing.layout(sizes, self.length)
        real = segment_ids > 0
        tokens = np.full(real.shape, self.pad_id, np.int32)
        tokens[real] = flat
        own_first = np.take_along_axis(first, np.maximum(segment_ids - 1, 0), axis=1)
        candidates = real & (tokens != self.cls_id) & (tokens != self.sep_id)
        joined = np.zeros_like(real)
        if continues is not None:
            joined[real] = continues
        if self.continues_word is not None:
            joined |= self.continues_word[tokens]
        # What is cut off from the piece before it counts as a word.
        starts = candidates & ~(joined & np.pad(candidates[:, :-1], ((0, 0), (1, 0))))
        masked = noise.mask_tokens(
            tokens, sizes.sum(axis=1), candidates, starts, keys, self.masking
        )
        used = sizes > 0
        return masked._asdict() | {
            "token_types": (real & (positions >= own_first)).astype(np.int32),
            "segment_ids": segment_ids,
            "positions": positions,
            "pair_positions": ((np.cumsum(sizes, axis=1) - sizes) * used).astype(np.int32),
            "pair_labels": labels.astype(np.int32),
            "pair_weights": (used & self.labeled).astype(np.float32),
        }


class CausalStream:
    """GPT's rows: each token predicts the next one.

    The end-of-text token stands before each document, and is what its first token is predicted
    from; it is also what ends the document before. So no token is left out, and with
    `stream.mask_documents` the new segment begins at that token and no prediction crosses a border.

    A record is the numbers of predictions of its stretches of text, then the tokens of each, one
    more than its predictions. Not packed, a row is one stretch, a window of the shard's stream.
    Packed, the stretches are documents (pieces of them, where they are longer than a row), each a
    segment.
    """

    passes = 1
    static = True

    def __init__(self, data: ml_collections.ConfigDict, tokenizer: tokenizers.Tokenizer):
        """Takes the data section of a config.

        Raises:
          UserError: for a tokenizer or numbers that do not suit.
        """
        if tokenizer.eot_id is None:
            raise UserError(
                f"data.pipeline=causal_stream needs an end-of-text token, which the "
                f"{tokenizer.kind} vocabulary lacks: set data.tokenizer.kind=byte_bpe."
            )
        if data.length < 2:
            raise UserError(f"data.length={data.length} is too short: make it at least 2.")
        self.length = data.length
        self.packing = data.packing
        self.mask_documents = data.stream.mask_documents
        self.recipe = {"length": data.length, "packing": data.packing}
        self.eot_id = tokenizer.eot_id
        self.examples = packing.max_examples(data.length) if data.packing else 1  # G
        self.codec = packing.Codec(self.examples, tokenizer.vocab_size)

    def write(self, documents, rng):
        """See `Pipeline`; keeps the order of the documents."""
        cut = formats.document_pieces if self.packing else formats.token_stream
        pieces = list(cut(documents, length=self.length, eot_id=self.eot_id))
        lengths = [len(piece) - 1 for piece in pieces]
        for row in packing.first_fit(lengths, self.length, self.examples):
            yield self.codec.encode([lengths[i] for i in row], *[pieces[i] for i in row])

    def read(self, records, keys):
        """See `Pipeline`; there is no noise."""
        lengths, flat = self.codec.decode(records)
        segment_ids, positions = packing.layout(lengths, self.length)
        real = segment_ids > 0
        stretches = lengths[lengths > 0] + 1
        ends = np.cumsum(stretches)
        tokens, targets = np.zeros((2, *real.shape), np.int32)
        tokens[real] = np.delete(flat, ends - 1)
        targets[real] = np.delete(flat, ends - stretches)
        if self.mask_documents and not self.packing:
            starts = real & (tokens == self.eot_id)
            starts[:, 0] = real[:, 0]
            segment_ids, positions = packing.segments(starts, real)
        return {
            "tokens": tokens,
            "segment_ids": segment_ids,
            "positions": positions,
            "targets": targets,
            "weights": real.astype(np.float32),
        }
