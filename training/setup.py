"""What a config says about training, built: for a run (train.py) and for a plan of one alike."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import flax.linen as nn
import jax
import ml_collections
from jax.sharding import Mesh
from jaxtyping import Array

from data_pipeline import loader
from model import objectives
from training import guard, optimizer, paths, sharding, warm_start
from training import state as state_lib
from training import step as step_lib


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts of a train step, and where its arrays lie."""

    mesh: Mesh
    rules: tuple  # where each logical axis lies on the mesh
    sizes: loader.Sizes
    microbatches: int
    objective: nn.Module
    schedule: Callable[[Array], Array]
    init: state_lib.Init
    # Whether the parameter at a path stands still.
    frozen: Callable[[str], bool] = lambda path: False

    @contextlib.contextmanager
    def placed(self) -> Iterator[None]:
        """In it, arrays and their constraints lie on the mesh by the rules."""
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(self.rules):
            yield

    def abstract(self) -> state_lib.TrainState:
        """Returns shapes and shardings of the state."""
        return self.init.abstract(self.mesh, self.rules)

    def train_step(self, abstract: state_lib.TrainState) -> Callable:
        """Returns the step of step.py, for jax to compile at its first call, or by `lower`.

        Args:
          abstract: of the state, which stays where it is; its memory is used again.
        """
        step = step_lib.make_train_step(
            self.objective, self.init.optimizer, self.schedule, self.microbatches, self.frozen
        )
        return self.jitted(step, abstract)

    def jitted(self, step: Callable, abstract: state_lib.TrainState) -> Callable:
        """Returns step(state, batch, key) -> (state, metrics), jitted for this mesh.

        Args:
          step: a pure function.
          abstract: see `train_step`.
        """
        return jax.jit(
            step,
            donate_argnums=0,
            out_shardings=(
                jax.tree.map(lambda x: x.sharding, abstract),
                sharding.replicated(self.mesh),
            ),
        )


def prepare(
    config: ml_collections.ConfigDict,
    devices: Sequence[jax.Device] | None = None,
    *,
    without_weights: bool = False,
) -> Setup:
    """Builds the parts, and completes the config by the weights that it starts from.

    Args:
      config: a whole config.
      devices: all devices of the job by default; may be those of a topology that is not here.
      without_weights: see `warm_start.complete`.

    Raises:
      UserError: for whatever does not fit together.
    """
    warm_start.complete(config, without_weights=without_weights)
    guard.check(config.guard)
    mesh = sharding.make_mesh(config.mesh, devices)
    loader.check_batch(config.batch_size, config.microbatches, mesh)
    objective = objectives.build(config, mesh.devices.flat[0].platform)
    return Setup(
        mesh=mesh,
        rules=sharding.check_rules(config.rules),
        sizes=loader.sizes(config),
        microbatches=config.microbatches,
        objective=objective,
        schedule=optimizer.schedule(config.optim, config.total_steps),
        init=state_lib.Init(
            objective,
            guard.wrap(optimizer.build(config.optim, config.total_steps), config.guard),
        ),
        frozen=paths.path_matcher("config.optim.frozen", config.optim.frozen),
    )
