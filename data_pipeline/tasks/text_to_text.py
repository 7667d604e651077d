"""Labeled tasks as texts: what T5 reads and what it answers (appendix D of its paper).

Letters: `B` rows, `T` tokens of the input, `U` of the target.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from data_pipeline import corruption, packing, tokenizers
from data_pipeline.tasks import glue


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
    "boolq": Form("boolq", ("passage", "question"), (1, 0), ("False", "True")),
}


def write(form: Form, example: glue.Example) -> tuple[str, str]:
    """Returns input and target, such as "cola sentence: John made ..." and "acceptable"."""
    texts = (f"{field}: {example.texts[i]}" for field, i in zip(form.fields, form.order))
    if form.answers:
        answer = form.answers[int(example.label)]
    else:
        answer = f"{round(example.label * 5) / 5:.1f}"
    return " ".join([form.name, *texts]), answer


class TextTask:
    """Rows of a task in text, each input and target behind its end of text cut or padded.

    A record is the numbers of tokens of input and target, then these. Plays the part of a
    `rows.Pipeline` whose records are made at the start of a run.
    """

    static = True

    def __init__(self, form: Form, tokenizer: tokenizers.Tokenizer, length: int, target: int):
        """Takes how examples are written, a vocabulary, and T and U."""
        self.form, self.tokenizer = form, tokenizer
        self.length, self.target_length = length, target
        self.codec = packing.Codec(2, tokenizer.vocab_size)

    def write(self, examples: Iterable[glue.Example]) -> list[bytes]:
        """Returns a record for each example; texts that are too long lose their ends."""
        texts = zip(*(write(self.form, example) for example in examples), strict=True)
        inputs, targets = (self.tokenizer.encode_batch(side) for side in texts)
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
