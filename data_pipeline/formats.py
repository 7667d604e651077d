"""How documents are cut into training examples: plain functions over arrays of tokens.

A document is a pair of arrays, as in the corpus: the tokens of all its sentences, and the number of
tokens in each sentence. Examples are slices of it: nothing is copied here.
"""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

Document = tuple[np.ndarray, np.ndarray]  # tokens; lengths of the sentences, none of them 0


class Pair(NamedTuple):
    """Two stretches of text for next-sentence prediction."""

    a: np.ndarray
    b: np.ndarray
    is_random: bool  # B comes from another document


def sentence_pairs(
    documents: Sequence[Document],
    *,
    length: int,
    random_next: float,
    short_seq_prob: float,
    rng: random.Random,
) -> Iterator[Pair]:
    """Cuts documents into pairs by BERT's rules (create_pretraining_data.py; papers' facts in
    appendix A.2).

    Sentences are collected until they fill a row or the document ends; A is a random number of the
    first of them. B is the rest or, with probability `random_next` and whenever there is only one
    sentence, text from a random place of another document; the unused rest is then put back. So
    more than `random_next` of the pairs are random.

    Args:
      documents: the pool from which random B's are drawn as well; none empty.
      length: tokens in a row, [CLS] and two [SEP] included: len(a) + len(b) <= length - 3.
      random_next: probability of a random B.
      short_seq_prob: probability that a whole document is cut into shorter pairs.
      rng: the only source of randomness.
    """
    room = length - 3
    offsets = [[0, *itertools.accumulate(sizes.tolist())] for _, sizes in documents]
    for number, (tokens, _) in enumerate(documents):
        ends = offsets[number]
        last = len(ends) - 1
        target = rng.randint(2, room) if rng.random() < short_seq_prob else room
        start = 0
        while start < last:
            stop = start + 1  # the chunk is the sentences start..stop-1
            while stop < last and ends[stop] - ends[start] < target:
                stop += 1
            middle = rng.randint(start + 1, stop - 1) if stop - start > 1 else stop
            a = (ends[start], ends[middle])
            is_random = stop - start == 1 or rng.random() < random_next
            if is_random:
                other = _another(number, len(documents), rng)
                b_tokens, b_ends = documents[other][0], offsets[other]
                first = after = rng.randint(0, len(b_ends) - 2)
                while after == first or (
                    after < len(b_ends) - 1
                    and b_ends[after] - b_ends[first] < target - (a[1] - a[0])
                ):
                    after += 1
                b = (b_ends[first], b_ends[after])
                start = middle
            else:
                b_tokens, b = tokens, (ends[middle], ends[stop])
                start = stop
            a, b = _truncate(a, b, room, rng)
            yield Pair(tokens[slice(*a)], b_tokens[slice(*b)], is_random)


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


def document_pieces(
    documents: Iterable[Document], *, length: int, eot_id: int
) -> Iterator[np.ndarray]:
    """Cuts each document, an end-of-text token at both ends, as `token_stream` cuts them all."""
    for document in documents:
        yield from token_stream([document], length=length, eot_id=eot_id)
