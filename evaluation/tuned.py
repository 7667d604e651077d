"""A table of fine-tuned models: each task's seeds on the dev set as one number, and their averages.

A system is a set of runs of configs/finetune.py over tasks, seeds and perhaps hyperparameters. Of
the hyperparameters that a task was run with, those with the best number count, as in BERT's paper.
"""

import glob
import json
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from errors import UserError
from evaluation import averages, scoring
from evaluation import jobs as jobs_lib
from training import retention

ALSO = "mnli-mm"  # what scripts/evaluate.py --data.task=mnli-mm --json=WORKDIR/mnli-mm.json wrote
# How the numbers of some seeds become one.
STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "best": max,
}


class Run(NamedTuple):
    """What one run has measured.

    Attributes:
      workdir: of the run.
      task: in scoring.TASK_METRICS.
      settings: its config without the seed, as JSON.
      key: how good it is, the higher the better.
      scores: task -> metric -> value, of its own task and perhaps of ALSO.
    """

    workdir: pathlib.Path
    task: str
    settings: str
    key: float
    scores: Mapping[str, Mapping[str, float]]


class System(NamedTuple):
    """A row of the table.

    Attributes:
      name: as the user calls it.
      values: task -> metric -> the seeds' values, of the settings that were chosen.
      chosen: task -> a workdir, where there was a choice of settings.
      unfinished: workdirs that are left out.
    """

    name: str
    values: dict[str, dict[str, list[float]]]
    chosen: dict[str, pathlib.Path]
    unfinished: list[pathlib.Path]


def collect(name: str, pattern: str, statistic: str = "mean", last: bool = False) -> System:
    """Reads the runs of a system.

    Args:
      name: of the system.
      pattern: of workdirs or folders of them, with * and **.
      statistic: a key of STATISTICS, by which settings are chosen.
      last: take the last evaluation of each run, not the best by its config's checkpoint.best.

    Raises:
      UserError: if there is no finished run of a task.
    """
    runs, unfinished = [], []
    for workdir in _workdirs(pattern):
        config = jobs_lib.saved_config(workdir)
        if config["data"].get("task") not in scoring.TASK_METRICS:
            continue
        if not jobs_lib.last_validation(workdir, config["total_steps"]):
            unfinished.append(workdir)
            continue
        runs.append(_read(workdir, config, last))
    if not runs:
        raise UserError(f"{pattern} names no finished run of a task: give workdirs of fine-tuning.")
    values, chosen = {}, {}
    for task in (task for task in scoring.TASK_METRICS if any(r.task == task for r in runs)):
        groups: dict[str, list[Run]] = {}
        for run in (run for run in runs if run.task == task):
            groups.setdefault(run.settings, []).append(run)
        best = max(groups.values(), key=lambda g: STATISTICS[statistic]([run.key for run in g]))
        if len(groups) > 1:
            chosen[task] = best[0].workdir
        if statistic == "best":
            best = [max(best, key=lambda run: run.key)]  # all metrics are of the same seed
        for of in set.intersection(*(set(run.scores) for run in best)):
            metrics = best[0].scores[of]
            values[of] = {m: [run.scores[of][m] for run in best] for m in metrics}
    return System(name, values, chosen, unfinished)


def _workdirs(pattern):
    """Returns the folders with a run, those that match or the children of those."""
    matches = [pathlib.Path(p) for p in sorted(glob.glob(str(pathlib.Path(pattern).expanduser())))]
    folders = [f for match in matches for f in (match, *sorted(match.glob("*/")))]
    return list(dict.fromkeys(f for f in folders if (f / "metrics.jsonl").is_file()))


def _read(workdir: pathlib.Path, config: dict[str, Any], last: bool) -> Run:
    task, by = config["data"]["task"], retention.parse(config["checkpoint"]["best"])
    rows = [row for row in jobs_lib.rows(workdir) if by.metric in row]
    if not rows:
        raise UserError(
            f"{workdir} has not measured {by.metric}, its config.checkpoint.best: correct that."
        )
    row = rows[-1] if last else min(rows, key=by.score)
    scores = {task: {m: row[f"valid/{m}"] for m in scoring.TASK_METRICS[task]}}
    also = workdir / f"{ALSO}.json"
    if task == "mnli" and also.is_file():
        scores[ALSO] = {"accuracy": json.loads(also.read_text())["accuracy"]}
    settings = json.dumps({**config, "seed": None}, sort_keys=True)
    return Run(workdir, task, settings, -by.score(row), scores)


def table(systems: Sequence[System], statistic: str = "mean") -> str:
    """Returns a table in Markdown: tasks, then the averages of averages.py; all in percent.

    Args:
      systems: its rows.
      statistic: a key of STATISTICS, by which seeds become one number.
    """
    combine = STATISTICS[statistic]
    tasks = [t for t in scoring.TASK_METRICS if any(t in s.values for s in systems)]
    numbers = [
        {task: {m: 100 * combine(v) for m, v in of.items()} for task, of in s.values.items()}
        for s in systems
    ]
    names = [n for n in averages.AVERAGES if any(not averages.missing(n, x) for x in numbers)]
    header = [f"{t}: {'/'.join(scoring.TASK_METRICS[t])}" for t in tasks]
    header += [f"average as {name}" for name in names]
    lines = [["system", *header], ["---"] * (1 + len(header))]
    for system, number in zip(systems, numbers, strict=True):
        cells = [_cell(system.values.get(task, {}), task, statistic) for task in tasks]
        found = [averages.average(name, number) for name in names]
        lines.append([system.name, *cells, *("" if x is None else f"{x:.1f}" for x in found)])
    notes = [_note(statistic)]
    for name in averages.AVERAGES:
        if name not in names:
            lacking = [averages.missing(name, x) for x in numbers]
            notes.append(f"The average as {name} needs also {', '.join(min(lacking, key=len))}.")
    for system in systems:
        for task, workdir in system.chosen.items():
            notes.append(f"{system.name}, {task}: of several settings those of {workdir}.")
        if system.unfinished:
            left = ", ".join(map(str, system.unfinished))
            notes.append(f"{system.name}: not finished and left out: {left}.")
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", *notes]) + "\n"


def _cell(values, task, statistic):
    """Returns such as "84.1 ± 0.3 / 88.9 ± 0.2 (n=3)"; "" where nothing was run."""
    parts = []
    for metric in scoring.TASK_METRICS[task]:
        if found := [100 * value for value in values.get(metric, ())]:
            spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
            shown = spread if statistic == "mean" else ""
            parts.append(f"{STATISTICS[statistic](found):.1f}{shown}")
            count = f" (n={len(found)})"
    return " / ".join(parts) + count if parts else ""


def _note(statistic):
    said = {
        "mean": "Mean over the seeds ± their standard deviation, n their number",
        "median": "Median over the seeds, n their number",
        "best": "The best of the seeds on the dev set",
    }
    return f"{said[statistic]}; in percent, on the dev set."
