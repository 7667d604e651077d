"""Scores of continuations against the model on each request alone, in a row without padding."""

import functools

import jax
import numpy as np
import pytest
import tiny

from errors import UserError
from evaluation import likelihood, packed
from training import sharding

SIZES = {"model.width": 16, "model.heads": 2, "model.vocab_size": 40}
POSITIONS = 64


@functools.partial(jax.jit, static_argnames=("objective",))
def predict(objective, params, batch):
    return objective.apply({"params": params}, batch, method="predict")["logits"]


def alone(model, context, continuation):
    """Returns log-probabilities [U V] of the continuation's places.

    A decoder reads what comes behind as well, so that one shape serves all requests.
    """
    if model.objective.continues:
        read = [*context, *continuation][:-1][-POSITIONS:]
        tokens = np.zeros((1, POSITIONS), np.int32)
        tokens[0, : len(read)] = read
        batch = {
            "tokens": tokens,
            "segment_ids": np.ones_like(tokens),
            "positions": np.arange(POSITIONS, dtype=np.int32)[None],
        }
        end = len(read)
    else:
        decoder, end = np.zeros((1, POSITIONS), np.int32), len(continuation)
        decoder[0, 1:end] = continuation[:-1]
        batch = {
            "tokens": np.zeros((1, POSITIONS), np.int32),
            "segment_ids": np.zeros((1, POSITIONS), np.int32),
            "decoder_tokens": decoder,
            "decoder_segment_ids": np.ones((1, POSITIONS), np.int32),
        }
        context = context[-POSITIONS:]
        batch["tokens"][0, : len(context)] = context
        batch["segment_ids"][0, : len(context)] = 1
    logits = predict(model.objective, model.params, batch)[0, end - len(continuation) : end]
    return np.asarray(jax.nn.log_softmax(logits))


def make_requests(seed=0, contexts=8):
    """Returns continuations of several lengths, and of one token, of each of some contexts."""
    rng, requests = np.random.default_rng(seed), []
    for _ in range(contexts):
        context = rng.integers(0, 40, rng.integers(1, 50)).tolist()
        for size in (*rng.integers(2, 13, rng.integers(1, 4)), 1, 1):
            requests.append(likelihood.Request(context, rng.integers(0, 40, size).tolist()))
    return requests


def assert_equal_alone(model, requests):
    scores = likelihood.score(model, requests)
    for score, (context, continuation) in zip(scores, requests, strict=True):
        log_p = alone(model, context, continuation)
        expected = log_p[np.arange(len(continuation)), continuation].sum()
        np.testing.assert_allclose(score.log_likelihood, expected, rtol=1e-5, atol=1e-4)
        assert score.greedy == (log_p.argmax(-1) == continuation).all()
    return scores


@pytest.fixture(scope="module")
def model(open_model):
    return open_model(tiny.config("gpt2", **SIZES))


@pytest.mark.parametrize(
    "page, knobs",
    [("gpt2", {}), ("gpt1", {}), ("gpt3", {"model.bands": (0, 8)}), ("xlnet", {}), ("t5", {})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_equals_each_request_alone(open_model, page, knobs):
    model = open_model(tiny.config(page, **SIZES, **knobs))
    requests = make_requests()
    likeliest = int(alone(model, *requests[0])[0].argmax())
    requests.append(likelihood.Request(requests[0].context, [likeliest]))
    scores = assert_equal_alone(model, requests)
    assert scores[-1].greedy and not all(score.greedy for score in scores)


def test_one_context_is_read_once_for_all_continuations(model, monkeypatch):
    seen = []

    def look_up(model, pieces, count, **_):
        seen.extend(pieces)
        return np.zeros(count), np.ones(count, bool)

    monkeypatch.setattr(packed, "look_up", look_up)
    context = [5, 6, 7, 8]
    continuations = [[1], [2], [3, 4, 9], [3, 4, 8], [3, 5]]
    likelihood.score(model, [likelihood.Request(context, c) for c in continuations])
    (piece,) = seen
    # Neither one-token continuations nor one that differs in its last token are read again.
    assert list(piece.tokens) == [*context, 3, 4, 3]
    assert list(piece.branches) == [0, 0, 0, 0, 2, 2, 3]
    assert list(piece.positions) == [0, 1, 2, 3, 4, 5, 4]
    assert piece.places == [3, 4, 5, 6]


def test_many_lengths_take_a_program_for_each_row_length(model):
    packed._look_up.clear_cache()
    rng = np.random.default_rng(1)
    requests = [
        likelihood.Request(rng.integers(0, 40, before).tolist(), rng.integers(0, 40, 3).tolist())
        for before in range(1, 61)
    ]
    first = likelihood.score(model, requests)
    assert packed._look_up._cache_size() == 1
    order = rng.permutation(len(requests))
    again = likelihood.score(model, [requests[i] for i in order])
    assert packed._look_up._cache_size() == 1  # other rows, the same program
    for place, i in enumerate(order):
        np.testing.assert_allclose(again[place][0], first[i][0], rtol=1e-5, atol=1e-4)


def test_a_context_with_many_continuations_is_read_again(model):
    rng = np.random.default_rng(2)
    context = rng.integers(0, 40, 30).tolist()
    requests = [
        likelihood.Request(context, rng.integers(0, 40, 20).tolist()) for _ in range(24)
    ] + [likelihood.Request(context, [token]) for token in range(40)]
    assert_equal_alone(model, requests)


def test_long_contexts_lose_their_beginning(model):
    rng = np.random.default_rng(3)
    context = rng.integers(0, 40, 100).tolist()
    whole = likelihood.Request(context, [1, 2, 3])
    kept = likelihood.Request(context[-(POSITIONS - 2) :], [1, 2, 3])  # the 3 is not read
    assert likelihood.is_cut(model, whole) and not likelihood.is_cut(model, kept)
    scores = assert_equal_alone(model, [whole, kept])
    assert scores[0] == scores[1]
    longest = likelihood.Request(context, context[:POSITIONS])
    assert_equal_alone(model, [longest])


def test_on_a_mesh(open_model, model, devices):
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, devices)
    spread = open_model(model.config, mesh=mesh)
    requests = make_requests(4)
    for one, other in zip(likelihood.score(model, requests), likelihood.score(spread, requests)):
        np.testing.assert_allclose(one.log_likelihood, other.log_likelihood, rtol=1e-5, atol=1e-4)
        assert one.greedy == other.greedy


@pytest.mark.parametrize(
    "context, continuation, message",
    [([], [1], "empty context"), ([1], [], "empty context"), ([1], [1] * 65, "has 65 tokens")],
)
def test_bad_requests(model, context, continuation, message):
    with pytest.raises(UserError, match=message):
        likelihood.score(model, [likelihood.Request(context, continuation)])


@pytest.mark.parametrize(
    "page, message", [("bert", "trained for masked_lm"), ("reformer", "all that is in a row")]
)
def test_other_models(model, page, message):
    other = model._replace(config=tiny.config(page))
    with pytest.raises(UserError, match=message):
        likelihood.score(other, [likelihood.Request([1], [2])])


def test_nothing_to_score(model):
    assert likelihood.score(model, []) == []


@pytest.mark.parametrize(
    "size, length, stride", [(50, 16, 4), (50, 16, 16), (10, 16, 8), (17, 16, 15)]
)
def test_windows_are_those_of_hugging_face(size, length, stride):
    """The loop of their page on perplexity, where a label of -100 is not counted."""
    tokens = list(range(100, 100 + size))
    expected, previous = [], 0
    for begin in range(0, size, stride):
        end = min(begin + length, size)
        labels = [t if begin + i >= previous else -100 for i, t in enumerate(tokens[begin:end])]
        counted = [label for label in labels[1:] if label != -100]  # the model shifts them
        expected.append((tokens[begin:end], counted))
        previous = end
        if end == size:
            break
    found = likelihood.windows(tokens, length, stride)
    assert [([*r.context, *r.continuation], list(r.continuation)) for r in found] == expected
    if stride < length:
        assert [t for r in found for t in r.continuation] == tokens[1:]


@pytest.mark.parametrize(
    "size, length, stride", [(50, 16, 17), (50, 16, 0), (50, 1, 1), (1, 16, 4)]
)
def test_bad_windows(size, length, stride):
    with pytest.raises(UserError):
        likelihood.windows(list(range(size)), length, stride)
