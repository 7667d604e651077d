"""Bad steps: not taken, or the end, or a way back; and what is no bad step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from errors import UserError
from training import guard


def config(**values):
    c = common.base().guard
    c.update(values)
    return c


def run(losses, gradients=None, **values):
    """Returns the parameter behind each step, and whether each was skipped."""
    optimizer = guard.wrap(optax.adam(0.1), config(**values))
    params = {"w": jnp.ones(3)}
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    found, skipped = [], []
    for i, loss in enumerate(losses):
        g = {"w": jnp.full(3, 1.0 if gradients is None else gradients[i])}
        updates, state = update(g, state, params, value=jnp.float32(loss))
        params = optax.apply_updates(params, updates)
        found.append(float(params["w"][0]))
        skipped.append(int(guard.metrics(state)["skipped"]))
    return np.array(found), skipped


def test_what_is_not_finite_is_skipped_as_if_it_had_not_been():
    nan, inf = float("nan"), float("inf")
    whole, none = run([3.0] * 4, policy="skip")
    assert none == [0] * 4
    found, skipped = run([3.0, nan, 3.0, inf, 3.0, 3.0, 3.0], [1, 1, 1, 1, nan, 1, inf],
                         policy="skip")  # fmt: skip
    assert skipped == [0, 1, 0, 1, 1, 0, 1]
    # Adam's moments and its count are those of the good steps alone.
    np.testing.assert_array_equal(found[[0, 2, 5]], whole[:3])
    np.testing.assert_array_equal(found[[1, 3, 4, 6]], whole[[0, 1, 1, 2]])


def test_a_spike_is_one_of_the_late_losses():
    losses = [9.0, *[3.0] * 30, 4.4, 3.0, 5.9, 3.0]
    _, skipped = run(losses, policy="skip", spike=1.5)
    assert [i for i, bad in enumerate(skipped) if bad] == [33]
    _, skipped = run([3.0] * 5 + [30.0] + [3.0] * 5, policy="skip", spike=1.5)
    assert not any(skipped)  # too early to tell
    _, skipped = run(losses, policy="skip")
    assert not any(skipped)


def test_without_a_guard_the_optimizer_is_the_same():
    optimizer = optax.adam(0.1)
    assert guard.wrap(optimizer, config()) is optimizer
    assert guard.wrap(optimizer, config(policy="rollback")) is optimizer
    assert guard.metrics(optimizer.init({"w": jnp.ones(3)})) == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"policy": "skipp"}, "Did you mean 'skip'"),
        ({"spike": 0.9}, "config.guard.spike=0.9 must be above 1"),
        ({"spike": float("nan")}, "config.guard.spike=nan must be above 1"),
        ({"limit": 0}, "config.guard.limit=0 must be at least 1"),
    ],
    ids=str,
)
def test_wrong_values(values, message):
    with pytest.raises(UserError, match=message):
        guard.check(config(**values))
