"""Draws the curves of some runs, or writes a table: of a paper that was swept, or of tuned models.

python scripts/report.py --workdir=runs/a --workdir=runs/b --metric=valid/loss --output=loss.png
python scripts/report.py albert_sharing --scale=tiny --seeds=3 --output=docs/ablations
python scripts/report.py --tuned="BERT:runs/sweeps/finetune-model=bert*" --of=median

The page, NAME.md and NAME.html, has the paper's numbers beside ours, a verdict for each row, curves
and the commands to rerun any row. Give it the flags of the sweep: the commands are the same then.
--tuned prints a row for each system, NAME:PATTERN of the workdirs of its fine-tuning: the tasks'
metrics on the dev set at the best evaluation of each run, over the seeds, and the averages of GLUE.
"""

import json
import pathlib

import matplotlib

matplotlib.use("Agg")  # a file, not a window

import matplotlib.pyplot as plt
from absl import app, flags

from data_pipeline import files
from errors import UserError, exit_on_user_error, parse_flags
from evaluation import reports, search, tuned

_WORKDIR = flags.DEFINE_multi_string("workdir", [], "A run; may be repeated.")
_METRIC = flags.DEFINE_multi_string("metric", ["valid/loss"], "What to draw; may be repeated.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "The picture (loss.png; .png, .svg or .pdf), or the folder (docs/ablations)."
)
_SCALE = flags.DEFINE_string("scale", "tiny", "Of the table: tiny, small or paper.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Runs of each row, as given to the sweep.")
_RUNS = flags.DEFINE_string("runs", "runs/sweeps", "Folder of all sweeps.")
_PARALLEL = flags.DEFINE_integer("parallel", 1, "Runs at a time, as given to the sweep.")
_SET = flags.DEFINE_multi_string("set", [], "KEY=VALUE, as given to the sweep; repeatable.")
_TUNED = flags.DEFINE_multi_string(
    "tuned", [], "NAME:PATTERN, the name of a system and its fine-tuned workdirs; repeatable."
)
_OF = flags.DEFINE_enum("of", "mean", list(tuned.STATISTICS), "What is told of several seeds.")
_LAST = flags.DEFINE_bool("last", False, "Take each run's last evaluation, not its best.")


@exit_on_user_error
def main(argv):
    """Draws, or writes a page or a table."""
    if len(argv) > 2 or (len(argv) == 2) + bool(_WORKDIR.value) + bool(_TUNED.value) != 1:
        raise UserError("Give the name of one table, or --workdir of some runs, or --tuned.")
    if _TUNED.value:
        return _tuned(_OUTPUT.value)
    if _WORKDIR.value:
        return _draw(_OUTPUT.value or "loss.png")
    page = reports.collect(
        argv[1],
        _SCALE.value,
        _SEEDS.value,
        pathlib.Path(_RUNS.value).expanduser(),
        search.parse_assignments("set", _SET.value),
        _PARALLEL.value,
    )
    try:
        for path in reports.write(page, pathlib.Path(_OUTPUT.value or "docs/ablations")):
            print(path)
    except OSError as error:
        raise UserError(f"--output={_OUTPUT.value} cannot be written: {error}.") from error


def _tuned(output):
    """Prints the table of fine-tuned systems, or writes it to a file."""
    systems = []
    for text in _TUNED.value:
        name, _, pattern = text.partition(":")
        if not (name and pattern):
            raise UserError(f"--tuned={text} must read NAME:PATTERN.")
        systems.append(tuned.collect(name, pattern, _OF.value, _LAST.value))
    table = tuned.table(systems, _OF.value)
    if output is None:
        print(table, end="")
        return
    files.write_text(pathlib.Path(output), table)
    print(output)


def _draw(output):
    """Draws every metric of every run over the steps."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for workdir in map(pathlib.Path, _WORKDIR.value):
        rows = _read(workdir.expanduser() / "metrics.jsonl")
        for metric in _METRIC.value:
            points = [(row["step"], row[metric]) for row in rows if row.get(metric) is not None]
            if not points:
                names = sorted({name for row in rows for name in row} - {"step"})
                raise UserError(f"{workdir} has no {metric}: choose from {', '.join(names)}.")
            axes.plot(*zip(*points, strict=True), marker=".", label=f"{workdir.name}: {metric}")
    axes.set_xlabel("step")
    axes.set_ylabel(", ".join(_METRIC.value))
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(output, dpi=150)
    except (OSError, ValueError) as error:  # the latter: an unknown kind of picture
        raise UserError(f"--output={output} cannot be written: {error}.") from error
    print(output)


def _read(path: pathlib.Path) -> list[dict]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except OSError as error:
        raise UserError(f"{path} cannot be read: give the --workdir of a run.") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete the broken line.") from error


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
