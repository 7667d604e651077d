"""Imports and exports published checkpoints of BERT and GPT-2 in Hugging Face's layout.

    python scripts/convert.py --hf=FOLDER --workdir=DIR             # from FOLDER into a new DIR
    python scripts/convert.py --workdir=DIR --hf=FOLDER --export    # from DIR into a new FOLDER

FOLDER holds config.json, model.safetensors (or its index and parts) and the vocabulary. The import
writes what a run would have: config.json (the paper's page with the checkpoint's sizes), tokenizer/
and, as step 0, checkpoints/ with parameters alone. Train on with `--config.init_from=DIR`.
"""

import json
import os
import pathlib

import jax
import ml_collections
import numpy as np
from absl import app, flags

import errors
from configs import bert, gpt2
from data_pipeline import tokenizers
from errors import UserError
from model import batch, objectives
from training import checkpoint, huggingface, state, telemetry

HF = flags.DEFINE_string("hf", None, "Folder of the published checkpoint.", required=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of ours.", required=True)
EXPORT = flags.DEFINE_bool("export", False, "Write FOLDER from DIR, instead of DIR from FOLDER.")

PAGES = {"bert": bert, "gpt2": gpt2}  # by name in huggingface.FAMILIES


def import_(folder: str, workdir: str) -> None:
    """Makes `workdir` from the published checkpoint in `folder`.

    Raises:
      UserError: if the checkpoint cannot be read, or `workdir` already holds a run.
    """
    directory = pathlib.Path(workdir)
    if directory.exists() and any(directory.iterdir()):
        raise UserError(f"{workdir} is not empty: choose a new --workdir for the import.")
    published = huggingface.load(folder)

    config = PAGES[published.family].get_config()
    config.model.update(published.model)
    config.objective.update(published.objective)
    config.data.length = min(config.data.length, config.model.max_positions)
    tokenizer = published.tokenizer
    if tokenizer is not None:
        path = os.path.join(workdir, "tokenizer")
        config.data.tokenizer.update(
            kind=tokenizer.kind,
            path=path,
            vocab_size=tokenizer.vocab_size,
            lowercase=tokenizer.lowercase,
        )
        tokenizer.save(path)

    params = jax.tree.map(jax.numpy.asarray, published.params)
    fresh = sorted({path.split("/")[0] for path in published.missing})
    objective = _build(config)
    params |= jax.jit(lambda key: {group: _init(objective, key)[group] for group in fresh})(
        jax.random.key(config.seed)
    )
    checkpointer = checkpoint.Checkpointer(directory / "checkpoints", keep=1, keep_best=0)
    checkpointer.save(0, {"params": params}, meta={})
    checkpointer.close()
    telemetry.save_run_info(workdir, config)

    print(f"{workdir} holds the {_count(params):,} parameters of {folder} as step 0.")
    for path in published.missing:
        print(f"not in {folder}, so freshly initialized: {path}")
    for name in published.unexpected:
        print(f"left out, for our network has no place for it: {name}")
    if tokenizer is None:
        print(f"{folder} has no vocabulary: give one with --config.data.tokenizer.path.")


def export(workdir: str, folder: str) -> None:
    """Writes the newest checkpoint of `workdir` into `folder`.

    Raises:
      UserError: if `workdir` holds no run, or one that no published layout fits.
    """
    path = pathlib.Path(workdir) / "config.json"
    if not path.exists():
        raise UserError(f"There is no {path}: give the --workdir of a run.")
    config = ml_collections.ConfigDict(json.loads(path.read_text()))
    objective = _build(config)
    abstract = jax.eval_shape(lambda key: _init(objective, key), jax.random.key(0))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract
    )
    params = checkpoint.restore_params(pathlib.Path(workdir) / "checkpoints", abstract)
    vocabulary = pathlib.Path(workdir) / "tokenizer"
    tokenizer = tokenizers.load(vocabulary) if vocabulary.exists() else None
    huggingface.save(folder, config.model, config.objective, params, tokenizer)
    print(f"{folder} holds the {_count(params):,} parameters of {workdir}.")


def _build(config: ml_collections.ConfigDict):
    return objectives.build(config, jax.default_backend())


def _init(objective, key):
    """Returns fresh parameters; their shapes do not depend on the batch."""
    example = {name: np.zeros((1,) * len(f.axes), f.dtype) for name, f in batch.FIELDS.items()}
    return state.unbox(objective.init(key, example, train=False)["params"])


def _count(params) -> int:
    return sum(x.size for x in jax.tree.leaves(params))


@errors.exit_on_user_error
def main(argv) -> None:
    """Converts in the direction that the flags say."""
    if argv[1:]:
        raise UserError(f"Unknown argument {argv[1]!r}: use only --hf, --workdir and --export.")
    if EXPORT.value:
        export(WORKDIR.value, HF.value)
    else:
        import_(HF.value, WORKDIR.value)


if __name__ == "__main__":
    app.run(main)
