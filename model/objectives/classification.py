"""A class or a number for each row (BERT, section 4.1; run_classifier.py)."""

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array, Float

from model import heads, layers, losses, transformer


class Classification(nn.Module):
    """Pooler, dropout and a linear layer on the first token of each row.

    The pooler is that of pre-training, under the same name, so that `init_from` fills it; the
    linear layer is not, and is called otherwise than the pre-training head `classifier`. One class
    means regression, by the squared error to the score as it stands in the data.
    """

    network: nn.Module
    classes: int  # C
    dropout: float = 0.1
    weights = losses.ONCE

    def setup(self):
        """Declares the heads."""
        config, types = self.network.config, self.network.types
        self.pooler = heads.Pooler(config, types)
        self.drop = layers.Dropout(self.dropout)
        self.task_classifier = heads.Classifier(self.classes, config, types)

    def __call__(self, batch, *, train: bool):
        """Returns the loss term and further metrics; not in training, the predictions by row."""
        return heads.judge(self.predict(batch, train=train)["logits"], batch, train=train)

    def predict(self, batch, *, train: bool = False) -> dict[str, Float[Array, "..."]]:
        """Returns `logits` [B C]; for regression [B 1], the score itself."""
        hidden = self.network(batch, train=train).hidden
        pooled = self.pooler(heads.gather(hidden, batch["pair_positions"][:, :1]))[:, 0]
        return {"logits": self.task_classifier(self.drop(pooled, train=train))}

    def flops(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Returns the operations of a step's products, forward and backward, from field shapes."""
        config, (rows, length) = self.network.config, shapes["tokens"]
        head = 2.0 * rows * config.width * (config.width + self.classes)
        return 3 * (transformer.flops(config, rows, length) + head)
