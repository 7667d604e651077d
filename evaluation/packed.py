"""Log-probabilities of chosen tokens, looked up in packed rows of a few lengths.

Pieces of text lie side by side in a row, each a segment of its own, so that hardly anything is
padding. The rows are of a few lengths, and as many of them as hold about as many tokens are
computed at a time: a model is compiled once for each length that is used, however long the pieces.

Letters: `B` rows, `T` tokens of a row, `P` places in it where something is predicted, `N` tokens
that are looked up in it, `V` vocabulary.
"""

import collections
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline import loader
from evaluation import decoding, load
from model import transformer
from training import sharding

SHORTEST = (256, 384, 512)  # tokens that the shortest rows may have, one number for all pieces
# Of a row's tokens, for how many of them something may be predicted: one number for all rows.
FRACTIONS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
SAMPLE = 400  # pieces by which the two are chosen
OPEN_ROWS = 1024  # that a piece is offered to
# Tokens at a time on each device. More of them on a CPU are no faster; logits [P V] are the limit.
BATCH_TOKENS = {"cpu": 1024}
MORE_TOKENS = 16384
FIELDS = ("tokens", "positions", "branches", "segment_ids", "rank", "token_types")  # [B T]
PLACE_FIELDS = ("masked_positions", "decoder_tokens", "decoder_segment_ids")  # [B P]

Report = Callable[[str, int, int | None], None]


class Piece(NamedTuple):
    """A text, what is predicted in it, and for which requests.

    Attributes:
      tokens: what the network reads.
      places: indices of the tokens at which it predicts.
      entries: for each token that is looked up the index of its place among the places.
      targets: the tokens that are looked up.
      requests: whose they are.
      positions: of each token.
      branches: of each token, see model/batch.py.
      decoder_tokens: those of an encoder-decoder, which predicts at each of them; for each of the
        places, which then have no other meaning.
    """

    tokens: Sequence[int]
    places: Sequence[int]
    entries: Sequence[int]
    targets: Sequence[int]
    requests: Sequence[int]
    positions: Sequence[int]
    branches: Sequence[int] | int = 0
    decoder_tokens: Sequence[int] | int = 0


class Row(NamedTuple):
    """A row of `length` tokens and the pieces in it."""

    length: int
    pieces: list[Piece]


def look_up(
    model: load.Model,
    pieces: Sequence[Piece],
    count: int,
    *,
    batch_tokens: int = 0,
    report: Report | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Adds the log-probabilities of the tokens of each request.

    Args:
      model: whose objective predicts at masked_positions, or at every token of a decoder.
      pieces: in any order.
      count: of the requests, whose numbers are below it.
      batch_tokens: about how many are computed at a time on each device; 0: a number that suits
        the backend.
      report: as data_pipeline/progress.py gives it.

    Returns:
      The sums, float64 [count], and whether all tokens of a request are the likeliest where they
      stand, bool [count]; one of two tokens that are just as likely is the likeliest too.
    """
    mesh = jax.tree.leaves(model.params)[0].sharding.mesh
    placed = loader.batch_sharding(mesh)
    ways = math.prod(mesh.shape[axis] for axis in loader.BATCH_AXES)
    batch_tokens = batch_tokens or BATCH_TOKENS.get(jax.default_backend(), MORE_TOKENS)
    totals, greedy = np.zeros(count), np.ones(count, bool)
    shortest, fraction = choose(pieces, model.objective.network.config)
    running, done = collections.deque(), 0

    def finish():
        nonlocal done
        rows, result = running.popleft()
        log_p, likeliest = jax.device_get(result)
        for i, row in enumerate(rows):
            requests = np.concatenate([piece.requests for piece in row.pieces])
            np.add.at(totals, requests, log_p[i, : len(requests)])
            np.logical_and.at(greedy, requests, likeliest[i, : len(requests)])
        done += sum(len(row.pieces) for row in rows)
        if report:
            report("scoring", done, len(pieces))

    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.check_rules(model.config.rules)):
        for rows, length, size in _batches(pack(pieces, shortest, fraction), ways, batch_tokens):
            arrays = _arrays(rows, size, length, math.ceil(length * fraction))
            arrays = jax.device_put(arrays, placed)
            running.append((rows, _look_up(model.objective, model.params, *arrays)))
            if len(running) > 1:  # the device computes while the host fills the next rows
                finish()
        while running:
            finish()
    return totals, greedy


@functools.partial(jax.jit, static_argnames=("objective",))
def _look_up(objective, params, batch, entries, targets):
    """Returns log-probabilities [B N] of targets at entries, and whether they are the highest."""
    logits = objective.apply({"params": params}, batch, method="predict")["logits"]
    logits = logits.astype(jnp.float32)
    chosen = logits[jnp.arange(len(entries))[:, None], entries, targets]
    at_entries = functools.partial(jnp.take_along_axis, indices=entries, axis=1)
    log_z, highest = jax.nn.logsumexp(logits, axis=-1), logits.max(axis=-1)
    return chosen - at_entries(log_z), chosen >= at_entries(highest)


def row_length(size: int, shortest: int = SHORTEST[0]) -> int:
    """Returns the least row length that is not below `size`: 256, 384, 512, 768, 1024, ...

    Args:
      size: tokens that must have room.
      shortest: one of these lengths, which no row is below.
    """
    length = shortest
    while length < size:
        length += length // 2 if length & (length - 1) == 0 else length // 3
    return length


def choose(pieces: Sequence[Piece], config: transformer.TransformerConfig) -> tuple[int, float]:
    """Chooses the length of the shortest rows and the fraction of places that cost least.

    Long rows leave less room unused, but cost more attention; few places cost less, but make rows
    of pieces with many of them longer. By the operations of a network, per token of one without
    attention and head, a pair of tokens costs 1 / (6 D) and a place V / (12 N D). Measured for
    GPT-2 124M on two CPU cores both are about 1.7 times that, for they are not all products.

    Args:
      pieces: all of them; some are tried.
      config: of the network: V, D and N layers.
    """
    by_size = sorted(pieces, key=lambda piece: len(piece.tokens))
    some = by_size[:: -(-len(pieces) // SAMPLE) or 1]
    pair = 1.7 / (6 * config.width)
    place = 1.7 * config.vocab_size / (12 * config.depth * config.width)

    def cost(shortest, fraction):
        lengths = [row.length for row in pack(some, shortest, fraction)]
        return sum(n * (1 + n * pair) + math.ceil(n * fraction) * place for n in lengths)

    return min(itertools.product(SHORTEST, FRACTIONS), key=lambda both: cost(*both))


def pack(pieces: Sequence[Piece], shortest: int, fraction: float) -> list[Row]:
    """Puts the pieces into rows, the longest first, each into the first row with room for it.

    Args:
      pieces: in any order.
      shortest: tokens of the shortest rows.
      fraction: of a row's tokens that may be places.
    """
    rows, room = [], np.zeros((len(pieces), 3), int)  # for tokens, places and entries

    def needs(piece):
        return len(piece.tokens), len(piece.places), len(piece.targets)

    def least(piece):
        tokens, places, entries = needs(piece)
        return row_length(max(tokens, entries, math.ceil(places / fraction)), shortest)

    for piece in sorted(pieces, key=lambda piece: (-least(piece), -len(piece.tokens))):
        need, first = needs(piece), max(0, len(rows) - OPEN_ROWS)
        fits = np.flatnonzero((room[first : len(rows)] >= need).all(axis=1))
        if len(fits):
            row = first + fits[0]
        else:
            row, length = len(rows), least(piece)
            rows.append(Row(length, []))
            room[row] = length, math.ceil(length * fraction), length
        rows[row].pieces.append(piece)
        room[row] -= need
    return rows


def _batches(rows, ways, batch_tokens):
    """Yields some of the rows, all of one length, that length, and for how many rows to compile.

    It is one number for all rows of a length: a smaller one for the last of them would save less
    than it takes to compile.
    """
    for length, alike in itertools.groupby(rows, lambda row: row.length):
        alike = list(alike)
        size = max(1, batch_tokens // length)
        size = ways * min(size, decoding.bucket(-(-len(alike) // ways)))
        for start in range(0, len(alike), size):
            yield alike[start : start + size], length, size


def _arrays(rows, size, length, places):
    """Returns a batch of model/batch.py's fields, entries and targets, of `size` rows."""
    batch = {name: np.zeros((size, length), np.int32) for name in FIELDS}
    batch |= {name: np.zeros((size, places), np.int32) for name in PLACE_FIELDS}
    batch["pair_positions"] = np.zeros((size, 1), np.int32)
    batch["rank"][:] = np.arange(length)  # from left to right
    entries, targets = np.zeros((2, size, length), np.int32)
    for i, row in enumerate(rows):
        start = place = entry = 0
        for number, piece in enumerate(row.pieces, 1):
            tokens = slice(start, start + len(piece.tokens))
            batch["tokens"][i, tokens] = piece.tokens
            batch["positions"][i, tokens] = piece.positions
            batch["branches"][i, tokens] = piece.branches
            batch["segment_ids"][i, tokens] = number
            of_decoder = slice(place, place + len(piece.places))
            batch["masked_positions"][i, of_decoder] = np.add(piece.places, start)
            batch["decoder_tokens"][i, of_decoder] = piece.decoder_tokens
            batch["decoder_segment_ids"][i, of_decoder] = number
            looked_up = slice(entry, entry + len(piece.targets))
            entries[i, looked_up] = np.add(piece.entries, place)
            targets[i, looked_up] = piece.targets
            start, place, entry = tokens.stop, of_decoder.stop, looked_up.stop
    return batch, entries, targets
