"""TinyBERT's data augmentation (Jiao et al., Findings of EMNLP 2020, algorithm 1).

From the paper: every word has K candidates, those of a masked LM where the word is one piece of the
vocabulary, else its nearest words by word vectors; in each of N copies a word is replaced with
probability p by one of them, all alike. p = 0.4, K = 15, N = 20.

From the released code (data_augmentation.py), where the paper is silent: the masked LM reads
`[CLS] masked [SEP] original [SEP]`; the candidates are those of the original sentence, the same for
all copies; stop words and words with other characters than a-z stay; pieces `##...` are no
candidates, so fewer than K may be left, and a word without candidates stays; the original comes
first, as it is, and copies that repeat are left out, so that N is the most; a copy is written as
the tokenizer's words with spaces between them, around punctuation too.

Ours: special tokens are no candidates; a copy in which no word changed is left out; and of a pair
each text is varied while the other stays as it was. The code, by mistake, keeps the last variant of
the first text while it varies the second, and writes the original once more.

Letters: `B` texts, `W` words of a text, `N` copies.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import flax.linen as nn
import numpy as np
from jaxtyping import PyTree
from tokenizers import normalizers, pre_tokenizers

from data_pipeline import noise, tokenizers
from data_pipeline.tasks import glue
from errors import UserError
from evaluation import fill_mask, word_vectors

CHUNK = 256  # examples whose words are looked up together
# The English list of NLTK, which is the code's; what basic tokenization never yields is left out.
STOP_WORDS = frozenset(
    """
    a about above after again against ain all am an and any are aren as at be because been before
    being below between both but by can couldn d did didn do does doesn doing don down during each
    few for from further had hadn has hasn have haven having he her here hers herself him himself
    his how i if in into is isn it its itself just ll m ma me mightn more most mustn my myself needn
    no nor not now o of off on once only or other our ours ourselves out over own re s same shan she
    should shouldn so some such t than that the their theirs them themselves then there these they
    this those through to too under until up ve very was wasn we were weren what when where which
    while who whom why will with won wouldn y you your yours yourself yourselves
    """.split()
)


class Settings(NamedTuple):
    """The numbers of the algorithm; the defaults are the paper's."""

    replace: float = 0.4  # p_t, the probability that a word is replaced
    candidates: int = 15  # K
    copies: int = 20  # N_a
    seed: int = 0

    def check(self) -> None:
        """Raises a UserError for numbers that make no sense."""
        if not 0 <= self.replace <= 1:
            raise UserError(f"replace={self.replace} must be between 0 and 1.")
        if self.candidates < 1 or self.copies < 1:
            raise UserError("candidates and copies must be at least 1.")


class Words(NamedTuple):
    """A text in words, and by place what each may become; words that stay are not there."""

    words: list[str]
    candidates: dict[int, list[str]]


class CandidateFinder:
    """Finds the candidates of all words of some texts."""

    def __init__(
        self,
        objective: nn.Module,
        params: PyTree,
        tokenizer: tokenizers.Tokenizer,
        vectors: word_vectors.WordVectors | None = None,
        batch_size: int = 64,
    ):
        """Takes a masked LM and word vectors; None: the model's own token embeddings.

        Raises:
          UserError: for a vocabulary that has no words.
        """
        if tokenizer.kind != "wordpiece":
            raise UserError(
                f"Words are replaced by pieces of a WordPiece vocabulary, not of {tokenizer.kind}: "
                "give a BERT."
            )
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be at least 1.")
        self._model = (objective, params, tokenizer)
        self._tokenizer = tokenizer
        self._positions = objective.network.config.max_positions
        self._batch_size = batch_size
        if vectors is None:
            table = np.asarray(params["network"]["embedder"]["tokens"]["table"], np.float32)
            vectors = word_vectors.from_embeddings(table, tokenizer)
        self._vectors = vectors
        self._normalizer = normalizers.BertNormalizer(lowercase=tokenizer.lowercase)
        self._splitter = pre_tokenizers.BertPreTokenizer()

    def find(self, texts: Sequence[str], count: int) -> list[Words]:
        """Returns the words of each text with at most `count` candidates."""
        found = [Words(self._split(text), {}) for text in texts]
        queries = []  # (length of the row, text, place of the word, row, place of the mask, first)
        for i, (words, candidates) in enumerate(found):
            pieces = self._tokenizer.encode_batch(words)
            starts = np.cumsum([1, *map(len, pieces)])  # behind [CLS]
            for place, word in enumerate(words):
                if not re.fullmatch("[a-z]+", word.lower()) or word.lower() in STOP_WORDS:
                    continue
                if len(pieces[place]) > 1:
                    candidates[place] = self._vectors.nearest(word, count)
                elif starts[place] < self._positions:  # what the model cannot see stays
                    queries.append(self._query(i, place, pieces, int(starts[place])))
        queries.sort(key=lambda query: query[0])  # rows of a batch are of similar length
        for start in range(0, len(queries), self._batch_size):
            _, owners, places, rows, masks, firsts = zip(
                *queries[start : start + self._batch_size], strict=True
            )
            best = self._best(rows, masks, firsts, count)
            for owner, place, tokens in zip(owners, places, best, strict=True):
                found[owner].candidates[place] = tokens
        return [
            Words(words, {place: c for place, c in sorted(candidates.items()) if c})
            for words, candidates in found
        ]

    def _split(self, text: str) -> list[str]:
        """BERT's basic tokenization."""
        text = self._normalizer.normalize_str(text)
        return [word for word, _ in self._splitter.pre_tokenize_str(text)]

    def _query(self, text, place, pieces, mask):
        t = self._tokenizer
        ids = list(itertools.chain.from_iterable(pieces))
        row = [t.cls_id, *ids, t.sep_id, *ids, t.sep_id][: self._positions]
        row[mask] = t.mask_id
        return len(row), text, place, row, [mask], min(len(ids) + 2, len(row))

    def _best(self, rows, masks, firsts, count):
        """Returns the likeliest whole words at the mask of each row."""
        objective, params, t = self._model
        count = min(count, t.vocab_size)
        _, ids = fill_mask.best_pieces(
            objective, params, t, rows, masks, count, firsts=firsts, size=self._batch_size
        )
        dropped = t.continues_word.copy()
        dropped[list(t.special_ids)] = True
        return [[t.id_to_token(i) for i in row if not dropped[i]] for row in ids[:, 0]]


def variants(text: Words, key: np.ndarray, settings: Settings) -> list[list[str]]:
    """Returns the different copies of a text, as words, without the text itself.

    Args:
      text: with candidates.
      key: uint64 [1]; the copies are a pure function of it.
      settings: the numbers.
    """
    places = list(text.candidates)
    keys = noise.fold_in(np.repeat(key, settings.copies), np.arange(settings.copies))
    draws = noise.uniform(keys, 2 * len(places))  # [N 2W]
    seen, copies = {tuple(text.words)}, []
    for draw, choice in zip(draws[:, : len(places)], draws[:, len(places) :], strict=True):
        copy = list(text.words)
        for place, p, c in zip(places, draw, choice, strict=True):
            if p < settings.replace:
                candidates = text.candidates[place]
                copy[place] = candidates[int(c * len(candidates))]
        if tuple(copy) not in seen:
            seen.add(tuple(copy))
            copies.append(copy)
    return copies


def augment(
    task: glue.Task, table: glue.Table, finder: CandidateFinder, settings: Settings
) -> Iterator[list[str]]:
    """Yields the fields of every example of a task's file, each followed by its copies.

    Args:
      task: whose columns of text are varied, one at a time.
      table: the file.
      finder: of the candidates.
      settings: the numbers.

    Raises:
      UserError: for a column that is missing, and for numbers that make no sense.
    """
    settings.check()
    columns = [glue.column(table, name) for name in task.texts]
    for start in range(0, len(table.rows), CHUNK):
        rows = table.rows[start : start + CHUNK]
        texts = [row[column] for column in columns for row in rows]
        found = finder.find(texts, settings.candidates)
        for i, row in enumerate(rows):
            yield row
            for j, column in enumerate(columns):
                key = noise.make_keys(settings.seed, start + i, j)
                for words in variants(found[j * len(rows) + i], key, settings):
                    yield [*row[:column], " ".join(words), *row[column + 1 :]]
