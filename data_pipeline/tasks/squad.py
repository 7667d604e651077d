"""SQuAD v1.1 (Rajpurkar et al., 2016) and v2.0 (2018): its official JSON, or a library's set."""

import json
from typing import Any, NamedTuple

from absl import logging

from data_pipeline.tasks import published, task_files
from errors import UserError


class Task(NamedTuple):
    """A version of the data set.

    Attributes:
      name: its key in TASKS.
      files: names of the splits' files, without their ending.
      impossible: whether some questions have no answer.
      rows: questions of the published splits.
    """

    name: str
    files: tuple[str, str, str]
    impossible: bool
    rows: dict[str, int]


_V1 = Task(
    "squad-v1.1",
    ("train-v1.1", "dev-v1.1", "test-v1.1"),
    False,
    {"train": 87_599, "valid": 10_570},
)
_V2 = Task(
    "squad-v2.0",
    ("train-v2.0", "dev-v2.0", "test-v2.0"),
    True,
    {"train": 130_319, "valid": 11_873},
)
TASKS = {task.name: task for task in (_V1, _V2)}


class Answer(NamedTuple):
    """A text, and the character of the context where it begins."""

    text: str
    start: int


class Question(NamedTuple):
    """A question about one of the contexts.

    Attributes:
      id: of the official file.
      text: what is asked.
      context: the number of the context.
      answers: those of several people, in training usually one.
      impossible: whether the context does not answer it.
    """

    id: str
    text: str
    context: int
    answers: tuple[Answer, ...]
    impossible: bool


class Questions(NamedTuple):
    """A split: the contexts, each once, and the questions about them, both in its order."""

    source: str  # where it comes from
    contexts: list[str]
    questions: list[Question]


def read(task: Task, path: published.Path, split: str) -> Questions:
    """Reads the questions of a split.

    An answer that does not stand where its `answer_start` says is no error: how many there are is
    logged, with the id of the first.

    Args:
      task: of TASKS.
      path: the folder of the files, the very file, or a library's set: see published.py.
      split: of task_files.SPLITS; only of "test" the answers may be missing.

    Raises:
      UserError: for a file that is missing or has another layout, for an id that is missing or
        comes twice, and for a question of v1.1 without an answer.
    """
    if published.is_library(path):
        found = _from_library(f"{task.name} ({split})", published.rows(task.name, path, split))
    else:
        name = task.files[task_files.SPLITS.index(split)]
        # "rebuilt": put together from other sources, where the official file is not to be had
        names = (name, f"{name}.rebuilt")
        found = _parse(task_files.find(path, ("squad", "SQuAD"), names, ".json", "SQuAD"))
    _check(task, found, split)
    misplaced = [
        question.id
        for question in found.questions
        if not all(stands(found.contexts[question.context], answer) for answer in question.answers)
    ]
    if misplaced:
        logging.warning(
            "%s: %d of %d questions have an answer that does not stand at its answer_start, the "
            "first of them %s.",
            *(found.source, len(misplaced), len(found.questions), misplaced[0]),
        )
    return found


def stands(context: str, answer: Answer) -> bool:
    """Returns whether an answer stands in its context where it says that it does."""
    return answer.start >= 0 and context.startswith(answer.text, answer.start)


def _parse(file):
    """Returns the questions; errors name the place in the file."""
    try:
        content = json.loads(task_files.read_text(file))
    except ValueError as error:
        raise UserError(f"{file} is no JSON ({error}): fetch the official file.") from error
    contexts, questions = [], []

    def take(record, name, kind, where, *default) -> Any:
        value = record.get(name, *default) if isinstance(record, dict) else None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            words = {str: "text", list: "a list", int: "a whole number", bool: "true or false"}
            raise UserError(
                f"{file} has not the layout of SQuAD: {where} has no {name!r} that is "
                f"{words[kind]}; fetch the official file."
            )
        return value

    for a, article in enumerate(take(content, "data", list, "the whole")):
        for p, paragraph in enumerate(take(article, "paragraphs", list, f"article {a + 1}")):
            where = f"paragraph {p + 1} of article {a + 1}"
            contexts.append(take(paragraph, "context", str, where))
            for question in take(paragraph, "qas", list, where):
                here = f"a question in {where}"
                key = take(question, "id", str, here)
                here = f"question {key}"
                answers = tuple(
                    Answer(take(x, "text", str, here), take(x, "answer_start", int, here))
                    for x in take(question, "answers", list, here, [])
                )
                impossible = take(question, "is_impossible", bool, here, not answers)
                text = take(question, "question", str, here)
                questions.append(Question(key, text, len(contexts) - 1, answers, impossible))
    return Questions(str(file), contexts, questions)


def _from_library(source, rows):
    """Returns the questions of rows with the fields that TFDS and `datasets` both have."""
    contexts: dict[str, int] = {}
    questions = []
    for row in rows:
        texts, starts = (row["answers"][name] for name in ("text", "answer_start"))
        texts = [text.decode() if isinstance(text, bytes) else text for text in texts]
        answers = tuple(Answer(text, int(start)) for text, start in zip(texts, starts, strict=True))
        context = contexts.setdefault(row["context"], len(contexts))
        questions.append(Question(row["id"], row["question"], context, answers, not answers))
    return Questions(source, list(contexts), questions)


def _check(task, found, split):
    """Refuses what no reader could make sense of."""
    if not found.questions:
        raise UserError(f"{found.source} holds no questions: fetch the official file.")
    seen = set()
    for question in found.questions:
        if not question.id or question.id in seen:
            what = f"the id {question.id} twice" if question.id else "a question without an id"
            raise UserError(f"{found.source} has {what}: each question needs an id of its own.")
        seen.add(question.id)
        if (
            not task.impossible
            and split != "test"
            and (question.impossible or not question.answers)
        ):
            raise UserError(
                f"{found.source} has no answer to question {question.id}, as in v2.0: set "
                "data.task=squad-v2.0, or give a file of v1.1."
            )
