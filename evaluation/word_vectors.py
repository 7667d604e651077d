"""Words and their vectors: which words lie near another one."""

import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from data_pipeline import tokenizers
from errors import UserError

GLOVE_ROWS = 100_000  # the most frequent words of a file, as TinyBERT's code reads


class WordVectors:
    """Finds the nearest words by the cosine of their vectors. Letters: `V` words, `D` width."""

    def __init__(
        self,
        words: Sequence[str],
        table: Float[np.ndarray, "V D"],
        vector_of: Callable[[str], Float[np.ndarray, "D"] | None] | None = None,
    ):
        """Takes the words that can be found, their vectors, and where others have theirs from."""
        self.words = list(words)
        self._unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
        self._index = {word: i for i, word in enumerate(self.words)}
        self._vector_of = vector_of
        self._found: dict[tuple[str, int], list[str]] = {}

    def nearest(self, word: str, count: int) -> list[str]:
        """Returns the nearest other words, the nearest first; none for a word without a vector.

        Args:
          word: as it stands in the text; where it is not among the words, its lower-case form is
            looked up. The case of a title is given to what is found.
          count: how many.
        """
        if (word, count) not in self._found:
            self._found[word, count] = self._nearest(word, count)
        return self._found[word, count]

    def _nearest(self, word: str, count: int) -> list[str]:
        index = self._index.get(word, self._index.get(word.lower()))
        vector = self._unit[index] if index is not None else None
        if vector is None and self._vector_of is not None:
            vector = self._vector_of(word)
        if vector is None:
            return []
        cosines = self._unit @ vector  # up to the length of `vector`, the same for all
        if index is not None:
            cosines[index] = -np.inf
        count = min(count, len(self.words) - (index is not None))
        order = np.argsort(-cosines, kind="stable")[:count]
        found = [self.words[i] for i in order]
        return [w.title() for w in found] if word.istitle() else found


def read_glove(path: str | os.PathLike, rows: int = GLOVE_ROWS) -> WordVectors:
    """Reads vectors in GloVe's text format, on each line a word and its numbers.

    Args:
      path: the file.
      rows: how many lines are read.

    Raises:
      UserError: for a file that cannot be read or is of another format.
    """
    words, vectors, width = [], [], 0
    try:
        with pathlib.Path(path).expanduser().open(encoding="utf-8") as file:
            for line, _ in zip(file, range(rows)):
                parts = line.rstrip("\n").split(" ")
                width = width or len(parts) - 1
                word = " ".join(parts[:-width])  # some of GloVe's words hold spaces
                vector = np.array(parts[-width:], np.float32)
                if width < 2 or not word or not np.isfinite(vector).all():
                    raise ValueError(f"line {len(words) + 1} is no word with numbers")
                words.append(word)
                vectors.append(vector)
        if not words:
            raise ValueError("it is empty")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as word vectors ({error}): give a text file of GloVe's format."
        ) from error
    return WordVectors(words, np.stack(vectors))


def from_embeddings(
    table: Float[np.ndarray, "V D"], tokenizer: tokenizers.Tokenizer
) -> WordVectors:
    """Makes vectors of a model's own token embeddings; the words are the whole-word pieces.

    A word of several pieces has the mean of their vectors, but is never found itself.

    Args:
      table: the token embeddings.
      tokenizer: the vocabulary, WordPiece.
    """
    ids = [
        i
        for i in range(tokenizer.vocab_size)
        if tokenizer.id_to_token(i).isalpha() and not tokenizer.continues_word[i]
    ]

    def mean(word):
        pieces = tokenizer.encode(word)
        return None if tokenizer.unk_id in pieces else table[pieces].mean(axis=0)

    return WordVectors([tokenizer.id_to_token(i) for i in ids], table[ids], mean)
