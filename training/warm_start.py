"""Starting from weights that exist: `init_from`, a workdir of ours or a Hugging Face folder."""

import logging
import pathlib

import jax
import ml_collections
from jaxtyping import PyTree

from data_pipeline import tokenizers
from errors import UserError
from training import checkpoint, huggingface


def tokenizer_path(init_from: str) -> str:
    """Returns where the vocabulary of the weights lies.

    Raises:
      UserError: if `init_from` is neither a workdir nor a published checkpoint.
    """
    folder = pathlib.Path(init_from).expanduser()
    if (folder / "checkpoints").is_dir():
        return str(folder / "tokenizer")
    if (folder / "config.json").is_file():
        return str(folder)
    raise UserError(
        f"config.init_from={init_from} is neither a workdir with checkpoints nor a Hugging Face "
        "folder with a config.json."
    )


def use_vocabulary(config: ml_collections.ConfigDict) -> None:
    """Makes the run use the vocabulary of the weights, unless the config names one; in place."""
    if config.init_from and config.data.tokenizer.path is None:
        config.data.tokenizer.path = tokenizer_path(config.init_from)


def load_params(init_from: str, params: PyTree, tokenizer: tokenizers.Tokenizer) -> PyTree:
    """Replaces freshly made parameters by those of a checkpoint.

    Args:
      init_from: a workdir of ours, or a folder in Hugging Face's layout. Heads that a published
        checkpoint lacks stay fresh, and are named in the log.
      params: the fresh parameters, on their devices.
      tokenizer: the run's vocabulary, which must be that of the checkpoint.

    Raises:
      UserError: if shapes or vocabulary differ.
    """
    folder = pathlib.Path(init_from).expanduser()
    vocabulary = tokenizer_path(init_from)
    if (folder / "checkpoints").is_dir():
        _check_vocabulary(tokenizers.load(vocabulary), tokenizer, init_from)
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params
        )
        return checkpoint.restore_params(folder / "checkpoints", abstract)
    published = huggingface.load(folder)
    if published.tokenizer is not None:
        _check_vocabulary(published.tokenizer, tokenizer, init_from)
    if published.missing:
        logging.warning("%s lacks %s: made anew.", init_from, ", ".join(published.missing))
    given = {_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(published.params)}

    def replace(path, fresh):
        name = _name(path)
        if name not in given:
            return fresh
        if given[name].shape != fresh.shape:
            raise UserError(
                f"config.init_from={init_from} does not fit: {name} is {given[name].shape} there "
                f"and {fresh.shape} here; set config.model to the sizes of the checkpoint."
            )
        return jax.device_put(given[name], fresh.sharding)

    return jax.tree_util.tree_map_with_path(replace, params)


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _check_vocabulary(theirs, ours, init_from):
    if theirs.fingerprint != ours.fingerprint:
        raise UserError(
            f"The vocabulary of config.init_from={init_from} is not that of this run: leave "
            "config.data.tokenizer.path out to use that of the checkpoint."
        )
