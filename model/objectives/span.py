"""The span of a passage that answers a question, or that there is none (BERT, section 4.2 and 4.3).

`B` rows, `T` tokens, `D` width, `K` candidates for the first token, `L` for the last one of each.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import errors
from model import attention, heads, losses, transformer


class Span(nn.Module):
    """Scores of every token to be the first and the last of the answer.

    That there is no answer is the span of the class token; with `answerable` a classifier tells it.

    `head` is "independent", BERT's: two scores of each token, those of the question among them (and
    in its code those of padding, whose states mean nothing here). The others choose the last token
    given the first, of `answer_places` only: see `heads.ANSWER_FORMS`.
    """

    network: nn.Module
    head: str
    answerable: float  # the factor of the classifier's loss; 0: there is none
    dropout: float  # of the classifier
    beam: int  # the K and L best of a row that an evaluation looks at

    @property
    def weights(self) -> Mapping[str, float]:
        """The factors of the terms."""
        return {"answerable": self.answerable}

    def setup(self):
        """Declares the heads."""
        config, types = self.network.config, self.network.types
        if self.head == "independent":
            self.span = heads.Classifier(2, config, types)
        else:
            self.conditioned_span = heads.ConditionedSpan(self.head, config, types)
        if self.answerable:
            self.answerable_classifier = heads.Answerable(self.head, self.dropout, config, types)

    def __call__(self, batch, *, train: bool):
        """Returns the loss terms and metrics; not in training, the candidates by row.

        Reads answer_start, answer_end, label and example_weights [B] besides what `predict` reads.
        """
        hidden = self.network(batch, train=train).hidden
        gold, weights = (batch["answer_start"], batch["answer_end"]), batch["example_weights"]
        start = self._start(hidden, batch)
        end = self._end(hidden, gold[0][:, None], batch)[:, 0]
        nats = sum(losses.cross_entropy(*x) for x in zip((start, end), gold)) / 2
        hits = losses.correct(start, gold[0]) * losses.correct(end, gold[1])
        terms = {"span": losses.mean(nats, weights)}
        metrics = {"span_accuracy": losses.mean(hits, weights)}
        if self.answerable:
            null = self._null(hidden, start, batch, train=train)
            nats = losses.binary_cross_entropy(null, batch["label"])
            terms["answerable"] = losses.mean(nats, weights)
        if not train:
            target = jnp.stack(gold, axis=1)
            metrics["rows"] = losses.Rows(self._candidates(hidden, start, batch), target, weights)
        return terms, metrics

    def predict(self, batch) -> dict[str, Float[Array, "..."]]:
        """Returns the scores of the first token `start` [B T] and of the last one.

        `end` is [B T]; where it depends on the first token, that is the most likely one.
        `no_answer` [B] is the classifier's logit, where there is one.
        """
        hidden = self.network(batch, train=False).hidden
        start = self._start(hidden, batch)
        end = self._end(hidden, jnp.argmax(start, axis=-1)[:, None], batch)[:, 0]
        found = {"start": start, "end": end}
        if self.answerable:
            found["no_answer"] = self._null(hidden, start, batch, train=False)
        return found

    def _start(self, hidden, batch):
        """Returns float32 logits [B T]."""
        if self.head == "independent":
            return self._both(hidden, batch)[..., 0]
        return self.conditioned_span.start(hidden, batch["answer_places"])

    def _end(self, hidden, given, batch):
        """Returns float32 logits given each of some first tokens [B K]: [B K T], or [B 1 T]."""
        if self.head == "independent":
            return self._both(hidden, batch)[:, None, :, 1]
        return self.conditioned_span.end(hidden, given, batch["answer_places"])

    def _both(self, hidden, batch):
        """Returns float32 logits [B T 2]."""
        real = (batch["segment_ids"] > 0)[..., None]
        return jnp.where(real, self.span(hidden), attention.MASKED)

    def _null(self, hidden, start, batch, *, train):
        return self.answerable_classifier(hidden, start, batch["pair_positions"], train=train)

    def _candidates(self, hidden, start, batch):
        """Returns what evaluation/answers.py chooses from: of each row the best tokens and scores.

        The scores of the independent head are its logits, as in run_squad.py, and those of the
        others logarithms of probabilities, as in their code.
        """
        scores = lambda x: x if self.head == "independent" else jax.nn.log_softmax(x)  # noqa: E731
        beam = min(self.beam, start.shape[1])
        start_scores, first = jax.lax.top_k(scores(start), beam)
        end_scores, last = jax.lax.top_k(scores(self._end(hidden, first, batch)), beam)
        if self.answerable:
            null = self._null(hidden, start, batch, train=False)[:, None]
        else:
            cls = batch["pair_positions"][:, :1]
            both = scores(start), scores(self._end(hidden, cls, batch)[:, 0])
            null = jnp.concatenate([jnp.take_along_axis(x, cls, axis=1) for x in both], axis=1)
        return {
            "start": first,  # [B K]
            "start_score": start_scores,
            "end": last,  # [B K L], or [B 1 L]: the same ones for all K
            "end_score": end_scores,
            "no_answer": null,  # [B 2]: the two logits of the class token; [B 1]: the classifier's
        }

    def flops(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Returns the operations of a step's products, forward and backward, from field shapes."""
        config, (rows, length) = self.network.config, shapes["tokens"]
        head = heads.span_flops(self.head, config, rows * length)
        return 3 * (transformer.flops(config, rows, length) + head)


def check(options: Mapping) -> None:
    """Raises a UserError for an `objective` section that does not suit."""
    errors.one_of("config.objective.head", options["head"], heads.ANSWER_FORMS)
    if options["answerable"] < 0 or options["beam"] < 1:
        raise errors.UserError(
            "config.objective.answerable must be at least 0, and beam at least 1."
        )
    if options["dropout"] and not options["answerable"]:
        raise errors.UserError(
            "config.objective.dropout is that of the classifier, which answerable=0 leaves out: "
            "set it to 0."
        )
