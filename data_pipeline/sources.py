"""Where documents come from: `open_source(spec)` for text, JSONL, Parquet, TFDS, Hugging Face.

    embedded                     the prose that every Python carries, see embedded.py
    PATH or text:PATH            text files: a file, a folder or a glob, .gz too
    jsonl:PATH[#field]           one JSON object a line, .gz too; field "text" if none is given
    parquet:PATH[#field]
    tfds:NAME[/config][:split][#field]   prepared data of TFDS, or a folder with such data
    hf:OWNER/NAME[/config][:split][#field]   a data set of the hub, or a folder of save_to_disk
    annotated:PATH, wiki_entity:FOLDER       text with entities, see annotated_files.py

A path that ends in .jsonl, .jsonl.gz or .parquet needs no `jsonl:` or `parquet:`. How documents are
marked in text files is their layout, see text_files.py.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import errors
from data_pipeline import annotated_files, embedded, remote, text_files
from errors import UserError


class Document(NamedTuple):
    """A document: paragraphs or sentences, one a line; blank lines mean nothing.

    Attributes:
      id: names it.
      text: of it.
      spans: what is annotated in it.
      sentences: of a text that is tokenized already, what its `text` means.
    """

    id: str
    text: str
    spans: tuple[annotated_files.Span, ...] = ()
    sentences: tuple[annotated_files.Sentence, ...] = ()


class Source(Protocol):
    """A set of documents in a fixed order."""

    spec: str

    def documents(self) -> Iterator[Document]:
        """Yields every document with text in it; raises UserError for unreadable ones."""

    def fingerprint(self) -> str:
        """Returns a hash of the content and of how it is read."""

    def size(self) -> int | None:
        """Returns about how many bytes of text there are; None where that is unknown."""


def open_source(spec: str, layout: str = "auto") -> Source:
    """Returns the source that a spec names (see the top of this file).

    Args:
      spec: the source.
      layout: a name in `text_files.LAYOUTS`, for text files.

    Raises:
      UserError: for an unknown kind or layout, missing or empty files, data that cannot be had.
    """
    errors.one_of("layout", layout, text_files.LAYOUTS)
    kind, colon, rest = spec.partition(":")
    if spec == "embedded":
        kind, rest = "embedded", ""
    elif not colon or "/" in kind or os.path.exists(spec):
        name = spec.partition("#")[0].removesuffix(".gz")
        kind = {".jsonl": "jsonl", ".parquet": "parquet"}.get(pathlib.Path(name).suffix, "text")
        rest = spec
    return SOURCES[errors.one_of("source kind", kind, SOURCES)](rest, layout)


# Embedded


class Embedded:
    """The embedded corpus."""

    spec = "embedded"

    def documents(self) -> Iterator[Document]:  # noqa: D102 (see Source)
        yield from (Document(*d) for d in embedded.documents())

    def fingerprint(self) -> str:  # noqa: D102
        return embedded.fingerprint()

    def size(self) -> int:  # noqa: D102
        return sum(len(text.encode()) for _, text in embedded.documents())


# Files


@dataclasses.dataclass(frozen=True)
class Files:
    """Documents in local files, read by `read(path, argument)`."""

    spec: str
    paths: tuple[pathlib.Path, ...]
    read: Callable[[pathlib.Path, str], text_files.Documents | annotated_files.Documents]
    argument: str  # of `read`: the layout or the field
    tokenized: bool = False  # the documents are ids of a vocabulary

    def documents(self) -> Iterator[Document]:  # noqa: D102
        for path in self.paths:
            empty = True
            for fields in self.read(path, self.argument):
                document = Document(*fields)
                if document.text.strip():
                    empty = False
                    yield document
            if empty:
                raise UserError(f"{path} holds no text: remove it from the source or fill it.")

    def fingerprint(self) -> str:  # noqa: D102
        return self._fingerprint

    @functools.cached_property  # every stage asks for it, and it reads all of the text
    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(f"{self.read.__name__} {self.argument}".encode(), digest_size=16)
        others = [annotated_files.beside(path) for path in self.paths if self.tokenized]
        for path in (*self.paths, *others):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
        return digest.hexdigest()

    def size(self) -> int:  # noqa: D102
        return sum(map(text_files.unpacked_size, self.paths))


# Libraries


@dataclasses.dataclass(frozen=True)
class Rows:
    """Documents in one field of a table."""

    spec: str
    table: remote.Table
    field: str

    def documents(self) -> Iterator[Document]:  # noqa: D102
        for i in range(len(self.table.rows)):
            where = f"{self.spec} row {i}"
            text = text_files.as_text(self.table.rows[i][self.field], self.field, where)
            if text.strip():
                yield Document(f"{i}", text)

    def fingerprint(self) -> str:  # noqa: D102
        return f"{self.table.fingerprint}#{self.field}"

    def size(self) -> int | None:  # noqa: D102
        return self.table.size


# Kinds: (the specification behind the colon, layout) -> source


def _open_text(rest: str, layout: str) -> Files:
    paths = text_files.find(rest, ("*.txt", "*.txt.gz", "wiki_[0-9][0-9]"))
    return Files(f"text:{rest}", paths, text_files.read_text, layout)


def _open_jsonl(rest: str, layout: str) -> Files:
    pattern, field = _split_field(rest)
    paths = text_files.find(pattern, ("*.jsonl", "*.jsonl.gz"))
    return Files(f"jsonl:{rest}", paths, text_files.read_jsonl, field)


def _open_parquet(rest: str, layout: str) -> Files:
    pattern, field = _split_field(rest)
    paths = text_files.find(pattern, ("*.parquet",))
    return Files(f"parquet:{rest}", paths, text_files.read_parquet, field)


def _open_annotated(rest: str, layout: str) -> Files:
    paths = text_files.find(rest, ("*.jsonl", "*.jsonl.gz"))
    return Files(f"annotated:{rest}", paths, annotated_files.read_json, "")


def _open_wiki_entity(rest: str, layout: str) -> Files:
    paths = text_files.find(rest, ("*_token", "*_token.gz"))
    return Files(f"wiki_entity:{rest}", paths, annotated_files.read_wiki, "", tokenized=True)


def _open_tfds(rest: str, layout: str) -> Rows:
    name, split, field = _split_name(rest)
    return _rows(f"tfds:{rest}", remote.tfds_table(name, split), field)


def _open_hf(rest: str, layout: str) -> Rows:
    name, split, field = _split_name(rest)
    config = None
    if name.count("/") == 2 and not os.path.isdir(name):
        name, _, config = name.rpartition("/")
    return _rows(f"hf:{rest}", remote.hf_table(name, config, split), field)


def _rows(spec: str, table: remote.Table, field: str) -> Rows:
    text_files.require_field(field, table.fields, spec)
    return Rows(spec, table, field)


def _split_field(rest: str) -> tuple[str, str]:
    name, _, field = rest.partition("#")
    return name, field or "text"


def _split_name(rest: str) -> tuple[str, str, str]:
    name, field = _split_field(rest)
    name, _, split = name.partition(":")
    return name, split or "train", field


SOURCES: dict[str, Callable[[str, str], Source]] = {
    "embedded": lambda rest, layout: Embedded(),
    "text": _open_text,
    "jsonl": _open_jsonl,
    "parquet": _open_parquet,
    "tfds": _open_tfds,
    "hf": _open_hf,
    "annotated": _open_annotated,
    "wiki_entity": _open_wiki_entity,
}
