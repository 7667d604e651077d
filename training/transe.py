"""Trains TransE: a job of its own, for a graph has neither text nor a vocabulary."""

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
import optax
from jaxtyping import PyTree

from data_pipeline import loader, pipeline
from data_pipeline.knowledge import triples as triple_files
from errors import UserError, one_of
from model import layers, transe
from training import checkpoint, optimizer, sharding
from training import setup as setup_lib
from training import state as state_lib
from training import step as step_lib


def prepare(config: ml_collections.ConfigDict, triples: triple_files.Triples) -> setup_lib.Setup:
    """Builds mesh, module and optimizer; completes the config, in place, by the triples' numbers.

    Args:
      config: of configs/transe.py.
      triples: the graph.

    Raises:
      UserError: for whatever does not fit together.
    """
    c = config.model
    one_of("config.model.norm", c.norm, transe.NORMS)
    for name in ("width", "negatives", "margin"):
        if not c[name] > 0:
            raise UserError(f"config.model.{name}={c[name]} must be above 0.")
    if config.epochs < 1:
        raise UserError(f"config.epochs={config.epochs} must be at least 1.")
    if len(triples.train) < config.batch_size:
        raise UserError(
            f"There are {len(triples.train)} triples, fewer than config.batch_size="
            f"{config.batch_size}: lower it."
        )
    mesh = sharding.make_mesh(config.mesh)
    loader.check_batch(config.batch_size, 1, mesh)
    sizes = {"entities": len(triples.entities), "relations": len(triples.relations)}
    types = layers.numerics("float32", mesh.devices.flat[0].platform)
    module = transe.TransE(transe.Config(**c, **sizes), types)
    steps = total_steps(config, len(triples.train))
    return setup_lib.Setup(
        mesh=mesh,
        rules=sharding.check_rules(config.rules),
        sizes=loader.Sizes(config.batch_size),
        microbatches=1,
        objective=module,
        schedule=optimizer.schedule(config.optim, steps),
        init=state_lib.Init(module, optimizer.build(config.optim, steps)),
    )


def total_steps(config: ml_collections.ConfigDict, triples: int) -> int:
    """Returns the steps of all epochs."""
    return config.epochs * triples // config.batch_size


def train(
    config: ml_collections.ConfigDict,
    setup: setup_lib.Setup,
    triples: np.ndarray,
    workdir: str | os.PathLike,
    report: Callable[[int, dict[str, float]], None],
) -> PyTree:
    """Trains to the last epoch, from the newest checkpoint if there is one.

    Args:
      config: of configs/transe.py.
      setup: of `prepare`.
      triples: int32 [M 3].
      workdir: for the checkpoints.
      report: called with the step and its metrics every `config.log.every` steps, and at the end.

    Returns:
      The parameters, on their devices.

    Raises:
      UserError: for a checkpoint of another run, or vectors that are not finite.
    """
    last = total_steps(config, len(triples))
    dataset = pipeline.Dataset(triple_files.Rows(), triples, config.seed, training=True)
    abstract = setup.abstract()
    checkpoints = checkpoint.Checkpointer(
        pathlib.Path(workdir) / "checkpoints", keep=1, keep_best=0, best=config.checkpoint.best
    )
    meta = {"triples": hashlib.blake2b(triples.tobytes(), digest_size=8).hexdigest()}
    kept = ("batch_size", "seed", "model", "optim")
    told = json.loads(config.to_json_best_effort())  # as a checkpoint gives it back
    meta |= {key: told[key] for key in kept}
    restored = checkpoints.restore(abstract)
    if restored is None:
        state = setup.init.sharded(jax.random.key(config.seed), abstract)
    else:
        state, saved = restored
        if saved != meta:
            raise UserError(
                f"The run in {workdir} was started on other triples or with another "
                f"config.{', '.join(k for k in kept if saved.get(k) != meta[k]) or 'data'}: give "
                "those again, or choose another --output."
            )
    step = setup.jitted(make_train_step(setup), abstract)
    key, first = jax.random.key(config.seed), int(state.step)
    batches = loader.Loader(
        dataset,
        mesh=setup.mesh,
        batch_size=config.batch_size,
        start_step=first,
        end_step=last,
    )
    with batches:
        for number, batch in enumerate(batches, first + 1):
            state, metrics = step(state, batch, key)
            if number % config.log.every == 0 or number == last:
                report(number, {name: float(value) for name, value in metrics.items()})
            if number % config.checkpoint.every == 0 or number == last:
                checkpoints.save(number, state, meta=meta)
    checkpoints.close()
    return state.params


def make_train_step(setup: setup_lib.Setup) -> Callable:
    """Returns step(state, batch, key) -> (state, metrics): an update, then entities of length 1."""
    module, transformation = setup.objective, setup.init.optimizer

    def loss_fn(params, batch, key):
        terms, metrics = module.apply(
            {"params": params}, batch, train=True, rngs={"negatives": key}
        )
        return terms["margin"].value, (terms, metrics)

    def train_step(state, batch, key):
        key = jax.random.fold_in(key, state.step)
        gradients, totals = jax.grad(loss_fn, has_aux=True)(state.params, batch, key)
        updates, opt_state = transformation.update(gradients, state.opt_state, state.params)
        params = transe.project(optax.apply_updates(state.params, updates))
        metrics = step_lib.summarize(*totals, module.weights)
        return state_lib.TrainState(state.step + 1, params, opt_state), metrics

    return train_step


def vectors(setup: setup_lib.Setup, params: PyTree) -> tuple[np.ndarray, np.ndarray]:
    """Returns the vectors of entities [V D] and relations [R D], whole, in every process."""
    whole = functools.partial(jax.jit, out_shardings=sharding.replicated(setup.mesh))
    tables = whole(lambda p: (p["entities"]["table"], p["relations"]["table"]))(params)
    entities, relations = map(np.asarray, tables)
    return entities[: setup.objective.config.entities], relations
