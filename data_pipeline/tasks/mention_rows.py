"""The pipeline `mentions`: a text whose mentions are marked, and its classes (ERNIE, section 3.5).

`B` rows, `T` tokens, `C` classes.
"""

import logging
from collections.abc import Iterable, Sequence

import ml_collections
import numpy as np

from data_pipeline import entities as entity_lists
from data_pipeline import packing, tokenizers
from data_pipeline.tasks import classification, mentions
from errors import UserError

_PART = 4096  # texts that are encoded at a time
# [HD], [TL] and [ENT] stand on both sides of a mention; the released code writes them so. Where a
# vocabulary lacks the last one, the next serves.
SIGNS = {mentions.HEAD: ("#",), mentions.TAIL: ("$",), mentions.ENTITY: ("。", "@", "*")}


class Mentions(classification.Classification):
    """Rows `[CLS] text [SEP]` of `Classification`, with marks and with the entities of the text.

    What an entity is called is looked up in data.entities.path. With data.entities.marks=none rows
    tell none, nor for a network that has no entities. A record is
    (tokens of the first segment, of all after it, the class, or 0 and 1 for each class), then for
    each token its id and its entity.
    """

    TASKS = mentions.TASKS
    examples = staticmethod(mentions.read)

    def __init__(self, data: ml_collections.ConfigDict, tokenizer: tokenizers.Tokenizer):
        """Takes the data section of a config.

        Raises:
          UserError: for a tokenizer, a length or names of entities that do not suit.
        """
        super().__init__(data, tokenizer)
        self.task = self.TASKS[data.task]
        c = data.entities
        told = c.count and c.marks != "none"
        self.unnamed = told and c.path is None
        self.names = entity_lists.load(c.path) if told and c.path else entity_lists.Entities(())
        if len(self.names) > c.count:
            raise UserError(
                f"{c.path} names {len(self.names)} entities, but model.entities is {c.count}: set "
                "it to that number."
            )
        self.threshold = c.threshold
        self.codec = packing.Codec(2 + (self.task.classes if self.task.several else 1), 1 << 32)

    @classmethod
    def classes(cls, name):
        """Returns the classes of a task."""
        return cls.TASKS[name].classes

    def _sign(self, mark):
        pieces = (self.tokenizer.token_to_id(sign) for sign in SIGNS[mark])
        found = next((piece for piece in pieces if piece is not None), None)
        if found is None:
            raise UserError(
                f"The vocabulary has none of {' '.join(SIGNS[mark])}, which mark mentions: start "
                "from a model with another one."
            )
        return found

    def write(self, examples: Iterable[mentions.Example]) -> list[bytes]:
        """Returns a record for each example; says of how many mentions the entity is known.

        Raises:
          UserError: without the names of the model's entities, or a vocabulary without the marks.
        """
        if self.unnamed:
            raise UserError(
                "data.entities.path is not set: name the file of the model's entities, or set "
                "data.entities.marks to none for rows that tell no entity."
            )
        examples, records = list(examples), []
        for start in range(0, len(examples), _PART):
            part = examples[start : start + _PART]
            cuts = [self._cuts(example) for example in part]
            located = iter(
                self.tokenizer.locate_batch([text for found in cuts for text, _, _ in found])
            )
            records += [self._record(x, cut, located) for x, cut in zip(part, cuts, strict=True)]
        if len(self.names):
            named = [x.names for example in examples for x in (*example.linked, *example.mentions)]
            known = sum(self.names.number(*names) > 0 for names in named)
            logging.warning(
                "%s: %s of %s mentions are of an entity that the model knows.",
                self.task.name,
                f"{known:,}",
                f"{len(named):,}",
            )
        return records

    def _cuts(self, example):
        """Returns the text in parts: each with its place and the mark behind it, None at last."""
        borders = sorted(
            (place, i, self._sign(m.mark))
            for i, m in enumerate(example.mentions)
            for place in (m.start, m.end)
        )
        parts, start = [], 0
        for place, _, sign in borders:
            parts.append((example.text[start:place], start, sign))
            start = place
        return [*parts, (example.text[start:], start, None)]

    def _record(self, example, parts, located):
        ids, spans = [], []
        for (_, start, sign), found in zip(parts, located, strict=False):
            ids += found.ids.tolist()
            spans += (found.spans + start).tolist()
            if sign is not None:
                ids.append(sign)
                spans.append((0, 0))
        spans = np.array(spans, np.int64).reshape(-1, 2)
        entities = np.zeros(len(ids), np.int64)
        linked = [x for x in example.linked if x.score > self.threshold]
        for mention in (*linked, *example.mentions):
            inside = (spans[:, 1] > mention.start) & (spans[:, 0] < mention.end)
            number = self.names.number(*mention.names)
            if number and inside.any():
                entities[np.argmax(inside)] = number
        room = self.length - 2
        first, second = self.join(ids[:room])
        before = 0 if self.cls_last else 1
        columns = np.zeros((len(first) + len(second), 2), np.int64)
        columns[:, 0] = [*first, *second]
        columns[before : before + len(ids[:room]), 1] = entities[:room]
        labels = [*example.labels]
        if self.task.several:
            labels = np.isin(np.arange(self.task.classes), labels).astype(int)
        return self.codec.encode([len(first), len(second), *labels], columns.ravel())

    def read(self, records: Sequence[bytes], keys: np.ndarray) -> dict[str, np.ndarray]:
        """Returns a row for each record; `b""` is a row of padding, of weight 0."""
        del keys
        header, flat = self.codec.decode(records)
        tokens, numbers = flat.reshape(-1, 2).T
        rows = self.lay_out(header, tokens)
        entities = np.zeros_like(rows["tokens"])
        entities[rows["segment_ids"] > 0] = numbers
        rows["entities"] = entities
        if self.task.several:
            return rows | {"labels": header[:, 2:].astype(np.float32)}
        return rows | {"label": header[:, 2].astype(np.int32)}
