"""Replaced-token detection (ELECTRA): a small generator fills masks, a discriminator finds where.

`B` rows, `T` tokens, `P` predictions per row, `D` width, `V` vocabulary.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import errors
from model import encoder, heads, layers, losses, transformer

# What the main network learns from rows that the generator has filled (section 2; table 5).
VARIANTS = {
    "electra": "of every token, whether it was replaced",
    "electra_15": "the same of the masked tokens only",
    "replace_mlm": "the original of the masked tokens, as masked LM without [MASK] in the input",
    "all_tokens": "the original of every token, with a gate that copies the input",
}
# What the generator shares with the main network (section 3.2). The paper names token and position
# embeddings; "embeddings" is the released code's, which has their normalization in common as well.
TIES = ("none", "tokens", "embeddings", "all")


class Electra(nn.Module):
    """A generator learns masked LM; the network learns from what it samples (section 2).

    Sampling is a pure function of the step, the row and the place: the same on every mesh. No
    gradient passes through a sample, so that none flows from the network back to the generator but
    what both add to shared tables.
    """

    network: nn.Module  # the discriminator; what is kept after pre-training
    variant: str
    tie: str
    generator_size: float  # of the network's heads, width and feed-forward width; depth is the same
    logit_chunks: int  # of "all_tokens": slices of tokens for which logits exist at a time
    weights: Mapping[str, float]  # of masked_lm (the generator's) and of what the network learns

    def setup(self):
        """Declares the generator and the heads."""
        config, types = self.network.config, self.network.types
        errors.one_of("config.objective.variant", self.variant, VARIANTS)
        errors.one_of("config.objective.tie", self.tie, TIES)
        small = generator_config(config, self.generator_size)
        if self.tie == "all" and small.heads != config.heads:
            raise errors.UserError(
                "config.objective.tie=all shares every weight: set config.objective.generator_size "
                f"to 1.0, not {self.generator_size}."
            )
        if self.tie != "all":
            self.generator = encoder.Encoder(small, types)
        self.masked_lm = heads.MaskedLM(small, types)
        if self.variant in ("electra", "electra_15"):
            self.replaced_token = heads.ReplacedToken(config, types)
        else:
            self.recovery = heads.MaskedLM(config, types)
        if self.variant == "all_tokens":
            init = layers.INITIALIZERS[config.init](config.init_std)
            self.copy_gate = layers.Dense((1,), ("embed", "features"), init, types)

    def __call__(self, batch, *, train: bool):
        """Returns the loss terms of both networks, and further metrics."""
        logits = self._generate(batch, train=train)
        targets, weights = batch["targets"], batch["weights"]
        terms = {"masked_lm": losses.mean(losses.cross_entropy(logits, targets), weights)}
        metrics = {"accuracy": losses.mean(losses.correct(logits, targets), weights)}

        key = self.make_rng("dropout") if self.has_rng("dropout") else jax.random.key(0)
        samples = jax.lax.stop_gradient(sample(logits, key))
        original = put(batch["tokens"], batch, targets)
        filled = put(batch["tokens"], batch, samples)
        hidden = self.network(batch | {"tokens": filled}, train=train).hidden
        learn = {"replace_mlm": self._recover, "all_tokens": self._recover_all}
        more = learn.get(self.variant, self._detect)(hidden, batch, original, filled)
        return terms | more[0], metrics | more[1]

    def _generate(self, batch, *, train):
        """Returns the generator's logits [B P V] at masked_positions."""
        network = self.network if self.tie == "all" else self.generator
        owner = network if self.tie == "none" else self.network  # of the token table
        table = owner.embedder.tokens
        if self.tie == "tokens":
            x = network.embed(batch, train=train, tokens=table)
        else:
            x = owner.embed(batch, train=train)
        hidden = network.encode(x, batch, train=train).hidden
        return self.masked_lm(heads.gather(hidden, batch["masked_positions"]), table)

    def _detect(self, hidden, batch, original, filled):
        """Replaced-token detection; a sample that happens to be the original is not replaced."""
        logits = self.replaced_token(hidden)
        labels = (filled != original).astype(jnp.float32)
        counted = batch["segment_ids"] > 0
        if self.variant == "electra_15":
            counted &= put(jnp.zeros_like(filled), batch, jnp.ones_like(batch["targets"])) > 0
        counted = counted.astype(jnp.float32)
        found = (logits > 0).astype(jnp.float32)
        loss = losses.mean(losses.binary_cross_entropy(logits, labels), counted)
        return {"replaced_token": loss}, {
            "replaced_accuracy": losses.mean(found == labels, counted),
            "replaced_precision": losses.mean(labels, counted * found),
            "replaced_recall": losses.mean(found, counted * labels),
        }

    def _recover(self, hidden, batch, original, filled):
        """Masked LM over rows whose masks are filled."""
        del original, filled
        logits = self.recovery(
            heads.gather(hidden, batch["masked_positions"]), self.network.embedder.tokens
        )
        targets, weights = batch["targets"], batch["weights"]
        loss = losses.mean(losses.cross_entropy(logits, targets), weights)
        accuracy = losses.mean(losses.correct(logits, targets), weights)
        return {"recovery": loss}, {"recovery_accuracy": accuracy}

    def _recover_all(self, hidden, batch, original, filled):
        """Predicts all tokens: p(x) = c [x is the input] + (1 - c) softmax(x), c a sigmoid."""
        table = self.network.embedder.tokens
        if self.is_initializing():
            self.recovery(hidden[:, :1], table), self.copy_gate(hidden[:, :1])

        def score(hidden, original, filled, weights):
            gate = self.copy_gate(hidden)[..., 0].astype(jnp.float32)
            logits = self.recovery(hidden, table)
            softmax = -losses.cross_entropy(logits, original) + jax.nn.log_sigmoid(-gate)
            copied = jnp.where(original == filled, jax.nn.log_sigmoid(gate), -jnp.inf)
            return (losses.mean(-jnp.logaddexp(softmax, copied), weights),)

        real = (batch["segment_ids"] > 0).astype(jnp.float32)
        inputs = (hidden, original, filled, real)
        return {"recovery": losses.in_chunks(score, self.logit_chunks, *inputs)[0]}, {}

    def predict(self, batch) -> dict[str, Array]:
        """Returns the generator's `logits` [B P V], and `replaced` [B T] of the tokens as given."""
        scores = {"logits": self._generate(batch, train=False)}
        if self.variant in ("electra", "electra_15"):
            scores["replaced"] = self.replaced_token(self.network(batch, train=False).hidden)
        return scores

    def flops(self, shapes: Mapping[str, tuple[int, ...]]) -> float:
        """Returns the operations of a step's products, forward and backward, from field shapes."""
        config = self.network.config
        small = generator_config(config, self.generator_size)
        (rows, length), predictions = shapes["tokens"], shapes["targets"][0] * shapes["targets"][1]
        forward = transformer.flops(config, rows, length) + transformer.flops(small, rows, length)
        forward += heads.masked_lm_flops(small, predictions)
        if self.variant in ("electra", "electra_15"):
            forward += 2.0 * rows * length * config.width * (config.width + 1)
        else:
            tokens = rows * length if self.variant == "all_tokens" else predictions
            forward += heads.masked_lm_flops(config, tokens)
        return 3 * forward


def generator_config(
    config: transformer.TransformerConfig, size: float
) -> transformer.TransformerConfig:
    """Returns the generator's knobs: `size` times the heads, each as wide (appendix A, table 6).

    Raises:
      UserError: for a size that is not positive.
    """
    if size <= 0:
        raise errors.UserError(f"config.objective.generator_size={size} must be above 0.")
    count = max(1, round(config.heads * size))
    return dataclasses.replace(
        config,
        embed_width=config.table_width,
        heads=count,
        width=count * config.head_width,
        mlp_width=round(config.mlp_width * count / config.heads),
    )


def sample(logits: Float[Array, "B P V"], key: Array) -> Int[Array, "B P"]:
    """Draws a token from softmax(logits) by the Gumbel-max trick; randomness by key and index."""
    uniform = (layers.hash_bits(key, logits.shape) >> 8).astype(jnp.float32) * 2.0**-24 + 2.0**-25
    return jnp.argmax(logits - jnp.log(-jnp.log(uniform)), axis=-1).astype(jnp.int32)


def put(
    tokens: Int[Array, "B T"], batch: Mapping[str, Array], values: Int[Array, "B P"]
) -> Int[Array, "B T"]:
    """Returns tokens with values at masked_positions, but for the unused ones (weight 0)."""
    nowhere = tokens.shape[1]
    places = jnp.where(batch["weights"] > 0, batch["masked_positions"], nowhere)
    return jax.vmap(lambda row, place, value: row.at[place].set(value, mode="drop"))(
        tokens, places, values
    )
