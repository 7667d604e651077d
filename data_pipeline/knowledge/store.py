"""A folder with a graph of concepts and its vectors, as scripts/train_transe.py leaves it.

`entities.txt` and `relations.txt` have a name a line, whose number is its row in the tables of
`vectors.safetensors`: `entities` [V D] and `relations` [R D] in float32, and `triples` [M 3] in
int32, the graph itself. Letters: `V` entities, `R` relations, `D` width, `M` triples.
"""

import os
import pathlib
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from data_pipeline import files
from errors import UserError

VECTORS = "vectors.safetensors"


class Store(NamedTuple):
    """What such a folder holds."""

    entities: list[str]
    relations: list[str]
    triples: np.ndarray  # int32 [M 3]: head, relation, tail
    entity_vectors: np.ndarray  # float32 [V D]
    relation_vectors: np.ndarray  # float32 [R D]


def save(folder: str | os.PathLike, store: Store) -> None:
    """Writes a folder, and makes it where it is missing; the vectors come last.

    Raises:
      UserError: if it cannot be written.
    """
    folder = pathlib.Path(folder)
    for name, lines in (("entities", store.entities), ("relations", store.relations)):
        files.write_text(folder / f"{name}.txt", "".join(f"{line}\n" for line in lines))
    tables = {
        "entities": store.entity_vectors,
        "relations": store.relation_vectors,
        "triples": store.triples,
    }
    with files.replacing(folder / VECTORS) as temporary:
        safetensors.numpy.save_file(
            {k: np.ascontiguousarray(x) for k, x in tables.items()}, temporary
        )


def shapes(folder: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of `entities`, `relations` and `triples` without reading them.

    Raises:
      UserError: if there is no such folder, or it is damaged.
    """
    path = pathlib.Path(folder).expanduser() / VECTORS
    if not path.is_file():
        raise UserError(
            f"{folder} holds no {VECTORS}: name an --output of scripts/train_transe.py."
        )
    try:
        with safetensors.safe_open(path, "numpy") as opened:
            names = ("entities", "relations", "triples")
            return {name: tuple(opened.get_slice(name).get_shape()) for name in names}
    except safetensors.SafetensorError as error:
        raise _damaged(path, error) from error


def digest(folder: str | os.PathLike) -> str:
    """Returns a hash of the names and their order, 16 hex digits.

    Raises:
      UserError: if there is no such folder.
    """
    folder = pathlib.Path(folder).expanduser()
    try:
        names = {name: (folder / f"{name}.txt").read_text() for name in ("entities", "relations")}
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(folder, error) from error
    return files.content_hash(**names)


def load(folder: str | os.PathLike) -> Store:
    """Reads a folder.

    Raises:
      UserError: if there is none, or its parts do not belong together.
    """
    shapes(folder)
    folder = pathlib.Path(folder).expanduser()
    path = folder / VECTORS
    tables = safetensors.numpy.load_file(path)
    names = {}
    for kind in ("entities", "relations"):
        try:
            names[kind] = (folder / f"{kind}.txt").read_text(encoding="utf-8").split("\n")[:-1]
        except (OSError, UnicodeError) as error:
            raise _damaged(folder / f"{kind}.txt", error) from error
        if len(names[kind]) != len(tables[kind]):
            raise UserError(
                f"{folder / kind}.txt has {len(names[kind])} names for {len(tables[kind])} rows of "
                f"{path}: make the folder anew."
            )
    triples = tables["triples"]
    if triples.size and (
        triples.min() < 0
        or triples[:, [0, 2]].max() >= len(tables["entities"])
        or triples[:, 1].max() >= len(tables["relations"])
    ):
        raise UserError(f"The triples of {path} name entities that it has not: make it anew.")
    return Store(
        names["entities"], names["relations"], triples, tables["entities"], tables["relations"]
    )


def _damaged(path, error):
    return UserError(f"{path} cannot be read ({error}): make the folder anew.")
