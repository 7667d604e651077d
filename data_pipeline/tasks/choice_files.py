"""The rows of multiple-choice tasks' files, as they are.

CSV, headerless TSV, JSON lines or RACE's passages, perhaps gzipped. Some publish the answers of
`train.jsonl` apart, one a line of `train-labels.lst`.
"""

import csv
import io
import json
import pathlib
import re
from collections.abc import Sequence

from data_pipeline.tasks import task_files
from errors import UserError

_BLANK = re.compile(r"[ \t\r\n]*")


class Fields(dict):
    """A row; says what it has instead of a field that is asked for."""

    def __missing__(self, name):
        raise ValueError(f"has no field {name!r} but {', '.join(map(repr, self))}")


def rows(file: pathlib.Path, ending: str, answer: str, columns: Sequence[str] = ()) -> list[Fields]:
    """Reads the rows of a file.

    Args:
      file: of CSV or tabs by its name, else of JSON lines.
      ending: of the task's files; "": it is a passage of RACE, or several.
      answer: the field with the answer; if rows of JSON have none, it is read from the file of
        labels beside theirs, if there is one.
      columns: names of the columns, where a file has no header.

    Raises:
      UserError: for what is not laid out like that.
    """
    text = task_files.read_text(file)
    if not ending:
        return _race_rows(file, text)
    if ".csv" in file.suffixes:
        reader = csv.reader(io.StringIO(text, newline=""))
        return _table(file, [row for row in reader if row], columns)
    if ".tsv" in file.suffixes:
        lines = [line.removesuffix("\r").split("\t") for line in text.split("\n") if line]
        return _table(file, lines, columns)
    found = list(_objects(file, text))
    labels = file.with_name(file.name.partition(".json")[0] + "-labels.lst")
    if found and answer not in found[0] and labels.is_file():
        answers = task_files.read_text(labels).split()
        if len(answers) != len(found):
            raise UserError(
                f"{labels} has {len(answers)} answers for the {len(found)} questions of {file}: "
                "fetch the two files together."
            )
        found = [Fields(row | {answer: x}) for row, x in zip(found, answers, strict=True)]
    return found


def _table(file, rows, columns):
    columns, rows = (columns, rows) if columns else (rows[0], rows[1:]) if rows else ((), [])
    for number, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise UserError(
                f"Example {number} of {file} has {len(row)} fields instead of {len(columns)}: "
                "correct it, or give the official file of the task."
            )
    return [Fields(zip(columns, row, strict=True)) for row in rows]


def _race_rows(file, text):
    """Returns a row for each question of a passage, or of several one after another (all.txt)."""
    rows = []
    for passage in _objects(file, text):
        try:
            columns = passage["questions"], passage["options"], passage["answers"]
            if len(set(map(len, columns))) > 1:
                raise ValueError("has not as many options and answers as questions")
            for i, (question, options, answer) in enumerate(zip(*columns, strict=True)):
                row = dict(question=question, options=options, answer=answer)
                row |= dict(id=f"{passage['id']}/{i}", article=passage["article"])
                rows.append(Fields(row))
        except ValueError as error:
            raise UserError(f"A passage of {file} {error}: fetch the official file.") from error
    return rows


def _objects(file, text):
    """Yields the JSON objects of a text, on lines of their own or not."""
    decoder, place = json.JSONDecoder(object_hook=Fields), _BLANK.match(text).end()
    while place < len(text):
        try:
            value, place = decoder.raw_decode(text, place)
        except ValueError as error:
            raise UserError(f"{file} is no JSON ({error}): fetch the file again.") from error
        if not isinstance(value, dict):
            raise UserError(f"{file} holds a JSON value that is no object: fetch the file again.")
        yield value
        place = _BLANK.match(text, place).end()
