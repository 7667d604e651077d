"""Where pieces stand in a text: spans of characters, also through a clean-up before tokenizing."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_SPACES = np.array([i for i in range(0x3001) if chr(i).isspace()])  # none comes behind these
_CHANGED = re.compile(r"\s{2,}|[^\S ]|``|''|[^\x00-\x7f]")  # by `clean`


class Located(NamedTuple):
    """The pieces of a text: ids [n], and the first and the end character of each [n 2].

    White space around a piece is not part of it. A piece may have no characters of its own, such as
    one for a mere space: it then stands before what follows.
    """

    ids: np.ndarray
    spans: np.ndarray


def locate(text: str, ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> Located:
    """Returns pieces without the white space around them, but with their accents.

    Accents of their own code point, which a vocabulary may drop, belong to what is before them.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    spaces = np.isin(codes, _SPACES)
    places = np.arange(len(codes) + 1)
    starts, ends = np.array(spans, np.int64).reshape(-1, 2).T
    starts = np.minimum(_next(np.append(~spaces, True))[starts], ends)
    # The last place at or before each that has a character other than space before it.
    before = np.maximum.accumulate(np.where(np.append(True, ~spaces), places, 0))
    ends = np.maximum(before[ends], starts)
    if not text.isascii():
        base = np.array([not unicodedata.combining(char) for char in text] + [True])
        ends = np.where(ends > starts, _next(base)[ends], ends)
    return Located(np.array(ids, np.int32), np.stack([starts, ends], axis=1).astype(np.int32))


def _next(wanted: np.ndarray) -> np.ndarray:
    """Returns for each place the first one from there on that is wanted; the last one is."""
    places = np.where(wanted, np.arange(len(wanted)), len(wanted))
    return np.minimum.accumulate(places[::-1])[::-1]


def clean(text: str) -> str:
    """Returns text with single spaces, plain double quotes and no accents.

    What ALBERT and XLNet do before SentencePiece (tokenization.py, prepro_utils.py).
    """
    text = " ".join(text.split()).replace("``", '"').replace("''", '"')
    text = unicodedata.normalize("NFKD", text)
    return "".join(c for c in text if not unicodedata.combining(c))


def read(text: str, cleans: bool, lowercase: bool) -> tuple[str, np.ndarray]:
    """Returns what a SentencePiece model reads, and where each character of that comes from.

    Args:
      text: the text.
      cleans: whether it goes through `clean`.
      lowercase: and whether it is lower-cased then.

    Returns:
      The text that is read, and for each of its characters the span [n 2] of `text`.
    """
    origins = np.arange(len(text))[:, None] + [0, 1]
    if cleans:
        text, origins = _clean_with_origins(text)
    lower = text.lower() if lowercase else text
    if len(lower) != len(text):  # few letters become two
        origins = np.repeat(origins, [len(char.lower()) for char in text], axis=0)
    return lower, origins


def _clean_with_origins(text):
    parts, origins = [], []

    def keep(start, end):
        parts.append(text[start:end])
        origins.append(np.arange(start, end)[:, None] + [0, 1])

    # A clean text neither begins nor ends in space.
    last, stop = len(text) - len(text.lstrip()), len(text.rstrip())
    for found in _CHANGED.finditer(text, last, stop):
        start, end = found.span()
        keep(last, start)
        new = " " if found[0].isspace() else clean(found[0])
        parts.append(new)
        origins.append(np.array([[start, end]] * len(new), int).reshape(-1, 2))
        last = end
    keep(last, max(last, stop))
    return "".join(parts), np.concatenate(origins)
