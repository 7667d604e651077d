"""How likely a language model finds a continuation of a context.

GPT-1, GPT-2 and GPT-3, T5 (the context is the encoder's, the continuation the decoder's) and XLNet
(in the order from left to right). Not a Reformer: whom its tokens attend to depends on all that is
in the row.

A decoder reads a context once for all of its continuations, which lie behind it as branches: each
sees the context and itself. Where a continuation is one token there is nothing to read but the
context. XLNet, T5 and a decoder with bands count distances in the row, so that they read a context
again for each continuation, but for those that differ in the last token only.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from errors import UserError
from evaluation import load, packed
from model import batch as batch_lib

MOST_BRANCHES = 8  # times the length of a context lie behind it; then it is read again
SCORED = ("causal_lm", "permutation_lm", "seq2seq_lm")  # objectives


class Request(NamedTuple):
    """Token ids: a context of at least one, and a continuation."""

    context: Sequence[int]
    continuation: Sequence[int]


class Score(NamedTuple):
    """A log-likelihood in nats, and whether greedy decoding would give the continuation."""

    log_likelihood: float
    greedy: bool


def score(
    model: load.Model,
    requests: Sequence[Request],
    *,
    batch_tokens: int = 0,
    report: packed.Report | None = None,
) -> list[Score]:
    """Scores continuations, in the order of the requests.

    A context is cut from the left where it and its continuation are longer than the model has
    positions; see `is_cut`.

    Args:
      model: a language model.
      requests: what is scored.
      batch_tokens: see packed.look_up.
      report: likewise.

    Raises:
      UserError: for a model of another kind, an empty context or continuation, or a continuation
        that is longer than the model has positions.
    """
    check(model)
    config = model.objective.network.config
    # context -> what is read of a continuation, all but its last token -> [(request, that token)]
    contexts = collections.defaultdict(lambda: collections.defaultdict(list))
    for number, request in enumerate(requests):
        context, continuation = _cut(model, request, number)
        *read, last = continuation
        contexts[context][tuple(read)].append((number, last))
    name = model.config.objective.name
    make = {"permutation_lm": _in_order, "seq2seq_lm": _answer}.get(name, _beside)
    shares = name == "causal_lm" and not any(config.bands)
    pieces = []
    for context, continuations in contexts.items():
        most = min(MOST_BRANCHES * len(context), 3 * config.max_positions // 2)
        most = max(most, packed.SHORTEST[0]) if shares else 0
        pieces += [make(context, some) for some in _split(context, continuations, most)]
    found = packed.look_up(model, pieces, len(requests), batch_tokens=batch_tokens, report=report)
    return [Score(float(total), bool(greedy)) for total, greedy in zip(*found, strict=True)]


def check(model: load.Model) -> None:
    """Raises a UserError if the model does not score continuations."""
    name, network = model.config.objective.name, model.config.model.name
    if name not in SCORED:
        raise UserError(
            f"This model was trained for {name}, which does not continue text: give a GPT, an "
            "XLNet or a T5."
        )
    if network == "reformer":
        raise UserError(
            "A Reformer's attention depends on all that is in a row, so that a continuation has "
            "no score of its own: give a GPT, an XLNet or a T5."
        )


def is_cut(model: load.Model, request: Request) -> bool:
    """Whether a request is longer than the model has positions."""
    whole = len(request.context)
    if model.objective.continues:
        whole += len(request.continuation) - 1  # the last token is not read
    return whole > model.objective.network.config.max_positions


def _cut(model, request, number) -> tuple[tuple[int, ...], Sequence[int]]:
    most = model.objective.network.config.max_positions
    context, continuation = request
    if not len(context) or not len(continuation):
        raise UserError(f"Request {number} has an empty context or continuation: there is no text.")
    if len(continuation) > most:
        raise UserError(
            f"The continuation of request {number} has {len(continuation)} tokens, but the model "
            f"has {most} positions: shorten it."
        )
    if is_cut(model, request):
        room = most + 1 - len(continuation) if model.objective.continues else most
        context = context[-room:]
    return tuple(context), continuation


Continuations = Sequence[tuple[tuple[int, ...], list[tuple[int, int]]]]


def _split(context, continuations: Mapping, most: int) -> Iterator[Continuations]:
    """Yields as many continuations at a time as have room behind the context, at least one."""
    some, length = [], len(context)
    for read, ends in continuations.items():
        if some and length + len(read) > most:
            yield some
            some, length = [], len(context)
        some.append((read, ends))
        length += len(read)
    yield some


def _beside(context, continuations: Continuations) -> packed.Piece:
    """Lays continuations as branches behind their context."""
    tokens, positions = list(context), list(range(len(context)))
    branches, places = [0] * len(context), [len(context) - 1]
    entries, targets, requests = [], [], []
    for number, (read, ends) in enumerate(continuations, 1):
        path = [0, *range(len(places), len(places) + len(read))]
        places += range(len(tokens), len(tokens) + len(read))
        tokens += read
        positions += range(len(context), len(context) + len(read))
        branches += [number] * len(read)
        for request, last in ends:
            entries += path
            targets += [*read, last]
            requests += [request] * len(path)
    return packed.Piece(tokens, places, entries, targets, requests, positions, branches)


def _in_order(context, continuations: Continuations) -> packed.Piece:
    """Asks an XLNet for tokens where they stand, each from those that rank below it."""
    piece = _beside(context, continuations)
    # The last token is asked for but not seen: any that may come there will do.
    return piece._replace(
        tokens=[*piece.tokens, piece.targets[-1]],
        positions=range(len(piece.tokens) + 1),
        places=[place + 1 for place in piece.places],
        branches=0,
    )


def _answer(context, continuations: Continuations) -> packed.Piece:
    """Gives the context to the encoder, the continuation to the decoder."""
    piece = _beside(context, continuations)
    ((read, _),) = continuations
    return piece._replace(
        tokens=context,
        positions=range(len(context)),
        branches=0,
        places=[0] * len(piece.places),
        decoder_tokens=[batch_lib.START, *read],
    )


def windows(tokens: Sequence[int], length: int, stride: int) -> list[Request]:
    """Cuts a text into overlapping windows, so that every token but the first is scored once.

    A window is `length` tokens and begins `stride` tokens behind the one before; of its tokens
    those are scored that no window before it has scored. This is the sliding window of Hugging
    Face's documentation (Perplexity of fixed-length models). Where windows do not overlap nothing
    is before the first token of each, which is not scored then.

    Args:
      tokens: of the text.
      length: of a window, at least 2.
      stride: from 1 to length.

    Raises:
      UserError: for another length or stride, or a text of less than two tokens.
    """
    if length < 2 or not 1 <= stride <= length:
        raise UserError(
            f"Windows of {length} tokens cannot begin every {stride} tokens: choose at least 2 "
            "tokens, and a stride from 1 to that number."
        )
    if len(tokens) < 2:
        raise UserError("The text is too short: give one of at least two tokens.")
    found, scored = [], 1
    for begin in range(0, len(tokens), stride):
        end = min(begin + length, len(tokens))
        first = max(scored, begin + 1)
        if first < end:
            found.append(Request(tokens[begin:first], tokens[first:end]))
        scored = end
        if end == len(tokens):
            return found
    return found
