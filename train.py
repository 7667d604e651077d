"""Trains any system of the house: flags -> config -> objective -> data -> state -> loop.

    python train.py --config=configs/bert.py:tiny --workdir=runs/bert-tiny

Every field of the config is a flag: --config.optim.lr=1e-3. The same command again continues a run
that was stopped, at whatever moment. What a run leaves in its workdir: config.json, run.json,
tokenizer/, checkpoints/, metrics.jsonl and tensorboard/.
"""

import contextlib
import functools
import math
import os
import pathlib
import re
import signal
import sys

import jax
import ml_collections
from absl import app, flags
from jax.experimental import multihost_utils
from ml_collections import config_flags

import errors
from data_pipeline import loader, pipeline, progress
from evaluation import evaluate, scoring
from training import checkpoint, compilation_cache, resume, sharding, telemetry, warm_start
from training import setup as setup_lib

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run keeps its files.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes of a cluster.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, if not found.")
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes, if not found.")
_PROCESS = flags.DEFINE_integer("process", None, "Index of this process, if not found.")

# What the libraries say when another process does not answer.
_LOST = re.compile(
    r"Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|[Hh]eartbeat|Connection (reset|closed)"
)


def train(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> dict[str, float]:
    """Trains to `config.total_steps`, from the newest checkpoint in `workdir` if there is one.

    Args:
      config: a whole config, see configs/common.py.
      workdir: the run's folder; shared by all processes.

    Returns:
      The last evaluation on held-out documents, such as {"valid/loss": 2.5}.

    Raises:
      UserError: for whatever in config, data or workdir must be changed.
    """
    workdir = pathlib.Path(workdir).expanduser().absolute()
    while True:
        try:
            return _train(config, workdir)
        except telemetry.BadStep as bad:
            rollbacks = len(resume.left_out(workdir))
            if config.guard.policy != "rollback" or rollbacks >= config.guard.limit:
                raise
            saved = checkpoint.saved_steps(workdir / "checkpoints")
            resume.leave_out(workdir, saved[-1] if saved else 0, bad.step)


def _train(config, workdir):
    """Trains until the end or a bad step."""
    # What to train, and how.
    setup = setup_lib.prepare(config)
    mesh, objective, sizes = setup.mesh, setup.objective, setup.sizes
    _check_intervals(config)

    # The text: vocabulary, shards and examples are made where they are missing.
    with progress.shown() as report:
        data = pipeline.prepare_data(config, workdir / "tokenizer", report)

    with _sigterm() as terminated, setup.placed():
        # The state: restored, or made in place and perhaps filled with weights that exist.
        abstract = setup.abstract()
        checkpoints = checkpoint.Checkpointer(
            workdir / "checkpoints",
            keep=config.checkpoint.keep,
            keep_best=config.checkpoint.keep_best,
            best=config.checkpoint.best,
        )
        meta = resume.meta(config, data.tokenizer.fingerprint, data.fingerprint)
        restored = checkpoints.restore(abstract)
        if restored is None:
            state = setup.init.sharded(jax.random.key(config.seed), abstract)
            params = warm_start.load_params(config, state.params, data.tokenizer)
            # Not int(state.step): it would wait for the weights, and the step is traced meanwhile.
            state, first = state.replace(params=params), 0
        else:
            state, saved_meta = restored
            resume.check_continues(saved_meta, meta, workdir)
            first = int(state.step)

        # The step, compiled for this mesh.
        train_step = setup.train_step(abstract)
        eval_step = jax.jit(
            evaluate.make_step(objective, config, data.tokenizer),
            out_shardings=sharding.replicated(mesh),
        )
        batches = functools.partial(loader.Loader, mesh=mesh, batch_size=config.batch_size)

        if jax.process_index() == 0:
            telemetry.save_run_info(workdir, config)
        shapes = {k: (config.batch_size, *v.shape) for k, v in data.train.example(0).items()}
        log = telemetry.Telemetry(
            workdir,
            every=config.log.every,
            total_steps=config.total_steps,
            tokens_per_step=math.prod(shapes["tokens"]),
            flops_per_step=objective.flops(shapes),
            full_steps=lambda step: sizes.before(step) / sizes.full,
            tensorboard=config.log.tensorboard,
            profile=tuple(config.log.profile),
            primary=jax.process_index() == 0,
            start_step=first,
            may_skip=config.guard.limit if config.guard.policy == "skip" else 0,
        )
        log.say(
            f"{sum(x.size for x in jax.tree.leaves(state.params)):,} parameters on "
            f"{mesh.size} device(s); {len(data.train):,} rows of text; step {first} of "
            f"{config.total_steps}."
        )
        left_out = resume.left_out(workdir)
        for saved, bad in left_out:
            log.say(f"Step {bad} was bad: from step {saved} on the rows are those behind it.")

        # Rows past the end of the held-out text are padding without weight.
        held_out_batches = -(-len(data.valid) // config.batch_size)
        if config.evals.batches:
            held_out_batches = min(held_out_batches, config.evals.batches)

        def validate():
            with log.aside("eval"), batches(data.valid, end_step=held_out_batches) as held_out:
                scorer = scoring.scorer(config, data)
                weights = objective.weights
                values = evaluate.evaluate(eval_step, state.params, held_out, weights, scorer)
            return {f"valid/{name}": value for name, value in values.items()}

        def save(step, metrics):
            with log.aside("save"):  # waits for the losses: nothing that is not finite is saved
                checkpoints.save(step, state, meta=meta, metrics=metrics)

        # The loop. Evaluations and saves wait for the device, a step for the one four before it.
        with contextlib.ExitStack() as stack:
            stack.callback(log.close)
            stack.callback(checkpoints.close)
            train_batches = stack.enter_context(
                batches(
                    data.train,
                    microbatches=config.microbatches,
                    ramp=sizes,
                    workers=config.data.workers,
                    prefetch=config.data.prefetch,
                    start_step=first,
                    end_step=config.total_steps,
                    left_out=left_out,
                )
            )
            if first >= config.total_steps:
                log.say(f"Nothing to do: {workdir} is at step {first}.")
                return validate()
            key = jax.random.key(config.seed)
            for step in range(first + 1, config.total_steps + 1):
                with log.waiting_for_input():
                    batch = next(train_batches)
                state, metrics = train_step(state, batch, key)
                log.on_step(step, metrics)

                last, results = step == config.total_steps, {}
                if last or (config.evals.every and step % config.evals.every == 0):
                    results = validate()
                    log.write(step, results)
                stop = terminated(step)
                if last or stop or step % config.checkpoint.every == 0:
                    save(step, results)
                if stop and not last:
                    checkpoints.wait()
                    log.say(f"Told to stop: saved step {step}; the same command continues.")
                    sys.exit(128 + signal.SIGTERM)
            checkpoints.wait()
            return results


def _check_intervals(config):
    for name, value, least in (
        ("total_steps", config.total_steps, 1),
        ("log.every", config.log.every, 1),
        ("checkpoint.every", config.checkpoint.every, 1),
        ("evals.every", config.evals.every, 0),
        ("evals.batches", config.evals.batches, 0),
        ("data.workers", config.data.workers, 0),
    ):
        if value < least:
            raise errors.UserError(f"config.{name}={value} must be at least {least}.")


@contextlib.contextmanager
def _sigterm():
    """Gives a function of the step: whether all processes should save now and stop."""
    if jax.process_count() > 1:  # JAX's own listener agrees on a step with the other processes
        yield multihost_utils.reached_preemption_sync_point
        return
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    try:
        yield lambda step: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)


@errors.exit_on_user_error
def main(argv):
    """Reads the flags."""
    if len(argv) > 1:
        raise errors.UserError(f"Unexpected argument {argv[1]!r}: every flag begins with --.")
    if _CONFIG.value is None or _WORKDIR.value is None:
        raise errors.UserError(
            "Say what to train and where: --config=configs/bert.py:tiny --workdir=runs/bert-tiny"
        )
    if _DISTRIBUTED.value or _COORDINATOR.value:
        jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    compilation_cache.enable()
    try:
        train(_CONFIG.value, _WORKDIR.value)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or not _LOST.search(str(error)):
            raise
        reason = str(error).strip().splitlines()[0]
        print(
            f"error: another process of this run has ended, or cannot be reached ({reason}): start "
            "the same command on all hosts again; it continues.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(3)  # JAX's own end would wait minutes for the others


if __name__ == "__main__":
    app.run(main, flags_parser=errors.parse_flags)
