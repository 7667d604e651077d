"""A class, a number or a choice for each row (BERT, sections 4.1 and 4.4; run_classifier.py)."""

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array, Float

from model import heads, layers, transformer


class Classification(nn.Module):
    """Pooler, dropout and a linear layer on the first token of each row.

    The pooler is that of pre-training, under the same name, so that `init_from` fills it; the
    linear layer is not, and is called otherwise than the pre-training head `classifier`. One class
    means regression: the layer's output times `scale` is the score as it stands in the data, and
    the loss is the squared error before this scaling. Without classes a row has G sequences side by
    side in equal parts, whose first tokens `pair_positions` [B G] names: each is read alone and
    gets a score, and the softmax is over those that are there.
    """

    network: nn.Module
    classes: int  # C; 1: regression; 0: the sequences of a row are the classes
    dropout: float
    scale: float = 1.0  # of a regression
    several: bool = False  # whether a row may have several of the classes, or none

    @property
    def weights(self) -> Mapping[str, float]:
        """The factor of a regression's term, which is measured in the score's own unit."""
        return {"mse": self.scale**-2}

    def setup(self):
        """Declares the heads."""
        config, types = self.network.config, self.network.types
        self.pooler = heads.Pooler(config, types)
        self.drop = layers.Dropout(self.dropout)
        self.task_classifier = heads.Classifier(max(self.classes, 1), config, types)

    def __call__(self, batch, *, train: bool):
        """Returns the loss term and further metrics; not in training, the predictions by row."""
        judge = heads.judge_several if self.several else heads.judge
        return judge(self.predict(batch, train=train)["logits"], batch, train=train)

    def predict(self, batch, *, train: bool = False) -> dict[str, Float[Array, "..."]]:
        """Returns `logits` [B C]; for regression [B 1], the score itself; of choices [B G]."""
        hidden = heads.read_parts(self.network, batch, train=train)
        pooled = self.pooler(heads.gather(hidden, batch["pair_positions"]))
        logits = self.task_classifier(self.drop(pooled, train=train))  # [B G C]
        if not self.classes:
            return {"logits": heads.of_choices(logits[..., 0], batch)}
        return {"logits": logits[:, 0] * self.scale if self.classes == 1 else logits[:, 0]}

    def flops(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Returns the operations of a step's products, forward and backward, from field shapes."""
        config, (rows, length) = self.network.config, shapes["tokens"]
        parts = shapes["pair_positions"][1]
        head = 2.0 * rows * parts * config.width * (config.width + max(self.classes, 1))
        return 3 * (transformer.flops(config, rows * parts, length // parts) + head)
