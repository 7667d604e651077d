"""Inputs and targets of an encoder-decoder from plain text: T5's unsupervised objectives.

A stretch of text is corrupted by noise (which tokens?) and shown by two views (what stands in the
input, what in the target?). All functions work on a whole batch, and the noise is a pure function
of its keys. Letters: `B` rows, `R` raw tokens, `T` tokens of the input, `U` of the target.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import ml_collections
import numpy as np

from data_pipeline import formats, noise, packing, tokenizers
from errors import UserError, one_of
from model import batch


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The numbers of the objectives; the paper's are 0.15 and 3 (section 3.3)."""

    rate: float  # of the tokens that are corrupted
    mean_span: float
    vocab_size: int
    sentinels: np.ndarray  # ids of <extra_id_0>, <extra_id_1>, ...

    def noise(self, length):
        """Returns how many of `length` tokens are corrupted: at least one, but not all."""
        return np.clip(np.rint(length * self.rate), 1, np.maximum(length - 1, 1)).astype(np.int64)

    def spans(self, length):
        """Returns in how many spans these lie."""
        count = self.noise(length)
        most = np.minimum(count, np.maximum(length - count, 1))
        return np.clip(np.rint(count / self.mean_span), 1, most).astype(np.int64)


class Text(NamedTuple):
    """Raw tokens of a batch and their noise."""

    tokens: np.ndarray  # [B R] int32
    real: np.ndarray  # [B R] bool, not padding
    noise: np.ndarray  # [B R] bool
    keys: np.ndarray  # [B] uint64, for a view that draws


# Noise: (lengths [B], R, keys [B], numbers) -> [B R] bool


def random_spans(lengths, width, keys, numbers):
    """Spans of `mean_span` tokens on average, the row beginning with text and ending with noise.

    Noise and text are each cut into the same number of parts, all cuts being equally likely, and
    laid out by turns (random_spans_noise_mask in T5's preprocessors.py).
    """
    lengths = np.maximum(lengths, 2)
    count, spans = numbers.noise(lengths), numbers.spans(lengths)
    text_keys, noise_keys = (noise.fold_in(keys, i) for i in range(2))
    parts = [
        _partition(lengths - count, spans, text_keys),
        _partition(count, spans, noise_keys),
    ]
    ends = np.cumsum(np.stack(parts, axis=2).reshape(len(lengths), -1), axis=1)
    changes = np.zeros((len(lengths), max(width, ends.max()) + 1), np.int64)
    np.add.at(changes, (np.arange(len(lengths))[:, None], ends), 1)
    return (np.cumsum(changes, axis=1) % 2 == 1)[:, :width]


def random_tokens(lengths, width, keys, numbers):
    """Each token as likely as any other, exactly `rate` of them.

    T5's code draws for each token by itself (iid_noise_mask); a fixed number bounds the target.
    """
    order = _random_order(keys, np.arange(width) < lengths[:, None])
    return np.argsort(order, axis=1) < numbers.noise(lengths)[:, None]


def random_suffix(lengths, width, keys, numbers):
    """All from a random token on, each but the first equally likely."""
    del numbers
    room = np.maximum(lengths - 1, 1)
    start = 1 + (noise.uniform(keys, 1)[:, 0] * room).astype(np.int64)
    return np.arange(width) >= start[:, None]


def _partition(total, parts, keys):
    """Returns sizes [B K] of `parts` [B] parts, none empty, that sum to `total` [B]; then 0s."""
    gaps = np.arange(1, total.max())  # a cut before token 1, 2, ...
    ranks = np.argsort(_random_order(keys, gaps < total[:, None]), axis=1)
    cuts = np.sort(np.where(ranks < parts[:, None] - 1, gaps, total[:, None]), axis=1)
    cuts = cuts[:, : parts.max() - 1]
    ends = np.concatenate([cuts, total[:, None]], axis=1)
    return np.diff(ends, axis=1, prepend=0)


def _random_order(keys, real):
    """Returns places [B R] in random order, those that are not `real` behind all others."""
    draws = noise.random_bits(keys, real.shape[1]) >> np.uint64(1)
    draws[~real] = np.iinfo(np.uint64).max
    return np.argsort(draws, axis=1, kind="stable")


# Views: (text, numbers) -> tokens [B R], and which of them stay, [B R] bool


def with_sentinels(text, numbers, noisy=None):
    """Each run of noise becomes one sentinel, another for each run."""
    noisy = text.noise & text.real if noisy is None else noisy
    first = noisy & ~np.pad(noisy[:, :-1], ((0, 0), (1, 0)))
    run = np.maximum(np.cumsum(first, axis=1) - 1, 0)
    tokens = np.where(first, numbers.sentinels[run], text.tokens)
    return tokens, text.real & (~noisy | first)


def only_noise_with_sentinels(text, numbers):
    """Each run of text becomes one sentinel: what `with_sentinels` leaves out."""
    return with_sentinels(text, numbers, ~text.noise & text.real)


def without_noise(text, numbers):
    """The text that is left."""
    del numbers
    return text.tokens, text.real & ~text.noise


def only_noise(text, numbers):
    """The noise alone."""
    del numbers
    return text.tokens, text.real & text.noise


def masked(text, numbers):
    """The first sentinel in place of each token of the noise."""
    return np.where(text.noise, numbers.sentinels[0], text.tokens), text.real


def masked_or_random(text, numbers):
    """The same, but a random token in place of a tenth (section 3.3.1)."""
    width = text.tokens.shape[1]
    action, anything = (noise.uniform(noise.fold_in(text.keys, i), width) for i in range(2))
    anything = (anything * numbers.vocab_size).astype(np.int32)
    tokens, kept = masked(text, numbers)
    return np.where(text.noise & (action < 0.1), anything, tokens), kept


def shuffled(text, numbers):
    """All tokens in random order."""
    del numbers
    order = _random_order(text.keys, text.real)
    return np.take_along_axis(text.tokens, order, axis=1), text.real


def everything(text, numbers):
    """The text as it was."""
    del numbers
    return text.tokens, text.real


class Corruption(NamedTuple):
    """One objective.

    Attributes:
      noise: which tokens.
      inputs: what the encoder sees.
      targets: what the decoder says.
      most: the most tokens of input and target, without the end of text, and the most sentinels
        that R raw tokens may need.
    """

    noise: Callable
    inputs: Callable
    targets: Callable
    most: Callable[[int, Numbers], tuple[int, int, int]]


def _spans_replaced(length, numbers):
    count, spans = int(numbers.noise(length)), int(numbers.spans(length))
    return length - count + spans, count + spans, spans


def _tokens_replaced(length, numbers):
    # At worst no two of them meet, and text stands before and behind each.
    count = int(numbers.noise(length))
    return length, 2 * count + 1, count + 1


def _tokens_dropped(length, numbers):
    count = int(numbers.noise(length))
    return length - count, count, 0


def _tokens_masked(length, numbers):
    del numbers
    return length, length, 1


def _tokens_moved(length, numbers):
    del numbers
    return length, length, 0


def _split(length, numbers):
    del numbers
    return length - 1, length - 1, 0


# Tables 3 to 5 of the paper: "iid" is the objective of its baseline.
CORRUPTIONS = {
    "spans": Corruption(random_spans, with_sentinels, only_noise_with_sentinels, _spans_replaced),
    "iid": Corruption(random_tokens, with_sentinels, only_noise_with_sentinels, _tokens_replaced),
    "drop_tokens": Corruption(random_tokens, without_noise, only_noise, _tokens_dropped),
    "prefix_lm": Corruption(random_suffix, without_noise, only_noise, _split),
    "bert_style": Corruption(random_tokens, masked_or_random, everything, _tokens_masked),
    "mass_style": Corruption(random_tokens, masked, everything, _tokens_masked),
    "deshuffling": Corruption(random_tokens, shuffled, everything, _tokens_moved),
}


def raw_length(corruption: Corruption, numbers: Numbers, wanted: int) -> tuple[int, int]:
    """Returns how much text fills an input of `wanted` tokens, and the target's length.

    Both end with the end of text. For spans these are the lengths of T5's random_spans_helper: 568
    raw tokens give 512 and 114.
    """

    def lengths(raw):
        inputs, targets, _ = corruption.most(raw, numbers)
        return inputs + 1, targets + 1

    raw = 2
    while lengths(raw + 1)[0] <= wanted:
        raw += 1
    inputs, targets = lengths(raw)
    if numbers.rate == 0.5 and corruption.noise is random_spans and targets > inputs:
        raw, targets = raw - 1, targets - 1
    return raw, targets


class TextToText:
    """Rows of an input and a target, made of a stretch of the concatenated documents.

    A record is the number of raw tokens, then these.
    """

    passes = 1
    static = False

    def __init__(self, data: ml_collections.ConfigDict, tokenizer: tokenizers.Tokenizer):
        """Takes the data section of a config.

        Raises:
          UserError: for a tokenizer or numbers that do not suit.
        """
        settings = data.corruption
        name = one_of("data.corruption.name", settings.name, CORRUPTIONS)
        if None in (tokenizer.eot_id, tokenizer.pad_id):
            raise UserError(
                f"data.pipeline={data.pipeline} needs tokens for padding and end of text, which "
                f"the {tokenizer.kind} vocabulary lacks: set data.tokenizer.kind=sentencepiece and "
                "data.tokenizer.specials=t5."
            )
        if data.length < 8:
            raise UserError(f"data.length={data.length} is too short: make it at least 8.")
        if not 0 < settings.rate < 1 or not settings.mean_span >= 1:
            raise UserError(
                "data.corruption.rate must lie between 0 and 1, and mean_span be at least 1."
            )
        if data.packing:
            raise UserError(
                f"data.pipeline={data.pipeline} fills its rows: set data.packing=False, there is "
                "nothing to pack."
            )
        self.corruption = CORRUPTIONS[name]
        self.numbers = Numbers(
            rate=settings.rate,
            mean_span=settings.mean_span,
            vocab_size=tokenizer.vocab_size,
            sentinels=np.array(tokenizer.sentinel_ids, np.int32),
        )
        self.length = data.length
        self.raw, self.target_length = raw_length(self.corruption, self.numbers, data.length)
        if data.pipeline == "mixture":  # rows of tasks must have the same shape
            self.target_length = max(self.target_length, data.mixture.target_length)
        needed = self.corruption.most(self.raw, self.numbers)[2]
        if needed > len(self.numbers.sentinels):
            raise UserError(
                f"data.corruption.name={name} needs up to {needed} sentinels in a row, but the "
                f"vocabulary has {len(self.numbers.sentinels)}: set data.tokenizer.sentinels to "
                f"{needed} or more, or lower data.length."
            )
        self.recipe = {"length": self.raw}
        self.eot_id, self.pad_id = tokenizer.eot_id, tokenizer.pad_id
        self.codec = packing.Codec(1, tokenizer.vocab_size)

    def write(self, documents, rng):
        """See `rows.Pipeline`; keeps the order of the documents."""
        for window in formats.windows(documents, self.raw):
            yield self.codec.encode([len(window)], window)

    def read(self, records, keys):
        """See `rows.Pipeline`."""
        header, flat = self.codec.decode(records)
        lengths = header[:, 0]
        real = np.arange(self.raw) < lengths[:, None]
        tokens = np.full(real.shape, self.pad_id, np.int32)
        tokens[real] = flat
        noise_keys, view_keys = (noise.fold_in(keys, i) for i in range(2))
        noisy = self.corruption.noise(lengths, self.raw, noise_keys, self.numbers)
        text = Text(tokens, real, noisy & real, view_keys)
        inputs = self.corruption.inputs(text, self.numbers)
        targets = self.corruption.targets(text, self.numbers)
        ends = self.eot_id, self.pad_id
        return text_to_text(
            compress(*inputs, self.length, *ends), compress(*targets, self.target_length, *ends)
        )


def compress(tokens, kept, width, eot_id, pad_id):
    """Moves the kept tokens of each row together and ends it: tokens, real, both [B width].

    A row of which nothing is kept stays empty.
    """
    counts = kept.sum(axis=1)
    real = np.arange(width) < (counts + (counts > 0))[:, None]
    result = np.full(real.shape, pad_id, np.int32)
    rows, columns = np.nonzero(kept)
    result[rows, (np.cumsum(kept, axis=1) - 1)[rows, columns]] = tokens[rows, columns]
    some = np.nonzero(counts)[0]
    result[some, counts[some]] = eot_id
    return result, real


def text_to_text(inputs, targets):
    """Returns the fields of a batch from (tokens, real) of inputs [B T] and targets [B U]."""
    (tokens, real), (words, said) = inputs, targets
    shifted = np.pad(words[:, :-1], ((0, 0), (1, 0)), constant_values=batch.START)
    return {
        "tokens": tokens,
        "segment_ids": real.astype(np.int32),
        "decoder_tokens": np.where(said, shifted, batch.START).astype(np.int32),
        "decoder_segment_ids": said.astype(np.int32),
        "targets": words,
        "weights": said.astype(np.float32),
    }
