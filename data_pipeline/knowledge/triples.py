"""Triples (head, relation, tail) in text files, and their rows for training.

A file, perhaps gzipped, has a triple a line: three fields between tabs, or ConceptNet's five.
Letters: `M` triples, `B` rows.
"""

import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_pipeline import text_files
from data_pipeline.knowledge import relations
from errors import UserError, one_of

Names = tuple[str, str, str]  # head, relation, tail


class Triples(NamedTuple):
    """Triples as numbers.

    Attributes:
      entities: their names, in the order of their numbers.
      relations: likewise.
      train: int32 [M 3]: head, relation, tail.
      held_out: likewise, by name.
      dropped: how many lines were left out, because `MERGED` has no place for their relation.
    """

    entities: list[str]
    relations: list[str]
    train: np.ndarray
    held_out: dict[str, np.ndarray]
    dropped: int

    @property
    def unseen(self) -> dict[str, int]:
        """Returns how many held-out triples have an entity that no triple of training has."""
        seen = np.zeros(len(self.entities), bool)
        seen[self.train[:, [0, 2]]] = True
        return {k: int((~seen[x[:, [0, 2]]].all(1)).sum()) for k, x in self.held_out.items()}


def read(
    train: str | os.PathLike,
    held_out: dict[str, str | os.PathLike],
    layout: str,
    *,
    merge: bool = False,
) -> Triples:
    """Reads triples and numbers what they name, in the order of the alphabet.

    Entities may occur in held-out files alone; relations may not, for nothing is learned of them.

    Args:
      train: the file to learn from.
      held_out: files by name.
      layout: of all of them, one of LAYOUTS.
      merge: whether relations become KagNet's 17, see relations.py.

    Raises:
      UserError: for a file or line that is not laid out so, or a relation that is unknown.
    """
    lines = LAYOUTS[one_of("data.layout", layout, LAYOUTS)]
    dropped = 0

    def found(path):
        nonlocal dropped
        path = pathlib.Path(path).expanduser()
        if not path.is_file():
            raise UserError(f"There is no file {path}: name a file of triples.")
        for number, names in lines(path):
            merged = relations.merge(*names) if merge else names
            dropped += merged is None
            if merged is not None:
                yield number, merged

    names = list(dict.fromkeys(triple for _, triple in found(train)))
    if not names:
        raise UserError(f"{train} holds no triple of use: set data.layout to how it is laid out.")
    known = list(relations.MERGED) if merge else sorted({r for _, r, _ in names})
    others = {}
    for name, path in held_out.items():
        others[name] = []
        for number, triple in found(path):
            if triple[1] not in known:
                raise UserError(
                    f"{path} line {number} has the relation {triple[1]!r}, which no triple of "
                    f"{train} has: remove the line, or set data.layout to how the file is laid out."
                )
            others[name].append(triple)
        if not others[name]:
            raise UserError(f"{path} holds no triple of use: leave data.{name} out, or correct it.")
    everything = [*names, *(x for triples in others.values() for x in triples)]
    entities = sorted({x for h, _, t in everything for x in (h, t)})
    entity_ids = {name: i for i, name in enumerate(entities)}
    relation_ids = {name: i for i, name in enumerate(known)}

    def numbered(triples):
        ids = [(entity_ids[h], relation_ids[r], entity_ids[t]) for h, r, t in triples]
        return np.array(ids, np.int32).reshape(-1, 3)

    held = {name: numbered(dict.fromkeys(triples)) for name, triples in others.items()}
    return Triples(entities, known, numbered(names), held, dropped)


def _columns(path, order: Sequence[int]) -> Iterator[tuple[int, Names]]:
    for number, line in enumerate(text_files.lines(path), 1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 3 or not all(fields):
            raise UserError(
                f"{path} line {number} has {len(fields)} fields instead of 3 that are filled: "
                "correct it, or set data.layout=conceptnet if it is ConceptNet's assertions.csv."
            )
        yield number, tuple(fields[i] for i in order)


def _head_first(path):
    return _columns(path, (0, 1, 2))


def _relation_first(path):
    """As the files of ConceptNet-100k (Li et al., ACL 2016) are."""
    return _columns(path, (1, 0, 2))


def _conceptnet(path) -> Iterator[tuple[int, Names]]:
    """ConceptNet's assertions.csv, of which KagNet takes English words of letters alone.

    See extract_cpnet.py; a sense behind the word, as in /c/en/test/n, is left out.
    """
    for number, line in enumerate(text_files.lines(path), 1):
        fields = line.split("\t")
        try:
            _, relation, head, tail, info = fields
            json.loads(info)
        except ValueError as error:
            raise UserError(
                f"{path} line {number} is no assertion of ConceptNet's (five fields, the last of "
                "JSON): correct it, or set data.layout to hrt or rht."
            ) from error
        if head.startswith("/c/en/") and tail.startswith("/c/en/"):
            words = [uri.split("/")[3] for uri in (head, tail)]
            if all(word.replace("_", "").replace("-", "").isalpha() for word in words):
                head, tail = (word.replace("_", " ").lower() for word in words)
                yield number, (head, relation.removeprefix("/r/"), tail)


LAYOUTS = {"hrt": _head_first, "rht": _relation_first, "conceptnet": _conceptnet}


class Rows:
    """Plays the part of a `rows.Pipeline` whose records are the lines of an array [M 3]."""

    static = True

    def read(self, records: Sequence[np.ndarray], keys: np.ndarray) -> dict[str, np.ndarray]:
        """Returns head, relation and tail, each [B]; there is no noise."""
        del keys
        triples = np.stack(records)
        return {name: triples[:, i] for i, name in enumerate(("head", "relation", "tail"))}
