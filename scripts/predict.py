"""Writes what a checkpoint predicts for a task, in the official layout of its submissions.

    python scripts/predict.py --checkpoint=runs/mnli --step=best --split=test --out=FOLDER
    python scripts/predict.py --checkpoint=runs/squad --out=FOLDER --data.path=DEV.json

Of a task of GLUE this is a file such as MRPC.tsv, for GLUE's server; a model of MNLI writes
MNLI-m.tsv, MNLI-mm.tsv and, of the test split, AX.tsv, as far as the examples are there. Of
multiple choice it is a file such as arc-easy.csv, see evaluation/choice_answers.py. Of SQuAD these
are predictions.json, nbest_predictions.json (T5 writes one answer only) and, for v2.0,
null_odds.json. The threshold of the
null odds is --override=evals.null_threshold=-1.5 (scripts/score.py finds the best one on the dev
set).
"""

import sys

import jax
from absl import app, flags

from data_pipeline import files, loader, progress, tasks
from data_pipeline.tasks import choices, task_files
from errors import UserError, exit_on_user_error, one_of, parse_flags
from evaluation import (
    answers,
    choice_answers,
    evaluate,
    load,
    scoring,
    search,
    submissions,
)
from training import compilation_cache, sharding

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
_TASK = flags.DEFINE_string("data.task", None, "Another task of the same kind.")
_PATH = flags.DEFINE_string("data.path", None, "The folder of the task, or the very file.")


@exit_on_user_error
def main(argv):
    """Writes the files and prints their paths."""
    compilation_cache.enable()
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}: flags look like --data.path=PATH.")
    files.make_writable(_OUT.value)
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    given = {flag.name: flag.value for flag in (_TASK, _PATH) if flag.value is not None}
    model = load.load(
        _CHECKPOINT.value,
        step=_STEP.value,
        overrides=search.parse_assignments("override", _OVERRIDE.value) | given,
        mesh=mesh,
    )
    config = model.config
    write = WRITERS[one_of("data.pipeline with predictions", config.data.pipeline, WRITERS)]
    if _BATCH_SIZE.value is not None:
        config.batch_size = _BATCH_SIZE.value
    eval_step = jax.jit(evaluate.make_step(model.objective, config, model.tokenizer))

    own = config.data.task
    for task in (own, *(() if _TASK.value else submissions.ALSO.get(own, ()))):
        config.data.task = task
        try:
            with progress.shown() as report:
                data = load.prepare_data(_CHECKPOINT.value, config, report, _SPLIT.value)
        except UserError as error:
            if task == own:
                raise
            print(f"left out: {error}", file=sys.stderr)
            continue
        with loader.Loader(
            data.valid,
            mesh=mesh,
            batch_size=config.batch_size,
            workers=config.data.workers,
            end_step=-(-len(data.valid) // config.batch_size),
        ) as batches:
            rows, _ = evaluate.rows_of(eval_step, model.params, batches)
        for path in write(config, data, rows):
            print(path)


def _write_classes(config, data, rows):
    """Writes GLUE's file of a task; of BoolQ the answers to its questions."""
    if config.data.task in choices.CHOICES:
        return _write_choices(config, data, rows)
    task = one_of("task with a file of predictions", config.data.task, submissions.FILES)
    examples = tasks.read_examples(task, config.data.path, _SPLIT.value)
    values = scoring.meanings(config, data.tokenizer, rows)
    return [submissions.write(_OUT.value, task, [example.id for example in examples], values)]


def _write_choices(config, data, rows):
    """Writes the answers to the questions of a task."""
    task = config.data.task
    asked = choices.read(choices.CHOICES[task], config.data.path, _SPLIT.value)
    values = scoring.meanings(config, data.tokenizer, rows)
    return [choice_answers.write(_OUT.value, task, asked, values)]


def _write_answers(config, data, rows):
    """Writes SQuAD's files."""
    return answers.write(_OUT.value, answers.reader(config, data)(rows))


# By data.pipeline.
WRITERS = {
    "classification": _write_classes,
    "gpt_classification": _write_classes,
    "text_to_text": _write_classes,
    "choice": _write_choices,
    "gpt_choice": _write_choices,
    "knowledge_choice": _write_choices,
    "spans": _write_answers,
    "squad_text": _write_answers,
}


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
