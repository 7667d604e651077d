"""Tasks about mentions in a text: their relation (FewRel), or types (OpenEntity, FIGER).

Files are those of ERNIE's release (Zhang et al., 2019): train.json, dev.json and test.json, a list
of texts each, whose mentions of entities a linker has found. FewRel is also read as its authors
publish it (Han et al., 2018), relation -> sentences: as in ERNIE's section 4.3 all relations are on
all sides, of each the first 100 sentences for training, the next 200 for the dev set and 200 more
for the test. And so is the gold test set of FIGER (Ling and Weld, 2012), a token and its types a
line.
"""

import itertools
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from data_pipeline.annotated_files import offsets
from data_pipeline.tasks import published, task_files
from errors import UserError

HEAD, TAIL, ENTITY = "head", "tail", "entity"
FILES = dict(zip(task_files.SPLITS, ("train", "dev", "test"), strict=True))
SENTENCES = dict(zip(task_files.SPLITS, ((0, 100), (100, 300), (300, 500)), strict=True))


class Mention(NamedTuple):
    """Characters start..end-1 of a text."""

    start: int
    end: int
    mark: str  # HEAD, TAIL, ENTITY
    names: tuple[str, ...] = ()  # of its entity, the surest first


class Linked(NamedTuple):
    """A mention that a linker has found, and how sure it is."""

    start: int
    end: int
    names: tuple[str, ...]
    score: float = 1.0


class Example(NamedTuple):
    """A text, what is asked about in it, and its class numbers; `id` counts from 0."""

    text: str
    mentions: tuple[Mention, ...]
    linked: tuple[Linked, ...]
    labels: tuple[int, ...]
    id: str


class Task(NamedTuple):
    """A task.

    Attributes:
      name: as in a config.
      folders: names that its folder may have.
      classes: how many there are, or at most are in a part of it.
      several: whether an example may have several classes, or none.
      rows: of the published splits.
      read: (task, folder or file, split) -> examples.
    """

    name: str
    folders: tuple[str, ...]
    classes: int
    several: bool
    rows: dict[str, int]
    read: Callable[["Task", Any, str], list[Example]]


def read(name: str, path: published.Path, split: str) -> list[Example]:
    """Reads the examples of a split, in the order of the file.

    Args:
      name: of TASKS.
      path: the folder of the task, or one of its files.
      split: one of task_files.SPLITS.

    Raises:
      UserError: for what is missing or wrong, and for offsets outside of a text.
    """
    if published.is_library(path):
        raise UserError(f"No library is known to have {name}: set data.path to its folder.")
    try:
        return TASKS[name].read(TASKS[name], path, split)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} holds an example of {name} that is not laid out as the published ones "
            f"({error}): fetch it again."
        ) from error


def _find(task, path, name, ending=".json"):
    return task_files.find(path, task.folders, (name,), ending, task.folders[0])


def _there(task, path, name, ending=".json") -> pathlib.Path | None:
    """Returns a file of the task, or None."""
    try:
        return _find(task, path, name, ending)
    except UserError:
        return None


def _training(task, path) -> pathlib.Path | None:
    """Returns the training file, which says what number a class has: it may lie beside `path`."""
    path = pathlib.Path(path).expanduser()
    beside = _there(task, path.parent, FILES["train"]) if path.is_file() else None
    return beside or _there(task, path, FILES["train"])


def _json(path):
    try:
        return json.loads(task_files.read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): fetch it again.") from error


def _field(row, name, where):
    if not isinstance(row, dict) or name not in row:
        raise UserError(f"{where} has no {name!r}: fetch the official file of the task.")
    return row[name]


def _numbers(task, names, path) -> dict[str, int]:
    """Returns the class numbers: in the order of the names."""
    found = sorted(set(names))
    if len(found) > task.classes:
        raise UserError(f"{path} has {len(found)} classes, but {task.name} only {task.classes}.")
    return {name: i for i, name in enumerate(found)}


def _number(numbers, name, where):
    if name not in numbers:
        raise UserError(f"{where} has the class {name!r}, which the training set lacks.")
    return numbers[name]


# FewRel


def _read_fewrel(task: Task, path, split: str) -> list[Example]:
    path = pathlib.Path(path).expanduser()
    file = _training(task, path)
    if path.is_file() and isinstance(_json(path), dict):
        file = path  # as its authors publish it, whatever lies beside
    if file is not None and isinstance(rows := _json(file), list):
        numbers = _numbers(task, (_field(row, "label", file) for row in rows), file)
        own = _find(task, path, FILES[split])
        return [_related(row, numbers, f"{own} example {i}", i) for i, row in enumerate(_json(own))]
    if file is not None:
        relations = rows
    else:
        parts = [_there(task, path, name) for name in ("train_wiki", "val_wiki")]
        if not any(parts):
            _find(task, path, "train_wiki")  # says what is missing
        file = path
        relations = {k: v for part in parts if part for k, v in _json(part).items()}
    numbers = _numbers(task, relations, file)
    found = []
    for relation, number in numbers.items():
        for row in relations[relation][slice(*SENTENCES[split])]:
            found.append(_official(row, number, f"{file} example {len(found)}", len(found)))
    return found


def _related(row, numbers, where, index):
    """An example of ERNIE's release: the two entities are the head and the tail."""
    text, entities = _field(row, "text", where), _field(row, "ents", where)
    if len(entities) != 2:
        raise UserError(f"{where} has {len(entities)} entities instead of 2: fetch it again.")
    mentions = []
    for mark, (name, start, end, *_) in zip((HEAD, TAIL), entities, strict=True):
        start = 0 if start == 1 else start  # as run_fewrel.py reads them
        mentions.append(Mention(*offsets(start, end, text, where), mark, (name,)))
    label = _number(numbers, _field(row, "label", where), where)
    return Example(text, tuple(mentions), (), (label,), str(index))


def _official(row, number, where, index):
    """An example of FewRel's own files: tokens, and the places of head and tail among them."""
    tokens = _field(row, "tokens", where)
    starts = [0]
    for token in tokens:
        starts.append(starts[-1] + len(token) + 1)
    text, mentions = " ".join(tokens), []
    for mark, key in ((HEAD, "h"), (TAIL, "t")):
        name, identity, [places, *_] = _field(row, key, where)
        if not places or min(places) < 0 or max(places) >= len(tokens):
            raise UserError(f"{where} has a mention outside of its {len(tokens)} tokens.")
        end = starts[places[-1]] + len(tokens[places[-1]])
        mentions.append(Mention(starts[places[0]], end, mark, (identity, name.lower())))
    return Example(text, tuple(mentions), (), (number,), str(index))


# Types


def _read_types(task: Task, path, split: str) -> list[Example]:
    training = _training(task, path)
    if training is None and task.name == "figer":
        gold = _there(task, path, "exp", ".label")
        if gold is not None and split != "train":
            return _gold(task, path, gold)
    training, own = training or _find(task, path, FILES["train"]), _find(task, path, FILES[split])
    known = _json(training)
    labels = (name for row in known for name in _field(row, "labels", training))
    numbers = _numbers(task, labels, training)
    rows = known if own == training else _json(own)
    return [_typed(row, numbers, f"{own} example {i}", i) for i, row in enumerate(rows)]


def _typed(row, numbers, where, index):
    """An example of ERNIE's release; the linker's mentions may be any."""
    text = _field(row, "sent", where)
    place = offsets(_field(row, "start", where), _field(row, "end", where), text, where)
    linked = tuple(
        Linked(*offsets(start, end, text, where), (name,), float(score))
        for name, start, end, score in _field(row, "ents", where)
    )
    labels = {_number(numbers, name, where) for name in _field(row, "labels", where)}
    return Example(text, (Mention(*place, ENTITY),), linked, tuple(sorted(labels)), str(index))


def _gold(task, path, file):
    """FIGER's gold test set: each mention of a sentence is an example."""
    map_file = _find(task, path, "types", ".map")
    lines = [line.split() for line in task_files.read_text(map_file).splitlines()]
    numbers = _numbers(task, (line[1] for line in lines if len(line) == 2), map_file)
    found: list[Example] = []
    lines = task_files.read_text(file).split("\n")
    for told, block in itertools.groupby(lines, lambda line: bool(line.strip())):
        if not told:  # between sentences
            continue
        tokens, tags = zip(*(line.split("\t")[:2] for line in block), strict=True)
        starts = [0]
        for token in tokens:
            starts.append(starts[-1] + len(token) + 1)
        for i, tag in enumerate(tags):
            if not tag.startswith("B-"):
                continue
            last = i
            while last + 1 < len(tags) and tags[last + 1].startswith("I-"):
                last += 1
            where = f"{file} example {len(found)}"
            labels = {_number(numbers, name, where) for name in tag[2:].split(",") if name}
            mention = Mention(starts[i], starts[last] + len(tokens[last]), ENTITY)
            found.append(
                Example(" ".join(tokens), (mention,), (), tuple(sorted(labels)), str(len(found)))
            )
    return found


def _task(name, folder, classes, several, rows, read):
    counts = dict(zip(task_files.SPLITS, rows, strict=True))
    return Task(name, (folder, name), classes, several, counts, read)


# Tables 1 and 4 of ERNIE's paper.
TASKS: dict[str, Task] = {
    "fewrel": _task("fewrel", "fewrel", 80, False, (8_000, 16_000, 16_000), _read_fewrel),
    "open-entity": _task("open-entity", "OpenEntity", 6, True, (2_000, 2_000, 2_000), _read_types),
    "figer": _task("figer", "FIGER", 113, True, (2_000_000, 10_000, 563), _read_types),
}
