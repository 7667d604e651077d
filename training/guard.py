"""Steps that must not be taken: their loss or gradient is not finite, or the loss is a spike."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jaxtyping import Array, PyTree

import errors

POLICIES = ("stop", "skip", "rollback")
WINDOW = 20  # good steps, about, in the mean loss that a spike is measured by


class GuardState(NamedTuple):
    """The optimizer's state, and what says whether a step is good."""

    inner: Any
    mean: Array  # of the losses of late good steps
    good: Array  # how many there were, up to WINDOW
    bad: Array  # whether the last step was not taken


def check(config: ml_collections.ConfigDict) -> None:
    """Raises a UserError for a `guard` section that cannot be."""
    errors.one_of("config.guard.policy", config.policy, POLICIES)
    if config.spike and not config.spike > 1:
        raise errors.UserError(
            f"config.guard.spike={config.spike} must be above 1, times the mean loss, or 0 (none)."
        )
    if config.limit < 1:
        raise errors.UserError(f"config.guard.limit={config.limit} must be at least 1.")


def wrap(
    optimizer: optax.GradientTransformation, config: ml_collections.ConfigDict
) -> optax.GradientTransformation:
    """Makes an optimizer leave parameters and its own state as they are in a bad step.

    Its `update` needs the loss as `value`. Where bad steps end the run anyway, and spikes are not
    looked for, the optimizer stays as it is.

    Args:
      optimizer: from optimizer.py.
      config: the `guard` section; `spike`: a loss above so many times the mean of the late good
        ones is bad; 0: only what is not finite is.
    """
    if config.policy != "skip" and not config.spike:
        return optimizer
    spike = config.spike

    def init(params):
        zero = jnp.zeros((), jnp.float32)
        return GuardState(optimizer.init(params), zero, jnp.zeros((), jnp.int32), jnp.array(False))

    def update(updates, state, params=None, *, value, **_):
        value = value.astype(jnp.float32)
        bad = ~(jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(updates)))
        if spike:
            bad |= (state.good >= WINDOW) & (value > spike * state.mean)
        updates, inner = optimizer.update(updates, state.inner, params)
        updates = jax.tree.map(lambda u: jnp.where(bad, jnp.zeros_like(u), u), updates)
        inner = jax.tree.map(lambda old, new: jnp.where(bad, old, new), state.inner, inner)
        good = jnp.minimum(state.good + 1, WINDOW)
        mean = state.mean + (value - state.mean) / good
        keep = lambda old, new: jnp.where(bad, old, new)  # noqa: E731
        return updates, GuardState(inner, keep(state.mean, mean), keep(state.good, good), bad)

    return optax.GradientTransformationExtraArgs(init, update)


def metrics(opt_state: PyTree) -> dict[str, Array]:
    """Returns `skipped`, 1 after a step that was not taken; nothing without a guard."""
    if not isinstance(opt_state, GuardState):
        return {}
    return {"skipped": opt_state.bad.astype(jnp.float32)}
