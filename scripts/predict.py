"""Writes what a checkpoint predicts for a task, in the official layout of its submissions.

    python scripts/predict.py --checkpoint=runs/squad --out=FOLDER --data.path=DEV.json

Of SQuAD these are predictions.json, nbest_predictions.json and, for v2.0, null_odds.json. The
threshold of the null odds is --override=evals.null_threshold=-1.5 (scripts/score.py finds the best
one on the dev set).
"""

import jax
from absl import app, flags

from data_pipeline import loader, progress
from data_pipeline.tasks import task_files
from errors import UserError, exit_on_user_error, parse_flags
from evaluation import answers, evaluate, load, search
from training import compilation_cache, sharding
from training import step as step_lib

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A workdir or a Hugging Face folder.", required=True
)
_OUT = flags.DEFINE_string("out", None, "The folder for the files.", required=True)
_STEP = flags.DEFINE_string("step", None, 'A step of the workdir, or "best"; default: the newest.')
_SPLIT = flags.DEFINE_enum(
    "split", "valid", task_files.SPLITS, "Of the task; test: answers are not needed."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Rows at a time; default: as in training.", lower_bound=1
)
_OVERRIDE = flags.DEFINE_multi_string("override", [], "KEY=VALUE: any other key of the config.")
_DATA = (
    flags.DEFINE_string("data.task", None, "Another task of the same kind."),
    flags.DEFINE_string("data.path", None, "The folder of the task, or the very file."),
)


@exit_on_user_error
def main(argv):
    """Writes the files and prints their paths."""
    compilation_cache.enable()
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}: flags look like --data.path=PATH.")
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    model = load.load(
        _CHECKPOINT.value,
        step=_STEP.value,
        overrides=search.parse_assignments("override", _OVERRIDE.value)
        | {flag.name: flag.value for flag in _DATA if flag.value is not None},
        mesh=mesh,
    )
    config = model.config
    if config.data.pipeline != "spans":
        raise UserError(
            f"{_CHECKPOINT.value} answers no questions (its data.pipeline is "
            f"{config.data.pipeline}): give a checkpoint of SQuAD."
        )
    if _BATCH_SIZE.value is not None:
        config.batch_size = _BATCH_SIZE.value
    rule = answers.rule(config)
    with progress.shown() as report:
        data = load.prepare_data(_CHECKPOINT.value, config, report, _SPLIT.value)
    eval_step = jax.jit(step_lib.make_eval_step(model.objective))
    with loader.Loader(
        data.valid,
        mesh=mesh,
        batch_size=config.batch_size,
        workers=config.data.workers,
        end_step=-(-len(data.valid) // config.batch_size),
    ) as batches:
        rows, _ = evaluate.rows_of(eval_step, model.params, batches)
    for path in answers.write(_OUT.value, answers.choose(data.windows, rows, rule)):
        print(path)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
