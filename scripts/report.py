"""Draws the curves of one or several runs from their metrics.jsonl.

python scripts/report.py --workdir=runs/a --workdir=runs/b --metric=valid/loss --output=loss.png
"""

import json
import pathlib

import matplotlib

matplotlib.use("Agg")  # a file, not a window

import matplotlib.pyplot as plt
from absl import app, flags

from errors import UserError, exit_on_user_error, parse_flags

_WORKDIR = flags.DEFINE_multi_string("workdir", None, "A run; may be repeated.", required=True)
_METRIC = flags.DEFINE_multi_string("metric", ["valid/loss"], "What to draw; may be repeated.")
_OUTPUT = flags.DEFINE_string("output", "loss.png", "The picture; .png, .svg or .pdf.")


@exit_on_user_error
def main(argv):
    """Draws every metric of every run over the steps."""
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}: every flag begins with --.")
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
        figure.savefig(_OUTPUT.value, dpi=150)
    except (OSError, ValueError) as error:  # the latter: an unknown kind of picture
        raise UserError(f"--output={_OUTPUT.value} cannot be written: {error}.") from error
    print(_OUTPUT.value)


def _read(path: pathlib.Path) -> list[dict]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except OSError as error:
        raise UserError(f"{path} cannot be read: give the --workdir of a run.") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete the broken line.") from error


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
