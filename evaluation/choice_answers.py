"""Files of answers to multiple-choice questions as leaderboards take them, written and scored.

An answer is what the task's file calls the choice. ARC and OpenBookQA have lines `id,answer` and no
header; tasks whose labels lie in a file of their own have that file's layout, an answer a line in
the order of the questions. No layout of the others is known to us: they have JSON lines,
{"id": ..., "answer": ...}.
"""

import csv
import io
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from data_pipeline import files
from data_pipeline.tasks import choices, published, task_files
from errors import UserError
from evaluation import scoring

ENDINGS = dict.fromkeys(choices.CHOICES, ".jsonl")
ENDINGS |= dict.fromkeys(("arc-easy", "arc-challenge", "openbookqa"), ".csv")
ENDINGS |= dict.fromkeys(("piqa", "socialiqa", "winogrande"), ".lst")


def write(
    folder: str | os.PathLike,
    task: str,
    questions: Sequence[choices.Question],
    predictions: np.ndarray,
) -> pathlib.Path:
    """Writes the file of a task, and returns where it lies.

    Args:
      folder: made if absent.
      task: a key of choices.CHOICES.
      questions: those that were asked.
      predictions: [B] which choice of each, from 0.

    Raises:
      UserError: if it cannot be written.
    """
    ending = ENDINGS[task]
    output = io.StringIO()
    table = csv.writer(output, lineterminator="\n")
    for question, prediction in zip(questions, predictions, strict=True):
        answer = question.keys[int(prediction)]
        if ending == ".csv":
            table.writerow((question.id, answer))
        elif ending == ".lst":
            output.write(answer + "\n")
        else:
            output.write(json.dumps({"id": question.id, "answer": answer}) + "\n")
    path = pathlib.Path(folder).expanduser() / f"{task}{ending}"
    files.write_text(path, output.getvalue())
    return path


def read(path: str | os.PathLike, task: str, questions: Sequence[choices.Question]) -> list[int]:
    """Reads a file of answers: which choice of each question, from 0.

    Raises:
      UserError: for another layout, for questions that are answered twice, not at all or were not
        asked, and for an answer that is none of the choices.
    """
    path = pathlib.Path(path).expanduser()
    lines = task_files.read_text(path).splitlines()
    ids = [question.id for question in questions]
    if ENDINGS[task] == ".lst":
        if len(lines) != len(ids):
            raise UserError(
                f"{path} has {len(lines)} answers for {len(ids)} questions: it belongs to another "
                "data set or split."
            )
        said = lines
    else:
        said = scoring.by_id(path, _answers(path, task, lines), ids)
    found = []
    for question, answer in zip(questions, map(str.strip, said), strict=True):
        if answer not in question.keys:
            raise UserError(
                f"{path} answers {question.id} with {answer!r}: it must be one of "
                f"{', '.join(question.keys)}."
            )
        found.append(question.keys.index(answer))
    return found


def _answers(path, task, lines):
    """Yields the id and the answer in each line."""
    for number, line in enumerate(lines, 1):
        try:
            if ENDINGS[task] == ".csv":
                identity, answer = next(csv.reader([line]))
            else:
                row = json.loads(line)
                identity, answer = str(row["id"]), str(row["answer"])
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            wanted = "id,answer" if ENDINGS[task] == ".csv" else '{"id": ..., "answer": ...}'
            raise UserError(
                f"Line {number} of {path} is {line[:60]!r}: for {task} it must be {wanted}."
            ) from error
        yield identity, answer


def score(
    task: str, answers: str | os.PathLike, path: published.Path, split: str = "valid"
) -> dict[str, float]:
    """Returns the accuracy of a file of answers.

    Args:
      task: a key of choices.CHOICES.
      answers: the file.
      path: of the task, see data_pipeline/tasks/published.py.
      split: which questions were asked.

    Raises:
      UserError: as `read`, and where the right answers are not public.
    """
    questions = choices.read(choices.CHOICES[task], path, split)
    if any(question.label is None for question in questions):
        raise UserError(
            f"The answers to the {split} split of {task} are not public: score split=valid, or "
            "send the file to the leaderboard."
        )
    labels = [question.label for question in questions]
    return scoring.score(task, read(answers, task, questions), labels)
