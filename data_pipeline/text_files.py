"""Documents in local files: plain text in several layouts, JSONL and Parquet.

A reader yields (id, text) and raises UserError, naming file and line, for what it cannot read.
"""

import glob
import gzip
import itertools
import json
import os
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from errors import UserError

Documents = Iterator[tuple[str, str]]  # id, text


def as_text(value: Any, field: str, where: str) -> str:
    """Returns a record's text field as str; libraries deliver bytes or str."""
    try:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, str):
            value.encode()  # JSON can hold halves of surrogate pairs, which are no characters
            return value
    except UnicodeError as error:
        raise UserError(f"{where} is not UTF-8: correct or remove it.") from error
    if value is None:
        return ""
    raise UserError(f"Field {field!r} of {where} is no text: name another as SOURCE#field.")


def require_field(field: str, fields: list[str], where: str) -> None:
    """Raises a UserError that lists the fields if `field` is not among them."""
    if field not in fields:
        have = ", ".join(fields)
        raise UserError(f"{where} has no field {field!r}: name one as SOURCE#field; it has {have}.")


def unpacked_size(path: pathlib.Path) -> int:
    """Returns the bytes of a file; of a .gz file what it says of itself, modulo 2**32."""
    size = path.stat().st_size
    if path.suffix != ".gz":
        return size
    with path.open("rb") as file:
        file.seek(max(0, size - 4))
        return int.from_bytes(file.read(), "little")


def find(pattern: str, names: tuple[str, ...]) -> tuple[pathlib.Path, ...]:
    """Returns the files of a path, a folder (those named like `names`) or a glob, sorted."""
    path = pathlib.Path(pattern).expanduser()
    if path.is_dir():
        found = {p for name in names for p in path.rglob(name)}
        missing = f"{path} holds no {', '.join(names)}: give another folder or a glob of its files."
    elif path.exists():
        found = {path}
    else:
        found = {pathlib.Path(p) for p in glob.glob(str(path), recursive=True)}
        missing = f"There is no file {pattern}: correct the path, or give a source as KIND:NAME."
    files = tuple(sorted(p for p in found if p.is_file()))
    if not files:
        raise UserError(missing)
    for file in files:
        if not os.access(file, os.R_OK):
            raise UserError(f"{file} may not be read: change its permissions.")
        if not file.stat().st_size:
            raise UserError(f"{file} is empty: remove it from the source or fill it.")
    return files


def lines(path: pathlib.Path) -> Iterator[str]:
    """Yields the lines of a text file without their ends; a byte order mark is dropped."""
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):  # noqa: B007 (used in the message)
                yield line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (somewhere after line {number}): convert it, for example with "
            "`iconv -f latin1 -t utf-8`."
        ) from error
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}): get the file again.") from error


def _blank_lines(path: pathlib.Path, lines: Iterator[str]) -> Documents:
    """A blank line between documents, as BERT's script reads them."""
    block: list[str] = []
    start = 1
    for number, line in enumerate(lines, 1):
        if line.strip():
            block.append(line.strip())
        elif block:
            yield (f"{path.name}:{start}", "\n".join(block))
            block = []
        if not block:
            start = number + 1
    yield (f"{path.name}:{start}", "\n".join(block))


WIKI_START = re.compile(r'<doc id="([^"]*)".* title="(.*)">$')


def _wiki(path: pathlib.Path, lines: Iterator[str]) -> Documents:
    """WikiExtractor's `<doc id= url= title=>` ... `</doc>`; the title line is left out.

    BERT was trained on the running text alone, without headers (bert.md section 4).
    """
    block: list[str] = []
    start = None
    for number, line in enumerate(lines, 1):
        if match := WIKI_START.match(line):
            if start:
                raise UserError(f"{path} line {number}: a <doc> without </doc> before it.")
            start, block = match, []
        elif line == "</doc>":
            if not start:
                raise UserError(f"{path} line {number}: a </doc> without <doc> before it.")
            body = block[1:] if block[:1] == [start[2]] else block
            yield (f"{path.name}:{start[1]}", "\n".join(body))
            start = None
        elif line.strip():
            if not start:
                raise UserError(
                    f"{path} line {number} stands outside of <doc>: set another layout."
                )
            block.append(line.strip())
    if start:
        raise UserError(f"{path} ends without </doc>: it was cut, get the file again.")


BOOK_HEADING = re.compile(r"^= (.+) =$")


def _book(path: pathlib.Path, lines: Iterator[str]) -> Documents:
    """One file, one document; of a heading `= CHAPTER I =` the words stay."""
    kept = [BOOK_HEADING.sub(r"\1", line.strip()) for line in lines if line.strip()]
    yield (path.name, "\n".join(kept))


def _auto(path: pathlib.Path, lines: Iterator[str]) -> Documents:
    """`wiki` if the text begins with <doc, `book` if the first 100 lines have a `= HEADING =`."""
    head = list(itertools.islice(lines, 100))
    first = next((line for line in head if line.strip()), "")
    if first.startswith("<doc "):
        layout = _wiki
    else:
        layout = _book if any(map(BOOK_HEADING.match, head)) else _blank_lines
    return layout(path, itertools.chain(head, lines))


LAYOUTS: dict[str, Callable[[pathlib.Path, Iterator[str]], Documents]] = {
    "auto": _auto,
    "blank_lines": _blank_lines,
    "wiki": _wiki,
    "book": _book,
}


# Readers: (path, layout or field) -> documents


def read_text(path: pathlib.Path, layout: str) -> Documents:
    """Reads a text file in one of the `LAYOUTS`."""
    return LAYOUTS[layout](path, lines(path))


def read_rows(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Yields each JSON object of a file with one a line: its line, itself, and where it stands."""
    for number, line in enumerate(lines(path), 1):
        where = f"{path} line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not JSON ({error}): correct or remove it.") from error
        yield number, row if isinstance(row, dict) else {}, where


def read_jsonl(path: pathlib.Path, field: str) -> Documents:
    """Reads one field of a file with a JSON object a line."""
    for number, row, where in read_rows(path):
        require_field(field, list(row), where)
        yield (f"{path.name}:{number}", as_text(row[field], field, where))


def read_parquet(path: pathlib.Path, field: str) -> Documents:
    """Reads one column of a Parquet file."""
    import pyarrow  # heavy; only this source needs it
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            require_field(field, file.schema_arrow.names, str(path))
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=[field]):
                for value in batch.column(0):
                    where = f"{path} row {number}"
                    yield (f"{path.name}:{number}", as_text(value.as_py(), field, where))
                    number += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable Parquet file: {error}.") from error
