"""The next token from its scores: the most likely one, or a draw from all, the top k or a nucleus.

`B` rows, `V` vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


class Choice(NamedTuple):
    """How the next token is chosen from its scores; everything is traced."""

    temperature: Float[Array, ""]  # 0: the most likely token
    top_k: Int[Array, ""]  # 0: all
    top_p: Float[Array, ""]  # 1: all


def choose(logits: Float[Array, "B V"], keys: Key[Array, "B"], choice: Choice) -> Int[Array, "B"]:
    """Chooses a token for each row; a row's choice depends on its own scores and key only."""

    def draw():
        scores = logits / choice.temperature
        restricted = (choice.top_k > 0) | (choice.top_p < 1)
        # Sorting the vocabulary costs more than a small model's step: only where it is asked for.
        scores = jax.lax.cond(restricted, lambda: _restrict(scores, choice), lambda: scores)
        return jax.vmap(jax.random.categorical)(keys, scores)

    def best():
        return jnp.argmax(logits, axis=-1)

    return jax.lax.cond(choice.temperature == 0, best, draw)


def _restrict(scores, choice):
    """Sets scores outside of the top k and of the nucleus to -inf; ties with the last one stay."""
    ranked = jnp.sort(scores, axis=-1, descending=True)
    top = jnp.arange(scores.shape[-1]) < jnp.where(choice.top_k > 0, choice.top_k, scores.shape[-1])
    p = jax.nn.softmax(ranked, axis=-1, where=top)
    before = jnp.cumsum(p, axis=-1) - p
    kept = top & ((before < choice.top_p) | (choice.top_p == 1))  # rounding may sum to more than 1
    least = jnp.where(kept, ranked, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where(scores < least, -jnp.inf, scores)
