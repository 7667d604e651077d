"""Multiple-choice tasks: which of a few texts answers, or goes on.

Their official files are read, or what libraries have of them.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from data_pipeline.tasks import choice_files, published, task_files
from errors import UserError


class Question(NamedTuple):
    """A question with its choices.

    Attributes:
      id: what the file calls it, else its number from 0.
      context: what is read before: a sentence, a passage; "" if there is nothing. WinoGrande's has
        one blank "_", which the choices fill.
      question: a question, or how the sentence begins that the choices complete; perhaps "".
      choices: the texts to choose from.
      label: which of them is right, from 0; None: not given, as in test files.
      keys: what the file calls the choices: "A", "B", or "0", "1"; for predictions.
      topic: HellaSwag's activity, BoolQ's title; else "".
    """

    id: str
    context: str
    question: str
    choices: tuple[str, ...]
    label: int | None
    keys: tuple[str, ...]
    topic: str = ""


class ChoiceTask(NamedTuple):
    """A multiple-choice task.

    Attributes:
      name: as in a config.
      folders: names that its folder has.
      files: for each split the names that its file has, without ending; RACE's are subfolders, all
        of which are read.
      parse: makes a question of the fields of a row and its number; without a label.
      answer: the field with the key of the right choice.
      rows: how many questions the published splits have.
      counts: how many choices a question may have.
      ending: of its files; "": folders of passages.
      columns: names of the columns of a file without header.
    """

    name: str
    folders: tuple[str, ...]
    files: tuple[Sequence[str], Sequence[str], Sequence[str]]
    parse: Callable[[choice_files.Fields, int], Question]
    answer: str
    rows: dict[str, int]
    counts: tuple[int, ...]
    ending: str = ".jsonl"
    columns: tuple[str, ...] = ()


def read(task: ChoiceTask, path: published.Path, split: str) -> list[Question]:
    """Reads the questions of a split, in the order of the file.

    Args:
      task: of CHOICES.
      path: the folder of the task, one that holds it, the very file, or a library's set: see
        published.py.
      split: one of task_files.SPLITS; only of "test" the answers may be missing.

    Raises:
      UserError: for a file, a field, a choice or an answer that is missing or wrong.
    """
    questions, seen = [], set()
    for file, rows in _tables(task, path, split):
        for number, fields in enumerate(rows):
            try:
                question = _label(task, task.parse(fields, number), fields.get(task.answer), split)
                if question.id in seen:
                    raise ValueError(f"has the id {question.id!r} of one before it")
            except (ValueError, TypeError) as error:
                # A TypeError: there is a text where an object should be.
                wrong = error if isinstance(error, ValueError) else "is laid out otherwise"
                raise UserError(
                    f"Example {number + 1} of {file} {wrong}: correct it, or give the official "
                    "file of the task."
                ) from error
            seen.add(question.id)
            questions.append(question)
    if not questions:
        raise UserError(f"{path or task.name} holds no questions: fetch the official file.")
    return questions


def _tables(task, path, split):
    """Yields where rows come from, and the rows."""
    if published.is_library(path):
        rows = published.rows(task.name, path, split)
        yield f"the {split} split of {task.name}", (_official(task, row) for row in rows)
        return
    for file in _find(task, path, split):
        yield file, choice_files.rows(file, task.ending, task.answer, task.columns)


def _official(task, row):
    """Returns the fields of a library's row as those of the files, where they differ."""
    fields = choice_files.Fields(row)
    if "choices" in fields:  # columns of texts and labels
        texts, labels = fields["choices"]["text"], fields["choices"]["label"]
        options = [{"text": x, "label": y} for x, y in zip(texts, labels, strict=True)]
        stem = fields["question_stem"] if "question_stem" in fields else fields["question"]
        fields["question"] = {"stem": stem, "choices": options}
    if "candidate_answers" in fields:
        fields |= {f"ending{i}": x for i, x in enumerate(fields["candidate_answers"])}
        fields |= {"prompt": fields["question_propmt"], "label": fields["correct_answer_idx"]}
    if fields.get(task.answer) == -1:  # not public
        fields[task.answer] = None
    return fields


def _label(task, question, answer, split):
    """Fills the label in, and checks it and the choices."""
    texts = question.context, question.question, *question.choices
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("has something else than a text among its texts")
    if len(question.choices) not in task.counts:
        wanted = " or ".join(map(str, task.counts))
        raise ValueError(f"has {len(question.choices)} choices instead of {wanted}")
    if answer in (None, ""):
        if split != "test":
            raise ValueError(f"has no {task.answer!r}")
        return question
    if str(answer) not in question.keys:
        wanted = ", ".join(question.keys)
        raise ValueError(f"has the {task.answer} {str(answer)!r}, which is none of {wanted}")
    return question._replace(label=question.keys.index(str(answer)))


def _find(task, path, split):
    names = task.files[task_files.SPLITS.index(split)]
    if task.ending:
        return [task_files.find(path, task.folders, names, task.ending, task.folders[0])]
    path, files = pathlib.Path(path).expanduser(), []
    for name in names:
        places = [root / name for root in (*(path / folder for folder in task.folders), path)]
        found = next((sorted(place.glob("*.txt")) for place in places if place.is_dir()), [])
        if not found:
            raise UserError(
                f"There is no folder {name} with files *.txt in {path} or its folder "
                f"{task.folders[0]}: put the official one there."
            )
        files += found
    return files


def _numbers(start: int, count: int) -> tuple[str, ...]:
    return tuple(str(start + i) for i in range(count))


def _swag(fields, number):
    choices = tuple(fields[f"ending{i}"] for i in range(4))
    id = str(fields.get("", number))  # the first column has no name
    return Question(id, fields["sent1"], fields["sent2"], choices, None, _numbers(0, 4))


def _hellaswag(fields, number):
    """Where the last sentence is not given apart, `ctx_b`, all is context."""
    context = fields["ctx_a"] if "ctx_a" in fields else fields["ctx"]
    begun, choices, topic = (
        fields.get("ctx_b", ""),
        tuple(fields["endings"]),
        fields["activity_label"],
    )
    keys = _numbers(0, len(choices))
    return Question(str(fields["ind"]), context, begun, choices, None, keys, topic)


def _codah(fields, number):
    choices = tuple(fields[f"ending{i}"] for i in range(4))
    return Question(str(number), fields["prompt"], "", choices, None, _numbers(0, 4))


def _stem(fields, number):
    """ARC, OpenBookQA and CommonsenseQA: the layout of the Allen Institute."""
    question = fields["question"]
    choices = tuple(choice["text"] for choice in question["choices"])
    keys = tuple(choice["label"] for choice in question["choices"])
    return Question(str(fields["id"]), "", question["stem"], choices, None, keys)


def _race(fields, number):
    choices = tuple(fields["options"])
    keys = tuple("ABCD"[: len(choices)])
    id = str(fields.get("id", number))
    return Question(id, fields["article"], fields["question"], choices, None, keys)


def _piqa(fields, number):
    choices = fields["sol1"], fields["sol2"]
    return Question(str(fields.get("id", number)), "", fields["goal"], choices, None, ("0", "1"))


def _winogrande(fields, number):
    sentence, choices = fields["sentence"], (fields["option1"], fields["option2"])
    if sentence.count("_") != 1:
        raise ValueError(f"has {sentence.count('_')} blanks _ in its sentence instead of 1")
    return Question(str(fields.get("qID", number)), sentence, "", choices, None, ("1", "2"))


def _boolq(fields, number):
    """The answer is JSON's true or false."""
    passage, question, title = fields["passage"], fields["question"], fields.get("title", "")
    keys = "False", "True"
    return Question(str(number), passage, question, ("no", "yes"), None, keys, title)


def _social_iqa(fields, number):
    choices = tuple(fields[f"answer{letter}"] for letter in "ABC")
    keys = _numbers(1, 3)
    return Question(str(number), fields["context"], fields["question"], choices, None, keys)


def _published(train: int, valid: int, test: int) -> dict[str, int]:
    return dict(zip(task_files.SPLITS, (train, valid, test), strict=True))


def _arc(task, name, *rows):
    return ChoiceTask(
        task,
        ("arc", "ARC-V1-Feb2018-2"),
        tuple((f"{name}-{split}", f"{name}/{name}-{split}") for split in ("Train", "Dev", "Test")),
        _stem,
        "answerKey",
        _published(*rows),
        (3, 4, 5),
    )


def _commonsense_qa(task, folder, choices, *rows):
    return ChoiceTask(
        task,
        (folder,),
        (("train_rand_split",), ("dev_rand_split",), ("test_rand_split_no_answers",)),
        _stem,
        "answerKey",
        _published(*rows),
        (choices,),
    )


def _race_task(task, levels, *rows):
    return ChoiceTask(
        task,
        ("RACE", "race"),
        tuple([f"{split}/{level}" for level in levels] for split in ("train", "dev", "test")),
        _race,
        "answer",
        _published(*rows),
        (4,),
        ending="",
    )


CHOICES = {
    "swag": ChoiceTask(
        "swag",
        ("swag",),
        (("train",), ("val",), ("test",)),
        _swag,
        "label",
        _published(73_546, 20_006, 20_005),
        (4,),
        ending=".csv",
    ),
    "hellaswag": ChoiceTask(
        "hellaswag",
        ("hellaswag",),
        tuple((f"hellaswag_{split}", split) for split in ("train", "val", "test")),
        _hellaswag,
        "label",
        _published(39_905, 10_042, 10_003),
        (4,),
    ),
    "codah": ChoiceTask(  # the first of five folds; name another one by data.path
        "codah",
        ("codah", "CODAH"),
        tuple(
            (f"fold_0.{split}", f"fold_0/{split}", f"cv_split/fold_0/{split}", split)
            for split in ("train", "dev", "test")
        ),
        _codah,
        "label",
        _published(1_665, 556, 555),
        (4,),
        ending=".tsv",
        columns=("category", "prompt", "ending0", "ending1", "ending2", "ending3", "label"),
    ),
    "commonsenseqa": _commonsense_qa(  # version 1.11
        "commonsenseqa", "commonsense_qa", 5, 9_741, 1_221, 1_140
    ),
    "commonsenseqa-1.0": _commonsense_qa(
        "commonsenseqa-1.0", "commonsense_qa_v1.0", 3, 7_610, 950, 940
    ),
    "race": _race_task("race", ("middle", "high"), 87_866, 4_887, 4_934),
    "race-middle": _race_task("race-middle", ("middle",), 25_421, 1_436, 1_436),
    "race-high": _race_task("race-high", ("high",), 62_445, 3_451, 3_498),
    "arc-easy": _arc("arc-easy", "ARC-Easy", 2_251, 570, 2_376),
    "arc-challenge": _arc("arc-challenge", "ARC-Challenge", 1_119, 299, 1_172),
    "openbookqa": ChoiceTask(
        "openbookqa",
        ("openbookqa", "OpenBookQA-V1-Sep2018"),
        tuple((split, f"Data/Main/{split}") for split in ("train", "dev", "test")),
        _stem,
        "answerKey",
        _published(4_957, 500, 500),
        (4,),
    ),
    "piqa": ChoiceTask(
        "piqa",
        ("piqa", "physicaliqa-train-dev"),
        (("train",), ("valid", "dev"), ("tests", "test")),
        _piqa,
        "label",
        _published(16_113, 1_838, 3_084),
        (2,),
    ),
    "winogrande": ChoiceTask(  # the XL training set; name another one by data.train_path
        "winogrande",
        ("winogrande", "winogrande_1.1"),
        (("train_xl",), ("dev",), ("test",)),
        _winogrande,
        "answer",
        _published(40_398, 1_267, 1_767),
        (2,),
    ),
    "boolq": ChoiceTask(
        "boolq",
        ("boolq", "BoolQ"),
        (("train",), ("dev",), ("test",)),
        _boolq,
        "answer",
        _published(9_427, 3_270, 3_245),
        (2,),
    ),
    "socialiqa": ChoiceTask(
        "socialiqa",
        ("social_iqa", "socialiqa-train-dev"),
        (("train",), ("dev",), ("test",)),
        _social_iqa,
        "label",
        _published(33_410, 1_954, 2_224),
        (3,),
    ),
}
