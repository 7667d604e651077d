"""Labeled tasks as texts: what T5 reads and what it answers (appendix D of its paper).

Letters: `B` rows, `T` tokens of the input, `U` of the target.
"""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import ml_collections
import numpy as np

from data_pipeline import corruption, packing, tokenizers
from data_pipeline.tasks import TASKS, Labeled, glue, squad
from errors import UserError, one_of


class Form(NamedTuple):
    """How an example of a task is written.

    Attributes:
      name: what the input begins with.
      fields: names of the texts, in the order in which they are written.
      order: which text of the example each of them is.
      answers: by class number; (): the score itself, rounded to a fifth.
    """

    name: str
    fields: tuple[str, ...]
    order: tuple[int, ...]
    answers: tuple[str, ...]


_ENTAILMENT = ("entailment", "not_entailment")
_MNLI = Form("mnli", ("hypothesis", "premise"), (1, 0), ("contradiction", "entailment", "neutral"))
# WNLI is left out, as in the paper (section 2.4).
FORMS = {
    "cola": Form("cola", ("sentence",), (0,), ("unacceptable", "acceptable")),
    "sst-2": Form("sst2", ("sentence",), (0,), ("negative", "positive")),
    "mrpc": Form("mrpc", ("sentence1", "sentence2"), (0, 1), ("not_equivalent", "equivalent")),
    "sts-b": Form("stsb", ("sentence1", "sentence2"), (0, 1), ()),
    "qqp": Form("qqp", ("question1", "question2"), (0, 1), ("not_duplicate", "duplicate")),
    "mnli": _MNLI,
    "mnli-mm": _MNLI,
    "qnli": Form("qnli", ("question", "sentence"), (0, 1), _ENTAILMENT),
    "rte": Form("rte", ("sentence1", "sentence2"), (0, 1), _ENTAILMENT),
    "ax": _MNLI,
    "boolq": Form("boolq", ("passage", "question"), (1, 0), ("False", "True")),
}
# Words and single other characters; a word has ASCII letters only, as in the released code.
_PIECES = re.compile(r"\w+|[^\w\t\n\f\r ]", re.ASCII)


def write(form: Form, example: glue.Example) -> tuple[str, str]:
    """Returns input and target, such as "cola sentence: John made ..." and "acceptable".

    The target of an example without a label is empty.
    """
    texts = (f"{field}: {example.texts[i]}" for field, i in zip(form.fields, form.order))
    if example.label is None:
        answer = ""
    elif form.answers:
        answer = form.answers[int(example.label)]
    else:
        answer = f"{round(example.label * 5) / 5:.1f}"
    return " ".join([form.name, *texts]), answer


def read_answer(form: Form, text: str) -> float:
    """Returns the class number or score that a text means; -1: none, which counts as wrong."""
    text = text.strip()
    if form.answers:
        return float(form.answers.index(text)) if text in form.answers else -1.0
    try:
        value = float(text)
    except ValueError:
        return -1.0
    return value if math.isfinite(value) else -1.0


def space_off(text: str) -> str:
    """Returns text with a space around all that is not of a word, as T5 writes SQuAD.

    That includes letters that are not ASCII (the released code, t5/data/preprocessors.py).
    """
    return " ".join(_PIECES.findall(text))


def write_question(question: str, context: str, answer: str) -> tuple[str, str]:
    """Returns input and target, such as "question: Who is it ? context: ..." and "Mr . Poe"."""
    return f"question: {space_off(question)} context: {space_off(context)}", space_off(answer)


def read_span(context: str, text: str) -> str:
    """Returns how the context writes an answer of a model; the answer itself if it has it not."""
    pieces = [match.span() for match in _PIECES.finditer(context)]
    spaced, wanted = f" {space_off(context)} ", space_off(text)
    begin = spaced.find(f" {wanted} ")
    if not wanted or begin < 0:
        return text.strip()
    first = spaced.count(" ", 0, begin)
    return context[pieces[first][0] : pieces[first + wanted.count(" ")][1]]


class Texts:
    """Rows of inputs and targets in text, each behind its end of text cut or padded.

    A record is the numbers of tokens of input and target, then these. Plays the part of a
    `rows.Pipeline` whose records are made at the start of a run.
    """

    static = True

    def __init__(self, tokenizer: tokenizers.Tokenizer, length: int, target: int):
        """Takes a vocabulary, and T and U.

        Raises:
          UserError: for a vocabulary that does not suit.
        """
        if None in (tokenizer.eot_id, tokenizer.pad_id):
            raise UserError(
                f"A task in text needs an end of text and padding, which the {tokenizer.kind} "
                "vocabulary lacks: start from a T5."
            )
        self.tokenizer, self.length, self.target_length = tokenizer, length, target
        self.codec = packing.Codec(2, tokenizer.vocab_size)

    def encode(self, pairs: Iterable[tuple[str, str]]) -> list[bytes]:
        """Returns a record for each input and target; texts that are too long lose their ends."""
        inputs, targets = (self.tokenizer.encode_batch(side) for side in zip(*pairs, strict=True))
        records = []
        for a, b in zip(inputs, targets, strict=True):
            a, b = a[: self.length - 1], b[: self.target_length - 1]
            records.append(self.codec.encode([len(a), len(b)], a, b))
        return records

    def read(self, records, keys) -> dict[str, np.ndarray]:
        """See `rows.Pipeline`; there is no noise."""
        del keys
        header, flat = self.codec.decode(records)
        width = self.length + self.target_length
        laid_out, _ = packing.layout(header, width)
        tokens = np.zeros(laid_out.shape, np.int32)
        tokens[laid_out > 0] = flat
        ends = self.tokenizer.eot_id, self.tokenizer.pad_id
        return corruption.text_to_text(
            corruption.compress(tokens, laid_out == 1, self.length, *ends),
            corruption.compress(tokens, laid_out == 2, self.target_length, *ends),
        )


class TextTask(Texts):
    """Rows of a task of FORMS."""

    def __init__(self, form: Form, tokenizer: tokenizers.Tokenizer, length: int, target: int):
        """Takes how examples are written, a vocabulary, and T and U; raises as `Texts`."""
        super().__init__(tokenizer, length, target)
        self.form = form

    def write(self, examples: Iterable[glue.Example]) -> list[bytes]:
        """Returns a record for each example."""
        return self.encode(write(self.form, example) for example in examples)


class LabeledText(Labeled, TextTask):
    """The pipeline `text_to_text`: one task in text, its labels beside it for those who score."""

    TASKS = {name: TASKS[name] for name in FORMS}

    def __init__(self, data: ml_collections.ConfigDict, tokenizer: tokenizers.Tokenizer):
        """Takes the data section of a config.

        Raises:
          UserError: for a task that has no form, or a vocabulary that does not suit.
        """
        form = FORMS[one_of("data.task in text", data.task, FORMS)]
        super().__init__(form, tokenizer, data.length, data.mixture.target_length)

    def write(self, examples: Iterable[glue.Example]) -> list[bytes]:
        """Returns a record for each example: the bits of its float32 label, then the texts."""
        examples = list(examples)
        return [
            np.float32(example.label or 0).tobytes() + record
            for example, record in zip(examples, super().write(examples), strict=True)
        ]

    def read(self, records, keys) -> dict[str, np.ndarray]:
        """Returns a row for each record; `b""` is a row of padding, of weight 0."""
        labels = np.frombuffer(b"".join(r[:4] or bytes(4) for r in records), np.float32)
        fields = super().read([record[4:] for record in records], keys)
        return fields | {"score": labels.copy(), "example_weights": _weights(records)}


class Asked(NamedTuple):
    """Some questions, and a record of each."""

    questions: squad.Questions
    records: list[bytes]


class SquadText(Texts):
    """The pipeline `squad_text`: a question and its context, and the first of its answers.

    There are no windows: a context that is too long loses its end, as in T5. v2.0 is left out, for
    T5's paper has no text that says that there is no answer.
    """

    def __init__(self, data: ml_collections.ConfigDict, tokenizer: tokenizers.Tokenizer):
        """Takes the data section of a config.

        Raises:
          UserError: for another version than v1.1, or a vocabulary that does not suit.
        """
        one_of("data.task in text", data.task, ["squad-v1.1"])
        super().__init__(tokenizer, data.length, data.mixture.target_length)

    def write(self, found: squad.Questions, *, training: bool) -> Asked:
        """Returns all questions; the target of one without answers is empty."""
        del training  # an answer need not stand where it says
        pairs = (
            write_question(
                q.text, found.contexts[q.context], q.answers[0].text if q.answers else ""
            )
            for q in found.questions
        )
        return Asked(found, self.encode(pairs))

    def read(self, records, keys) -> dict[str, np.ndarray]:
        """Returns a row for each record; `b""` is a row of padding, of weight 0."""
        return super().read(records, keys) | {"example_weights": _weights(records)}


def _weights(records):
    return np.array([len(record) > 0 for record in records], np.float32)
