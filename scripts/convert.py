"""Imports and exports published checkpoints in Hugging Face's layout, of BERT and all that follow.

    python scripts/convert.py --hf=FOLDER --checkpoint=DIR            # from FOLDER into a new DIR
    python scripts/convert.py --checkpoint=DIR --hf=FOLDER --export   # from DIR into a new FOLDER

Of an ELECTRA run the discriminator is exported, or with --part=generator the generator; of a
distillation the student.

FOLDER holds config.json, model.safetensors (or its index and parts) and the vocabulary; pickles
are never loaded. The import writes what a run would have written: config.json (the paper's page
with the checkpoint's sizes), tokenizer/, and in checkpoints/ a step 0 with parameters alone. Train
on with `--config.init_from=DIR` and another workdir.
"""

import pathlib

import jax
import optax
from absl import app, flags

from errors import UserError, exit_on_user_error, parse_flags
from evaluation import load
from model import objectives
from training import checkpoint, huggingface, telemetry
from training import state as state_lib

_HF = flags.DEFINE_string("hf", None, "Folder in Hugging Face's layout.", required=True)
_RUN = flags.DEFINE_string("checkpoint", None, "Workdir of a run of ours.", required=True)
_EXPORT = flags.DEFINE_bool("export", False, "From --checkpoint to --hf, not the other way.")
_FAMILY = flags.DEFINE_enum(
    "family", None, list(huggingface.FAMILIES), "Layout of an export; default: the first that fits."
)
_PART = flags.DEFINE_enum("part", None, ["generator"], "Of an ELECTRA run, to export.")
_STEP = flags.DEFINE_string("step", None, 'To export, or "best"; default: the newest.')


@exit_on_user_error
def main(argv):
    """Converts in the direction that the flags say."""
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}: give --hf and --checkpoint.")
    hf, workdir = (pathlib.Path(flag.value).expanduser() for flag in (_HF, _RUN))
    if _EXPORT.value:
        export_run(workdir, hf, step=_STEP.value, part=_PART.value, family=_FAMILY.value)
    elif _STEP.value or _PART.value or _FAMILY.value:
        raise UserError("--step, --part and --family are for an export: add --export.")
    else:
        import_published(hf, workdir)


def import_published(folder: pathlib.Path, workdir: pathlib.Path) -> None:
    """Makes `workdir` from the published checkpoint in `folder`.

    Raises:
      UserError: if the checkpoint cannot be read, or `workdir` already holds something.
    """
    if workdir.exists() and any(workdir.iterdir()):
        raise UserError(f"{workdir} is not empty: give a new --checkpoint.")
    published = huggingface.load(folder)
    tokenizer = published.tokenizer
    if tokenizer is None:
        raise UserError(
            f"{folder} holds no vocabulary: put its vocabulary files beside the weights."
        )

    config = load.published_config(published, workdir / "tokenizer")
    params = published.params | _fresh(config, published.missing)

    tokenizer.save(workdir / "tokenizer")
    checkpointer = checkpoint.Checkpointer(workdir / "checkpoints", keep=1, keep_best=0)
    checkpointer.save(0, {"params": jax.tree.map(jax.numpy.asarray, params)}, meta={})
    checkpointer.close()
    telemetry.save_run_info(workdir, config)

    print(f"{workdir}: step 0 with the {_count(params):,} parameters of {folder}")
    for path in published.missing:
        print(f"not in {folder}, so made anew: {path}")
    for name in published.unexpected:
        print(f"left out, for our objective has no place for it: {name}")


def export_run(
    workdir: pathlib.Path,
    folder: pathlib.Path,
    step: str | None = None,
    part: str | None = None,
    family: str | None = None,
) -> None:
    """Writes a checkpoint of `workdir` into `folder`.

    Raises:
      UserError: if `workdir` holds no run, or one that no published layout fits, or `folder` holds
        a checkpoint already.
    """
    run = load.load(workdir, step=step)
    config = run.config
    model, objective, params = config.model, config.objective, run.params
    if part == "generator":
        model, objective, params = huggingface.electra.generator(model, objective, params)
    huggingface.save(folder, model, objective, params, run.tokenizer, family)
    print(f"{folder}: written from the {_count(run.params):,} parameters of {workdir}")


def _fresh(config, missing: list[str]):
    """Returns the heads that hold the `missing` parameters, freshly initialized."""
    heads = sorted({path.split("/")[0] for path in missing})
    init = state_lib.Init(objectives.build(config, jax.default_backend()), optax.identity())

    @jax.jit
    def make(key):
        params = state_lib.unbox(init(key).params)
        return {head: params[head] for head in heads}

    return make(jax.random.key(config.seed))


def _count(params) -> int:
    return sum(x.size for x in jax.tree.leaves(params))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
