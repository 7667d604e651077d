"""Randomness without state, and the noise of masked language models.

Every random number is a hash of (seed, record, epoch, what it is for, how many-th it is), so that a
row has the same noise in every process, on every number of hosts, and after a resume. All functions
work on a whole batch of rows at once. Letters: `B` rows, `T` tokens, `P` predictions per row.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer (Steele, Lea, Flood, OOPSLA 2014): a random-looking bijection."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def fold_in(keys: np.ndarray, number: int | np.ndarray) -> np.ndarray:
    """Derives new keys (uint64 [B]) from keys and a number for each of them, or one for all."""
    return _mix(_mix(keys + _GOLDEN) + np.atleast_1d(number).astype(np.uint64))


def make_keys(seed: int, *numbers: int | np.ndarray) -> np.ndarray:
    """Returns the keys, uint64 [B], of the rows that `numbers` (scalars or [B]) describe."""
    keys = np.zeros(1, np.uint64)
    for number in (seed, *numbers):
        keys = fold_in(keys, number)
    return keys


def random_bits(keys: np.ndarray, count: int) -> np.ndarray:
    """Returns [B, count] uint64, all bits random: SplitMix64 started from each key."""
    return _mix(keys[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)


def uniform(keys: np.ndarray, count: int) -> np.ndarray:
    """Returns [B, count] float64, uniform in [0, 1)."""
    return (random_bits(keys, count) >> np.uint64(11)) * 2.0**-53


def shuffled(index: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Sends each index to its place in a pseudo-random permutation of 0..size-1.

    A Feistel network permutes the next power of four; indices that land outside 0..size-1 go
    through it again until they do not ("cycle walking", Black and Rogaway 2002). Needs no memory,
    whatever the size.

    Args:
      index: [B] integers in 0..size-1.
      size: how many things are shuffled.
      keys: [B], or [1] for all: equal keys mean the same permutation.

    Returns:
      [B] int64.
    """
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    round_keys = [fold_in(keys, i) for i in range(6)]
    place = np.asarray(index).astype(np.uint64)
    outside = np.ones(place.shape, bool)
    while outside.any():
        left, right = place >> half, place & low
        for round_key in round_keys:
            left, right = right, left ^ (_mix(round_key + right) & low)
        place = np.where(outside, left << half | right, place)
        outside = place >= size
    return place.astype(np.int64)


_BLOCK = 4096  # indices shuffled at a time: for the few of a batch, NumPy's calls are all the cost


def shuffled_epochs(index: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Sends each index of an endless sequence to its place in its epoch, index // size.

    Args:
      index: [B] int64, not negative.
      size: of an epoch, which has a pseudo-random order of its own.
      seed: of all these orders.

    Returns:
      [B] int64 in 0..size-1.
    """
    blocks, block_of = np.unique(index // _BLOCK, return_inverse=True)
    places = np.stack([_shuffled_block(int(block), size, seed) for block in blocks])
    return places[block_of, index % _BLOCK]


@functools.lru_cache(maxsize=64)
def _shuffled_block(block, size, seed):
    epochs, places = np.divmod(block * _BLOCK + np.arange(_BLOCK), size)
    return shuffled(places, size, make_keys(seed, 0, epochs))


@dataclasses.dataclass(frozen=True)
class Masking:
    """The numbers of masked language modeling; BERT's are 0.15, 0.8, 0.1 (paper, section 3.1)."""

    rate: float  # of a row's tokens, special ones counted, that are predicted
    max_predictions: int  # P
    mask: float  # of the predicted tokens: replaced by [MASK]
    random: float  # and by a token drawn from the whole vocabulary; the rest stays as it is
    ngram: int  # the most words that are chosen together; n of them with p(n) ~ 1/n
    mask_id: int
    vocab_size: int
    together: bool = False  # all tokens of a word are corrupted in the same way


class Masked(NamedTuple):
    """Corrupted rows and what there is to predict; unused predictions have weight 0."""

    tokens: np.ndarray  # [B T] int32
    masked_positions: np.ndarray  # [B P] int32, rising, then 0
    targets: np.ndarray  # [B P] int32
    weights: np.ndarray  # [B P] float32


def mask_tokens(
    tokens: np.ndarray,
    lengths: np.ndarray,
    candidates: np.ndarray,
    starts: np.ndarray,
    keys: np.ndarray,
    masking: Masking,
) -> Masked:
    """Chooses words at random and corrupts their tokens (BERT, create_pretraining_data.py).

    The words of a row are taken in random order until min(P, max(1, round(rate * length))) tokens
    are chosen; a word that no longer fits is skipped. With n-grams (ALBERT, section 4.1) each word
    brings up to ngram - 1 of those behind it. Each chosen token is then corrupted on its own, or
    shares the fate of its word. A word may be whatever is to be masked as one: the phrases and
    entities of Baidu's ERNIE.

    Args:
      tokens: [B T].
      lengths: [B], tokens of each row that are not padding.
      candidates: [B T] bool, tokens that may be chosen: neither special nor padding.
      starts: [B T] bool, candidates that begin a word; all of them, unless whole words are masked.
        The first candidate of a row, or after a gap, must be one.
      keys: [B], see `make_keys`.
      masking: the numbers.
    """
    choice_keys, action_keys, token_keys = (fold_in(keys, i) for i in range(3))
    room = np.clip(np.rint(masking.rate * lengths), 1, masking.max_predictions).astype(np.int64)
    draws = uniform(fold_in(keys, 3), tokens.shape[1]) if masking.ngram > 1 else None
    chosen = candidates & _choose_words(candidates, starts, room, choice_keys, masking.ngram, draws)

    real = np.arange(masking.max_predictions) < chosen.sum(axis=1)[:, None]  # [B P]
    rows, columns = np.nonzero(chosen)
    positions = np.zeros(real.shape, np.int32)
    positions[real] = columns
    targets = np.zeros(real.shape, np.int32)
    targets[real] = originals = tokens[rows, columns]

    action = uniform(action_keys, masking.max_predictions)[real]
    if masking.together:  # words are chosen whole, so that the token before belongs to the same one
        first = np.where(starts[rows, columns], np.arange(len(rows)), 0)
        action = action[np.maximum.accumulate(first)]
    anything = uniform(token_keys, masking.max_predictions)[real] * masking.vocab_size
    corrupted = np.array(tokens, np.int32)
    corrupted[rows, columns] = np.where(
        action < masking.mask,
        masking.mask_id,
        np.where(action < masking.mask + masking.random, anything.astype(np.int32), originals),
    )
    return Masked(corrupted, positions, targets, real.astype(np.float32))


def _choose_words(candidates, starts, room, keys, ngram, draws):
    """Returns [B T] bool: the token's word is chosen, with at most room [B] candidates in all."""
    B, T = candidates.shape
    words = np.maximum(np.cumsum(starts, axis=1) - 1, 0)  # [B T], which word of its row
    cells = (words + T * np.arange(B)[:, None])[candidates]
    # Tokens of each word; 0: no such word.
    sizes = np.bincount(cells, minlength=B * T).reshape(B, T)
    order = np.argsort(random_bits(keys, T), axis=1)
    if ngram > 1:
        taken = _choose_ngrams(candidates, starts, sizes, room, order, draws, ngram)
        return np.take_along_axis(taken, words, axis=1)
    taken = np.zeros((B, T), bool)  # in that order
    # One word of every row at a time: the loop ends after about P rounds.
    for i, size in enumerate(np.take_along_axis(sizes, order, axis=1).T):
        taken[:, i] = fits = size <= room
        room = room - size * fits
        if not room.any():
            break
    chosen = np.zeros((B, T), bool)
    np.put_along_axis(chosen, order, taken, axis=1)
    return np.take_along_axis(chosen, words, axis=1)


def _choose_ngrams(candidates, starts, sizes, room, order, draws, ngram):
    """Returns [B T] bool: which words are chosen, by ALBERT's create_pretraining_data.py.

    At each word of `order`, n is drawn among the lengths that are there; while the n-gram has more
    tokens than `room` it loses its last word; one that still has, or that overlaps a chosen one, is
    skipped. An n-gram never reaches over a gap between candidates, so it stays in its segment.
    """
    B, T = candidates.shape
    row = np.arange(B)
    # Word w goes on right behind word w - 1: the token before its first one is a candidate.
    follows = np.zeros((B, T + ngram), bool)
    at_row, at = np.nonzero(starts)
    number = (np.cumsum(starts, axis=1) - 1)[at_row, at]
    follows[at_row, number] = (at > 0) & candidates[at_row, np.maximum(at - 1, 0)]
    ends = np.cumsum(np.pad(sizes, ((0, 0), (1, ngram))), axis=1)  # tokens before each word
    taken = np.zeros((B, T + ngram), bool)
    harmonic = np.cumsum(1 / np.arange(1, ngram + 1))
    room = room.copy()
    for i in range(T):  # places of words; many a row has fewer, and is done before
        word = order[:, i]
        reach, joined = np.ones(B, np.int64), np.ones(B, bool)
        for n in range(1, ngram):
            joined &= follows[row, word + n]
            reach += joined
        n = 1 + (draws[:, i] * harmonic[reach - 1] >= harmonic[:-1, None]).sum(axis=0)
        for m in range(ngram, 1, -1):
            n -= (n == m) & (ends[row, word + n] - ends[row, word] > room)
        size = ends[row, word + n] - ends[row, word]
        fits = (sizes[row, word] > 0) & (size <= room)
        for k in range(ngram):
            fits &= ~(taken[row, word + k] & (k < n))
        for k in range(ngram):
            taken[row, word + k] |= fits & (k < n)
        room -= size * fits
        if not room.any():
            break
    return taken[:, :T]


@dataclasses.dataclass(frozen=True)
class Misalignment:
    """The numbers of the denoising entity auto-encoder; ERNIE's are 0.05, 0.15 (section 3.4)."""

    replace: float  # of the mentions: their entity is another one
    drop: float  # and none; of the rest it stays
    predictions: int  # J
    entities: int  # that there are


class Misaligned(NamedTuple):
    """Rows with some wrong entities, and the right ones; unused predictions have weight 0."""

    entities: np.ndarray  # [B T] int32
    entity_positions: np.ndarray  # [B J] int32, rising, then 0
    entity_targets: np.ndarray  # [B J] int32
    entity_weights: np.ndarray  # [B J] float32


def misalign(entities: np.ndarray, keys: np.ndarray, noise: Misalignment) -> Misaligned:
    """Replaces and drops entities at random; the first J of a row are to be told.

    A wrong entity is any other one (the paper), not another of the batch (the released code): a
    row does not depend on those beside it.

    Args:
      entities: [B T], the number of the one whose mention begins at a token; 0: none.
      keys: [B], see `make_keys`.
      noise: the numbers.
    """
    B, T = entities.shape
    there = entities > 0
    action, draw = (uniform(fold_in(keys, i), T) for i in (4, 5))
    other = 1 + (draw * max(noise.entities - 1, 1)).astype(np.int64)
    other += (other >= entities) & (noise.entities > 1)  # leaves out the right one
    wrong = np.where(action < noise.replace, other, 0)
    changed = there & (action < noise.replace + noise.drop)

    place = np.cumsum(there, axis=1) - 1
    rows, columns = np.nonzero(there & (place < noise.predictions))
    positions, targets = np.zeros((2, B, noise.predictions), np.int32)
    weights = np.zeros((B, noise.predictions), np.float32)
    cells = rows, place[rows, columns]
    positions[cells], targets[cells], weights[cells] = columns, entities[rows, columns], 1
    misaligned = np.where(changed, wrong, entities).astype(np.int32)
    return Misaligned(misaligned, positions, targets, weights)
