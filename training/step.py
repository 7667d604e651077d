"""The one train step and the one evaluation step, for every objective of the house."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from model import losses
from training import guard
from training import optimizer as optimizer_lib
from training import state as state_lib

Metrics = dict[str, Array]


def make_train_step(
    objective: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[Array], Array],
    microbatches: int,
    frozen: Callable[[str], bool] = lambda path: False,
) -> Callable[
    [state_lib.TrainState, dict[str, Array], Array], tuple[state_lib.TrainState, Metrics]
]:
    """Returns train_step(state, batch, key) -> (state, metrics), not yet compiled.

    Args:
      objective: maps a batch to loss terms and metrics, see model/objectives.
      optimizer: from training/optimizer.py.
      schedule: the learning rate by step, for the log. The optimizer's own stands still in a step
        that guard.py skips.
      microbatches: slices of the batch that run one after another, their gradients summed. The
        last ones are left out where they hold no token (data_pipeline/loader.py, `Sizes`).
      frozen: whether the parameter at a path stands still, so that no gradient is computed for it.
    """

    def loss_fn(params, batch, key, weights=None):
        """The loss with each term divided by its weight over the whole batch; None: this is it."""
        params = optimizer_lib.map_with_path(
            lambda path, p: jax.lax.stop_gradient(p) if frozen(path) else p, params
        )
        terms, metrics = objective.apply(
            {"params": params}, batch, train=True, rngs={"dropout": key}
        )
        weights = weights or {name: term.weight for name, term in terms.items()}
        means = {n: term.total / jnp.maximum(weights[n], 1e-9) for n, term in terms.items()}
        return losses.combine(means, objective.weights), (terms, metrics)

    def term_weights(params, batch):
        """Weights of the terms over the whole batch. XLA drops the unused forward pass."""
        terms, _ = objective.apply({"params": params}, batch, train=False)
        return {name: term.weight for name, term in terms.items()}

    grad_fn = jax.grad(loss_fn, has_aux=True)
    optimizer = optax.with_extra_args_support(optimizer)  # the loss is for guard.py

    def accumulate(params, batch, key):
        """Gradients and totals over the microbatches."""
        if microbatches == 1:
            return grad_fn(params, batch, key)
        weights = term_weights(params, batch)
        # Microbatch m takes rows m, m + M, ...: every device keeps its own rows.
        slices = jax.tree.map(
            lambda x: jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0), batch
        )

        def one(index):
            part = jax.tree.map(lambda x: x[index], slices)
            return grad_fn(params, part, jax.random.fold_in(key, index), weights)

        def add(index, total):
            return jax.tree.map(jnp.add, total, one(index))

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, 0))
        # A batch that still grows ends in microbatches of padding alone, which cost nothing.
        real = (slices["segment_ids"] > 0).any(axis=(1, 2))
        used = jnp.max(jnp.where(real, jnp.arange(microbatches) + 1, 0))
        return jax.lax.fori_loop(0, used, add, zeros)

    def train_step(state, batch, key):
        """Returns the next state and this step's metrics as scalars."""
        gradients, totals = accumulate(state.params, batch, jax.random.fold_in(key, state.step))
        metrics = summarize(*totals, objective.weights)
        updates, opt_state = optimizer.update(
            gradients, state.opt_state, state.params, value=metrics["loss"]
        )
        params = optax.apply_updates(state.params, updates)
        metrics |= guard.metrics(opt_state)
        metrics["grad_norm"] = optax.tree.norm(gradients)
        metrics["lr"] = jnp.asarray(schedule(state.step), jnp.float32)
        metrics["tokens"] = (batch["segment_ids"] > 0).sum()
        return state_lib.TrainState(state.step + 1, params, opt_state), metrics

    return train_step


def make_eval_step(objective: nn.Module) -> Callable[[PyTree, dict[str, Array]], tuple]:
    """Returns eval_step(params, batch) -> (terms, metrics), not yet divided: they add up."""

    def eval_step(params, batch):
        return objective.apply({"params": params}, batch, train=False)

    return eval_step


def summarize(
    terms: dict[str, losses.Mean], metrics: dict[str, losses.Mean], factors: Mapping[str, float]
) -> Metrics:
    """Divides every total by its weight; `loss` is the sum of the terms' means by their factors."""
    means = {name: mean.value for name, mean in {**terms, **metrics}.items()}
    return {"loss": losses.combine({name: means[name] for name in terms}, factors), **means}
