"""Scores by distance: sinusoids of distances, and reading them at each query's place.

A query's scores of R falling distances are computed once, and its S keys read theirs out of them:
no array of pairs of positions is made (Transformer-XL, appendix B). `B` rows, `T` queries, `P`
queries at places of their own, `H` heads, `D` width.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def read(
    scores: Float[Array, "B H T+P R"],
    start: Int[Array, ""] | int,
    query_starts: Int[Array, "B P"],
    keys: int,
    columns: int,
) -> Float[Array, "B H T+P S"]:
    """Returns each query's scores of all keys.

    Args:
      scores: by distance: those of the tokens, then those of queries at places of their own.
      start: the column of the distance from token 0 to key 0.
      query_starts: that from each query to key 0.
      keys: S.
      columns: that are read from; those past the R hold what is never seen.
    """
    scores = jnp.pad(scores, ((0, 0),) * 3 + ((0, columns - scores.shape[-1]),))
    queries = query_starts.shape[1]
    tokens = scores.shape[2] - queries
    content = _consecutive(scores[:, :, :tokens], start, keys)
    if not queries:
        return content
    found = _gathered(scores[:, :, tokens:], query_starts, keys)
    return jnp.concatenate([content, found], axis=2)


def _consecutive(
    scores: Float[Array, "B H T R"], start: Int[Array, ""] | int, keys: int
) -> Float[Array, "B H T S"]:
    """Reads `keys` columns of each row i from column start - i on.

    Transformer-XL's shift (appendix B): in rows that are one column shorter, what lay on a diagonal
    lies in a column.
    """
    *outer, T, R = scores.shape
    flat = scores.reshape(*outer, T * R)[..., T - 1 : T * R - 1]
    rows = flat.reshape(*outer, T, R - 1)  # [i, j] was [i, T - 1 - i + j]
    return jax.lax.dynamic_slice_in_dim(rows, start - (T - 1), keys, axis=-1)


def _gathered(
    scores: Float[Array, "B H P R"], starts: Int[Array, "B P"], keys: int
) -> Float[Array, "B H P S"]:
    """Reads `keys` columns of each query from a column of its own on."""
    read = functools.partial(jax.lax.dynamic_slice_in_dim, slice_size=keys, axis=-1)
    return jax.vmap(jax.vmap(read, in_axes=(1, 0), out_axes=1))(scores, starts)


def encode(distances: Float[Array, "R"], width: int) -> Float[Array, "R D"]:
    """Returns the sinusoids of distances: all sines, then all cosines (modeling.py)."""
    angles = distances[:, None] * 10000.0 ** (-jnp.arange(0, width, 2) / width)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)[:, :width]
