"""Measures checkpoints on tasks with zero, one or several demonstrations in the prompt.

    python scripts/fewshot.py --checkpoint=runs/gpt2-tiny --task=lambada --shots=0 --data=FOLDER
    python scripts/fewshot.py --checkpoint=A --checkpoint=B --task=hellaswag --task=piqa \
        --shots=0 --shots=1 --shots=8 --data=FOLDER --out=docs/fewshot
    python scripts/fewshot.py --checkpoint=runs/bert-tiny --task=blimp --data=FOLDER

Needs the extra `eval`. With --data our tasks are read from their official files, in the prompts of
GPT-3's paper: lambada, hellaswag, piqa, winogrande, arc-easy, arc-challenge, openbookqa, boolq,
commonsenseqa, squad-v1.1, squad-v2.0, blimp. Without it, and for any other name, the task is
lm-eval's own, which it downloads. An encoder scores BLiMP by its pseudo-log-likelihood.
"""

import logging
import pathlib
import shlex
import sys

from absl import app, flags

from data_pipeline import files, progress
from errors import UserError, exit_on_user_error, parse_flags
from evaluation import load
from training import compilation_cache, sharding

_CHECKPOINT = flags.DEFINE_multi_string(
    "checkpoint", None, "A workdir or a Hugging Face folder; may be repeated.", required=True
)
_STEP = flags.DEFINE_string("step", None, 'A step of the workdirs, or "best"; default: the newest.')
_TASK = flags.DEFINE_multi_string("task", None, "A task; may be repeated.", required=True)
_SHOTS = flags.DEFINE_multi_integer(
    "shots", [0], "Demonstrations before each document; may be repeated.", lower_bound=0
)
_DATA = flags.DEFINE_multi_string(
    "data", [], "The folder of a task, or one that holds several; may be repeated."
)
_LIMIT = flags.DEFINE_integer("limit", 0, "The most documents; 0: all.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 0, "Of the demonstrations that are drawn.")
_BATCH_TOKENS = flags.DEFINE_integer(
    "batch_tokens", 0, "About how many at a time on a device; 0: as suits it.", lower_bound=0
)
_OUT = flags.DEFINE_string("out", None, "A folder for fewshot.md, fewshot.json and fewshot.png.")


@exit_on_user_error
def main(argv):
    """Prints the tables."""
    compilation_cache.enable()
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}: name tasks by --task.")
    try:
        from evaluation import fewshot
    except ImportError as error:
        raise UserError(
            f"Few-shot evaluation needs lm-eval ({error}): make install EXTRAS=dev,eval."
        ) from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    for task in _TASK.value:
        fewshot.check_task(task)
    if _OUT.value:
        files.make_writable(_OUT.value)
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    results = []
    names = fewshot.name_checkpoints(_CHECKPOINT.value)
    with progress.shown() as report:
        for folder, name in names.items():
            model = load.load(folder, step=_STEP.value, mesh=mesh)
            for task in _TASK.value:
                for shots in sorted(set(_SHOTS.value)):
                    results += fewshot.measure(
                        name,
                        model,
                        task,
                        shots,
                        folders=_DATA.value,
                        limit=_LIMIT.value,
                        seed=_SEED.value,
                        batch_tokens=_BATCH_TOKENS.value,
                        report=report,
                    )
    print(fewshot.say(results), end="")
    if _OUT.value:
        command = shlex.join(["python", "scripts/fewshot.py", *sys.argv[1:]])
        fewshot.write(pathlib.Path(_OUT.value), results, command, _SEED.value)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
