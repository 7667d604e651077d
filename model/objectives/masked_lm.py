"""Masked language modeling, and where asked a label for each pair of sentences (BERT, 3.1)."""

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array, Float

from model import heads, losses, transformer


class MaskedLM(nn.Module):
    """Predicts the masked tokens, and the label of each pair: what it means is the data's choice.

    The two losses are means of their own and are added (run_pretraining.py). BERT divides the
    first by sum(weights) + 1e-5; the 1e-5 is left out.
    """

    network: nn.Module
    sentence_pair: bool
    weights = losses.ONCE

    def setup(self):
        """Declares the heads."""
        config, types = self.network.config, self.network.types
        self.masked_lm = heads.MaskedLM(config, types)
        if self.sentence_pair:
            self.pooler = heads.Pooler(config, types)
            self.classifier = heads.Classifier(2, config, types)

    def __call__(self, batch, *, train: bool):
        """Returns the loss terms, whose means are added, and further metrics."""
        return self.judge(self.predict(batch, train=train), batch)

    def judge(self, scores: Mapping[str, Array], batch):
        """Returns what a call does, for the scores of `predict`."""
        logits, targets, weights = scores["logits"], batch["targets"], batch["weights"]
        terms = {"masked_lm": losses.mean(losses.cross_entropy(logits, targets), weights)}
        metrics = {"accuracy": losses.mean(losses.correct(logits, targets), weights)}
        if self.sentence_pair:
            logits, labels = scores["sentence_pair"], batch["pair_labels"]
            weights = batch["pair_weights"]
            terms["sentence_pair"] = losses.mean(losses.cross_entropy(logits, labels), weights)
            metrics["sentence_pair_accuracy"] = losses.mean(losses.correct(logits, labels), weights)
        return terms, metrics

    def predict(self, batch, *, train: bool = False) -> dict[str, Float[Array, "..."]]:
        """Returns `logits` [B P V] at masked_positions and `sentence_pair` [B G 2]."""
        return self.score(self.network(batch, train=train).hidden, batch)

    def score(self, hidden: Float[Array, "B T D"], batch) -> dict[str, Float[Array, "..."]]:
        """Returns what `predict` does, for the states of the network."""
        table = self.network.embedder.tokens
        masked = heads.gather(hidden, batch["masked_positions"])
        scores = {"logits": self.masked_lm(masked, table)}
        if self.sentence_pair:
            pooled = self.pooler(heads.gather(hidden, batch["pair_positions"]))
            scores["sentence_pair"] = self.classifier(pooled)
        return scores

    def flops(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Returns the operations of a step's products, forward and backward, from field shapes."""
        config = self.network.config
        rows, predictions = shapes["targets"]
        head = heads.masked_lm_flops(config, rows * predictions)
        if self.sentence_pair:
            head += 2.0 * rows * shapes["pair_labels"][1] * config.width**2
        return 3 * (transformer.flops(config, *shapes["tokens"]) + head)
