"""Labeled tasks as libraries keep them: PUBLISHED says which, and under which names.

TFDS where it has a task without TensorFlow, else Hugging Face's `datasets` (the extra `hf`). A path
to a task is a folder of official files, None for what PUBLISHED says, or such a set itself:
`tfds:NAME`, `hf:OWNER/NAME`, or with the folder of prepared data behind the colon.
"""

import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from data_pipeline import remote
from data_pipeline.tasks import task_files
from errors import UserError

LIBRARIES = ("tfds", "hf")
Path = str | os.PathLike | None


class Source(NamedTuple):
    """Where a task is published.

    Attributes:
      path: LIBRARY:NAME.
      config: of the data set; "": it has none.
      splits: what its splits are called there, in the order of task_files.SPLITS; "": not there.
    """

    path: str
    config: str = ""
    splits: tuple[str, str, str] = ("train", "validation", "test")


def _glue(config, *splits):
    # TFDS has GLUE with TensorFlow only; what that has prepared as array_record can be read.
    return Source("hf:nyu-mll/glue", config, *([splits] if splits else []))


PUBLISHED = {
    "cola": _glue("cola"),
    "sst-2": _glue("sst2"),
    "mrpc": _glue("mrpc"),
    "sts-b": _glue("stsb"),
    "qqp": _glue("qqp"),
    "mnli": _glue("mnli", "train", "validation_matched", "test_matched"),
    "mnli-mm": _glue("mnli", "train", "validation_mismatched", "test_mismatched"),
    "qnli": _glue("qnli"),
    "rte": _glue("rte"),
    "wnli": _glue("wnli"),
    "ax": _glue("ax", "", "", "test"),
    # Of multiple choice; TFDS gives some of them other fields.
    "swag": Source("hf:allenai/swag", "regular"),
    "hellaswag": Source("hf:Rowan/hellaswag"),
    "codah": Source("hf:jaredfern/codah", "fold_0"),
    "commonsenseqa": Source("hf:tau/commonsense_qa"),
    "race": Source("hf:ehovy/race", "all"),
    "race-middle": Source("hf:ehovy/race", "middle"),
    "race-high": Source("hf:ehovy/race", "high"),
    "arc-easy": Source("hf:allenai/ai2_arc", "ARC-Easy"),
    "arc-challenge": Source("hf:allenai/ai2_arc", "ARC-Challenge"),
    "openbookqa": Source("hf:allenai/openbookqa", "main"),
    "piqa": Source("hf:baber/piqa"),
    "winogrande": Source("hf:allenai/winogrande", "winogrande_xl"),
    "boolq": Source("hf:google/boolq", splits=("train", "validation", "")),
    "squad-v1.1": Source("tfds:squad", "v1.1", ("train", "validation", "")),
    "squad-v2.0": Source("tfds:squad", "v2.0", ("train", "validation", "")),
}


def is_library(path: Path) -> bool:
    """Whether a path names a library's data set and not a file or folder."""
    return path is None or str(path).partition(":")[0] in LIBRARIES


def rows(task: str, path: Path, split: str) -> Iterator[dict[str, Any]]:
    """Yields the rows of a split: field -> text, number or list.

    Args:
      task: its name.
      path: one that `is_library`.
      split: one of task_files.SPLITS.

    Raises:
      UserError: for what is not published, unknown names, and for want of a network.
    """
    if task not in PUBLISHED:
        raise UserError(f"No library is known to have {task}: set data.path to its official files.")
    source = PUBLISHED[task]
    library, _, name = str(path or source.path).partition(":")
    there = source.splits[task_files.SPLITS.index(split)]
    if not there:
        raise UserError(f"{task} has no {split} split: it is for predictions alone.")
    if library == "hf":
        table = remote.hf_table(name, source.config or None, there)
    else:
        prepared = pathlib.Path(name).expanduser().is_dir()
        whole = name if prepared or not source.config else f"{name}/{source.config}"
        table = remote.tfds_table(whole, there)
    for row in table.rows:
        yield {field: _plain(value) for field, value in row.items()}


def _plain(value):
    """Returns text for the bytes and Python's numbers for the scalars that TFDS gives."""
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
