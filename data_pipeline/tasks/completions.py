"""Tasks of text alone, in their official files: LAMBADA and BLiMP."""

import itertools
import os
import pathlib
from typing import NamedTuple

from data_pipeline.tasks import choice_files, task_files
from errors import UserError

LAMBADA = ("lambada_test", "lambada_test_en", "test", "lambada_test.first1000")


class Passage(NamedTuple):
    """A text of LAMBADA (Paperno et al., 2016), parted before its last word."""

    context: str
    word: str


class Pair(NamedTuple):
    """A minimal pair of BLiMP (Warstadt et al., 2020).

    Attributes:
      good: the acceptable sentence.
      bad: the other one.
      paradigm: what the pairs of its file have in common.
      term: the linguistic phenomenon that the paradigm belongs to.
    """

    good: str
    bad: str
    paradigm: str
    term: str


def read_lambada(path: str | os.PathLike) -> list[Passage]:
    """Reads LAMBADA's test set, JSON lines with a field "text".

    Args:
      path: the folder of the task, one that holds it, or the very file.

    Raises:
      UserError: if it is missing or broken.
    """
    file = task_files.find(path, ("lambada",), LAMBADA, ".jsonl", "lambada")
    passages = []
    for number, fields in enumerate(choice_files.rows(file, ".jsonl", ""), 1):
        context, _, word = _text(file, number, fields, "text").strip().rpartition(" ")
        if not context:
            raise UserError(f"Example {number} of {file} has a single word: fetch the file again.")
        passages.append(Passage(context, word))
    return passages


def read_blimp(path: str | os.PathLike) -> list[Pair]:
    """Reads BLiMP's paradigms, a file each: one pair of each by turns.

    Args:
      path: the folder of the task, one that holds it, or the file of one paradigm.

    Raises:
      UserError: if there is none, or it is broken.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_file():
        files = [path]
    else:
        folders = [path / "blimp" / "data", path / "blimp", path / "data", path]
        files = next((found for f in folders if (found := sorted(f.glob("*.jsonl*")))), [])
    if not files:
        raise UserError(
            f"There is no file *.jsonl in {path} or its folder blimp: put BLiMP's paradigms there."
        )
    names = "sentence_good", "sentence_bad", "UID", "linguistics_term"
    paradigms = [
        [
            Pair(*(_text(file, number, fields, name) for name in names))
            for number, fields in enumerate(choice_files.rows(file, ".jsonl", ""), 1)
        ]
        for file in files
    ]
    turns = itertools.zip_longest(*paradigms)
    return [pair for turn in turns for pair in turn if pair is not None]


def _text(file, number, fields, name) -> str:
    try:
        text = fields[name]
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"has no text in its field {name!r}")
    except ValueError as error:
        raise UserError(f"Example {number} of {file} {error}: fetch the file again.") from error
    return text
