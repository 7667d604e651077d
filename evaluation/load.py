"""Opens what was trained: a workdir of ours or a published checkpoint."""

import importlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import ml_collections
import optax
from jax.sharding import Mesh
from jaxtyping import PyTree

from configs import common
from data_pipeline import corpus, pipeline, tokenizers
from errors import UserError
from model import objectives
from training import checkpoint, huggingface, sharding
from training import state as state_lib


class Model(NamedTuple):
    """A trained model and what belongs to it."""

    config: ml_collections.ConfigDict
    objective: nn.Module
    params: PyTree
    tokenizer: tokenizers.Tokenizer


def load(
    directory: str | os.PathLike,
    *,
    step: int | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
) -> Model:
    """Opens a checkpoint.

    Args:
      directory: a workdir of train.py, or a folder in Hugging Face's layout.
      step: of a workdir: a number; "best": by its config's checkpoint.best; None: the newest.
      overrides: dotted config keys and the values that they get instead of the saved ones.
      mesh: where the parameters go, by the config's rules; None: to the first device.

    Raises:
      UserError: if there is no such checkpoint, or an override does not suit its config.
    """
    directory = pathlib.Path(directory).expanduser()
    saved = _read_config(directory)
    published = huggingface.load(directory) if "model_type" in saved else None
    if published:
        if step is not None:
            raise UserError(
                f"{directory} is a published checkpoint: it has no steps to choose from."
            )
        _check_whole(directory, published)
        config = published_config(published, directory)
        tokenizer = published.tokenizer
    else:
        config = common.base()
        config.update(saved)
        tokenizer = tokenizers.load(directory / "tokenizer")
        step = _parse_step(step)
    _override(config.lock(), overrides or {})
    if mesh is None:
        mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])
    objective = objectives.build(config, jax.default_backend())
    abstract = abstract_params(objective, mesh, config.rules)
    if published:
        params = jax.tree_util.tree_map_with_path(
            lambda path, x: jax.device_put(_at(published.params, path), x.sharding), abstract
        )
    else:
        params = checkpoint.restore_params(
            directory / "checkpoints", abstract, step, config.checkpoint.best
        )
    return Model(config, objective, params, tokenizer)


def prepare_data(
    directory: str | os.PathLike,
    config: ml_collections.ConfigDict,
    progress: corpus.Progress | None = None,
    split: str = "valid",
) -> pipeline.Data:
    """Returns the held-out rows of a config, cut with the vocabulary that the checkpoint brings.

    Args:
      directory: of the checkpoint, as in `load`.
      config: that of its `Model`, perhaps changed.
      progress: called as the work goes on.
      split: of a task.

    Raises:
      UserError: for data that is not there or does not suit.
    """
    own = pathlib.Path(directory).expanduser() / "tokenizer"
    if own.is_dir():
        config.data.tokenizer.path = None  # the run has its own copy of what was there
    else:
        own = None  # a published one: `load` has set the path
    return pipeline.prepare_data(config, own, progress, training=False, split=split)


def _at(tree: PyTree, path: tuple) -> jax.Array:
    """Returns the parameter at a path; a checkpoint may hold others that are of no use."""
    for key in path:
        tree = tree[key.key]
    return tree


def abstract_params(objective: nn.Module, mesh: Mesh, rules) -> PyTree:
    """Returns the shapes of an objective's parameters with their shardings.

    Args:
      objective: any objective.
      mesh: the mesh.
      rules: of a config.

    Raises:
      UserError: for rules that do not suit.
    """
    init = state_lib.Init(objective, optax.identity())
    return init.abstract(mesh, sharding.check_rules(rules)).params


def _read_config(directory: pathlib.Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise UserError(f"There is no folder {directory}: give the --workdir of a run.")
    path = directory / "config.json"
    if not path.exists():
        raise UserError(
            f"{directory} has no config.json: give the --workdir of a run, or a folder in Hugging "
            "Face's layout."
        )
    try:
        saved = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): restore it from a backup.") from error
    if not isinstance(saved, dict) or not (
        "model_type" in saved or {"model", "data"} <= set(saved)
    ):
        raise UserError(
            f"{path} is neither the config of a run nor Hugging Face's: give another folder."
        )
    return saved


def published_config(
    published: huggingface.Checkpoint, vocabulary: str | os.PathLike
) -> ml_collections.ConfigDict:
    """Returns the page of the paper with the sizes of a published checkpoint, in its precision.

    Args:
      published: the checkpoint, with its tokenizer.
      vocabulary: where the vocabulary lies.
    """
    family = huggingface.FAMILIES[published.family]
    page = getattr(family, "PAGE", published.family)
    config = importlib.import_module(f"configs.{page}").get_config()
    config.model.update(published.model, dtype="float32")
    if config.objective.name == published.objective["name"]:
        config.objective.update(published.objective)
    else:  # a student or a generator alone is a masked LM
        config.objective = published.objective
    if config.objective.name == "span":  # of which version, the layout does not say
        config.data.update(pipeline="spans", task="squad-v2.0")
        config.data.length = 384
        config.evals.batches = 0
    config.data.length = min(config.data.length, config.model.max_positions)
    config.data.tokenizer.update(
        path=str(vocabulary),
        vocab_size=published.tokenizer.vocab_size,
        lowercase=published.tokenizer.lowercase,
    )
    return config


def _check_whole(directory: pathlib.Path, published: huggingface.Checkpoint) -> None:
    if published.missing:
        raise UserError(
            f"{directory} holds no pre-training head (its {published.missing[0]} is missing): give "
            "a checkpoint of the whole model."
        )
    if published.tokenizer is None:
        raise UserError(
            f"{directory} holds no vocabulary: put its vocabulary files beside the weights."
        )


def _parse_step(step: int | str | None) -> int | str | None:
    if step in (None, "best"):
        return step
    try:
        return int(step)
    except ValueError as error:
        raise UserError(f'The step {step!r} must be a number or "best".') from error


def _override(config: ml_collections.ConfigDict, overrides: Mapping[str, Any]) -> None:
    for name, value in overrides.items():
        try:
            config.update_from_flattened_dict({name: value})
        except KeyError as error:
            raise UserError(
                f"The config has no {name}: correct the name of the override."
            ) from error
        except TypeError as error:
            raise UserError(
                f"config.{name} cannot be {value!r}: give a value of its type."
            ) from error
