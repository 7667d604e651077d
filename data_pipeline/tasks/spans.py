"""The pipeline `spans`: windows on a context, in which an answer is marked (BERT, section 4.2).

Letters: `B` rows, `T` tokens, `W` windows.
"""

from collections.abc import Iterator
from typing import NamedTuple

import ml_collections
import numpy as np
from absl import logging

from data_pipeline import alignment, packing, tokenizers
from data_pipeline.tasks import classification, squad
from errors import UserError


class Windows(NamedTuple):
    """The windows on the contexts of some questions, in their order.

    Attributes:
      questions: what they belong to.
      located: the pieces of every context.
      records: a record of each window.
      question: [W] the number of its question, rising.
      first: [W] its first piece of the context.
      size: [W] its pieces of the context.
      offset: [W] where in the row the first of them is.
    """

    questions: squad.Questions
    located: list[alignment.Located]
    records: list[bytes]
    question: np.ndarray
    first: np.ndarray
    size: np.ndarray
    offset: np.ndarray


class Spans(classification.Classification):
    """Rows `[CLS] question [SEP] window [SEP]`; for XLNet `window <sep> question <sep> <cls>`.

    A context that is too long is cut into windows that begin `data.spans.stride` pieces apart. The
    answer is a span of tokens; where the window does not hold all of it, and where there is none,
    it is that of the class token. A record is (tokens of the first segment, of all after it, where
    the window begins, its size, first and last token of the answer), then the tokens.
    """

    def __init__(self, data: ml_collections.ConfigDict, tokenizer: tokenizers.Tokenizer):
        """Takes the data section of a config.

        Raises:
          UserError: for a tokenizer or numbers that do not suit.
        """
        super().__init__(data, tokenizer)
        self.stride, self.question_length = data.spans.stride, data.spans.question_length
        if self.stride < 1 or self.question_length < 1:
            raise UserError("data.spans.stride and question_length must be at least 1.")
        if data.length < self.question_length + self.specials + 8:
            raise UserError(
                f"data.length={data.length} has no room for a window beside "
                f"data.spans.question_length={self.question_length}: raise the first or lower the "
                "second."
            )
        self.codec = packing.Codec(6, 1 << 32)

    def write(self, found: squad.Questions, *, training: bool) -> Windows:
        """Returns the windows of all questions.

        In training, a question is left out, and told, if its answer does not stand where it says.
        """
        located = self.tokenizer.locate_batch(found.contexts)
        asked = self.tokenizer.encode_batch([question.text for question in found.questions])
        records, places, left_out = [], [], []
        for number, (question, query) in enumerate(zip(found.questions, asked, strict=True)):
            pieces, answer = located[question.context], None
            if not question.impossible and question.answers:
                answer = find(found.contexts[question.context], pieces, question.answers[0])
                if answer is None and training:
                    left_out.append(question.id)
                    continue
            query = query[: self.question_length]
            room = self.length - len(query) - self.specials
            for first, size in cut(len(pieces.ids), room, self.stride):
                record, offset = self._window(query, pieces.ids, first, size, answer)
                records.append(record)
                places.append((number, first, size, offset))
        if left_out:
            logging.warning(
                "%s: %d of %d questions are not trained on, for their answer does not stand where "
                "it says; the first of them is %s.",
                *(found.source, len(left_out), len(found.questions), left_out[0]),
            )
        return Windows(found, located, records, *np.array(places, np.int64).reshape(-1, 4).T)

    def _window(self, query, pieces, first, size, answer):
        """Returns a record, and where in the row the window begins."""
        window = pieces[first : first + size]
        if self.cls_last:
            a, b = self.join(window, query)
            offset, cls = 0, len(a) + len(b) - 1
        else:
            a, b = self.join(query, window)
            offset, cls = len(a), 0
        start = end = cls
        if answer is not None and first <= answer[0] and answer[1] < first + size:
            start, end = (place - first + offset for place in answer)
        return self.codec.encode([len(a), len(b), offset, size, start, end], a, b), offset

    def read(self, records, keys) -> dict[str, np.ndarray]:
        """Returns a row for each record; `b""` is a row of padding, of weight 0."""
        del keys
        header, flat = self.codec.decode(records)
        rows = self.lay_out(header, flat)
        offset, size, start, end = (header[:, i : i + 1] for i in range(2, 6))
        places, cls = np.arange(self.length), rows["pair_positions"]
        inside = (places >= offset) & (places < offset + size)
        return rows | {
            "answer_places": (inside | (places == cls)).astype(np.int32),
            "answer_start": start[:, 0].astype(np.int32),
            "answer_end": end[:, 0].astype(np.int32),
            "label": (start == cls)[:, 0].astype(np.int32),
        }


def find(context: str, pieces: alignment.Located, answer: squad.Answer) -> tuple[int, int] | None:
    """Returns the first and the last piece that hold a character of an answer.

    None if the answer does not stand where it says, or nothing of it is in a piece.
    """
    if not squad.stands(context, answer):
        return None
    starts, ends = pieces.spans.T
    first = np.searchsorted(ends, answer.start, side="right")
    last = np.searchsorted(starts, answer.start + len(answer.text), side="left") - 1
    return (int(first), int(last)) if first <= last else None


def cut(pieces: int, room: int, stride: int) -> Iterator[tuple[int, int]]:
    """Yields the first piece and the size of each window (run_squad.py).

    Args:
      pieces: of the context.
      room: the largest size.
      stride: from one beginning to the next.
    """
    first, size = 0, min(pieces, room)
    yield first, size
    while first + size < pieces:
        first += min(size, stride)
        size = min(pieces - first, room)
        yield first, size


def most_context(first: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Returns which window of a question is to tell about each piece of its context.

    It is the one where the piece has the most context on the side where it has less; of equal ones
    the longer, then the earlier (run_squad.py).

    Args:
      first: first piece of each window [W].
      size: pieces of each window [W].

    Returns:
      The number of a window for each piece.
    """
    pieces = np.arange((first + size).max(initial=0))
    left = pieces - first[:, None]
    right = (first + size - 1)[:, None] - pieces
    score = np.minimum(left, right) + 0.01 * size[:, None]
    return np.where((left >= 0) & (right >= 0), score, -np.inf).argmax(axis=0)
