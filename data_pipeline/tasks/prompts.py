r"""Tasks as prompts for language models, in the frames of GPT-3's paper (appendix G).

A document is a dict, the form in which lm-eval takes it: what is read, what is compared or written,
and which of it is right. Demonstrations are documents of the same frame with their answers, parted
by an empty line (section 2.4).
"""

import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from data_pipeline.tasks import choices, completions, squad, task_files
from errors import UserError

Document = dict[str, Any]
NO_ANSWER = "N/A"  # what is written where SQuAD v2.0 has no answer


Folders = Sequence[str | os.PathLike]


class Files(NamedTuple):
    """Where the documents of a task come from.

    Attributes:
      find: (folders, split) -> a folder, or raises UserError.
      read: (that folder, split, shots) -> documents.
    """

    find: Callable[[Folders, str], str | os.PathLike]
    read: Callable[[str | os.PathLike, str, int], list[Document]]


class Prompt(NamedTuple):
    """A task in the frame of a prompt.

    Attributes:
      files: of its documents.
      kind: "choices" of a context's continuation; "contexts", one of which the text behind them
        suits (partial evaluation, Trinh and Le, 2018); the last "word" of a text; an "answer" to be
        written.
      splits: which is measured: the first one that is there.
      demonstrations: likewise, from which demonstrations are drawn. Where it is the split measured
        a document is no demonstration of itself.
      measure: by which the paper reports the task, a key of MEASURES.
      shots: demonstrations in the paper's few-shot setting (appendix H); 0: not in the paper.
      published: the task of lm-eval with the same data; "": it has none.
      delimiter: between a context and its continuation.
      most_tokens: of an answer.
    """

    files: Files
    kind: str
    splits: tuple[str, ...]
    demonstrations: tuple[str, ...]
    measure: str
    shots: int
    published: str
    delimiter: str = " "
    most_tokens: int = 0


class Documents(NamedTuple):
    """What a run needs of a task: documents to measure on, and to draw demonstrations from.

    Both are split -> documents; the second is empty for no shots, or names the first's split.
    """

    measured: str
    demonstrations: str
    splits: dict[str, list[Document]]


# How answers are compared (GPT-3, section 2.4), or what else is measured.
MEASURES = {
    "acc": "the likelihood as it is",
    "acc_token": "the likelihood per token",
    "acc_unconditional": 'the likelihood over that of the same text behind "Answer:"',
    "f1": "F1 of the official program, of what greedy decoding writes up to the end of the line",
}
ANSWER_CONTEXT = "Answer:"


def _hellaswag(question: choices.Question) -> Document:
    text = f"{question.topic}: {question.context} {question.question.capitalize()}"
    return {"query": _clean(text), "choices": [_clean(text) for text in question.choices]}


def _clean(text: str) -> str:
    """Removes the marks of WikiHow's pages, as lm-eval does."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ").strip()


def _goal(question: choices.Question) -> Document:
    return {"query": question.question, "choices": list(question.choices)}


def _asked(question: choices.Question) -> Document:
    query = f"Question: {question.question}\n{ANSWER_CONTEXT}"
    return {"query": query, "choices": list(question.choices)}


def _boolq(question: choices.Question) -> Document:
    query = f"{question.context}\nquestion: {question.question.rstrip('?')}?\nanswer:"
    return {"query": query, "choices": list(question.choices)}


def _winogrande(question: choices.Question) -> Document:
    before, after = question.context.split("_")
    return {"choices": [before + choice for choice in question.choices], "target": after.strip()}


def _choice(task: str, frame: Callable[[choices.Question], Document]) -> Files:
    table = choices.CHOICES[task]

    def read(folder, split, shots):
        del shots
        questions = choices.read(table, folder, split)
        if any(question.label is None for question in questions):
            raise UserError(
                f"The {split} file of {task} has no answers: give one with answers, or none."
            )
        return [frame(question) | {"gold": question.label} for question in questions]

    def find(folders, split):
        folder, names = (
            _holding(folders, table.folders),
            table.files[task_files.SPLITS.index(split)],
        )
        task_files.find(folder, table.folders, names, table.ending, table.folders[0])
        return folder

    return Files(find, read)


def _holding(folders: Folders, names: Sequence[str]) -> str | os.PathLike:
    """Returns the first of several folders that holds or has one of these names, else the first."""
    for folder in folders:
        path = pathlib.Path(folder).expanduser()
        if path.name in names or any((path / name).exists() for name in names):
            return folder
    return folders[0]


def _alone(name: str, read: Callable[[str | os.PathLike, int], list[Document]]) -> Files:
    """A task of a single split."""
    return Files(
        lambda folders, split: _holding(folders, (name,)),
        lambda folder, split, shots: read(folder, shots),
    )


def _lambada(folder, shots):
    """Reads it as it is, or for several demonstrations with a blank in place of the last word."""
    frame = "{} ____. ->" if shots > 1 else "{}"
    return [
        {"query": frame.format(passage.context), "target": f" {passage.word}"}
        for passage in completions.read_lambada(folder)
    ]


def _blimp(folder, shots):
    if shots:
        raise UserError("BLiMP compares whole sentences, which nothing precedes: set --shots=0.")
    return [
        {"query": "", "choices": [pair.good, pair.bad], "gold": 0, "term": pair.term}
        for pair in completions.read_blimp(folder)
    ]


def _squad(task: squad.Task) -> Files:
    folders_of_task = "squad", "SQuAD"

    def find(folders, split):
        folder, name = (
            _holding(folders, folders_of_task),
            task.files[task_files.SPLITS.index(split)],
        )
        names = (name, f"{name}.rebuilt")
        task_files.find(folder, folders_of_task, names, ".json", "SQuAD")
        return folder

    def read(folder, split, shots):
        del shots
        found = squad.read(task, folder, split)
        return [
            {
                "query": f"{found.contexts[question.context]}\n\nQ: {question.text}\n\nA:",
                "target": question.answers[0].text if question.answers else NO_ANSWER,
                "answers": [answer.text for answer in question.answers],
            }
            for question in found.questions
        ]

    return Files(find, read)


ONE, HELD_OUT, PUBLIC, TRAIN = ("test",), ("valid",), ("test", "valid"), ("train", "valid")
PROMPTS = {
    "lambada": Prompt(
        *(_alone("lambada", _lambada), "word", ONE, ONE, "acc", 15, "lambada_openai"), delimiter=""
    ),
    "hellaswag": Prompt(
        *(_choice("hellaswag", _hellaswag), "choices", HELD_OUT, TRAIN, "acc_token", 20),
        "hellaswag",
    ),
    "piqa": Prompt(_choice("piqa", _goal), "choices", HELD_OUT, TRAIN, "acc_token", 50, "piqa"),
    "winogrande": Prompt(
        *(_choice("winogrande", _winogrande), "contexts", HELD_OUT, TRAIN, "acc", 50), "winogrande"
    ),
    "arc-easy": Prompt(
        *(_choice("arc-easy", _asked), "choices", PUBLIC, TRAIN, "acc_unconditional", 50),
        "arc_easy",
    ),
    "arc-challenge": Prompt(
        *(_choice("arc-challenge", _asked), "choices", PUBLIC, TRAIN, "acc_unconditional", 50),
        "arc_challenge",
    ),
    "openbookqa": Prompt(
        *(_choice("openbookqa", _goal), "choices", PUBLIC, TRAIN, "acc_unconditional", 100),
        "openbookqa",
    ),
    "boolq": Prompt(_choice("boolq", _boolq), "choices", HELD_OUT, TRAIN, "acc", 32, "boolq"),
    "commonsenseqa": Prompt(
        *(_choice("commonsenseqa", _asked), "choices", HELD_OUT, TRAIN, "acc_token", 0),
        "commonsense_qa",
    ),
    "squad-v1.1": Prompt(
        *(_squad(squad.TASKS["squad-v1.1"]), "answer", HELD_OUT, TRAIN, "f1", 0, ""), most_tokens=32
    ),
    "squad-v2.0": Prompt(
        *(_squad(squad.TASKS["squad-v2.0"]), "answer", HELD_OUT, TRAIN, "f1", 16, "squadv2"),
        most_tokens=32,
    ),
    "blimp": Prompt(
        *(_alone("blimp", _blimp), "choices", ONE, ONE, "acc", 0, "blimp"), delimiter=""
    ),
}


def read(name: str, folders: Folders, shots: int) -> Documents:
    """Reads the documents of a task.

    Args:
      name: of PROMPTS.
      folders: the folder of the task, one that holds it, or several such.
      shots: demonstrations for each document.

    Raises:
      UserError: for what is missing or broken, or fewer documents than demonstrations.
    """
    prompt = PROMPTS[name]
    for folder in folders:
        if not pathlib.Path(folder).expanduser().exists():
            raise UserError(f"There is no folder {folder}: give the one that holds the tasks.")
    measured, folder = _first(prompt.files, folders, prompt.splits)
    splits = {measured: prompt.files.read(folder, measured, shots)}
    demonstrations = measured
    if shots:
        demonstrations, folder = _first(prompt.files, folders, prompt.demonstrations)
        if demonstrations not in splits:
            splits[demonstrations] = prompt.files.read(folder, demonstrations, shots)
        enough = len(splits[demonstrations]) - (demonstrations == measured)
        if shots > enough:
            raise UserError(
                f"{name} has {enough} documents to draw {shots} demonstrations from (its split "
                f"{demonstrations}): lower --shots."
            )
    return Documents(measured, demonstrations, splits)


def _first(files, folders, splits) -> tuple[str, str | os.PathLike]:
    """Returns the first split that is there, and its folder; else says what the first one lacks."""
    for split in splits:
        try:
            return split, files.find(folders, split)
        except UserError:
            if split == splits[-1]:
                raise
    raise AssertionError("a prompt without splits")
