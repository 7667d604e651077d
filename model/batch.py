"""The table of batch fields, the contract between the data pipeline and the objectives.

`B` rows, `T` tokens, `P` predictions per row (of an encoder-decoder: tokens of the decoder), `G`
examples or candidates per row, `M` tokens of memory, `N` concepts, `J` pairs of them or mentions of
entities, `K` paths of `L` hops, `C` classes. Imports no JAX: both wings of the house (data in
numpy, networks in JAX) read this file.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Field(NamedTuple):
    """Axes as letters, and the dtype that the loader delivers."""

    axes: str
    dtype: type


START = 0  # the decoder's first token: T5's padding (released code)

FIELDS: dict[str, Field] = {
    "tokens": Field("BT", np.int32),
    "token_types": Field("BT", np.int32),  # 0 for [CLS] A [SEP], 1 for B [SEP]
    "segment_ids": Field(
        "BT", np.int32
    ),  # which packed example a token belongs to: 1, 2, ...; 0 is padding
    "positions": Field("BT", np.int32),  # counted from 0 within each packed example
    "branches": Field(
        "BT", np.int32
    ),  # 0: all that follows in its example sees it; 1, 2, ...: only what has the same number
    "masked_positions": Field("BP", np.int32),  # where the predictions are; padded with 0
    "targets": Field("BP", np.int32),  # the token to predict; for a decoder P is T
    "weights": Field("BP", np.float32),  # 1 for a real prediction, 0 for padding
    "decoder_tokens": Field("BP", np.int32),  # the targets, shifted right behind START
    "decoder_segment_ids": Field("BP", np.int32),  # as segment_ids
    "pair_positions": Field(
        "BG", np.int32
    ),  # where the [CLS] of each packed pair is, or the extract token of a candidate; padded with 0
    "pair_labels": Field("BG", np.int32),  # 0: B follows A, 1: B is random (BERT's coding)
    "pair_weights": Field("BG", np.float32),
    "entities": Field(
        "BT", np.int32
    ),  # the number of the entity whose mention begins at a token; 0: none, or it is not told
    "entity_positions": Field("BJ", np.int32),  # where mentions begin; padded with 0
    "entity_targets": Field("BJ", np.int32),  # their entities
    "entity_weights": Field("BJ", np.float32),  # 1; 0 for padding
    "rank": Field("BT", np.int32),  # what a token sees does not rank above it (XLNet's order)
    "reversed": Field("B", np.int32),  # 1: the text of the row runs from right to left
    "memory_tokens": Field("BM", np.int32),  # the text before the row
    "memory_segment_ids": Field("BM", np.int32),  # 1; 0 where there is none
    "label": Field("B", np.int32),  # the class of a row
    "labels": Field("BC", np.float32),  # of each class: 1 if the row has it, which may have several
    "score": Field("B", np.float32),  # its number, where the task is regression
    "answer_places": Field("BT", np.int32),  # 1: an answer may begin or end here
    "answer_start": Field("B", np.int32),  # its first token; that of the class: there is none
    "answer_end": Field("B", np.int32),  # and its last
    # KagNet's graph of each candidate; places are counted from 1 in `concepts`, 0 stands for none
    "concepts": Field("BGN", np.int32),  # entities, counted from 1; the first one is 0
    "concept_edges": Field("BGNN", np.int8),  # 1: an edge joins the two
    "pair_question": Field("BGJ", np.int32),  # the place of a concept of the question
    "pair_answer": Field("BGJ", np.int32),  # and of one of the candidate
    "path_pair": Field("BGK", np.int32),  # the pair that a path joins, counted from 1; 0: no path
    "path_heads": Field("BGKL", np.int32),  # the place that a hop starts from
    "path_relations": Field("BGKL", np.int32),  # its relation, counted from 1; 0: no hop
    "path_tails": Field("BGKL", np.int32),  # the place that it leads to
    "head": Field("B", np.int32),  # of a triple of a graph: an entity
    "relation": Field("B", np.int32),
    "tail": Field("B", np.int32),  # an entity
    "example_weights": Field("B", np.float32),  # 1; 0 for rows that fill the last batch up
}


def smallest() -> dict[str, np.ndarray]:
    """Returns every field with all axes of size 1: enough to create parameters from."""
    return {name: np.zeros([1] * len(field.axes), field.dtype) for name, field in FIELDS.items()}


def check(batch: Mapping[str, np.ndarray]) -> None:
    """Checks names, ranks, dtypes and that axes with the same letter have the same size.

    Raises:
      ValueError: naming the field and what is wrong with it.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for name, value in batch.items():
        if name not in FIELDS:
            raise ValueError(
                f"Unknown batch field {name!r}: add it to model/batch.py. Known: {sorted(FIELDS)}."
            )
        field = FIELDS[name]
        if value.ndim != len(field.axes):
            raise ValueError(f"{name} has shape {value.shape}, but its axes are {field.axes}.")
        if value.dtype != field.dtype:
            raise ValueError(f"{name} is {value.dtype}, not {np.dtype(field.dtype)}.")
        for axis, size in zip(field.axes, value.shape):
            if sizes.setdefault(axis, (size, name))[0] != size:
                raise ValueError(
                    f"Axis {axis} is {size} in {name} but {sizes[axis][0]} in {sizes[axis][1]}."
                )
