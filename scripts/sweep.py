r"""Runs the rows of a paper's table, a grid or a random search, and skips what is finished.

    python scripts/sweep.py albert_sharing --scale=tiny --seeds=3 --set=data.source=PATH
    python scripts/sweep.py --config=configs/bert.py:tiny --grid=optim.lr=1e-3,2e-3 \
        --grid=model.dropout=0.0,0.1
    python scripts/sweep.py --config=configs/bert.py:tiny --random=8 \
        --sample=optim.lr=log:1e-4:1e-2 --sample=model.depth=choice:1,2,4

The same command again resumes broken runs; --dry_run prints the commands of all. One failed run
does not stop the rest: the exit status is 1 then. --vmap trains the seeds and learning rates of a
row as one program, for small models; --parallel=2 trains two runs at a time, each on half of the
CPU cores, which small models use better so. With --launcher=slurm (or local) each run is a job of
submitit, logs in RUNS/submitit. The output of a run lies in its workdir, train.log.
"""

import os
import pathlib
import shlex
import signal
import sys

import submitit
from absl import app, flags

from configs import ablations
from data_pipeline import progress
from errors import UserError, exit_on_user_error, parse_flags
from evaluation import jobs as jobs_lib
from evaluation import search, sweeps

_SCALE = flags.DEFINE_string("scale", "tiny", "Of the table: tiny, small or paper.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Runs of each row, with the seeds 0, 1, 2, ...")
_RUNS = flags.DEFINE_string("runs", "runs/sweeps", "Folder of all sweeps.")
_SET = flags.DEFINE_multi_string("set", [], "KEY=VALUE: an override for every run; repeatable.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the commands and run nothing.")
_CONFIG = flags.DEFINE_string("config", None, "FILE:ARG of a search without a table.")
_GRID = flags.DEFINE_multi_string("grid", [], "KEY=VALUE,VALUE,...; all combinations.")
_RANDOM = flags.DEFINE_integer("random", 0, "Points of a random search.", lower_bound=0)
_SAMPLE = flags.DEFINE_multi_string(
    "sample", [], "KEY=log:LOW:HIGH, KEY=uniform:LOW:HIGH or KEY=choice:VALUE,VALUE,..."
)
_VMAP = flags.DEFINE_bool(
    "vmap", False, "Train runs that differ in seed and learning rate only as one program."
)
_LAUNCHER = flags.DEFINE_enum("launcher", "here", ["here", "local", "slurm"], "Where to run.")
_PARALLEL = flags.DEFINE_integer(
    "parallel", 1, "Runs at a time here, each with its share of the CPU cores."
)
_SLURM = flags.DEFINE_multi_string(
    "slurm", [], "KEY=VALUE for submitit, such as partition=gpu or timeout_min=60."
)
_TIMEOUT = 24 * 60  # minutes of a submitted run; submitit has 2 or 5


@exit_on_user_error
def main(argv):
    """Expands, then runs or prints."""
    more = search.parse_assignments("set", _SET.value)
    runs = pathlib.Path(_RUNS.value).expanduser()
    if len(argv) == 2 and not _CONFIG.value:
        if _GRID.value or _RANDOM.value:
            raise UserError("A table has its own rows: leave --grid and --random out.")
        jobs = sweeps.from_table(argv[1], _SCALE.value, _SEEDS.value, runs, more)
    elif len(argv) == 1 and _CONFIG.value:
        jobs = _search(more, runs)
    else:
        raise UserError(
            f"Give one table ({', '.join(ablations.names())}), or --config=FILE:ARG with --grid "
            "or --random."
        )
    sweeps.check(jobs)
    if _DRY_RUN.value:
        cores = jobs_lib.share_cores(_PARALLEL.value)[0]
        for job in jobs:
            print(shlex.join(job.command(cores)))
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # ends the run as well
    if _VMAP.value:
        if _LAUNCHER.value != "here":
            raise UserError("--vmap trains in this process: leave --launcher out.")
        # Teachers and other first runs alone, then what builds on them.
        needed = {job.needs for job in jobs if job.name == job.chain and job.needs}
        sweeps.run_all([job for job in jobs if job.name in needed], _report)
        sweeps.run_together(jobs, _report)
    if _LAUNCHER.value == "here":
        with progress.shown() as show:
            failed = sweeps.run_all(jobs, _counting(show, len(jobs)), _PARALLEL.value)
    elif _PARALLEL.value != 1:
        raise UserError("--parallel divides the cores of this machine: leave --launcher out.")
    else:
        failed = _submit(jobs, runs / "submitit")
    if failed:
        print(f"{len(failed)} of {len(jobs)} failed: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)


def _search(more, runs):
    if bool(_GRID.value) == bool(_RANDOM.value) or bool(_RANDOM.value) != bool(_SAMPLE.value):
        raise UserError("Give --grid, or --random with --sample.")
    points = (
        search.grid(_GRID.value)
        if _GRID.value
        else search.sample(_SAMPLE.value, _RANDOM.value, seed=0)
    )
    return sweeps.from_points(_CONFIG.value, points, _SEEDS.value, runs, more)


def _report(job, state):
    print(f"{state:12} {job.name}" + (f" (see {job.log})" if state == "failed" else ""), flush=True)


def _counting(show, total):
    """Returns a report that also shows how many jobs are done."""
    done = []

    def report(job, state):
        _report(job, state)
        if state != "started":
            done.append(job)
            show("runs", len(done), total)

    return report


def _submit(jobs, folder):
    """Submits each run with what follows it as one job, behind those that rows build on."""
    os.environ.update(jobs_lib.environment())  # the workers import this checkout
    executor = submitit.AutoExecutor(folder=folder, cluster=_LAUNCHER.value)
    options = search.parse_assignments("slurm", _SLURM.value)
    executor.update_parameters(
        timeout_min=options.pop("timeout_min", _TIMEOUT),
        **{f"slurm_{key}": value for key, value in options.items()},
    )
    chains: dict[str, list[jobs_lib.Job]] = {}
    for job in jobs:
        chains.setdefault(job.chain, []).append(job)
    first = {chain[0].needs for chain in chains.values()} & set(chains)
    failed = []
    for wave in (first, set(chains) - first):
        submitted = {}
        for name, chain in chains.items():
            if name not in wave:
                continue
            if chain[0].needs in failed:
                failed += [job.name for job in chain]
                print(f"{'not started':12} {name}", flush=True)
                continue
            submitted[name] = executor.submit(sweeps.run_all, chain)
            print(f"{'submitted':12} {name} as {submitted[name].job_id}", flush=True)
        for name, job in submitted.items():
            try:
                bad = job.result()
            except submitit.core.utils.UncompletedJobError:  # killed, or out of time
                bad = [name]
            where = f" (see {chains[name][0].log} and {job.paths.stderr})" if bad else ""
            print(f"{'failed' if bad else 'finished':12} {name}{where}", flush=True)
            failed += bad
    return failed


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
