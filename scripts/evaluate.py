"""Measures a checkpoint on held-out documents: those of its own run, or of other text.

    python scripts/evaluate.py --checkpoint=runs/bert-tiny
    python scripts/evaluate.py --checkpoint=runs/gpt2-tiny --step=best --data.source=PATH
    python scripts/evaluate.py --checkpoint=runs/mnli --data.task=mnli-mm

A checkpoint is a --workdir of train.py or a folder in Hugging Face's layout. The documents held out
are `data.valid_fraction` of them, the same ones as in training; of a task, its dev file.
"""

import json
import math
import pathlib

import jax
import numpy as np
from absl import app, flags

from data_pipeline import loader, progress
from errors import UserError, exit_on_user_error, parse_flags
from evaluation import evaluate, load, scoring, search
from training import compilation_cache, sharding

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A workdir or a Hugging Face folder.", required=True
)
_STEP = flags.DEFINE_string("step", None, 'A step of the workdir, or "best"; default: the newest.')
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Rows at a time; default: as in training.", lower_bound=1
)
_BATCHES = flags.DEFINE_integer("batches", 0, "The most batches; 0: all.", lower_bound=0)
_OVERRIDE = flags.DEFINE_multi_string(
    "override", [], "KEY=VALUE: any other key of the config, such as data.format.negatives=swapped."
)
_JSON = flags.DEFINE_string("json", None, "A file for the results.")
# Those of the config's data section that suit a model as it is; default: as in training.
_DATA = (
    flags.DEFINE_string("data.source", None, "Other text, see data_pipeline/sources.py."),
    flags.DEFINE_string("data.layout", None, "How documents are marked in text files."),
    flags.DEFINE_float("data.valid_fraction", None, "How much of the documents is held out."),
    flags.DEFINE_integer("data.length", None, "Tokens in a row."),
    flags.DEFINE_string("data.cache_dir", None, "Where prepared text is kept."),
    flags.DEFINE_string("data.task", None, "Another task of as many classes."),
    flags.DEFINE_string("data.path", None, "The folder of the task, or one that holds it."),
)


@exit_on_user_error
def main(argv):
    """Prints the results, one a line."""
    compilation_cache.enable()
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}: flags look like --data.source=PATH.")
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    model = load.load(
        _CHECKPOINT.value,
        step=_STEP.value,
        overrides=search.parse_assignments("override", _OVERRIDE.value)
        | {flag.name: flag.value for flag in _DATA if flag.value is not None},
        mesh=mesh,
    )
    config = model.config
    if _BATCH_SIZE.value is not None:
        config.batch_size = _BATCH_SIZE.value
    with progress.shown() as report:
        data = load.prepare_data(_CHECKPOINT.value, config, report)

    steps = -(-len(data.valid) // config.batch_size)  # the last batch is filled with padding
    steps = min(steps, _BATCHES.value or steps)
    eval_step = jax.jit(evaluate.make_step(model.objective, config, data.tokenizer))
    with loader.Loader(
        data.valid,
        mesh=mesh,
        batch_size=config.batch_size,
        workers=config.data.workers,
        end_step=steps,
    ) as batches:
        score = scoring.scorer(config, data)
        results = evaluate.evaluate(
            eval_step, model.params, batches, model.objective.weights, score
        )

    if not config.data.task:
        rows = np.arange(steps * config.batch_size).reshape(steps, -1)
        counts = evaluate.target_counts(data.valid.batch(batch) for batch in rows)
        results["unigram_entropy"] = evaluate.unigram_entropy(counts)
    # The tokens of other kinds than byte-level BPE do not hold all of the text.
    if "causal_lm" in results and data.manifest and model.tokenizer.kind == "byte_bpe":
        results["bits_per_byte"] = _bits_per_byte(results["causal_lm"], data.manifest)
    if config.data.pipeline == "images":
        results["bits_per_dim"] = results["causal_lm"] / math.log(2)
    for name, value in results.items():
        print(f"{name:24} {value:.4f}")
    if _JSON.value:
        try:
            path = pathlib.Path(_JSON.value)
            whole = path.with_name(path.name + ".tmp")  # a sweep takes a file that is there as done
            whole.write_text(json.dumps(results, indent=1) + "\n")
            whole.replace(path)
        except OSError as error:
            raise UserError(f"--json={_JSON.value} cannot be written: {error}.") from error


def _bits_per_byte(loss: float, manifest: dict) -> float:
    """Returns what the held-out text costs, in bits for each byte of UTF-8.

    Every token is predicted once, and the end of every document besides.
    """
    valid = manifest["splits"]["valid"]
    return loss / math.log(2) * (valid["tokens"] + valid["documents"]) / valid["bytes"]


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
