"""Sweeps: a table, a grid or a random search as jobs, and what their runs have measured.

A job is one command: a training run, or an evaluation of one. What is finished is told by what lies
in its workdir, so that the same sweep again goes on where it stopped.
"""

import dataclasses
import itertools
import json
import math
import pathlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections

import errors
from configs import ablations
from data_pipeline import loader
from errors import UserError
from evaluation import jobs as jobs_lib
from evaluation import together
from evaluation.jobs import Job
from training import checkpoint


def check(jobs: Sequence[Job]) -> None:
    """Makes the configs of all training jobs, so that a wrong key is told before the first run.

    Raises:
      UserError: as `Job.config`.
    """
    for job in jobs:
        if job.result is None:
            job.config()


def groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Returns the training jobs in groups that differ in seed and learning rate only."""
    found: dict[tuple, list[Job]] = {}
    for job in jobs:
        if job.name == job.chain:
            others = {k: repr(v) for k, v in job.wanted.items() if k not in together.FREE}
            found.setdefault((job.flags[0], tuple(sorted(others.items()))), []).append(job)
    return list(found.values())


def run_together(jobs: Sequence[Job], report=lambda job, state: None) -> None:
    """Trains the unfinished runs of each group that has several as one program.

    What needs a run that is not finished, groups of one, and groups that fail are left to
    `run_all`: of runs that are trained together one that diverges stops all.

    Args:
      jobs: of a sweep.
      report: called with each job that is trained here, and its state.
    """
    by_name = {job.name: job for job in jobs}
    for group in groups(jobs):
        fresh = [job for job in group if not (job.workdir / "checkpoints").exists()]
        if len(fresh) < 2:
            continue
        try:
            for job in fresh:
                job.is_finished()  # refuses a run of another config that was stopped early
            if not all(by_name[job.needs].is_finished() for job in fresh if job.needs):
                continue
            for job in fresh:
                report(job, "together")
            together.train([job.config() for job in fresh], [job.workdir for job in fresh])
        except UserError as error:
            for job in fresh:
                report(job, f"left alone: {error}")
            continue
        for job in fresh:
            report(job, "finished")


def run_all(jobs: Sequence[Job], report=lambda job, state: None, parallel: int = 1) -> list[str]:
    """Runs what is not finished, in order; a failure does not stop the rest.

    Args:
      jobs: each behind the one that it needs.
      report: called with each job and "skipped", "started", "finished", "failed" or "not started".
      parallel: jobs at a time, each with its share of the CPU cores.

    Returns:
      The names of the jobs that failed, or were not started because of another one.
    """
    waiting, running, failed = list(jobs), [], []
    free = jobs_lib.share_cores(parallel)

    def fail(job, state):
        failed.append(job.name)
        report(job, state)

    try:
        while waiting or running:
            open_ = {job.name for job in waiting} | {job.name for job, *_ in running}
            job = next((job for job in waiting if free and job.needs not in open_), None)
            try:
                if job is None:
                    job, process, cores = ended = _next_ended(running)
                    running.remove(ended)
                    free.append(cores)
                    if process.returncode == 0 and job.is_finished():
                        report(job, "finished")
                    else:
                        fail(job, "failed")
                    continue
                waiting.remove(job)
                if job.needs in failed:
                    fail(job, "not started")
                elif job.is_finished():
                    report(job, "skipped")
                else:
                    report(job, "started")
                    cores = free.pop(0)
                    running.append((job, job.start(cores), cores))
            except UserError as error:
                fail(job, f"failed: {error}")
    finally:  # told to stop: train.py saves its step
        for _, process, _ in running:
            process.terminate()
        for _, process, _ in running:
            process.wait()
    return failed


def _next_ended(running):
    """Waits until one of the running jobs has ended, and returns its entry."""
    while True:
        for entry in running:
            if entry[1].poll() is not None:
                return entry
        time.sleep(0.1)


def from_table(
    name: str,
    scale: str,
    seeds: int,
    runs: pathlib.Path,
    more: Mapping[str, Any],
) -> list[Job]:
    """Expands a table: what rows build on first, then all rows with each seed.

    Args:
      name: of the table.
      scale: a key of its scales.
      seeds: how many; 0, 1, 2, ...
      runs: folder of all sweeps.
      more: overrides for every run.

    Raises:
      UserError: for an unknown table or scale, or no seed.
    """
    table = ablations.load(errors.one_of("table", name, ablations.names()))
    errors.one_of(f"scale of {name}", scale, table.scales)
    _check_seeds(seeds, more)
    folder = runs / name / scale
    before = {part: str(folder / part) for part in table.before}
    jobs = [
        _training_job(part, folder, table, scale, row, {"seed": 0, **more}, before)
        for part, row in table.before.items()
    ]
    for seed, (label, row) in itertools.product(range(seeds), table.rows.items()):
        job = _training_job(
            run_name(label, seed), folder, table, scale, row, {"seed": seed, **more}, before
        )
        jobs += [job, *_followers(job, table, scale, seed, more)]
    return jobs


def _check_seeds(seeds, more):
    if seeds < 1:
        raise UserError(f"--seeds={seeds} must be at least 1.")
    if "seed" in more:
        raise UserError("--set=seed would give all runs one seed: say how many with --seeds.")


def slug(label: str) -> str:
    """Returns a label as it stands in file names."""
    return re.sub(r"[^a-z0-9.=]+", "-", label.lower()).strip("-")


def run_name(row: str, seed: int) -> str:
    """Returns the name of the run of a row."""
    return f"{slug(row)}-seed{seed}".lstrip("-")


def _training_job(name, folder, table, scale, row, more, before):
    at = table.scales[scale]
    config = row.config.get(scale, at.config)
    if row.arg:
        config += f",{row.arg}"
    shared = {} if row.config else at.overrides
    if any(column.tune for column in table.columns.values()):  # the task is of fine-tuning
        more = {key: value for key, value in more.items() if key != "data.path"}
    wanted = {**shared, **row.overrides, **row.at.get(scale, {}), **more}
    fill = lambda v: v.format(**before) if isinstance(v, str) else v  # noqa: E731
    wanted = {key: fill(value) for key, value in wanted.items()}
    used = [part for part, path in before.items() if path in wanted.values()]
    return train_job(name, folder, config, wanted, needs=used[0] if used else "")


def train_job(
    name: str, folder: pathlib.Path, config: str, wanted: Mapping[str, Any], needs: str = ""
) -> Job:
    """Returns the job of one training run in `folder`/`name`."""
    workdir = folder / name
    flags = [f"--config={config}", f"--workdir={workdir}"]
    flags += [f"--config.{key}={_say(value)}" for key, value in wanted.items()]
    return Job(name, workdir, "train.py", tuple(flags), wanted, needs=needs, chain=name)


def _followers(job, table, scale, seed, more) -> Iterator[Job]:
    """Yields the evaluations and fine-tunings of a run."""
    page = _page_of(job)
    for label, column in table.columns.items():
        if column.data:
            result = job.workdir / f"{slug(label)}.json"
            flags = [f"--checkpoint={job.workdir}", f"--json={result}"]
            flags += [f"--override={key}={_say(value)}" for key, value in column.data.items()]
            yield Job(
                name=f"{job.name}.{slug(label)}",
                workdir=job.workdir,
                script="scripts/evaluate.py",
                flags=tuple(flags),
                wanted={},
                result=result,
                needs=job.name,
                chain=job.name,
            )
        elif column.tune:
            wanted = {"init_from": str(job.workdir), "seed": seed, **column.tune_overrides}
            wanted |= column.tune_at.get(scale, {})
            wanted |= {k: v for k, v in more.items() if k in ("data.path", "data.cache_dir")}
            sizes = {k: v for k, v in job.wanted.items() if k.startswith("model.")}
            name = f"{job.name}.{slug(label)}"
            config = f"configs/finetune.py:model={page},{column.tune}"
            follower = train_job(name, job.workdir.parent, config, sizes | wanted, needs=job.name)
            yield dataclasses.replace(follower, chain=job.name)


def _page_of(job: Job) -> str:
    """Returns the model of configs/finetune.py that a run has pre-trained."""
    path, _, arg = job.flags[0].removeprefix("--config=").partition(":")
    return f"{pathlib.Path(path).stem}-{arg.split(',')[0]}"


def from_points(
    config: str,
    points: Sequence[Mapping[str, Any]],
    seeds: int,
    runs: pathlib.Path,
    more: Mapping[str, Any],
) -> list[Job]:
    """Returns a training job for each point and seed of a search without a table.

    Args:
      config: FILE:ARG, which names the folder.
      points: overrides of each run, which name it; with "seed" in them, `seeds` must be 1.
      seeds: how many; 0, 1, 2, ...
      runs: folder of all sweeps.
      more: overrides for every run.

    Raises:
      UserError: for no seed, or two sources of seeds.
    """
    _check_seeds(seeds, more)
    if seeds > 1 and any("seed" in point for point in points):
        raise UserError("Seeds are given twice, as an axis and by --seeds: leave one out.")
    page, _, arg = config.partition(":")
    folder = runs / slug(f"{pathlib.Path(page).stem}-{arg}")
    jobs = {}
    for default, point in itertools.product(range(seeds), points):
        rest = {key: value for key, value in point.items() if key != "seed"}
        seed = point.get("seed", default)
        name = run_name(" ".join(f"{key}={_say(value)}" for key, value in rest.items()), seed)
        # A point that is drawn twice is run once.
        jobs[name] = train_job(name, folder, config, {**rest, **more, "seed": seed})
    return list(jobs.values())


# What runs have measured


def measure(job: Job, label: str, column: ablations.Column) -> float | None:
    """Returns the number of a finished training job for a column, or None if it is not there.

    Raises:
      UserError: if the workdir holds a run of another config: its number is not the job's.
    """
    if not job.is_finished():
        return None
    if column.metric == "parameters":
        return float(count_parameters(job.workdir))
    if column.metric == "pf_days":
        return pf_days(job.workdir)
    if column.data:
        result = job.workdir / f"{slug(label)}.json"
        values = json.loads(result.read_text()) if result.exists() else {}
    else:
        workdir = job.workdir
        if column.tune:
            workdir = workdir.with_name(f"{workdir.name}.{slug(label)}")
        config = jobs_lib.saved_config(workdir)
        values = jobs_lib.last_validation(workdir, config["total_steps"]) if config else {}
    return values.get(column.metric)


def count_parameters(workdir: pathlib.Path) -> int:
    """Returns the number of a run's parameters, those of a teacher left out."""
    shapes = checkpoint.saved_params(workdir / "checkpoints")
    return sum(math.prod(x.shape) for name, x in shapes.items() if not name.startswith("teacher/"))


def pf_days(workdir: pathlib.Path) -> float:
    """Returns what a run's products have cost, in 10^15 operations a second for a day.

    6 operations for each token and each parameter outside of the embeddings (GPT-3, appendix D and
    figure 3.1).
    """
    config = ml_collections.ConfigDict(jobs_lib.saved_config(workdir))
    shapes = checkpoint.saved_params(workdir / "checkpoints")
    parameters = sum(math.prod(x.shape) for name, x in shapes.items() if "/embedder/" not in name)
    tokens = loader.sizes(config).before(config.total_steps) * config.data.length
    return 6 * parameters * tokens / (1e15 * 86_400)


def curve(workdir: pathlib.Path, metric: str) -> list[tuple[int, float]]:
    """Returns (step, value) of a metric over a run."""
    return [
        (row["step"], row[metric]) for row in jobs_lib.rows(workdir) if row.get(metric) is not None
    ]


def _say(value: Any) -> str:
    """Writes a value as a flag takes it."""
    if isinstance(value, ml_collections.ConfigDict):
        raise UserError("A section of a config cannot be set by one flag: name its keys.")
    return repr(value) if isinstance(value, (tuple, list)) else str(value)
