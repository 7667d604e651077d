"""The pipelines `choice` and `gpt_choice`: all choices of a question side by side in a row.

Each choice is a sequence of its own, in an equal part of the row: with C choices of L tokens a row
has C x L. A question with fewer choices than others of its task leaves parts empty. Letters: `B`
rows, `C` choices, `L` tokens of a choice, `T` of a row.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import ml_collections
import numpy as np

from data_pipeline import packing, tokenizers
from data_pipeline.tasks import choices, classification, gpt, published
from errors import UserError

Pair = Callable[[choices.Question, str], tuple[str, str]]
Pieces = list[tuple[list[int], list[int]]]  # the two texts of each choice


def _pair(question: choices.Question, choice: str) -> tuple[str, str]:
    """What is read before, and how it goes on: BERT on SWAG (section 4.4)."""
    if not question.context:
        return question.question, choice
    return question.context, f"{question.question} {choice}"


def _race(question: choices.Question, choice: str) -> tuple[str, str]:
    """The passage, and the question with the choice in its blanks or behind it.

    As in ALBERT's race_utils.py and fairseq's preprocess_RACE.py.
    """
    if "_" in question.question:
        return question.context, question.question.replace("_", choice)
    return question.context, f"{question.question} {choice}"


def _fill(question: choices.Question, choice: str) -> tuple[str, str]:
    """What stands before the blank, and the choice with the rest (WinoGrande's own code)."""
    before, _, rest = question.context.partition("_")
    return before, choice + rest


def _answer(question: choices.Question, choice: str) -> tuple[str, str]:
    """Document and question, and the answer (GPT-1, section 3.3)."""
    return f"{question.context} {question.question}", choice


# How the choices of a task are written, where it is not the usual way of the pipeline.
PAIRS: dict[str, Pair] = {"race": _race, "race-middle": _race, "race-high": _race}
FILLED: dict[str, Pair] = {"winogrande": _fill}
# Tokens of question and choice: the last ones, in ALBERT's and XLNet's code; RoBERTa's too has 128.
RACE_LIMIT = 128


class _Questions:
    """What both pipelines do with a task of choices.CHOICES."""

    TASKS = choices.CHOICES

    @staticmethod
    def examples(name: str, path: published.Path, split: str) -> list[choices.Question]:
        """Reads a split, see `choices.read`."""
        return choices.read(choices.CHOICES[name], path, split)

    @staticmethod
    def classes(name: str) -> int:
        """Returns 0: the choices of a question are its classes."""
        del name
        return 0

    def write(self, questions: Iterable[choices.Question]) -> list[bytes]:
        """Returns a record for each question; a label that is not given counts as 0."""
        return [self._record(*found) for found in self._encode(list(questions))]

    def _encode(self, questions) -> Iterator[tuple[choices.Question, Pieces]]:
        """Yields each question with the pieces of its choices; a text that repeats is cut once."""
        texts = [
            [tuple(text.strip() for text in self.pair(question, x)) for x in question.choices]
            for question in questions
        ]
        once = list(dict.fromkeys(text for pairs in texts for pair in pairs for text in pair))
        ids = dict(zip(once, self.tokenizer.encode_batch(once), strict=True))
        for question, pairs in zip(questions, texts, strict=True):
            yield question, [(ids[a], ids[b]) for a, b in pairs]


class Choice(_Questions, classification.Classification):
    """Sequences `[CLS] A [SEP] B [SEP]`, in which B has the choice, as `Classification` lays out.

    `pair_positions` are the [CLS] of the choices. A record is (label; tokens of the first segment
    and of all after it, for each choice), then the tokens.
    """

    def __init__(self, data: ml_collections.ConfigDict, tokenizer: tokenizers.Tokenizer):
        """Takes the data section of a config.

        Raises:
          UserError: for a tokenizer or a length that does not suit.
        """
        super().__init__(data, tokenizer)
        self.choices = max(self.TASKS[data.task].counts)  # C
        self.pair = (PAIRS | FILLED).get(data.task, _pair)
        self.limit = RACE_LIMIT if self.pair is _race else data.length
        self.codec = packing.Codec(1 + 2 * self.choices, tokenizer.vocab_size)

    def _record(self, question, pieces):
        header, tokens = [question.label or 0], []
        for a, b in pieces:
            parts = self.join(
                *classification.truncate(a, b[-self.limit :], self.length - self.specials)
            )
            header += map(len, parts)
            tokens += parts
        return self.codec.encode(header, *tokens)

    def read(self, records: Sequence[bytes], keys: np.ndarray) -> dict[str, np.ndarray]:
        """Returns a row for each record; `b""` is a row of padding, of weight 0."""
        del keys
        header, flat = self.codec.decode(records)
        shape = len(records), self.choices  # [B C]
        laid_out = self.lay_out(header[:, 1:].reshape(-1, 2), flat)  # each choice in a row
        starts = self.length * np.arange(self.choices, dtype=np.int32)
        return {
            name: laid_out[name].reshape(len(records), -1)
            for name in ("tokens", "token_types", "segment_ids", "positions")
        } | {
            "pair_positions": laid_out["pair_positions"].reshape(shape) + starts,
            "label": header[:, 0].astype(np.int32),
            "example_weights": laid_out["example_weights"].reshape(shape)[:, 0],
        }


class GptChoice(_Questions, gpt.GptClassification):
    """Sequences `_start_ A _delimiter_ choice _classify_`, as `GptClassification` lays out.

    A record is (tokens of each sequence, the bits of the float32 label), then the tokens.
    """

    def __init__(self, data: ml_collections.ConfigDict, tokenizer: tokenizers.Tokenizer):
        """Takes the data section of a config.

        Raises:
          UserError: for a length that does not suit.
        """
        if data.length < 8:
            raise UserError(f"data.length={data.length} has no room for a choice: make it 8.")
        count = max(self.TASKS[data.task].counts)
        self._divide(count * data.length, count, tokenizer)
        self.pair = FILLED.get(data.task, _answer)

    def _record(self, question, pieces):
        cut = [classification.truncate(a, b, self.room - 3) for a, b in pieces]
        return self._join([[*a, self.tokenizer.sep_id, *b] for a, b in cut], question.label)
