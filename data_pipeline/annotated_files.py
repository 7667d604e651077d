"""Documents whose entities and phrases are given with them.

annotated:PATH         one JSON object a line: {"text": ..., "entities": [[start, end, name],
                       ...], "phrases": [[start, end], ...]}, in characters of the text; .gz too
wiki_entity:FOLDER     ERNIE's released layout: files *_token and *_entity, a document a line;
                       number of sentences, then for each its length and its ids or, in the
                       other file, for each token the name of its entity or #UNK#
"""

import itertools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from data_pipeline import text_files
from errors import UserError

UNKNOWN = "#UNK#"  # the name of no entity in the released layout


class Span(NamedTuple):
    """Characters start..end-1 of a text: a mention of an entity, or without a name a phrase."""

    start: int
    end: int
    name: str | None


# Of a sentence that is tokenized already: its ids, and the name at each of them.
Sentence = tuple[tuple[int, ...], tuple[str, ...]]
# id, text, its spans; or of a text that is tokenized already its sentences
Documents = Iterator[tuple[str, str, tuple[Span, ...], tuple[Sentence, ...]]]


def read_json(path: pathlib.Path, argument: str) -> Documents:
    """Reads annotated JSON, a document a line.

    Raises:
      UserError: for what is not of this form, and for offsets outside of the text.
    """
    del argument
    for number, row, where in text_files.read_rows(path):
        text_files.require_field("text", list(row), where)
        text = text_files.as_text(row["text"], "text", where)
        spans = [_span(x, text, "entities", 3, where) for x in row.get("entities") or ()]
        spans += [_span(x, text, "phrases", 2, where) for x in row.get("phrases") or ()]
        yield f"{path.name}:{number}", text, tuple(spans), ()


def _span(value, text, field, size, where):
    if not isinstance(value, list) or len(value) != size:
        form = "[start, end, name]" if size == 3 else "[start, end]"
        raise UserError(f"{where} has {value!r} among its {field}: give {form} for each.")
    return Span(*offsets(value[0], value[1], text, where), str(value[2]) if size == 3 else None)


def offsets(start: object, end: object, text: str, where: str) -> tuple[int, int]:
    """Returns the offsets of a mention.

    Raises:
      UserError: if they are not those of characters of the text.
    """
    if isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= len(text):
        return start, end
    raise UserError(
        f"{where} has the offsets {start!r} to {end!r}, outside of its text of {len(text)} "
        "characters: correct them."
    )


def read_wiki(path: pathlib.Path, argument: str) -> Documents:
    """Reads a *_token file of ERNIE's released layout, and its *_entity file.

    Raises:
      UserError: where the two do not tell the same sentences.
    """
    del argument
    files = (text_files.lines(file) for file in (path, beside(path)))
    pairs = itertools.zip_longest(*files, fillvalue="")
    for number, (tokens, names) in enumerate(pairs, 1):
        sentences = tuple(_sentences(tokens.split(), names.split(), f"{path} line {number}"))
        if sentences:
            yield f"{path.name}:{number}", tokens, (), sentences


def beside(path: pathlib.Path) -> pathlib.Path:
    """Returns the *_entity file of a *_token file.

    Raises:
      UserError: if it is not there.
    """
    other = path.with_name(path.name.replace("_token", "_entity"))
    if other == path or not other.exists():
        raise UserError(f"{path} has no file of entities beside it: put {other.name} there.")
    return other


def _sentences(tokens: list[str], names: list[str], where: str) -> Iterator[Sentence]:
    wrong = UserError(
        f"{where} and the line of its entities do not tell the same sentences: make both again."
    )
    if not all(token.isdigit() for token in tokens) or names[:1] != tokens[:1]:
        raise wrong
    at = 1
    for _ in range(int(tokens[0]) if tokens else 0):
        end = at + 1 + int(tokens[at]) if at < len(tokens) else len(tokens) + 1
        if names[at : at + 1] != tokens[at : at + 1] or end > min(len(tokens), len(names)):
            raise wrong
        if end > at + 1:
            yield tuple(map(int, tokens[at + 1 : end])), tuple(names[at + 1 : end])
        at = end
