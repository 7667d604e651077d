"""What stands on top of a network: masked LM, replaced tokens, pooler, classification."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from model import batch as batch_lib
from model import layers, losses, transformer


def gather(hidden: Float[Array, "B T D"], positions: Int[Array, "B P"]) -> Float[Array, "B P D"]:
    """Picks P tokens of every row."""
    return jnp.take_along_axis(hidden, positions[..., None], axis=1)


def read_parts(
    network: nn.Module, batch: Mapping[str, Array], *, train: bool
) -> Float[Array, "B T D"]:
    """Returns the states of a network that reads the G equal parts of every row alone.

    Args:
      network: reads fields [B T].
      batch: with `pair_positions` [B G]: one token of each part, which says what there is to read.
      train: whether there is dropout.
    """
    parts = batch["pair_positions"].shape[1]
    fields = {
        name: x.reshape(len(x) * parts, -1)
        for name, x in batch.items()
        if batch_lib.FIELDS[name].axes == "BT"
    }
    hidden = network(fields, train=train).hidden
    return hidden.reshape(*batch["tokens"].shape, -1)


def of_choices(scores: Float[Array, "B G"], batch: Mapping[str, Array]) -> Float[Array, "B G"]:
    """Returns the logits of the choices of every row, of those that are not there -1e9.

    A choice is there if the token that stands for it is: a question may have fewer than others.
    """
    real = jnp.take_along_axis(batch["segment_ids"], batch["pair_positions"], axis=1) > 0
    return jnp.where(real, scores, -1e9)


class MaskedLM(nn.Module):
    """dense, activation, norm, then scores against the token table plus a bias per token.

    Applied to the P gathered positions only, never to all T tokens (BERT, run_pretraining.py).
    """

    config: transformer.TransformerConfig
    types: layers.Numerics

    @nn.compact
    def __call__(self, hidden: Float[Array, "B P D"], table: layers.Embed) -> Float[Array, "B P V"]:
        """Returns float32 logits; `table` is the encoder's token embedding."""
        c = self.config
        init = layers.INITIALIZERS[c.init](c.init_std)
        x = layers.Dense((table.width,), ("embed", "norm"), init, self.types, name="dense")(hidden)
        norm = layers.NORMS[c.norm](c.norm_eps, self.types, name="norm")
        x = norm(layers.ACTIVATIONS[c.activation](x))
        return _token_scores(self, x, table)


def masked_lm_flops(config: transformer.TransformerConfig, predictions: int) -> float:
    """Returns the operations of the head's products, forward."""
    return 2.0 * predictions * config.table_width * (config.width + config.vocab_size)


class TokenScores(nn.Module):
    """Scores against the token table plus a bias per token, and nothing before."""

    config: transformer.TransformerConfig

    @nn.compact
    def __call__(self, hidden: Float[Array, "B P D"], table: layers.Embed) -> Float[Array, "B P V"]:
        """Returns float32 logits; `table` is the network's token embedding."""
        return _token_scores(self, hidden, table)


def _token_scores(module, hidden, table):
    """Returns float32 logits [B P V] by the token table; the bias is a parameter of `module`."""
    zeros = nn.initializers.zeros
    bias = layers.param(module, "bias", zeros, (module.config.vocab_size,), ("vocab_table",))
    logits = table.logits(hidden).astype(jnp.float32) + bias
    return nn.with_logical_constraint(logits, ("act_batch", "act_length", "act_vocab"))


class Pooler(nn.Module):
    """tanh(dense(first token)): one vector for each packed example (BERT, modeling.py)."""

    config: transformer.TransformerConfig
    types: layers.Numerics

    @nn.compact
    def __call__(self, hidden: Float[Array, "B G D"]) -> Float[Array, "B G D"]:
        """Maps the hidden states of the [CLS] tokens."""
        c = self.config
        init = layers.INITIALIZERS[c.init](c.init_std)
        dense = layers.Dense((c.width,), ("embed", "norm"), init, self.types, name="dense")
        return jnp.tanh(dense(hidden))


class ReplacedToken(nn.Module):
    """dense, activation, one score a token: was it replaced? (ELECTRA, section 2)."""

    config: transformer.TransformerConfig
    types: layers.Numerics

    @nn.compact
    def __call__(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T"]:
        """Returns float32 logits."""
        c = self.config
        init = layers.INITIALIZERS[c.init](c.init_std)
        x = layers.Dense((c.width,), ("embed", "norm"), init, self.types, name="dense")(hidden)
        x = layers.ACTIVATIONS[c.activation](x)
        x = layers.Dense((1,), ("embed", "norm"), init, self.types, name="score")(x)
        return x[..., 0].astype(jnp.float32)


class Classifier(nn.Module):
    """A linear layer over pooled vectors."""

    classes: int
    config: transformer.TransformerConfig
    types: layers.Numerics

    @nn.compact
    def __call__(self, pooled: Float[Array, "... D"]) -> Float[Array, "... C"]:
        """Returns float32 logits."""
        init = layers.INITIALIZERS[self.config.init](self.config.init_std)
        dense = layers.Dense((self.classes,), ("embed", "norm"), init, self.types, name="dense")
        return dense(pooled).astype(jnp.float32)


def judge(logits: Float[Array, "B C"], batch: Mapping[str, Array], *, train: bool):
    """Returns the loss term and the metrics of a labeled task; a single logit is a regression's.

    Args:
      logits: of the classes, or the predicted score [B 1].
      batch: label or score, and example_weights, each [B].
      train: else the predictions by row are among the metrics.
    """
    weights = batch["example_weights"]
    if logits.shape[1] == 1:
        prediction, target = logits[:, 0], batch["score"]
        terms = {"mse": losses.mean(jnp.square(prediction - target), weights)}
        metrics = {}
    else:
        prediction, target = jnp.argmax(logits, axis=-1), batch["label"]
        terms = {"classification": losses.mean(losses.cross_entropy(logits, target), weights)}
        metrics = {"accuracy": losses.mean(losses.correct(logits, target), weights)}
    if not train:
        metrics["rows"] = losses.Rows(prediction, target, weights)
    return terms, metrics
