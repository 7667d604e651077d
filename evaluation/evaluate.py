"""Measures on held-out rows. Totals and weights are added on the device and divided once, here."""

import math
from collections.abc import Callable, Iterable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import PyTree

from data_pipeline import tokenizers
from errors import UserError
from evaluation import decoding
from model import losses
from training import step as step_lib

Means = dict[str, losses.Mean]
# From the predictions and targets of all rows that count, [B ...], to metrics.
Score = Callable[[PyTree, np.ndarray], dict[str, float]]


def make_step(
    objective: nn.Module, config: ml_collections.ConfigDict, tokenizer: tokenizers.Tokenizer
) -> Callable[[PyTree, Mapping], tuple[Means, Means]]:
    """Returns the eval_step that `evaluate` takes, not yet jitted.

    Where a task is text, the predictions by row are the tokens [B R] of greedy answers (T5, section
    3.1.2), -1 behind their ends, and the targets the class numbers or scores; of questions, which
    have neither, the tokens of the answers.

    Args:
      objective: any objective.
      config: a whole config.
      tokenizer: the run's vocabulary.
    """
    plain = step_lib.make_eval_step(objective)
    if config.data.pipeline not in ("text_to_text", "squad_text"):
        return plain
    room = config.data.mixture.target_length

    def eval_step(params, batch):
        terms, metrics = plain(params, batch)
        limits = decoding.Limits(*map(jnp.int32, (room, tokenizer.eot_id, tokenizer.vocab_size)))
        weights = batch["example_weights"]
        found = decoding.answer(objective, params, batch, weights > 0, limits, room)
        wanted = batch.get("score", batch["targets"])
        return terms, {**metrics, "rows": losses.Rows(found, wanted, weights)}

    return eval_step


def evaluate(
    eval_step: Callable[[PyTree, Mapping], tuple[Means, Means]],
    params: PyTree,
    batches: Iterable[Mapping],
    factors: Mapping[str, float] = losses.ONCE,
    score: Score | None = None,
) -> dict[str, float]:
    """Averages the terms and metrics of an objective over all predictions of all batches.

    Args:
      eval_step: (params, batch) -> (terms, metrics), as an objective returns them, whole on every
        process.
      params: its parameters.
      batches: fields of model/batch.py; rows of padding have weight 0.
      factors: the objective's `weights`, of the terms in the loss.
      score: makes the metrics of a task from the `losses.Rows` of all batches, see scoring.py.

    Returns:
      The mean of every term, and of every metric that counts anything; "loss", the terms' weighted
      sum; "perplexity", exp(loss),
      where the only term is "causal_lm"; and the metrics of the task.

    Raises:
      UserError: if there is no batch, or nothing to predict in any of them.
    """
    totals, rows = None, []
    for batch in batches:
        terms, metrics = eval_step(params, batch)
        rows += [m for m in metrics.values() if isinstance(m, losses.Rows)]
        means = terms, {k: m for k, m in metrics.items() if isinstance(m, losses.Mean)}
        totals = means if totals is None else _add(totals, means)
    if totals is None:
        raise UserError("There are no held-out rows: raise data.valid_fraction or give more text.")
    terms, metrics = jax.tree.map(float, totals)
    for name, mean in terms.items():
        if mean.weight == 0:
            raise UserError(
                f"The held-out rows hold nothing to predict for {name}: raise data.valid_fraction "
                "or give more text."
            )
    # A metric may count nothing, such as the precision of a class that is never predicted.
    means = {**terms, **{name: mean for name, mean in metrics.items() if mean.weight}}
    results = {name: mean.total / mean.weight for name, mean in means.items()}
    results["loss"] = losses.combine({name: results[name] for name in terms}, factors)
    if set(terms) == {"causal_lm"}:
        results["perplexity"] = math.exp(results["loss"])
    if score and rows:
        results |= score(*_join(rows))
    return results


def rows_of(
    eval_step: Callable[[PyTree, Mapping], tuple[Means, Means]],
    params: PyTree,
    batches: Iterable[Mapping],
) -> tuple[PyTree, np.ndarray]:
    """Returns the predictions and targets by row [B ...]; arguments are those of `evaluate`."""
    metrics = (eval_step(params, batch)[1].values() for batch in batches)
    return _join([m for values in metrics for m in values if isinstance(m, losses.Rows)])


def _join(rows: list[losses.Rows]) -> tuple[PyTree, np.ndarray]:
    """Returns the predictions and targets of all rows that count, in their order."""
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *jax.device_get(rows))
    counts = joined.weight > 0
    return jax.tree.map(lambda x: x[counts], (joined.prediction, joined.target))


@jax.jit
def _add(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, a, b)


def target_counts(rows: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Returns the weight of every token among the targets, float64 [V']; V' is the highest id + 1.

    Args:
      rows: rows or batches with `targets` and `weights`, numpy arrays of one shape.
    """
    counts = np.zeros(0)
    for row in rows:
        new = np.bincount(row["targets"].ravel(), row["weights"].ravel())
        short, counts = sorted((counts, new), key=len)
        counts = counts.copy()
        counts[: len(short)] += short
    return counts


def unigram_entropy(counts: np.ndarray) -> float:
    """Returns the entropy of the targets' own frequencies, in nats.

    It is the least loss of a model that knows how often each target occurs in these rows, but not
    where.

    Args:
      counts: from `target_counts`.
    """
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())
