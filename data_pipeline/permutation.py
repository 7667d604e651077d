"""The pipeline `permutation_lm`: XLNet's rows, what is predicted in them and in which order.

Letters: `B` rows, `T` tokens, `P` predictions per row, `M` tokens of memory, `L` tokens of a half.
"""

import bisect
import itertools
import random
from collections.abc import Iterator, Sequence

import ml_collections
import numpy as np

from data_pipeline import formats, noise, packing, tokenizers
from errors import UserError


class PermutationLM:
    """Rows `reuse A [SEP] B [SEP] [CLS]` and the M tokens before them (XLNet, data_utils.py).

    The documents of a shard are one stream, an end-of-document token behind each. Every row begins
    where the `reuse` part of the one before ends. A goes on to the end of a sentence; B is what
    follows it or, half of the time, text of another place. There is no padding: the end of a stream
    that fills no row is left out. With bidirectional data every other row is cut from the reversed
    stream.

    A half of the row, `reuse` and the rest, has its own predictions and its own order, and the
    first does not see the second. A record is the numbers of tokens of memory, A and B, whether it
    is reversed, the memory and the row.
    """

    passes = 1
    static = False

    def __init__(self, data: ml_collections.ConfigDict, tokenizer: tokenizers.Tokenizer):
        """Takes the data section of a config.

        Raises:
          UserError: for a tokenizer or numbers that do not suit.
        """
        c = data.permutation
        if None in (tokenizer.cls_id, tokenizer.sep_id, tokenizer.eot_id):
            raise UserError(
                "data.pipeline=permutation_lm needs <cls>, <sep> and <eod>, which the "
                f"{tokenizer.kind} vocabulary lacks: set data.tokenizer.kind=sentencepiece and "
                "data.tokenizer.specials=xlnet."
            )
        rest = data.length - c.reuse
        if c.reuse < 1 or rest < 8:
            raise UserError(
                f"data.permutation.reuse={c.reuse} must be at least 1 and leave 8 of the "
                f"{data.length} tokens of a row."
            )
        if c.block < 1 or c.reuse % c.block or rest % c.block:
            raise UserError(
                f"data.permutation.block={c.block} must divide data.permutation.reuse={c.reuse} "
                f"and the rest of the row, {rest}."
            )
        self.predictions = data.length // max(c.k, 1)  # P
        self.quotas = self.predictions - self.predictions // 2, self.predictions // 2
        if c.k < 2 or self.quotas[0] > c.reuse or not 0 < self.quotas[1] <= rest - 3:
            raise UserError(
                f"data.permutation.k={c.k} must be at least 2, and both parts of a row have room "
                f"for half of its {self.predictions} predictions."
            )
        if c.span < 1 or c.memory < 0:
            raise UserError(
                f"data.permutation.span={c.span} must be at least 1 and data.permutation.memory="
                f"{c.memory} at least 0."
            )
        self.length, self.reuse, self.memory = data.length, c.reuse, c.memory
        self.k, self.span, self.block = c.k, c.span, c.block
        self.bidirectional = c.bidirectional
        self.cls_id, self.sep_id, self.eod_id = tokenizer.cls_id, tokenizer.sep_id, tokenizer.eot_id
        self.pad_id = tokenizer.pad_id
        self.continues_word = tokenizer.continues_word
        self.recipe = {
            "length": self.length,
            "reuse": self.reuse,
            "memory": self.memory,
            "bidirectional": self.bidirectional,
        }
        self.codec = packing.Codec(4, tokenizer.vocab_size)

    def write(self, documents: list[formats.Document], rng: random.Random) -> Iterator[bytes]:
        """See `rows.Pipeline`."""
        if not documents:
            return
        parts = [x for tokens, _ in documents for x in (tokens, [self.eod_id])]
        sizes = [x for _, lengths in documents for x in (*lengths.tolist(), 1)]
        stream, ends = np.concatenate(parts), list(itertools.accumulate(sizes))
        rows = [self._cut(stream, ends, False, rng)]
        if self.bidirectional:
            starts = [0, *ends[:-1]]
            mirrored = [len(stream) - start for start in reversed(starts)]
            rows.append(self._cut(stream[::-1], mirrored, True, rng))
        yield from itertools.chain.from_iterable(zip(*rows, strict=True))

    def _cut(self, stream, ends, backward, rng):
        """Yields the records of a stream whose sentences end at `ends`."""
        room = self.length - self.reuse - 3
        for start in range(0, len(stream) - self.reuse - room, self.reuse):
            begin = start + self.reuse
            next_end = bisect.bisect_left(ends, begin + room)
            cuts = ends[bisect.bisect_right(ends, begin) : next_end]
            if cuts and rng.random() < 0.5:
                middle = rng.choice(cuts)
                b = middle, ends[next_end]
            else:
                middle = rng.choice(cuts) if cuts else ends[next_end]
                b = self._elsewhere(ends, max(1, room - (middle - begin)), rng)
            # What is too long loses its end: the longer one, or if they are equal B.
            size_b = min(b[1] - b[0], max(room // 2, room - (middle - begin)))
            a = stream[begin : begin + room - size_b]
            memory = stream[max(0, start - self.memory) : start]
            row = stream[start:begin], a, [self.sep_id], stream[b[0] : b[0] + size_b]
            header = len(memory), len(a), size_b, backward
            yield self.codec.encode(header, memory, *row, [self.sep_id, self.cls_id])

    def _elsewhere(self, ends, wanted, rng):
        """Returns (start, stop) of whole sentences, `wanted` tokens or more, at a random place."""
        first = rng.randint(0, ends[-1] - wanted)
        before = bisect.bisect_right(ends, first)
        stop = ends[bisect.bisect_left(ends, first + wanted)]
        return (ends[before - 1] if before else 0), stop

    def read(self, records: Sequence[bytes], keys: np.ndarray) -> dict[str, np.ndarray]:
        """See `rows.Pipeline`."""
        header, flat = self.codec.decode(records)
        remembered, a, _, backward = (column[:, None] for column in header.T)
        there = np.broadcast_to(a > 0, (len(records), self.length))
        memory_there = np.arange(self.memory) >= self.memory - remembered
        everything = np.full((len(records), self.memory + self.length), self.pad_id, np.int32)
        everything[np.concatenate([memory_there, there], axis=1)] = flat
        memory, tokens = everything[:, : self.memory], everything[:, self.memory :]

        columns = np.arange(self.length)
        first_sep = self.reuse + a
        special = (columns == first_sep) | (columns >= self.length - 2)
        types = (columns > first_sep).astype(np.int32) + (columns == self.length - 1)
        candidates = there & ~special
        chosen, rank = self._order(tokens, candidates, backward, keys)

        real = np.arange(self.predictions) < chosen.sum(axis=1)[:, None]  # [B P]
        positions, targets = np.zeros((2, *real.shape), np.int32)
        positions[real] = np.nonzero(chosen)[1]
        targets[real] = tokens[chosen]
        fields = {
            "tokens": tokens,
            "token_types": types * there,
            "segment_ids": there.astype(np.int32),
            "positions": columns * there,
            "rank": rank,
            "masked_positions": positions,
            "targets": targets,
        }
        if self.memory:
            fields |= {"memory_tokens": memory, "memory_segment_ids": memory_there}
        if self.bidirectional:
            fields["reversed"] = backward[:, 0]
        fields = {name: np.ascontiguousarray(x, np.int32) for name, x in fields.items()}
        return fields | {"weights": real.astype(np.float32)}

    def _order(self, tokens, candidates, backward, keys):
        """Returns what is predicted, bool [B T], and the ranks [B T].

        Tokens of a half that are not predicted rank below all others of it, and all of the second
        half above the first.
        """
        halves = []
        for number, half in enumerate((slice(self.reuse), slice(self.reuse, None))):
            target_keys, order_keys = (noise.fold_in(keys, 2 * number + i) for i in (0, 1))
            there, part = candidates[:, half], tokens[:, half]
            # Words begin where they do when one reads forward.
            flip = lambda x: np.where(backward > 0, x[:, ::-1], x)  # noqa: E731
            chosen = flip(
                choose_targets(
                    flip(there),
                    flip(~self.continues_word[part]),
                    target_keys,
                    quota=self.quotas[number],
                    k=self.k,
                    span=self.span,
                )
            )
            below = there & ~chosen
            halves.append((chosen, random_ranks(below, order_keys, self.block)))
        (first, low), (second, high) = halves
        ranks = np.concatenate([low, high + self.reuse + 1], axis=1)
        return np.concatenate([first, second], axis=1), ranks


def choose_targets(
    candidates: np.ndarray,
    starts: np.ndarray,
    keys: np.ndarray,
    *,
    quota: int,
    k: int,
    span: int,
) -> np.ndarray:
    """Chooses what is predicted: spans, and single tokens until there are exactly `quota`.

    From left to right, n tokens are drawn with p(n) ~ 1/n and lie, from a word's start on, at a
    random place in n * k others (data_utils.py, _sample_mask, where special tokens may be chosen
    too, which are then not predicted: there rows can have fewer than `quota`).

    Args:
      candidates: [B L] bool, tokens that may be chosen; none, or `quota` or more in a row.
      starts: [B L] bool, tokens that begin a word.
      keys: uint64 [B].
      quota: predictions of a row.
      k: how much context there is for each of them.
      span: the largest n; 1: only single tokens, anywhere.

    Returns:
      [B L] bool.
    """
    B, L = candidates.shape
    columns, row = np.arange(L), np.arange(B)
    chosen = np.zeros((B, L), bool)
    left = np.minimum(quota, candidates.sum(axis=1))
    if span > 1:
        where = np.where(candidates & starts, columns, L)
        next_start = np.full((B, L + 1), L)  # the first one from here on; L: none
        next_start[:, :L] = np.minimum.accumulate(where[:, ::-1], axis=1)[:, ::-1]
        law = np.cumsum(1 / np.arange(1, span + 1))
        draws = noise.uniform(noise.fold_in(keys, 0), 2 * quota).reshape(B, quota, 2)
        at, going = np.zeros(B, np.int64), np.ones(B, bool)
        for i in range(quota):
            n = 1 + np.searchsorted(law / law[-1], draws[:, i, 0], side="right")
            n = np.minimum(n, left)
            before = (draws[:, i, 1] * n * k).astype(np.int64)
            begin = next_start[row, np.minimum(at + before, L)]
            end = begin + n
            going &= (n > 0) & (end < L)
            if not going.any():
                break
            inside = (columns >= begin[:, None]) & (columns < end[:, None])
            inside &= candidates & going[:, None]
            chosen |= inside
            left = left - inside.sum(axis=1)
            at = end + n * k - before
    bits = noise.random_bits(noise.fold_in(keys, 1), L)
    order = np.argsort(np.where(candidates & ~chosen, bits >> np.uint64(1), ~np.uint64(0)), axis=1)
    singles = np.zeros((B, L), bool)
    np.put_along_axis(singles, order, columns < left[:, None], axis=1)
    return chosen | singles


def random_ranks(lowest: np.ndarray, keys: np.ndarray, block: int) -> np.ndarray:
    """Ranks the tokens at random, block after block, all blocks in the same order.

    Args:
      lowest: [B L] bool, tokens that rank -1.
      keys: uint64 [B].
      block: tokens in a block; divides L.

    Returns:
      [B L] int64.
    """
    order = np.argsort(noise.random_bits(keys, block), axis=1)
    columns = np.arange(lowest.shape[1])
    return np.where(lowest, -1, columns // block * block + order[:, columns % block])
