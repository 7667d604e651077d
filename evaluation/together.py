"""Small runs that differ in seed and learning rate alone, trained as one program by `jax.vmap`.

What each leaves in its workdir is what train.py would have left; its numbers are equal to float
tolerance. Nothing is saved before the end, so a group that is stopped starts anew.
"""

import contextlib
import math
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
import optax

from data_pipeline import loader, pipeline
from errors import UserError
from evaluation import evaluate, scoring
from training import checkpoint, resume, telemetry, warm_start
from training import setup as setup_lib
from training import step as step_lib

FREE = ("seed", "optim.lr")  # what may differ


def train(
    configs: Sequence[ml_collections.ConfigDict], workdirs: Sequence[pathlib.Path]
) -> list[dict[str, float]]:
    """Trains all configs to their last step.

    Args:
      configs: whole configs; all keys but FREE are equal.
      workdirs: one for each; none holds a checkpoint.

    Returns:
      The last evaluation of each.

    Raises:
      UserError: for configs that differ in more, several processes, or a workdir that is taken.
    """
    _check(configs, workdirs)
    config = configs[0]
    for one in configs:
        warm_start.complete(one)
    unit = config.copy_and_resolve_references()
    unit.optim.lr = 1.0  # every schedule is proportional to it
    setup = setup_lib.prepare(unit)
    mesh, objective, sizes, optim = setup.mesh, setup.objective, setup.sizes, setup.init.optimizer
    data = [
        pipeline.prepare_data(one, workdir / "tokenizer")
        for one, workdir in zip(configs, workdirs, strict=True)
    ]

    def one_step(state, batch, key, lr):
        def update(gradients, opt_state, params):
            updates, opt_state = optim.update(gradients, opt_state, params)
            return jax.tree.map(lambda u: u * lr, updates), opt_state

        scaled = optax.GradientTransformation(optim.init, update)
        make = step_lib.make_train_step
        return make(objective, scaled, lambda step: lr * setup.schedule(step), config.microbatches)(
            state, batch, key
        )

    with setup.placed(), contextlib.ExitStack() as stack:
        states = []
        abstract = setup.abstract()
        for one, d in zip(configs, data, strict=True):
            state = setup.init.sharded(jax.random.key(one.seed), abstract)
            params = warm_start.load_params(one, state.params, d.tokenizer)
            states.append(state.replace(params=params))
        states = jax.tree.map(lambda *x: jnp.stack(x), *states)
        keys = jnp.stack([jax.random.key(one.seed) for one in configs])
        rates = jnp.array([one.optim.lr for one in configs], jnp.float32)
        train_step = jax.jit(jax.vmap(one_step), donate_argnums=0)
        eval_step = jax.jit(evaluate.make_step(objective, config, data[0].tokenizer))
        loaders = [
            stack.enter_context(
                loader.Loader(
                    d.train,
                    mesh=mesh,
                    batch_size=config.batch_size,
                    microbatches=config.microbatches,
                    ramp=sizes,
                    prefetch=config.data.prefetch,
                    end_step=config.total_steps,
                )
            )
            for d in data
        ]
        logs = [
            _open_log(one, workdir, objective, d.train, sizes)
            for one, workdir, d in zip(configs, workdirs, data, strict=True)
        ]
        for log in logs:
            stack.callback(log.close)

        results: list[dict[str, float]] = []
        for step in range(1, config.total_steps + 1):
            batch = jax.tree.map(lambda *x: jnp.stack(x), *map(next, loaders))
            states, metrics = train_step(states, batch, keys, rates)
            last = step == config.total_steps
            for i, log in enumerate(logs):
                log.on_step(step, jax.tree.map(lambda x, i=i: x[i], metrics))
            if last or (config.evals.every and step % config.evals.every == 0):
                results = []
                for i, (log, d) in enumerate(zip(logs, data, strict=True)):
                    params = jax.tree.map(lambda x, i=i: x[i], states.params)
                    with log.aside("eval"):
                        values = _validate(eval_step, params, d, config, mesh, objective)
                    results.append({f"valid/{name}": value for name, value in values.items()})
                    log.write(step, results[-1])
        for i, (log, workdir, d) in enumerate(zip(logs, workdirs, data, strict=True)):
            state = jax.tree.map(lambda x, i=i: x[i], states)
            meta = resume.meta(config, d.tokenizer.fingerprint, d.fingerprint)
            with log.aside("save"):
                best = config.checkpoint.best
                saver = checkpoint.Checkpointer(
                    workdir / "checkpoints", keep=1, keep_best=0, best=best
                )
                saver.save(config.total_steps, state, meta=meta, metrics=results[i])
                saver.close()
        return results


def _check(configs, workdirs):
    if jax.process_count() > 1:
        raise UserError("Runs are trained together in one process only: leave --vmap out.")
    if configs[0].guard.policy != "stop" or configs[0].guard.spike:
        raise UserError("Runs that are trained together have no config.guard: leave --vmap out.")

    def rest(config):
        values = config.copy_and_resolve_references().to_dict()
        values["optim"] = {k: v for k, v in values["optim"].items() if k != "lr"}
        return {k: v for k, v in values.items() if k != "seed"}

    for config in configs[1:]:
        if rest(config) != rest(configs[0]):
            raise UserError(
                f"Runs that are trained together may differ in {' and '.join(FREE)} only: leave "
                "--vmap out."
            )
    for workdir in workdirs:
        if (workdir / "checkpoints").exists():
            raise UserError(f"{workdir} holds a run already: leave --vmap out to continue it.")


def _open_log(config, workdir, objective, rows, sizes):
    telemetry.save_run_info(workdir, config)
    shapes = {k: (config.batch_size, *v.shape) for k, v in rows.example(0).items()}
    return telemetry.Telemetry(
        workdir,
        every=config.log.every,
        total_steps=config.total_steps,
        tokens_per_step=math.prod(shapes["tokens"]),
        flops_per_step=objective.flops(shapes),
        full_steps=lambda step: sizes.before(step) / sizes.full,
        tensorboard=config.log.tensorboard,
    )


def _validate(eval_step, params, data, config, mesh, objective):
    rows, score = data.valid, scoring.scorer(config, data)
    batches = -(-len(rows) // config.batch_size)
    batches = min(batches, config.evals.batches or batches)
    with loader.Loader(rows, mesh=mesh, batch_size=config.batch_size, end_step=batches) as held_out:
        return evaluate.evaluate(eval_step, params, held_out, objective.weights, score)
