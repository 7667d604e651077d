r"""The GLUE tasks (Wang et al., ICLR 2019): their official files, or what libraries have of them.

The files are unquoted TSV, perhaps gzipped. Columns are found by their names, so that a file with
fewer of them does as well. `\n` alone ends a line and a quote is a character like any other: fields
hold unbalanced ones.
"""

import math
import os
import pathlib
from typing import NamedTuple

from data_pipeline.tasks import published, task_files
from errors import UserError

SPLITS = task_files.SPLITS


class Task(NamedTuple):
    """A task with one label for a sentence or a pair of them.

    Attributes:
      name: as in a config.
      folders: names that its folder in GLUE has; the first one is told.
      texts: names of the one or two columns of text.
      label: name of the column of labels.
      classes: what stands there, in the order of the class numbers; (): a number, regression.
      rows: how many the published splits have; 0 where the labels or texts are not public.
      columns: names of the columns, where train and dev files have no header.
      files: names of the splits' files.
      library_texts: names of the columns of text in a library, if others.
      library_classes: the order of the class numbers there, if another.
      ragged: whether lines of a wrong number of fields are skipped.
      symmetric: whether the order of the two texts says nothing: GPT-1 reads both orders.
    """

    name: str
    folders: tuple[str, ...]
    texts: tuple[str, ...]
    label: str
    classes: tuple[str, ...]
    rows: dict[str, int]
    columns: tuple[str, ...] = ()
    files: tuple[str, str, str] = ("train", "dev", "test")
    library_texts: tuple[str, ...] = ()
    library_classes: tuple[str, ...] = ()
    ragged: bool = False
    symmetric: bool = False


class Example(NamedTuple):
    """One or two texts, and the class number or score; None: not given, as in test files.

    `id` is what a file of predictions calls it: of a test file that in the first column, else the
    number of the example, from 0.
    """

    texts: tuple[str, ...]
    label: float | None
    id: str = ""


class Table(NamedTuple):
    """A file as it is.

    Attributes:
      path: where it lies.
      columns: names.
      header: the line with the names; None where there is none.
      rows: the fields of each line.
    """

    path: pathlib.Path
    columns: tuple[str, ...]
    header: str | None
    rows: list[list[str]]


def _rows(train: int, valid: int, test: int) -> dict[str, int]:
    return dict(zip(SPLITS, (train, valid, test), strict=True))


_ENTAILMENT = ("entailment", "not_entailment")
_BINARY = ("0", "1")
_PAIR = ("sentence1", "sentence2")
_MNLI = Task(
    "mnli",
    ("MNLI",),
    _PAIR,
    "gold_label",  # the last column; label1 is one annotator's
    ("contradiction", "entailment", "neutral"),  # BERT's order
    _rows(392_702, 9_815, 9_796),
    files=("train", "dev_matched", "test_matched"),
    library_texts=("premise", "hypothesis"),
    library_classes=("entailment", "neutral", "contradiction"),
)
TASKS = {
    "cola": Task(
        "cola",
        ("CoLA",),
        ("sentence",),
        "label",
        _BINARY,
        _rows(8_551, 1_043, 1_063),
        columns=("source", "label", "mark", "sentence"),
    ),
    "sst-2": Task("sst-2", ("SST-2",), ("sentence",), "label", _BINARY, _rows(67_349, 872, 1_821)),
    "mrpc": Task(
        "mrpc",
        ("MRPC",),
        ("#1 String", "#2 String"),
        "Quality",
        _BINARY,
        _rows(3_668, 408, 1_725),
        symmetric=True,
    ),
    "sts-b": Task(
        "sts-b", ("STS-B",), _PAIR, "score", (), _rows(5_749, 1_500, 1_379), symmetric=True
    ),
    "qqp": Task(
        "qqp",
        ("QQP",),
        ("question1", "question2"),
        "is_duplicate",
        _BINARY,
        _rows(363_846, 40_430, 390_965),
        ragged=True,  # a few lines are malformed; the published count is without them
        symmetric=True,
    ),
    "mnli": _MNLI,
    "mnli-mm": _MNLI._replace(  # the same training set, the mismatched genres held out
        name="mnli-mm",
        files=("train", "dev_mismatched", "test_mismatched"),
        rows=_rows(392_702, 9_832, 9_847),
    ),
    # The diagnostic set, which a model of MNLI predicts; its labels are not public.
    "ax": _MNLI._replace(
        name="ax",
        folders=("diagnostic", "AX"),
        files=("", "", "diagnostic"),
        rows=_rows(0, 0, 1_104),
    ),
    "qnli": Task(
        "qnli",
        ("QNLI",),
        ("question", "sentence"),
        "label",
        _ENTAILMENT,
        _rows(104_743, 5_463, 5_463),
    ),
    "rte": Task("rte", ("RTE",), _PAIR, "label", _ENTAILMENT, _rows(2_490, 277, 3_000)),
    "wnli": Task("wnli", ("WNLI",), _PAIR, "label", _BINARY, _rows(635, 71, 146)),
}


def read(task: Task, path: published.Path, split: str) -> list[Example]:
    """Reads the examples of a split, in the order of the file.

    Args:
      task: of TASKS.
      path: the folder of the task or of GLUE, the very file, or a library's set: see published.py.
      split: one of SPLITS.

    Raises:
      UserError: for a file, a column or a label that is missing or wrong.
    """
    if published.is_library(path):
        return _library_examples(task, path, split)
    return examples(task, read_table(task, path, split), split)


def _library_examples(task, path, split):
    """Returns the examples of a library; -1 stands for a label that is not public."""
    texts = task.library_texts or task.texts
    order = [task.classes.index(name) for name in task.library_classes or task.classes]
    found = []
    for row in published.rows(task.name, path, split):
        if missing := {*texts, "label", "idx"} - set(row):
            raise UserError(
                f"The {task.name} of {path} has no field {min(missing)!r} but {', '.join(row)}: "
                "give another data.path."
            )
        label = None if split == "test" else row["label"]
        if label is not None and task.classes:
            if label not in range(len(order)):
                raise UserError(
                    f"The {split} split of {task.name} has the label {label} in {path}: it has "
                    "none to learn from or to score by."
                )
            label = order[label]
        identity = row["idx"] if split == "test" else len(found)
        found.append(
            Example(
                tuple(row[name] for name in texts),
                None if label is None else float(label),
                str(identity),
            )
        )
    return found


def read_table(task: Task, path: str | os.PathLike, split: str) -> Table:
    """Reads the file of a split; arguments and errors are those of `read`."""
    file = find(task, path, split)
    lines = task_files.read_text(file).split("\n")
    if lines[-1] == "":
        lines.pop()
    # Test files always have a header; CoLA's other files have none.
    header = None if task.columns and split != "test" else next(iter(lines), "").removesuffix("\r")
    columns = task.columns if header is None else tuple(header.split("\t"))
    rows = []
    for number, line in enumerate(lines):
        if number == 0 and header is not None:
            continue
        fields = line.removesuffix("\r").split("\t")
        if len(fields) != len(columns):
            if task.ragged:
                continue
            raise UserError(
                f"Line {number + 1} of {file} has {len(fields)} fields instead of {len(columns)}: "
                "correct the line, or fetch the official file."
            )
        rows.append(fields)
    if not rows:
        raise UserError(f"{file} holds no examples: fetch the official file.")
    return Table(file, columns, header, rows)


def examples(task: Task, table: Table, split: str) -> list[Example]:
    """Returns the examples of a table; arguments and errors are those of `read`."""
    texts = [column(table, name) for name in task.texts]
    if split == "test":
        return [Example(tuple(row[i] for i in texts), None, row[0]) for row in table.rows]
    place = column(table, task.label)
    numbers = {name: float(i) for i, name in enumerate(task.classes)}
    found = []
    for row in table.rows:
        label = numbers.get(row[place]) if task.classes else parse_score(row[place])
        if label is None:
            wanted = f"one of {', '.join(task.classes)}" if task.classes else "a number"
            raise UserError(
                f"{table.path} has the {task.label} {row[place]!r} in example {len(found) + 1}: it "
                f"must be {wanted}."
            )
        found.append(Example(tuple(row[i] for i in texts), label, str(len(found))))
    return found


def column(table: Table, name: str) -> int:
    """Returns the place of a column.

    Raises:
      UserError: if there is none of this name.
    """
    if name not in table.columns:
        raise UserError(
            f"{table.path} has no column {name!r} but {', '.join(table.columns)}: give the task's "
            "official file, tabs between the columns."
        )
    return table.columns.index(name)


def find(task: Task, path: str | os.PathLike, split: str) -> pathlib.Path:
    """Returns the file of a split; arguments and errors are those of `read`."""
    name = task.files[SPLITS.index(split)]
    if not name:
        raise UserError(f"{task.name} has no {split} split: it is for predictions alone.")
    return task_files.find(path, task.folders, (name,), ".tsv", f"{task.folders[0]} or GLUE")


def parse_score(text: str) -> float | None:
    """Returns the finite number that a text is, else None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
