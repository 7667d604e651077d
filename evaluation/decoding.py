"""Continuing or answering prompts: greedy, sampling and beam search, with a KV cache.

A batch of prompts is padded on the left to a common length, the padding being segment 0, and each
prompt's positions count from 0 at its first token. An objective's `begin` makes a cache of them in
one call: of all tokens but the last, or, where there is an encoder, of what this says. Then a loop
on the device feeds one token a row and chooses the next. Rows, prompt lengths and the room for new
tokens are rounded up to powers of two, and all other options are traced: a model is compiled a few
times, whatever is asked of it.

Letters: `B` prompts, `W` copies of each (samples or beams), `T` prompt tokens, `R` room for new
tokens, `V` vocabulary.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from errors import UserError
from evaluation import token_choice
from model import attention, stack

Prompts = Sequence[Sequence[int]]


class Limits(NamedTuple):
    """Where continuations end, and what they are made of; everything is traced."""

    max_tokens: Int[Array, ""]
    eot_id: Int[Array, ""]  # -1: none
    vocab_size: Int[Array, ""]


def sample(
    objective: nn.Module,
    params: PyTree,
    prompts: Prompts,
    *,
    max_tokens: int,
    eot_id: int | None,
    vocab_size: int | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 8,
) -> list[list[list[int]]]:
    """Continues each prompt by drawing tokens from the model, or greedily at temperature 0.

    Scores are divided by the temperature, then the `top_k` most likely tokens stay, then the fewest
    of these that hold `top_p` of the probability (Holtzman et al., 2020, section 3.1), as in
    Hugging Face's `generate`. The draws are a pure function of (seed, number of the prompt, number
    of the sample, number of the token): neither the batch size nor other prompts and samples change
    them.

    Args:
      objective: a causal LM, or a sequence-to-sequence LM, which answers instead.
      params: its parameters.
      prompts: token ids of each prompt.
      max_tokens: the most new tokens for a prompt.
      eot_id: the token that ends a continuation; None: nothing does.
      vocab_size: no id from here on is produced; for a table that is longer than the vocabulary.
      temperature: 0 or more.
      top_k: 0: no such restriction.
      top_p: in (0, 1]; 1: no such restriction.
      samples: continuations of each prompt.
      seed: of the draws.
      batch_size: prompts at a time.

    Returns:
      For each prompt and sample the new tokens, without the one that ended them.

    Raises:
      UserError: for an empty prompt, one without room in the model's positions, or a bad option.
    """
    _require(temperature >= 0, f"temperature={temperature} must be 0 (greedy) or more.")
    _require(top_k >= 0, f"top_k={top_k} must be 0 (off) or more.")
    _require(0 < top_p <= 1, f"top_p={top_p} must be in (0, 1].")
    _require(samples >= 1, f"samples={samples} must be at least 1.")
    limits = _limits(objective, prompts, max_tokens, eot_id, vocab_size)
    choice = token_choice.Choice(jnp.float32(temperature), jnp.int32(top_k), jnp.float32(top_p))
    # Not the default generator: `rbg` draws other numbers when it is mapped over rows.
    key = jax.random.key(seed, impl="threefry2x32")

    def run(first, tokens, lengths, real, room):
        rows = jnp.arange(first, first + len(lengths))
        keys = _sample_keys(key, rows, samples)
        return _sample(
            objective, params, tokens, lengths, real, keys, choice, limits, samples, room
        )

    return _in_batches(run, prompts, max_tokens, batch_size, eot_id)


def beam_search(
    objective: nn.Module,
    params: PyTree,
    prompts: Prompts,
    *,
    max_tokens: int,
    eot_id: int | None,
    vocab_size: int | None = None,
    beams: int = 4,
    length_penalty: float = 1.0,
    samples: int = 1,
    batch_size: int = 8,
) -> list[list[list[int]]]:
    """Continues each prompt by its most likely continuations, as far as a beam search finds them.

    The rules are those of Hugging Face's `generate(num_beams=...)`: a continuation scores
    log p / length ** length_penalty, its length counting the token that ends it, and a prompt is
    done when it has `beams` finished ones whose worst is better than the best running one would be
    if it ended now.

    Args:
      objective: as in `sample`.
      params: its parameters.
      prompts: token ids of each prompt.
      max_tokens: the most new tokens for a prompt.
      eot_id: the token that ends a continuation; None: nothing does.
      vocab_size: no id from here on is produced; for a table that is longer than the vocabulary.
      beams: continuations that are followed at a time.
      length_penalty: above 0 favors long continuations, below 0 short ones.
      samples: how many of the best continuations are returned.
      batch_size: prompts at a time.

    Returns:
      For each prompt the new tokens of its `samples` best continuations, the best first, without
      the token that ended them.

    Raises:
      UserError: for an empty prompt, one without room in the model's positions, or a bad option.
    """
    _require(beams >= 1, f"beams={beams} must be at least 1.")
    _require(1 <= samples <= beams, f"samples={samples} must be between 1 and the beams, {beams}.")
    limits = _limits(objective, prompts, max_tokens, eot_id, vocab_size)
    penalty = jnp.float32(length_penalty)

    def run(first, tokens, lengths, real, room):
        del first
        found = _beam_search(objective, params, tokens, lengths, real, penalty, limits, beams, room)
        return found[:, :samples]

    return _in_batches(run, prompts, max_tokens, batch_size, eot_id)


def bucket(size: int) -> int:
    """Rounds a size up to a power of two, so that few shapes are compiled."""
    return 1 << max(size - 1, 0).bit_length()


# On the device


@functools.partial(jax.jit, static_argnames=("samples",))
def _sample_keys(key, rows, samples):
    """Returns a key for each sample of each row: [B W], as [B*W]."""
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    return fold(jax.vmap(jax.random.fold_in, (None, 0))(key, rows), jnp.arange(samples)).reshape(-1)


def _begin(objective, params, tokens, lengths, copies, room):
    """Returns cache, first token to feed and its position, for `copies` rows a prompt."""
    width = tokens.shape[1]
    positions = jnp.arange(width) - (width - lengths)[:, None]  # below 0 in the padding
    batch = {
        "tokens": tokens,
        "segment_ids": (positions >= 0).astype(jnp.int32),
        "positions": jnp.maximum(positions, 0),
    }
    cache, first, start = objective.apply({"params": params}, batch, room, method="begin")
    rows = jnp.repeat(jnp.arange(len(tokens)), copies)
    return cache.take(rows), first[rows], start[rows]


def _advance(objective, params, cache, tokens, positions, limits):
    """Feeds one token a row. Returns the float32 scores [B*W V] of the next one, and the cache."""
    batch = {"tokens": tokens, "segment_ids": jnp.ones_like(tokens), "positions": positions}
    batch = {k: v[:, None] for k, v in batch.items()}
    output = objective.apply({"params": params}, batch, cache, method="predict")
    logits = output["logits"][:, 0]
    allowed = jnp.arange(logits.shape[-1]) < limits.vocab_size
    return jnp.where(allowed, logits, -jnp.inf), output["cache"]


class _Sampling(NamedTuple):
    step: Int[Array, ""]
    cache: attention.Cache
    last: Int[Array, "B*W"]  # the token to feed
    found: Int[Array, "B*W R"]  # -1 behind the end
    done: Array  # bool [B*W]


@functools.partial(jax.jit, static_argnames=("objective", "samples", "room"))
def _sample(objective, params, tokens, lengths, real, keys, choice, limits, samples, room):
    """Returns the new tokens [B W R] of left-padded prompts [B T], -1 behind the end of each."""

    def pick(logits, step):
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        return token_choice.choose(logits, step_keys, choice)

    begun = _begin(objective, params, tokens, lengths, samples, room)
    done = jnp.repeat(~real, samples)
    found = _continue(objective, params, begun, done, pick, limits, room)
    return found.reshape(-1, samples, room)


def answer(
    objective: nn.Module, params: PyTree, batch: PyTree, real: Array, limits: Limits, room: int
) -> Int[Array, "B R"]:
    """Answers inputs greedily, as a part of a step: traced, and on the batch's mesh.

    Args:
      objective: a sequence-to-sequence LM.
      params: its parameters.
      batch: fields of model/batch.py.
      real: bool [B], the rows that are not padding.
      limits: where answers end.
      room: R, at least as many tokens as the limits allow.

    Returns:
      The tokens of the answers, -1 behind the end of each.
    """
    begun = objective.apply({"params": params}, batch, room, method="begin")
    pick = lambda logits, step: jnp.argmax(logits, axis=-1)  # noqa: E731
    return _continue(objective, params, begun, ~real, pick, limits, room)


def _continue(objective, params, begun, done, pick, limits, room):
    """Returns the tokens [rows R] that `pick` chooses from scores and the number of the step."""
    layers = stack.by_layer(params, objective.network.config.depth)
    cache, last, starts = begun

    def unfinished(s):
        return (s.step < limits.max_tokens) & ~s.done.all()

    def body(s):
        logits, cache = _advance(objective, layers, s.cache, s.last, starts + s.step, limits)
        token = pick(logits, s.step).astype(jnp.int32)
        done = s.done | (token == limits.eot_id)
        found = s.found.at[:, s.step].set(jnp.where(done, -1, token))
        return _Sampling(s.step + 1, cache, token, found, done)

    state = _Sampling(
        step=jnp.int32(0),
        cache=cache,
        last=last,
        found=jnp.full((len(last), room), -1, jnp.int32),
        done=done,
    )
    return jax.lax.while_loop(unfinished, body, state).found


class _Beams(NamedTuple):
    step: Int[Array, ""]
    cache: attention.Cache
    last: Int[Array, "B W"]  # the token to feed
    running: Int[Array, "B W R"]
    log_p: Float[Array, "B W"]  # of the running ones, the best first; -inf: not there
    found: Int[Array, "B W R"]
    scores: Float[Array, "B W"]  # of the finished ones, the best first; -inf: not there yet
    open: Array  # bool [B], whether a better one may come


@functools.partial(jax.jit, static_argnames=("objective", "beams", "room"))
def _beam_search(objective, params, tokens, lengths, real, penalty, limits, beams, room):
    """Returns the new tokens [B W R] of left-padded prompts [B T], -1 behind the end of each."""

    def unfinished(s):
        return (s.step < limits.max_tokens) & s.open.any()

    def body(s):
        last = s.last.reshape(-1)
        logits, cache = _advance(objective, layers, s.cache, last, starts + s.step, limits)
        vocab = logits.shape[-1]
        log_p = jax.nn.log_softmax(logits).reshape(rows, beams, vocab) + s.log_p[..., None]

        # Two candidates for each beam: even if all beams end here, as many are left that go on.
        log_p, index = jax.lax.top_k(log_p.reshape(rows, -1), 2 * beams)
        parent, token = index // vocab, (index % vocab).astype(jnp.int32)
        texts = jnp.take_along_axis(s.running, parent[..., None], axis=1)
        texts = texts.at[:, :, s.step].set(token)
        ends = (token == limits.eot_id) | (s.step + 1 == limits.max_tokens)

        length = (s.step + 1).astype(jnp.float32) ** penalty
        may_end = ends & (jnp.arange(2 * beams) < beams) & s.open[:, None]
        scores = jnp.where(may_end, log_p / length, -jnp.inf)
        scores, best = jax.lax.top_k(jnp.concatenate([s.scores, scores], axis=1), beams)
        found = jnp.concatenate([s.found, texts], axis=1)
        found = jnp.take_along_axis(found, best[..., None], axis=1)

        log_p, going = jax.lax.top_k(jnp.where(ends, -jnp.inf, log_p), beams)
        parent = jnp.take_along_axis(parent, going, axis=1)
        cache_rows = (parent + beams * jnp.arange(rows)[:, None]).reshape(-1)
        return _Beams(
            step=s.step + 1,
            cache=cache.reorder(cache_rows),
            last=jnp.take_along_axis(token, going, axis=1),
            running=jnp.take_along_axis(texts, going[..., None], axis=1),
            log_p=log_p,
            found=found,
            scores=scores,
            open=s.open & (log_p[:, 0] / length > scores.min(axis=1)),
        )

    rows = len(lengths)
    layers = stack.by_layer(params, objective.network.config.depth)
    cache, last, starts = _begin(objective, params, tokens, lengths, beams, room)
    nothing = jnp.full((rows, beams, room), -1, jnp.int32)
    none = jnp.full((rows, beams), -jnp.inf, jnp.float32)
    state = _Beams(
        step=jnp.int32(0),
        cache=cache,
        last=last.reshape(rows, beams),
        running=nothing,
        log_p=none.at[:, 0].set(0.0),  # the copies of a prompt are equal: follow one of them
        found=nothing,
        scores=none,
        open=real,
    )
    return jax.lax.while_loop(unfinished, body, state).found


# On the host


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _limits(objective, prompts, max_tokens, eot_id, vocab_size):
    """Checks the prompts against the model, and returns the limits of the loop."""
    config = objective.network.config
    _require(max_tokens >= 1, f"max_tokens={max_tokens} must be at least 1.")
    for i, prompt in enumerate(prompts, start=1):
        _require(len(prompt) > 0, f"Prompt {i} is empty: give it at least one token.")
        # The last new token is not fed, so it needs no position.
        taken = len(prompt) if objective.continues else 1  # an answer follows a start token
        left = config.max_positions + 1 - taken
        _require(
            len(prompt) <= config.max_positions,
            f"Prompt {i} has {len(prompt)} tokens, but the model has {config.max_positions} "
            "positions: shorten it.",
        )
        _require(
            max_tokens <= left,
            f"Prompt {i} has {len(prompt)} tokens, which leaves room for {left} new ones in the "
            f"model's {config.max_positions} positions: lower max_tokens={max_tokens}, or shorten "
            "it.",
        )
    return Limits(
        max_tokens=jnp.int32(max_tokens),
        eot_id=jnp.int32(-1 if eot_id is None else eot_id),
        vocab_size=jnp.int32(vocab_size or config.vocab_size),
    )


def _in_batches(run, prompts, max_tokens, batch_size, eot_id):
    """Calls run(first, tokens [B T], lengths [B], real [B], room) on padded batches of prompts."""
    results = []
    for first in range(0, len(prompts), batch_size):
        some = prompts[first : first + batch_size]
        rows = bucket(len(some))
        width = 1 + bucket(max(16, *(len(p) - 1 for p in some)))  # all but the last are prefilled
        tokens = np.zeros((rows, width), np.int32)
        for row, prompt in enumerate(some):
            tokens[row, width - len(prompt) :] = prompt
        lengths = np.array([len(p) for p in some] + [1] * (rows - len(some)), np.int32)
        real = np.arange(rows) < len(some)
        found = np.asarray(run(first, tokens, lengths, real, bucket(max(16, max_tokens))))
        results += [
            [[t for t in text if t not in (-1, eot_id)] for text in texts]
            for texts in found[: len(some)].tolist()
        ]
    return results
