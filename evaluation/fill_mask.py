"""What a masked LM puts in place of each [MASK] of a sentence.

Letters: `B` sentences, `T` tokens, `P` masks in a sentence, `C` candidates, `V` vocabulary.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import PyTree

from data_pipeline import tokenizers
from errors import UserError
from evaluation import decoding


class Candidate(NamedTuple):
    """A piece of the vocabulary and its probability."""

    token: str
    probability: float


def fill_masks(
    objective: nn.Module,
    params: PyTree,
    tokenizer: tokenizers.Tokenizer,
    sentences: Sequence[str],
    *,
    candidates: int = 5,
) -> list[list[list[Candidate]]]:
    """Returns the most likely pieces for each mask of each sentence, the likeliest first.

    A sentence is read as the first segment, [CLS] sentence [SEP]. Where it has several masks, each
    is filled as if the others stayed.

    Args:
      objective: a masked LM.
      params: its parameters.
      tokenizer: its vocabulary, whose own mask token ("[MASK]") marks the places.
      sentences: at most as long as the model has positions.
      candidates: how many for each mask.

    Raises:
      UserError: for a sentence without a mask or too long for the model, or a bad number of
        candidates.
    """
    if not 1 <= candidates <= tokenizer.vocab_size:
        raise UserError(
            f"{candidates} candidates were asked for: choose between 1 and the vocabulary's "
            f"{tokenizer.vocab_size}."
        )
    if not sentences:
        return []
    rows = [_encode(tokenizer, text, objective.network.config.max_positions) for text in sentences]
    masks = [[i for i, token in enumerate(row) if token == tokenizer.mask_id] for row in rows]
    p, ids = best_pieces(objective, params, tokenizer, rows, masks, candidates)
    p, ids = p.tolist(), ids.tolist()
    return [
        [
            [Candidate(tokenizer.id_to_token(i), q) for i, q in zip(ids[row][m], p[row][m])]
            for m in range(len(masks[row]))
        ]
        for row in range(len(rows))
    ]


def _encode(tokenizer: tokenizers.Tokenizer, text: str, most: int) -> list[int]:
    """Returns the ids of a sentence; masks are found here, for a tokenizer takes them for text."""
    mask = tokenizer.id_to_token(tokenizer.mask_id)
    pieces = text.split(mask)
    if tokenizer.kind == "byte_bpe":  # the space before a word is a part of its first piece
        pieces[:-1] = [piece.rstrip(" ") for piece in pieces[:-1]]
    first, *rest = tokenizer.encode_batch(pieces)
    if not rest:
        raise UserError(f"There is no {mask} in {text!r}: put one where a word is to be found.")
    ids = [tokenizer.cls_id, *first]
    for piece in rest:
        ids += [tokenizer.mask_id, *piece]
    ids.append(tokenizer.sep_id)
    if len(ids) > most:
        raise UserError(
            f"{text[:40]!r}... has {len(ids)} tokens, but the model has {most} positions: "
            "shorten it."
        )
    return ids


def best_pieces(
    objective: nn.Module,
    params: PyTree,
    tokenizer: tokenizers.Tokenizer,
    rows: Sequence[Sequence[int]],
    masks: Sequence[Sequence[int]],
    candidates: int,
    *,
    firsts: Sequence[int] | None = None,
    size: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns probabilities and ids [B P C] of the likeliest pieces at some places of some rows.

    Args:
      objective: a masked LM.
      params: its parameters.
      tokenizer: its vocabulary.
      rows: token ids with special and mask tokens.
      masks: the places of each row that are asked for.
      candidates: C.
      firsts: how many tokens of each row are its first segment; None: all.
      size: rows to compute, padding included; None: the next power of two.
    """
    batch = _batch(rows, masks, firsts, tokenizer.pad_id, size or decoding.bucket(len(rows)))
    p, ids = _best(objective, params, batch, tokenizer.vocab_size, candidates)
    return np.asarray(p)[: len(rows)], np.asarray(ids)[: len(rows)]


def _batch(rows, masks, firsts, pad_id: int, size: int) -> dict[str, np.ndarray]:
    """Pads to powers of two: few shapes are compiled."""
    length = decoding.bucket(max(16, *map(len, rows)))
    tokens = np.full((size, length), pad_id, np.int32)
    token_types, segment_ids = np.zeros((2, size, length), np.int32)
    masked_positions = np.zeros((size, decoding.bucket(max(map(len, masks)))), np.int32)
    for i, (row, places) in enumerate(zip(rows, masks, strict=True)):
        tokens[i, : len(row)] = row
        segment_ids[i, : len(row)] = 1
        token_types[i, firsts[i] if firsts else len(row) : len(row)] = 1
        masked_positions[i, : len(places)] = places
    return {
        "tokens": tokens,
        "token_types": token_types,
        "segment_ids": segment_ids,
        "positions": np.arange(length, dtype=np.int32) * segment_ids,
        "masked_positions": masked_positions,
        "pair_positions": np.zeros((size, 1), np.int32),
    }


@functools.partial(jax.jit, static_argnames=("objective", "vocab_size", "candidates"))
def _best(objective, params, batch, vocab_size, candidates):
    """Returns probabilities and ids [B P C] of the likeliest pieces of the vocabulary."""
    logits = objective.apply({"params": params}, batch, method="predict")["logits"]
    # The table may be longer than the vocabulary.
    return jax.lax.top_k(jax.nn.softmax(logits[..., :vocab_size]), candidates)
