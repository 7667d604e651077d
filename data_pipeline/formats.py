"""How documents are cut into training examples: plain functions over arrays of tokens.

A document is a pair of arrays, as in the corpus: the tokens of all its sentences, and the number of
tokens in each sentence. Examples are slices of it: nothing is copied here. Tokens may have further
columns beside them.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

Document = tuple[np.ndarray, np.ndarray]  # tokens; lengths of the sentences, none of them 0


class Example(NamedTuple):
    """One or two stretches of text between special tokens."""

    a: np.ndarray
    b: np.ndarray | None  # None: `[CLS] A [SEP]`
    label: bool = False  # B does not follow A: it comes from elsewhere, or the two are swapped


@dataclasses.dataclass(frozen=True)
class Rules:
    """What the formats are told, besides the documents."""

    length: int  # tokens in a row, special ones included
    sep_id: int
    separators: int  # between A and B: 1, and 2 in RoBERTa's vocabulary
    negatives: str  # a name in NEGATIVES
    negative_rate: float  # how often a pair is a negative one
    short_seq_prob: float  # how often examples are cut for a shorter row

    @property
    def pair_room(self) -> int:
        """Most tokens of A and B together."""
        return self.length - 2 - self.separators

    @property
    def single_room(self) -> int:
        """Most tokens of A alone."""
        return self.length - 2


# What the label of a pair says (BERT, section 3.1; ALBERT, section 3.1).
NEGATIVES = ("random", "swapped", "none")


def segment_pairs(
    documents: Sequence[Document], rules: Rules, rng: random.Random
) -> Iterator[Example]:
    """Cuts documents into pairs of segments by BERT's rules (create_pretraining_data.py; papers'
    facts in appendix A.2).

    Sentences are collected until they fill a row or the document ends; A is a random number of the
    first of them and B is the rest. What makes a negative example:

    random   B is text from a random place of another document, and the unused rest is put back;
             with probability `negative_rate`, and always where there is only one sentence. So more
             than `negative_rate` of the pairs are random.
    swapped  A and B change places with probability `negative_rate`; one sentence alone gets a
             random B (ALBERT, create_pretraining_data.py).
    none     Nothing; one sentence alone stays alone.

    Args:
      documents: the pool from which random B's are drawn as well; none empty.
      rules: the numbers.
      rng: the only source of randomness.
    """
    room = rules.pair_room
    offsets = _offsets(documents)
    for number, (tokens, _) in enumerate(documents):
        ends = offsets[number]
        last = len(ends) - 1
        target = rng.randint(2, room) if rng.random() < rules.short_seq_prob else room
        start = 0
        while start < last:
            stop = start + 1  # the chunk is the sentences start..stop-1
            while stop < last and ends[stop] - ends[start] < target:
                stop += 1
            middle = rng.randint(start + 1, stop - 1) if stop - start > 1 else stop
            single = stop - start == 1
            if single and rules.negatives == "none":
                yield Example(tokens[ends[start] : ends[stop]][: rules.single_room], None)
                start = stop
                continue
            a = (ends[start], ends[middle])
            negative = single or (rules.negatives != "none" and rng.random() < rules.negative_rate)
            if negative and (single or rules.negatives == "random"):
                other = _another(number, len(documents), rng)
                b_tokens = documents[other][0]
                b = _random_stretch(offsets[other], target - (a[1] - a[0]), rng)
                start = middle
            else:
                b_tokens, b = tokens, (ends[middle], ends[stop])
                start = stop
            a, b = _truncate(a, b, room, rng)
            pair = tokens[slice(*a)], b_tokens[slice(*b)]
            if negative and not single and rules.negatives == "swapped":
                pair = pair[::-1]
            yield Example(*pair, negative)


def sentence_pairs(
    documents: Sequence[Document], rules: Rules, rng: random.Random
) -> Iterator[Example]:
    """Cuts documents into pairs of single sentences (RoBERTa, section 4.2, SENTENCE-PAIR).

    B is the sentence after A, or, by the rules of `segment_pairs`, a sentence of another document
    or the two in the wrong order.
    """
    offsets = _offsets(documents)
    for number, (tokens, _) in enumerate(documents):
        ends = offsets[number]
        last = len(ends) - 1
        start = 0
        while start < last:
            single = start + 1 == last
            a = (ends[start], ends[start + 1])
            if single and rules.negatives == "none":
                yield Example(tokens[slice(*a)][: rules.single_room], None)
                break
            negative = single or (rules.negatives != "none" and rng.random() < rules.negative_rate)
            if negative and (single or rules.negatives == "random"):
                other = _another(number, len(documents), rng)
                b_tokens, b = documents[other][0], _random_stretch(offsets[other], 1, rng)
                start += 1
            else:
                b_tokens, b = tokens, (ends[start + 1], ends[start + 2])
                start += 2
            a, b = _truncate(a, b, rules.pair_room, rng)
            pair = tokens[slice(*a)], b_tokens[slice(*b)]
            if negative and not single and rules.negatives == "swapped":
                pair = pair[::-1]
            yield Example(*pair, negative)


def full_sentences(
    documents: Sequence[Document], rules: Rules, rng: random.Random
) -> Iterator[Example]:
    """Fills rows with contiguous sentences, across documents, a separator between these (RoBERTa,
    section 4.2, FULL-SENTENCES). A sentence longer than a row is cut.
    """
    del rng
    parts: list[np.ndarray] = []
    used = 0
    for tokens, sizes in documents:
        separator = np.zeros_like(tokens[:1])
        separator.flat[0] = rules.sep_id
        between = [separator] if parts else []
        for sentence in _whole_or_cut(tokens, sizes, rules.single_room):
            if used + len(between) + len(sentence) > rules.single_room:
                yield Example(np.concatenate(parts), None)
                parts, used, between = [], 0, []
            parts += [*between, sentence]
            used += len(between) + len(sentence)
            between = []
    if parts:
        yield Example(np.concatenate(parts), None)


def doc_sentences(
    documents: Sequence[Document], rules: Rules, rng: random.Random
) -> Iterator[Example]:
    """The same within documents: the last row of each may be short (RoBERTa, section 4.2,
    DOC-SENTENCES). The paper evens the batches out by their size; here rows can be packed.
    """
    for document in documents:
        yield from full_sentences([document], rules, rng)


def two_segments(
    documents: Sequence[Document], rules: Rules, rng: random.Random
) -> Iterator[Example]:
    """Cuts documents into one or two segments (ELECTRA, build_pretraining_dataset.py).

    Sentences are collected as in `segment_pairs`. They join A while they fit into half the row, the
    one that does not with probability 0.5, and B from there on; one example in ten has no B. What
    is too long is cut off at the end. There are no labels.
    """
    target = rules.length
    for tokens, sizes in documents:
        ends = [0, *itertools.accumulate(sizes.tolist())]
        start = 0
        while start < len(sizes):
            stop = start + 1
            while stop < len(sizes) and ends[stop] - ends[start] < target:
                stop += 1
            goal = len(tokens) + 1 if rng.random() < 0.1 else (target - 3) // 2
            middle = start + 1  # A is the sentences start..middle-1
            while middle < stop and ends[middle + 1] - ends[start] < goal:
                middle += 1
            if middle < stop and ends[middle] - ends[start] < goal and rng.random() < 0.5:
                middle += 1
            a = tokens[ends[start] : ends[middle]][: rules.single_room]
            b = tokens[ends[middle] : ends[stop]][: max(rules.pair_room - len(a), 0)]
            yield Example(a, b if len(b) else None)
            start = stop
            short = rng.random() < rules.short_seq_prob
            target = rng.randint(5, rules.length) if short else rules.length


FORMATS = {
    "segment_pairs": segment_pairs,
    "sentence_pairs": sentence_pairs,
    "full_sentences": full_sentences,
    "doc_sentences": doc_sentences,
    "two_segments": two_segments,
}
LABELED = ("segment_pairs", "sentence_pairs")  # those that can have negative examples


def _offsets(documents: Sequence[Document]) -> list[list[int]]:
    """Returns where the sentences of each document begin, and where the last ends."""
    return [[0, *itertools.accumulate(sizes.tolist())] for _, sizes in documents]


def _random_stretch(ends: list[int], wanted: int, rng: random.Random) -> tuple[int, int]:
    """Returns (start, stop) of whole sentences from a random one on, of `wanted` tokens or more."""
    first = after = rng.randint(0, len(ends) - 2)
    while after == first or (after < len(ends) - 1 and ends[after] - ends[first] < wanted):
        after += 1
    return ends[first], ends[after]


def _whole_or_cut(tokens: np.ndarray, sizes: np.ndarray, room: int) -> Iterator[np.ndarray]:
    """Yields the sentences, those of more than `room` tokens in pieces."""
    start = 0
    for size in sizes.tolist():
        for at in range(0, size, room):
            yield tokens[start + at : start + min(at + room, size)]
        start += size


def _another(number: int, count: int, rng: random.Random) -> int:
    """Draws a document other than `number`, giving up after 10 draws as BERT does."""
    for _ in range(10):
        other = rng.randrange(count)
        if other != number:
            break
    return other


def _truncate(a, b, room: int, rng: random.Random):
    """Shortens the longer of two (start, stop) by one token, from a random end, until they fit."""
    (a0, a1), (b0, b1) = a, b
    for _ in range(a1 - a0 + b1 - b0 - room):
        from_front = rng.random() < 0.5
        if a1 - a0 > b1 - b0:
            a0, a1 = (a0 + 1, a1) if from_front else (a0, a1 - 1)
        else:
            b0, b1 = (b0 + 1, b1) if from_front else (b0, b1 - 1)
    return (a0, a1), (b0, b1)


def token_stream(
    documents: Iterable[Document], *, length: int, eot_id: int
) -> Iterator[np.ndarray]:
    """Joins documents to one stream, an end-of-text token before, between and after them, and cuts
    windows.

    A window predicts its tokens 1, 2, ... from those before them, so each begins with the last
    token of the one before: every token of every document is predicted exactly once.

    Yields:
      Arrays of length + 1 tokens; the last one may be shorter, but has at least 2.
    """
    eot = np.array([eot_id])
    rest = eot
    for tokens, _ in documents:
        rest = np.concatenate([rest, tokens, eot])
        count = (len(rest) - 1) // length
        for i in range(count):
            yield rest[i * length : (i + 1) * length + 1]
        rest = rest[count * length :]
    if len(rest) > 1:
        yield rest


def windows(documents: Iterable[Document], length: int) -> Iterator[np.ndarray]:
    """Joins documents to one stream, with nothing between them, and cuts it (T5's code).

    Yields:
      Arrays of `length` tokens; the last one may be shorter, but has at least 2.
    """
    rest = np.zeros(0, np.int64)
    for tokens, _ in documents:
        rest = np.concatenate([rest, tokens])
        whole = len(rest) // length * length
        yield from rest[:whole].reshape(-1, length)
        rest = rest[whole:]
    if len(rest) > 1:
        yield rest


def document_pieces(
    documents: Iterable[Document], *, length: int, eot_id: int
) -> Iterator[np.ndarray]:
    """Cuts each document, an end-of-text token at both ends, as `token_stream` cuts them all."""
    for document in documents:
        yield from token_stream([document], length=length, eot_id=eot_id)
