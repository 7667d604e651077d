"""Scores a file of predictions, as the official program of the task does.

    python scripts/score.py --task=mrpc --predictions=MRPC.tsv --data.path=GLUE
    python scripts/score.py --task=glue --predictions=FOLDER --data.path=GLUE
    python scripts/score.py --task=arc-easy --predictions=arc-easy.csv --data.path=ARC
    python scripts/score.py --task=squad-v1.1 --predictions=predictions.json --data.path=DEV.json
    python scripts/score.py --task=squad-v2.0 --predictions=predictions.json --data.path=DEV.json \
        --null_odds=null_odds.json

Of GLUE that is the dev set, whose examples count from 0; with --task=glue every file of the folder
is scored, and those of the papers' averages are told for which all tasks are there. Of SQuAD what
is printed is what evaluate-v1.1.py and evaluate-v2.0.py print.
"""

import json
import pathlib

from absl import app, flags

from data_pipeline.tasks import choices
from data_pipeline.tasks import squad as squad_tasks
from errors import UserError, exit_on_user_error, parse_flags
from evaluation import averages, choice_answers, squad, submissions

_PREDICTIONS = flags.DEFINE_string(
    "predictions",
    None,
    "GLUE: TSV with an index and its prediction; multiple choice: what predict.py writes; SQuAD: "
    "JSON from the id of a question to its answer.",
    required=True,
)
_PATH = flags.DEFINE_string(
    "data.path",
    None,
    "The file with the right answers, or the folder of the task; default: the library that has it.",
)
_NULL_ODDS = flags.DEFINE_string(
    "null_odds", None, "JSON: from the id to how sure it is that there is no answer (v2.0)."
)
_THRESHOLD = flags.DEFINE_float(
    "null_threshold", 1.0, "Predictions with null odds above it count as no answer."
)


@exit_on_user_error
def main(argv):
    """Prints the scores as JSON."""
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}: flags look like --task=squad-v1.1.")
    if _NULL_ODDS.value is None and flags.FLAGS["null_threshold"].present:
        raise UserError("--null_threshold is of use with --null_odds only: give both.")
    score = SCORERS[_TASK.value]
    if _NULL_ODDS.value and score is not _squad:
        raise UserError("--null_odds is of use with SQuAD only: leave it out.")
    print(json.dumps(score(_TASK.value), indent=2))


def _squad(task):
    questions = squad_tasks.read(squad_tasks.TASKS[task], _PATH.value, "valid").questions
    predictions = squad.read_predictions(_PREDICTIONS.value)
    odds = squad.read_predictions(_NULL_ODDS.value, float) if _NULL_ODDS.value else None
    return squad.score(task, questions, predictions, odds, _THRESHOLD.value)


def _one_of_glue(task):
    return submissions.score(task, _PREDICTIONS.value, _PATH.value)


def _choice(task):
    return choice_answers.score(task, _PREDICTIONS.value, _PATH.value)


def _glue(task):
    """Scores every file of a folder that has labels, and averages them."""
    del task
    folder = pathlib.Path(_PREDICTIONS.value).expanduser()
    found = {
        task: submissions.score(task, folder / name, _PATH.value)
        for task, name in submissions.FILES.items()
        if (folder / name).is_file() and task != "ax"  # its labels are not public
    }
    if not found:
        files = ", ".join(submissions.FILES.values())
        raise UserError(f"{folder} holds none of {files}: give the folder with GLUE's files.")
    values = {name: averages.average(name, found) for name in averages.AVERAGES}
    return found | {"averages": {k: v for k, v in values.items() if v is not None}}


SCORERS = {
    **dict.fromkeys(squad_tasks.TASKS, _squad),
    **dict.fromkeys(submissions.FILES, _one_of_glue),
    **dict.fromkeys(choices.CHOICES, _choice),
    "glue": _glue,
}
_TASK = flags.DEFINE_enum("task", None, list(SCORERS), "The task.", required=True)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
