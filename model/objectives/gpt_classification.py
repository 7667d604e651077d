"""GPT-1's fine-tuning: a linear layer on the extract token, and language modeling beside it."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from model import heads, layers, losses, transformer


class GptClassification(nn.Module):
    """L = L(task) + lambda L(language model) over one or several sequences of each row (section 3).

    The sequences of a row, as many as `pair_positions` [B G] names extract tokens, lie side by side
    in equal parts of it. The network reads each alone. With classes their states are added before
    the linear layer: one sequence of a single text or an entailment, both orders of a pair whose
    similarity is asked for. Without classes every sequence is a candidate of a multiple choice: it
    gets a score, and the softmax is over those of the G candidates that are there.
    """

    network: nn.Module
    classes: int  # 1: regression; 0: the candidates of a row are the classes
    lm_weight: float  # lambda
    logit_chunks: int  # slices of tokens for which the language model's logits exist at a time
    dropout: float
    scale: float = 1.0  # of a regression, as in `Classification`

    @property
    def weights(self) -> Mapping[str, float]:
        """The factors of the terms."""
        return {"causal_lm": self.lm_weight, "mse": self.scale**-2}

    def setup(self):
        """Declares the head; the language model's is the token table."""
        self.drop = layers.Dropout(self.dropout)
        config, types = self.network.config, self.network.types
        self.task_classifier = heads.Classifier(max(self.classes, 1), config, types)

    def __call__(self, batch, *, train: bool):
        """Returns the loss terms and further metrics; not in training, the predictions by row.

        Reads the fields of the task and, for the language model, targets and weights [B T].
        """
        hidden = heads.read_parts(self.network, batch, train=train)
        logits = self._logits(hidden, batch, train=train)
        terms, metrics = heads.judge(logits, batch, train=train)
        if self.lm_weight:
            terms["causal_lm"] = self._language_model(hidden, batch)
        return terms, metrics

    def _language_model(self, hidden, batch):
        """The mean over the tokens of each sequence, then over the sequences (train.py)."""
        rows, sequences = batch["pair_positions"].shape
        parts = batch["weights"].reshape(rows * sequences, -1)
        share = parts / jnp.maximum(parts.sum(-1, keepdims=True), 1e-9)
        weights = share.reshape(batch["weights"].shape)

        def score(hidden, targets, weights):
            logits = self.network.logits(hidden).astype(jnp.float32)
            logits = nn.with_logical_constraint(logits, ("act_batch", "act_length", "act_vocab"))
            return (losses.mean(losses.cross_entropy(logits, targets), weights),)

        return losses.in_chunks(score, self.logit_chunks, hidden, batch["targets"], weights)[0]

    def predict(self, batch, *, train: bool = False) -> dict[str, Float[Array, "..."]]:
        """Returns `logits` [B C]; for regression [B 1], the score itself; of candidates [B G]."""
        hidden = heads.read_parts(self.network, batch, train=train)
        return {"logits": self._logits(hidden, batch, train=train)}

    def _logits(self, hidden, batch, *, train):
        states = heads.gather(hidden, batch["pair_positions"])
        # One mask for all sequences of a row, as in the released code.
        states = states * self.drop(jnp.ones_like(states[:, :1]), train=train)
        if self.classes:
            logits = self.task_classifier(states.sum(1))
            return logits * self.scale if self.classes == 1 else logits
        return heads.of_choices(self.task_classifier(states)[..., 0], batch)

    def flops(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Returns the operations of a step's products, forward and backward, from field shapes."""
        config, (rows, length) = self.network.config, shapes["tokens"]
        parts = shapes["pair_positions"][1]
        head = 2.0 * rows * length * config.width * config.vocab_size if self.lm_weight else 0.0
        return 3 * (transformer.flops(config, rows * parts, length // parts) + head)
