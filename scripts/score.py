"""Scores a file of predictions, as the official program of the task does.

    python scripts/score.py --task=squad-v1.1 --predictions=predictions.json --data.path=DEV.json
    python scripts/score.py --task=squad-v2.0 --predictions=predictions.json --data.path=DEV.json \
        --null_odds=null_odds.json

What is printed is what evaluate-v1.1.py and evaluate-v2.0.py print.
"""

import json

from absl import app, flags

from data_pipeline.tasks import squad as tasks
from errors import UserError, exit_on_user_error, parse_flags
from evaluation import squad

_TASK = flags.DEFINE_enum("task", None, list(tasks.TASKS), "The task.", required=True)
_PREDICTIONS = flags.DEFINE_string(
    "predictions", None, "JSON: from the id of a question to its answer.", required=True
)
_PATH = flags.DEFINE_string(
    "data.path", None, "The file with the right answers, or the folder of SQuAD.", required=True
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
    task = _TASK.value
    questions = tasks.read(tasks.TASKS[task], _PATH.value, "valid").questions
    predictions = squad.read_predictions(_PREDICTIONS.value)
    odds = squad.read_predictions(_NULL_ODDS.value, float) if _NULL_ODDS.value else None
    scores = squad.score(task, questions, predictions, odds, _THRESHOLD.value)
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
