"""All that a run carries from one step to the next, and its sharded creation."""

from collections.abc import Mapping

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from model import batch as batch_lib
from training import sharding


@flax.struct.dataclass
class TrainState:
    """Nothing else is carried: the randomness of a step is fold_in(key, step)."""

    step: Int[Array, ""]
    params: PyTree
    opt_state: PyTree


class Init:
    """Creates a state; `abstract` describes it without making it."""

    def __init__(self, objective: nn.Module, optimizer: optax.GradientTransformation, example):
        """Takes one row of every batch field, whose values do not matter."""
        self._objective, self._optimizer = objective, optimizer
        self._example = {name: np.asarray(value)[None] for name, value in example.items()}

    def __call__(self, key: Array) -> TrainState:
        """Returns a fresh state with its axis names still boxed."""
        params = self._objective.init({"params": key}, self._example, train=False)["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, self._optimizer.init(params))

    def abstract(self, mesh: Mesh, rules) -> TrainState:
        """Returns shapes with shardings, unboxed; no memory is used."""
        boxed = jax.eval_shape(self, jax.random.key(0))
        shardings = sharding.state_shardings(boxed, mesh, rules)
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            unbox(boxed),
            shardings,
        )

    def sharded(self, key: Array, abstract: TrainState) -> TrainState:
        """Makes the state in place: no device ever holds more than its own part."""
        shardings = jax.tree.map(lambda x: x.sharding, abstract)
        return jax.jit(lambda k: unbox(self(k)), out_shardings=shardings)(key)


def unbox(tree: PyTree) -> PyTree:
    """Takes the axis names off, without the constraints that flax's own `unbox` would add."""
    return jax.tree.map(
        lambda x: x.value if isinstance(x, nn.Partitioned) else x,
        tree,
        is_leaf=lambda x: isinstance(x, nn.Partitioned),
    )


def count_parameters(objective: nn.Module, example: Mapping[str, np.ndarray]) -> int:
    """Returns the number of parameters, from shapes alone.

    Args:
      objective: any objective.
      example: one row of every batch field.
    """
    batch_lib.check({name: np.asarray(value)[None] for name, value in example.items()})
    init = Init(objective, optax.identity(), example)
    params = unbox(jax.eval_shape(init, jax.random.key(0)).params)
    return sum(x.size for x in jax.tree.leaves(params))
