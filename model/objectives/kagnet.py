"""KagNet on a multiple-choice task: an encoder's statement, and a reasoner over its graph."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import errors
from model import heads, kagnet, losses, transformer

LOSSES = ("margin", "cross_entropy")
# Fields of model/batch.py that the reasoner reads.
FIELDS = (
    *("concepts", "concept_edges", "pair_question", "pair_answer"),
    *("path_pair", "path_heads", "path_relations", "path_tails"),
)


class KagNet(nn.Module):
    """score(question, choice) for each choice of a row (sections 3 and 4).

    The statement is the encoder's last state of the class token. Of a run on the same task the
    `network` comes by `init_from`, of TransE the tables of the reasoner by `data.graphs.path`.
    """

    network: nn.Module
    reasoner: Mapping  # the fields of kagnet.Config
    loss: str  # margin: on sigmoids, as in the code; cross_entropy: over the choices
    margin: float
    tune_encoder: bool  # False: its states are features, as in the code; freeze it in `optim` too
    weights = losses.ONCE

    def setup(self):
        """Declares the reasoner under a name of its own: `reasoner` is its section."""
        self.graph = kagnet.Reasoner(kagnet.Config(**self.reasoner), self.network.types)

    def __call__(self, batch, *, train: bool):
        """Returns the loss term and further metrics; not in training, the predictions by row.

        `grounded` is the share of the choices that have a pair of concepts: the others are judged
        by their statement.
        """
        logits = self.predict(batch, train=train)["logits"]
        terms, metrics = heads.judge(logits, batch, train=train)
        real = self._real(batch)
        weights = batch["example_weights"][:, None] * real
        if self.loss == "margin":
            terms = {"margin": self._margin(logits, batch, weights)}
        metrics["grounded"] = losses.mean(batch["pair_answer"][..., 0] > 0, weights)
        return terms, metrics

    def _margin(self, logits, batch, weights):
        """The mean over the wrong choices of max(0, margin - (p of the right one - p))."""
        p = jax.nn.sigmoid(logits)
        right = jnp.take_along_axis(p, batch["label"][:, None], axis=1)
        wrong = jnp.arange(p.shape[1]) != batch["label"][:, None]
        return losses.mean(jax.nn.relu(self.margin - (right - p)), weights * wrong)

    def _real(self, batch):
        ids = jnp.take_along_axis(batch["segment_ids"], batch["pair_positions"], axis=1)
        return (ids > 0).astype(jnp.float32)

    def predict(self, batch, *, train: bool = False) -> dict[str, Float[Array, "..."]]:
        """Returns `logits` [B G], and the attention over `pairs` [B G J] and `paths` [B G K]."""
        hidden = heads.read_parts(self.network, batch, train=train and self.tune_encoder)
        statement = heads.gather(hidden, batch["pair_positions"])  # [B G D]
        if not self.tune_encoder:
            statement = jax.lax.stop_gradient(statement)
        rows, choices = statement.shape[:2]
        flat = {name: batch[name].reshape(-1, *batch[name].shape[2:]) for name in FIELDS}
        found = self.graph(statement.reshape(rows * choices, -1), flat)
        score, pairs, paths = (x.reshape(rows, choices, *x.shape[1:]) for x in found)
        return {"logits": heads.of_choices(score, batch), "pairs": pairs, "paths": paths}

    def flops(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Returns the operations of a step's products, forward and backward, from field shapes."""
        encoder, (rows, length) = self.network.config, shapes["tokens"]
        parts = shapes["pair_positions"][1]
        passes = 3 if self.tune_encoder else 1
        text = passes * transformer.flops(encoder, rows * parts, length // parts)
        return text + 3 * kagnet.flops(kagnet.Config(**self.reasoner), shapes, encoder.width)


def check(options: Mapping) -> None:
    """Raises a UserError for an `objective` section that does not suit."""
    errors.one_of("config.objective.loss", options["loss"], LOSSES)
    section, known = options["reasoner"], kagnet.Config.__dataclass_fields__
    for name in section:
        errors.one_of("key in config.objective.reasoner:", name, known)
    if missing := set(known) - set(section):
        raise errors.UserError(f"config.objective.reasoner lacks {', '.join(sorted(missing))}.")
    for name in ("gcn_form", "concept_form", "path_form", "score_form"):
        errors.one_of(f"config.objective.reasoner.{name}", section[name], kagnet.FORMS)
    widths = [section[name] for name in ("entities", "relations", "width", "lstm")]
    if min(*widths, *section["gcn"], *section["pair_widths"]) < 1 or not section["pair_widths"]:
        raise errors.UserError("The sizes in config.objective.reasoner must be at least 1.")
    if options["margin"] < 0:
        raise errors.UserError("config.objective.margin must be at least 0.")
