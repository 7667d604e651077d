"""Finds and opens the official files of labeled tasks."""

import gzip
import os
import pathlib
import zlib
from collections.abc import Sequence

from errors import UserError

SPLITS = ("train", "valid", "test")


def find(
    path: str | os.PathLike,
    folders: Sequence[str],
    names: Sequence[str],
    ending: str,
    what: str,
) -> pathlib.Path:
    """Returns the file of a split.

    A file named `.part`, a part of the official one, is taken where the whole is not there.

    Args:
      path: the folder of the task, one that holds it, or the very file.
      folders: names that the folder of the task may have.
      names: names that the file may have, without ending; the first one is the official.
      ending: such as ".tsv"; a gzipped file has ".gz" behind it.
      what: whose folder it is, for the messages.

    Raises:
      UserError: if it is not there.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"There is nothing at {path}: give the folder of {what}.")
    for folder in (*(path / folder for folder in folders), path):
        for name in names:
            for suffix in (ending, f"{ending}.gz", f".part{ending}", f".part{ending}.gz"):
                if (folder / (name + suffix)).is_file():
                    return folder / (name + suffix)
    file = names[0] + ending
    raise UserError(
        f"There is no {file} or {file}.gz in {path} or its folder {' or '.join(folders)}: put the "
        "official file there."
    )


def read_text(path: pathlib.Path) -> str:
    """Returns the text of a file, gzipped or not, without a byte order mark.

    Raises:
      UserError: if it is broken.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")  # MRPC's files begin with a byte order mark
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): fetch it again.") from error
