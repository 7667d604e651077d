"""Shows why a KagNet chooses an answer: its attention over pairs of concepts and their paths.

    python scripts/explain.py --checkpoint=runs/kagnet --question=ID --out=explanation.png

The question is one of the dev file of the run's task (--split=test: of the test file).
"""

import pathlib
import sys

import rich.console
from absl import app, flags

from data_pipeline import files, progress
from data_pipeline.knowledge import store
from data_pipeline.tasks import choices, task_files
from errors import UserError, exit_on_user_error, parse_flags
from evaluation import explanation, load
from training import compilation_cache

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A workdir.", required=True)
_STEP = flags.DEFINE_string("step", None, 'A step of the workdir, or "best"; default: the newest.')
_QUESTION = flags.DEFINE_string("question", None, "Its id; default: the first one.")
_SPLIT = flags.DEFINE_enum("split", "valid", task_files.SPLITS, "Of the task.")
_OUT = flags.DEFINE_string("out", None, "A PNG to draw; default: none is.")
_MOST = flags.DEFINE_integer("most", 4, "Pairs of a choice and paths of a pair.", lower_bound=1)
_PATH = flags.DEFINE_string("data.path", None, "The folder of the task; default: as in training.")


@exit_on_user_error
def main(argv):
    """Prints the question with its reasons, and draws them."""
    compilation_cache.enable()
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}: flags look like --question=ID.")
    out = pathlib.Path(_OUT.value).expanduser() if _OUT.value else None
    if out:
        if out.suffix != ".png":
            raise UserError(f"--out={_OUT.value} must end with .png.")
        files.make_writable(out.parent)
    given = {"data.path": _PATH.value} if _PATH.value else {}
    model = load.load(_CHECKPOINT.value, step=_STEP.value, overrides=given)
    config = model.config
    if config.objective.name != "kagnet":
        raise UserError(f"{_CHECKPOINT.value} is no KagNet: give a run of configs/kagnet.py.")
    with progress.shown() as report:
        data = load.prepare_data(_CHECKPOINT.value, config, report, _SPLIT.value)
    questions = choices.read(choices.CHOICES[config.data.task], config.data.path, _SPLIT.value)
    number = explanation.find(questions, _QUESTION.value)
    graph = store.load(config.data.graphs.path)
    row, question = data.valid.example(number), questions[number]
    reasons = explanation.explain(model, row, question, graph)
    # A tree is cropped to the width of a terminal; in a file there is none.
    width = None if sys.stdout.isatty() else 200
    console = rich.console.Console(highlight=False, soft_wrap=True, width=width)
    explanation.show(question, reasons, console, _MOST.value)
    if out:
        explanation.draw(question, reasons, out)
        console.print(str(out))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
