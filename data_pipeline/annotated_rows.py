"""The pipeline `annotated_lm`: masked rows of text with entities and phrases (both ERNIEs).

Letters: `B` rows, `T` tokens, `J` mentions that are told in a row.
"""

import ml_collections
import numpy as np

from data_pipeline import annotations, noise, packing, rows, tokenizers
from data_pipeline import entities as entity_lists
from errors import UserError, one_of

COLUMNS = 3  # of a token: its id, the entity whose mention begins there, its mark
# What is masked as one, by its marks (Baidu's ERNIE; stage after stage, each with those before).
SPANS = {
    "": (),
    "phrase": (annotations.MARKS["in phrase"],),
    "entity": (annotations.MARKS["in phrase"], annotations.MARKS["in entity"]),
}


class AnnotatedLM(rows.MaskedLM):
    """Rows of `MaskedLM`, in which spans may be masked as one, and which may have entities.

    A record is as there, but for each token there are `COLUMNS` numbers.
    """

    annotated = True

    def __init__(
        self,
        data: ml_collections.ConfigDict,
        tokenizer: tokenizers.Tokenizer,
        names: entity_lists.Entities | None = None,
    ):
        """Takes the data section of a config, and the entities that the text may have.

        Raises:
          UserError: for a tokenizer or numbers that do not suit.
        """
        super().__init__(data, tokenizer)
        c = data.entities
        if not 0 <= c.predictions <= data.length or c.least < 0:
            raise UserError(
                f"data.entities.predictions={c.predictions} must be between 0 and data.length="
                f"{data.length}, and least={c.least} at least 0."
            )
        if min(c.replace, c.drop) < 0 or c.replace + c.drop > 1:
            raise UserError(
                f"data.entities.replace={c.replace} and drop={c.drop} must be shares of 1."
            )
        self.joined = SPANS[one_of("data.masking.spans", data.masking.spans, SPANS)]
        count = len(names) if names else 0
        self.noise = noise.Misalignment(c.replace, c.drop, c.predictions, count)
        self.least = c.least
        self.recipe |= {"least": c.least}
        self.codec = packing.Codec(3 * self.examples, max(tokenizer.vocab_size, count + 1))

    def special(self, token):
        """See `MaskedLM`."""
        return [[token] + [0] * (COLUMNS - 1)]

    def write(self, documents, rng):
        """See `Pipeline`; the documents are those of an annotated corpus."""
        cut = [(np.stack([tokens, *others], 1), sizes) for tokens, sizes, *others in documents]
        return super().write(cut, rng)

    def examples_of(self, documents, rng):
        """See `MaskedLM`: those with enough entities."""
        for example in super().examples_of(documents, rng):
            parts = [x for x in example[:2] if x is not None]
            if sum((x[:, 1] > 0).sum() for x in parts) >= self.least:
                yield example

    def read(self, records, keys):
        """See `Pipeline`."""
        header, flat = self.codec.decode(records)
        tokens, entities, marks = flat.reshape(-1, COLUMNS).T
        fields = self.rows_of(header, tokens, keys, np.isin(marks, self.joined))
        if not self.noise.predictions:
            return fields
        laid_out = np.zeros_like(fields["tokens"])
        laid_out[fields["segment_ids"] > 0] = entities
        return fields | noise.misalign(laid_out, keys, self.noise)._asdict()
