"""From annotated documents to annotated tokens.

Annotations come with a document (annotated_files.py), or are names that are found in its text. In
tokens they are two columns beside the ids: the number of the entity whose mention begins there (0
elsewhere, also in the rest of a mention: ERNIE, section 3.3), and one of `MARKS`.
"""

import dataclasses
import functools
import itertools
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from data_pipeline import entities as entity_lists
from data_pipeline import files, sources, tokenizers
from data_pipeline import sentences as sentence_rules
from data_pipeline.annotated_files import UNKNOWN, Span
from errors import UserError, one_of

VERSION = 2  # of the rules by which names are found

# What a token is of a span that stands together.
MARKS = {"": 0, "phrase": 1, "in phrase": 2, "entity": 3, "in entity": 4}
WAYS = ("given", "names", "none")  # how annotations are had: of config.data.entities.marks
_BEGINNING = re.compile(r"(?:[.!?:]['\"”’)]*\s|[\"“‘(\n]\s*)$")
_NEAR = 8  # characters before a word that are looked at


@functools.cache  # not at every start: it looks at all of Unicode
def _names() -> re.Pattern:
    """Returns words that begin with a capital letter, in a row; a small word may join them."""
    capital = "".join(filter(str.isupper, map(chr, range(sys.maxunicode))))
    word = rf"[{capital}][^\W_]*(?:['’-][^\W_]+)*"
    return re.compile(rf"\b{word}(?:(?: (?:of|of the|de|von|van))? {word})*")


class Annotated(NamedTuple):
    """A document in tokens."""

    text: str
    sentences: list[Sequence[int]]  # ids
    entities: np.ndarray  # of all its tokens
    marks: np.ndarray


@dataclasses.dataclass(frozen=True)
class Annotator:
    """From documents to tokens with annotations; picklable."""

    tokenizer: tokenizers.Tokenizer
    names: entity_lists.Entities
    way: str  # of WAYS

    @property
    def fingerprint(self) -> str:
        """What the annotations depend on besides text and vocabulary."""
        return f"{VERSION} {self.way} {self.names.fingerprint}"

    def read(self, documents: Sequence[sources.Document]) -> Iterator[Annotated]:
        """Yields each document that has tokens.

        Raises:
          UserError: for ids that the vocabulary does not have.
        """
        pieces = [[] if d.sentences else split(d.text) for d in documents]
        located = iter(self.tokenizer.locate_batch([s for found in pieces for _, s in found]))
        for document, found in zip(documents, pieces, strict=True):
            if document.sentences:
                yield self._given(document)
                continue
            here = list(itertools.islice(located, len(found)))
            starts = [at for at, _ in found]
            if any(len(x.ids) for x in here):
                yield self._locate(document, starts, here)

    def _locate(self, document, starts, located):
        spans = np.concatenate([x.spans + at for at, x in zip(starts, located, strict=True)])
        entities, marks = np.zeros((2, len(spans)), np.int64)
        annotations = spans_of(document, self.way)
        # Entities last: where both are, their borders count.
        for span in sorted(annotations, key=lambda s: s.name is not None):
            first = int(np.searchsorted(spans[:, 1], span.start, side="right"))
            last = int(np.searchsorted(spans[:, 0], span.end, side="left"))
            if first >= last:
                continue  # its characters are not in the vocabulary's text
            kind = "phrase" if span.name is None else "entity"
            marks[first:last] = MARKS[f"in {kind}"]
            marks[first] = MARKS[kind]
            if span.name is not None:
                entities[first:last] = 0
                entities[first] = self.names.number(span.name)
        return Annotated(
            document.text, [x.ids for x in located if len(x.ids)], entities, _mended(marks)
        )

    def _given(self, document):
        ids = [tokens for tokens, _ in document.sentences]
        largest = max(map(max, ids))
        if largest >= self.tokenizer.vocab_size:
            raise UserError(
                f"{document.id} has the token {largest}, but the vocabulary only "
                f"{self.tokenizer.vocab_size}: set data.tokenizer.path to the one it was made with."
            )
        names = [name for _, names in document.sentences for name in names]
        entities, marks = np.zeros((2, len(names)), np.int64)
        if self.way == "given":
            before = [UNKNOWN, *names[:-1]]
            for i, (name, previous) in enumerate(zip(names, before, strict=True)):
                if name != UNKNOWN:
                    same = name == previous
                    marks[i] = MARKS["in entity" if same else "entity"]
                    entities[i] = 0 if same else self.names.number(name)
        return Annotated(document.text, ids, entities, marks)


def _mended(marks):
    """Returns marks in which nothing goes on that was not begun: what is left of a cut phrase."""
    before = np.concatenate([[0], marks[:-1]])
    broken = (marks == MARKS["in phrase"]) & ~np.isin(before, (MARKS["phrase"], MARKS["in phrase"]))
    return np.where(broken, MARKS["phrase"], marks)


def split(text: str) -> list[tuple[int, str]]:
    """Returns the sentences of a text, each with the place of its first character."""
    found, end = [], 0
    for line in text.split("\n"):
        for sentence in sentence_rules.split(line):
            start = text.index(sentence, end)
            end = start + len(sentence)
            found.append((start, sentence))
    return found


def spans_of(document: sources.Document, way: str) -> Sequence[Span]:
    """Returns the annotations of a document, had in one of WAYS."""
    if way == "given":
        return document.spans
    return find_names(document.text) if way == "names" else ()


def find_names(text: str) -> list[Span]:
    """Returns what looks like a name in English: words with capital letters, in a row.

    A stand-in for an entity linker such as the paper's TAGME: equal names, whatever their case, are
    one entity. A single word at the beginning of a sentence says nothing and is left out.
    """
    found = []
    for match in _names().finditer(text):
        start = match.start()
        first = not start or _BEGINNING.search(text, max(start - _NEAR, 0), start)
        if " " not in match[0] and (first or len(match[0]) < 2):
            continue
        found.append(Span(start, match.end(), match[0].lower()))
    return found


def names_of(source: sources.Source, way: str) -> Iterator[str]:
    """Yields the name of every mention in a source."""
    for document in source.documents():
        for _, names in document.sentences:
            for name, previous in zip(names, [UNKNOWN, *names], strict=False):
                if name not in (UNKNOWN, previous):
                    yield name
        yield from (s.name for s in spans_of(document, way) if s.name is not None)


def prepare_entities(
    source: sources.Source,
    config: ml_collections.ConfigDict,
    cache: pathlib.Path,
    directory: str | os.PathLike | None,
) -> entity_lists.Entities:
    """Returns the entities of a run: its own, those that the config names, or the text's.

    Args:
      source: where the most frequent are found, unless the config names a file.
      config: `data.entities` of a config.
      cache: what was found is kept below it.
      directory: where the run keeps them; None: nowhere.

    Raises:
      UserError: for more entities than the model has, and other ones than the run began with.
    """
    one_of("data.entities.marks", config.marks, WAYS)
    own = directory and pathlib.Path(directory) / entity_lists.FILE
    if config.path is not None:
        names = entity_lists.load(config.path)
    elif not config.count or config.marks == "none":
        return entity_lists.Entities(())
    elif own and own.exists():
        return entity_lists.load(own)
    else:
        parts = {"source": source.fingerprint(), "way": config.marks, "count": config.count}
        found = cache / "entities" / files.content_hash(version=VERSION, **parts)
        with files.exclusive(found):
            if not (found / entity_lists.FILE).exists():
                frequent = entity_lists.most_frequent(names_of(source, config.marks), config.count)
                if not frequent.names:
                    raise UserError(
                        f"{source.spec} mentions no entity that data.entities.marks="
                        f"{config.marks} finds: give annotated text, or set marks to names."
                    )
                frequent.save(found)
        names = entity_lists.load(found)
    if len(names) > config.count:
        raise UserError(
            f"{config.path} names {len(names)} entities, but model.entities is {config.count}: "
            "set it to that number."
        )
    if own:
        with files.exclusive(own.parent):
            if own.exists() and entity_lists.load(own).fingerprint != names.fingerprint:
                raise UserError(
                    f"This run was started with the entities in {own}, not with data.entities."
                    f"path={config.path}: give the same path or a new --workdir."
                )
            names.save(own.parent)
    return names
