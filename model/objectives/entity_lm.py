"""Masked LM, next sentences, and the entities that mentions are of (ERNIE, section 3.4).

`B` rows, `T` tokens, `J` mentions in a row, `Y` width of entity vectors, `L` candidates.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import errors
from model import attention, ernie, heads, losses
from model.objectives import masked_lm

# Among which entities a mention's is to be found.
CANDIDATES = {
    "row": "those of its own row (the paper)",
    "batch": "those of all rows that are computed together (the released code)",
}


class EntityLM(masked_lm.MaskedLM):
    """The objectives of `MaskedLM`, and a denoising entity auto-encoder (dEA).

    The input tells some mentions a wrong entity, and some none (data_pipeline/noise.py); from the
    token at which a mention begins the right one is predicted, by a softmax over candidates. The
    released code counts "no entity" among these, which a mention never is. The three losses are
    added. Where the vectors are fixed, config.optim.frozen says so.
    """

    candidates: str = "row"

    def setup(self):
        """Declares the heads."""
        super().setup()
        errors.one_of("config.objective.candidates", self.candidates, CANDIDATES)
        config = self.network.config
        self.entity_key = heads.EntityKey(config.entity_width, config, self.network.types)

    def score(self, hidden: Float[Array, "B T D"], batch) -> dict[str, Float[Array, "..."]]:
        """Returns the scores of `MaskedLM`, and `entities` [B J L] for the `candidates` [B L].

        Of a batch these are [1 L]. They are different from each other; beyond the last one is 0.
        """
        keys = self.entity_key(heads.gather(hidden, batch["entity_positions"]))
        candidates = self._candidates(batch)
        vectors = self.network.knowledge.vectors(candidates)
        logits = keys.astype(jnp.float32) @ jnp.swapaxes(vectors, 1, 2)
        logits = jnp.where(candidates[:, None] > 0, logits, attention.MASKED)
        return super().score(hidden, batch) | {"entities": logits, "candidates": candidates}

    def _candidates(self, batch) -> Int[Array, "B L"]:
        """Returns the different entities of each row, or [1 L] of all."""
        targets = jnp.where(batch["entity_weights"] > 0, batch["entity_targets"], 0)
        once = lambda x: jnp.unique(x, size=x.size, fill_value=0)  # noqa: E731
        if self.candidates == "row":
            return jax.vmap(once)(targets)
        return once(targets.ravel())[None]

    def judge(self, scores: Mapping[str, Array], batch):
        """Returns the loss terms and metrics of `MaskedLM`, and those of the entities."""
        terms, metrics = super().judge(scores, batch)
        same = scores["candidates"][:, None] == batch["entity_targets"][..., None]
        logits, weights = scores["entities"], batch["entity_weights"]
        target = jnp.argmax(same, axis=-1)
        terms["entity"] = losses.mean(losses.cross_entropy(logits, target), weights)
        metrics["entity_accuracy"] = losses.mean(losses.correct(logits, target), weights)
        return terms, metrics

    def flops(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Returns the operations of a step's products, forward and backward, from field shapes."""
        config = self.network.config
        rows, mentions = shapes["entity_targets"]
        candidates = mentions * (rows if self.candidates == "batch" else 1)
        head = 2.0 * rows * mentions * config.entity_width * (config.width + candidates)
        return super().flops(shapes) + 3 * (ernie.added_flops(config, *shapes["tokens"]) + head)
