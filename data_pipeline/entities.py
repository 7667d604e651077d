"""The names of entities and their numbers.

In ERNIE's released layout, entity2id.txt, the first line is how many there are, each other one a
name, a tab and an id from 0. In entities.txt, as scripts/train_transe.py writes it, each line is a
name. Number 0 stands for no entity, so that an entity's number is its id, or line from 0, + 1.
"""

import collections
import functools
import hashlib
import os
import pathlib
from collections.abc import Iterable

from data_pipeline import text_files
from errors import UserError

FILE = "entity2id.txt"
PLAIN = "entities.txt"


class Entities:
    """Names in the order of their numbers; picklable."""

    def __init__(self, names: Iterable[str], path: pathlib.Path | None = None):
        """Takes the names, of which the first gets number 1, and the file that they are from."""
        self.names, self._path = tuple(names), path
        self._numbers = {name: i for i, name in enumerate(self.names, 1)}

    def __reduce__(self):  # a process reads millions of names once, and not with each piece of work
        return (Entities, (self.names,)) if self._path is None else (_once, (self._path,))

    def __len__(self) -> int:
        return len(self.names)

    def number(self, *names: str) -> int:
        """Returns the number of an entity by the first of its names that is known; 0: none is."""
        return next((self._numbers[name] for name in names if name in self._numbers), 0)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of names and order, 16 hex digits."""
        return hashlib.blake2b("\n".join(self.names).encode(), digest_size=8).hexdigest()

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the file."""
        lines = [str(len(self)), *(f"{name}\t{i}" for i, name in enumerate(self.names))]
        path = pathlib.Path(directory) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def load(path: str | os.PathLike) -> Entities:
    """Reads the names from their file or its folder.

    Raises:
      UserError: if there is no such file, or an id in it is out of range or comes twice.
    """
    path = pathlib.Path(path).expanduser()
    places = (path / FILE, path / PLAIN) if path.is_dir() else (path,)
    file = next((file for file in places if file.is_file()), None)
    if file is None:
        raise UserError(f"There is no {FILE} or {PLAIN} at {path}: set data.entities.path to one.")
    if file.name == PLAIN:
        return Entities(text_files.lines(file), file)
    rows = [line.split("\t") for line in text_files.lines(file) if "\t" in line]
    names: list[str | None] = [None] * len(rows)
    for name, number, *_ in rows:
        if not number.strip().isdigit() or int(number) >= len(rows):
            raise UserError(
                f"{file} gives {name} the id {number}, out of range: {len(rows)} entities have "
                f"the ids 0 to {len(rows) - 1}."
            )
        if names[int(number)] is not None:
            raise UserError(f"{file} gives the id {number} to {names[int(number)]} and to {name}.")
        names[int(number)] = name
    if not rows:
        raise UserError(f"{file} names no entities: each line is a name, a tab and an id.")
    return Entities(names, file)


@functools.cache
def _once(path: pathlib.Path) -> Entities:
    return load(path)


def most_frequent(names: Iterable[str], limit: int) -> Entities:
    """Returns the names that occur most often, at most so many; equals in alphabetical order."""
    counts = collections.Counter(names)
    return Entities(sorted(counts, key=lambda name: (-counts[name], name))[:limit])
