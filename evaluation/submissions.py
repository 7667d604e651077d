"""Files of predictions as GLUE's server takes them, written, read and scored.

A file of a task is TSV with the header `index<TAB>prediction`: the index of a test example, and the
class as the training file names it, or a number. The names of the files are the server's.
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import logging

from data_pipeline import files
from data_pipeline.tasks import glue, published, task_files
from errors import UserError, one_of
from evaluation import scoring

HEADER = ("index", "prediction")
FILES = {
    "cola": "CoLA.tsv",
    "sst-2": "SST-2.tsv",
    "mrpc": "MRPC.tsv",
    "sts-b": "STS-B.tsv",
    "qqp": "QQP.tsv",
    "mnli": "MNLI-m.tsv",
    "mnli-mm": "MNLI-mm.tsv",
    "qnli": "QNLI.tsv",
    "rte": "RTE.tsv",
    "wnli": "WNLI.tsv",
    "ax": "AX.tsv",
}
# What a model of MNLI is asked besides.
ALSO = {"mnli": ("mnli-mm", "ax")}
RANGE = (0.0, 5.0)  # of the scores of STS-B


def write(
    folder: str | os.PathLike, task: str, ids: Sequence[str], predictions: np.ndarray
) -> pathlib.Path:
    """Writes the file of a task, and returns where it lies.

    Args:
      folder: made if absent.
      task: a key of FILES.
      ids: of the examples, as `glue.Example` has them.
      predictions: [B] class numbers or scores. -1 instead of a class is an answer that means none;
        as the server wants one, it becomes the first, and how many these are is logged.

    Raises:
      UserError: if it cannot be written.
    """
    classes = glue.TASKS[task].classes
    predictions = np.asarray(predictions)
    if classes:
        if unclear := int((predictions < 0).sum()):
            logging.warning(
                "%d of %d answers for %s name no class: they are written as %s.",
                *(unclear, len(predictions), task, classes[0]),
            )
        said = [classes[max(int(value), 0)] for value in predictions]
    else:
        said = [f"{value:.3f}" for value in np.clip(predictions, *RANGE)]
    lines = [HEADER, *zip(ids, said, strict=True)]
    path = pathlib.Path(folder).expanduser() / FILES[task]
    files.write_text(path, "".join("\t".join(line) + "\n" for line in lines))
    return path


def read(path: str | os.PathLike, task: str, ids: Sequence[str]) -> list[float]:
    """Reads a file of predictions: the class number or score of each example.

    Raises:
      UserError: for another header, a line without two fields, what is no class or number of the
        task, and for predictions that are not one for each of the examples.
    """
    path, classes = pathlib.Path(path).expanduser(), glue.TASKS[task].classes
    lines = task_files.read_text(path).removesuffix("\n").split("\n")
    if tuple(lines[0].rstrip("\r").split("\t")) != HEADER:
        raise UserError(
            f"{path} begins with {lines[0][:60]!r}: its columns must be 'index' and 'prediction', "
            "with a tab between them."
        )
    found = []
    for number, line in enumerate(lines[1:], start=2):
        fields = line.rstrip("\r").split("\t")
        if len(fields) != len(HEADER):
            raise UserError(f"Line {number} of {path} has {len(fields)} fields instead of 2.")
        index, said = fields
        value = classes.index(said) if said in classes else None
        if not classes:
            value = glue.parse_score(said)
        if value is None:
            wanted = f"one of {', '.join(classes)}" if classes else "a number"
            raise UserError(
                f"Line {number} of {path} predicts {said!r}: for {task} it must be {wanted}."
            )
        found.append((index, float(value)))
    return scoring.by_id(path, found, ids)


def score(
    task: str, predictions: str | os.PathLike, path: published.Path, split: str = "valid"
) -> dict[str, float]:
    """Returns the metrics of a file of predictions against the labels of the task.

    Args:
      task: a key of FILES.
      predictions: the file.
      path: of the task, see data_pipeline/tasks/published.py.
      split: which examples were predicted.

    Raises:
      UserError: as `read`, and where the examples have no labels.
    """
    examples = glue.read(glue.TASKS[one_of("task", task, FILES)], path, split)
    if any(example.label is None for example in examples):
        raise UserError(
            f"The labels of the {split} split of {task} are not public: score split=valid, or "
            "send the file to GLUE's server."
        )
    found = read(predictions, task, [example.id for example in examples])
    return scoring.score(task, found, [example.label for example in examples])
