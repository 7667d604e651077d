"""All that a run carries from one step to the next, and its sharded creation."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
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

    def __init__(self, objective: nn.Module, optimizer: optax.GradientTransformation):
        """Takes what is to be trained, and how."""
        self.objective, self.optimizer = objective, optimizer

    def __call__(self, key: Array) -> TrainState:
        """Returns a fresh state with its axis names still boxed."""
        batch = batch_lib.smallest()  # no parameter's shape depends on the batch
        params = self.objective.init({"params": key}, batch, train=False)["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, self.optimizer.init(params))

    def abstract(self, mesh: Mesh, rules) -> TrainState:
        """Returns shapes with shardings, unboxed; no memory is used."""
        boxed = jax.eval_shape(lambda: self(jax.random.key(0)))  # the mesh may be one we lack
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


def count_parameters(objective: nn.Module) -> int:
    """Returns the number of an objective's parameters, from shapes alone."""
    params = jax.eval_shape(Init(objective, optax.identity()), jax.random.key(0)).params
    return sum(x.size for x in jax.tree.leaves(params))
