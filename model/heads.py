"""What stands on top of a network: masked LM, replaced tokens, pooler, classification, spans."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from model import attention, layers, losses, transformer
from model import batch as batch_lib


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
        return _token_scores(self, _transformed(self, hidden, table.width), table)


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


def _transformed(module, hidden, width):
    """Returns the hidden states after dense, activation and norm, which are those of `module`."""
    c = module.config
    init = layers.INITIALIZERS[c.init](c.init_std)
    x = layers.Dense((width,), ("embed", "features"), init, module.types, name="dense")(hidden)
    norm = layers.NORMS[c.norm](c.norm_eps, module.types, name="norm")
    return norm(layers.ACTIVATIONS[c.activation](x))


def _token_scores(module, hidden, table):
    """Returns float32 logits [B P V] by the token table; the bias is a parameter of `module`."""
    zeros = nn.initializers.zeros
    bias = layers.param(module, "bias", zeros, (module.config.vocab_size,), ("vocab_table",))
    logits = table.logits(hidden).astype(jnp.float32) + bias
    return nn.with_logical_constraint(logits, ("act_batch", "act_length", "act_vocab"))


class EntityKey(nn.Module):
    """dense, activation, norm: what a token says of its entity, in the space of their vectors.

    The released code of ERNIE (modeling.py); the paper, section 3.4, has the linear map alone.
    """

    width: int  # Y, of the vectors
    config: transformer.TransformerConfig
    types: layers.Numerics

    @nn.compact
    def __call__(self, hidden: Float[Array, "B J D"]) -> Float[Array, "B J Y"]:
        """Maps the states of the tokens at which mentions begin."""
        return _transformed(self, hidden, self.width)


class Pooler(nn.Module):
    """tanh(dense(first token)): one vector for each packed example (BERT, modeling.py)."""

    config: transformer.TransformerConfig
    types: layers.Numerics

    @nn.compact
    def __call__(self, hidden: Float[Array, "B G D"]) -> Float[Array, "B G D"]:
        """Maps the hidden states of the [CLS] tokens."""
        c = self.config
        init = layers.INITIALIZERS[c.init](c.init_std)
        dense = layers.Dense((c.width,), ("embed", "features"), init, self.types, name="dense")
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
        x = layers.Dense((c.width,), ("embed", "features"), init, self.types, name="dense")(hidden)
        x = layers.ACTIVATIONS[c.activation](x)
        x = layers.Dense((1,), ("embed", "features"), init, self.types, name="score")(x)
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
        dense = layers.Dense((self.classes,), ("embed", "features"), init, self.types, name="dense")
        return dense(pooled).astype(jnp.float32)


class AnswerForm(NamedTuple):
    """The hidden layer of the heads that look at two tokens at once."""

    width: int  # 0: that of the network
    activation: Callable[[Array], Array] | None  # None: that of the network
    norm: bool  # whether the last token's scores come from a normalized layer
    bias: bool  # of the score of the answerability classifier


# "independent" is BERT's head, in which the last token does not depend on the first; a classifier
# beside it (RoBERTa, section 5.2, which says no more) is XLNet's.
ANSWER_FORMS = {
    "independent": AnswerForm(0, jnp.tanh, norm=True, bias=False),
    "xlnet": AnswerForm(0, jnp.tanh, norm=True, bias=False),  # and ALBERT on SQuAD v2.0
    "electra": AnswerForm(512, None, norm=False, bias=True),  # finetune/qa/qa_tasks.py
}


class _PairLayer(nn.Module):
    """activation(dense([x, y])); y may be fewer tokens, for which the product is made once."""

    form: AnswerForm
    config: transformer.TransformerConfig
    types: layers.Numerics

    @nn.compact
    def __call__(self, x: Float[Array, "... D"], y: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """Maps the pairs of x and y, which are broadcast."""
        c = self.config
        init = layers.INITIALIZERS[c.init](c.init_std)
        features, axes = (self.form.width or c.width,), ("embed", "features")
        dense = layers.Dense(features, axes, init, self.types, name="x")
        other = layers.Dense(features, axes, init, self.types, bias=False, name="y")
        activation = self.form.activation or layers.ACTIVATIONS[c.activation]
        return activation(dense(x) + other(y)).astype(self.types.compute)


class ConditionedSpan(nn.Module):
    """The first token of an answer, and given that the last one (XLNet and ELECTRA, their code)."""

    form: str  # of ANSWER_FORMS
    config: transformer.TransformerConfig
    types: layers.Numerics

    def setup(self):
        """Declares the layers."""
        c, form = self.config, ANSWER_FORMS[self.form]
        self.first = Classifier(1, c, self.types)
        self.pair = _PairLayer(form, c, self.types)
        self.norm = layers.Norm(c.norm_eps, self.types) if form.norm else lambda x: x
        self.last = Classifier(1, c, self.types)

    def start(
        self, hidden: Float[Array, "B T D"], places: Int[Array, "B T"]
    ) -> Float[Array, "B T"]:
        """Returns float32 logits, very low outside of `places`."""
        return jnp.where(places > 0, self.first(hidden)[..., 0], attention.MASKED)

    def end(
        self,
        hidden: Float[Array, "B T D"],
        given: Int[Array, "B K"],
        places: Int[Array, "B T"],
    ) -> Float[Array, "B K T"]:
        """Returns the same for the last token, for each of some first ones."""
        chosen = gather(hidden, given)

        def score(k):  # one by one: the hidden layer of all would be [B K T F]
            logits = self.last(self.norm(self.pair(hidden, chosen[:, k, None])))[..., 0]
            return jnp.where(places > 0, logits, attention.MASKED)

        return jnp.stack([score(k) for k in range(given.shape[1])], axis=1)


class Answerable(nn.Module):
    """Whether a question has no answer, by the class token and where an answer may begin.

    score(drop(activation(dense([class token, the states weighted by the probability to begin])))).
    """

    form: str  # of ANSWER_FORMS
    dropout: float
    config: transformer.TransformerConfig
    types: layers.Numerics

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "B T D"],
        start: Float[Array, "B T"],
        cls: Int[Array, "B 1"],
        *,
        train: bool,
    ) -> Float[Array, "B"]:
        """Returns float32 logits; `start` holds those of the first token."""
        c, form = self.config, ANSWER_FORMS[self.form]
        p = jax.nn.softmax(start, axis=-1)
        begins = jnp.einsum("bt,btd->bd", p, hidden.astype(jnp.float32)).astype(hidden.dtype)
        x = _PairLayer(form, c, self.types, name="pair")(gather(hidden, cls)[:, 0], begins)
        x = layers.Dropout(self.dropout)(x, train=train)
        init = layers.INITIALIZERS[c.init](c.init_std)
        score = layers.Dense((1,), ("embed", "features"), init, self.types, form.bias, name="score")
        return score(x)[..., 0].astype(jnp.float32)


def span_flops(form: str, config: transformer.TransformerConfig, tokens: int) -> float:
    """Returns the operations of a span head's products, forward, in training."""
    if form == "independent":
        return 2.0 * tokens * config.width * 2
    hidden = ANSWER_FORMS[form].width or config.width
    return 2.0 * tokens * (config.width * (1 + hidden) + hidden)


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


def judge_several(logits: Float[Array, "B C"], batch: Mapping[str, Array], *, train: bool):
    """Returns what `judge` does, where a row may have several classes, or none.

    A class is predicted where its probability is above a half; each has a loss of its own, of which
    a row has the mean (ERNIE, run_typing.py).

    Args:
      logits: of the classes.
      batch: labels [B C] and example_weights [B].
      train: else the predictions by row are among the metrics.
    """
    labels, weights = batch["labels"], batch["example_weights"]
    loss = losses.binary_cross_entropy(logits, labels).mean(axis=-1)
    found = (logits > 0).astype(jnp.float32)
    metrics = {"accuracy": losses.mean((found == labels).all(axis=-1), weights)}
    if not train:
        metrics["rows"] = losses.Rows(found, labels, weights)
    return {"typing": losses.mean(loss, weights)}, metrics
