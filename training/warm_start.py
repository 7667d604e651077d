"""Starting from weights that exist: workdirs of ours or Hugging Face folders.

`init_from` fills the objective, `part_from.teacher` (or another part) one sub-module of it. What is
exchanged are groups, the first level of a tree of parameters: "network" and each head, and what an
ERNIE knows of entities. A group that one side lacks is left out, and said; within a group
everything must fit, but that a head of another shape, such as that of a task with more classes,
starts anew.
"""

import json
import logging
import pathlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, PyTree

from data_pipeline import entities, tokenizers
from errors import UserError
from training import (
    checkpoint,
    concept_vectors,
    digests,
    entity_vectors,
    huggingface,
    paths,
)

KNOWLEDGE = "network/knowledge"  # what an ERNIE has besides a BERT: a group of its own
BLOCKS = "stack/blocks/"  # in the paths of parameters that hold one slice for each layer
TOKENS = "embedder/tokens/table"  # the end of the path of the parameter with a row for each token


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


def complete(config: ml_collections.ConfigDict, *, without_weights: bool = False) -> None:
    """Takes from existing weights what the config leaves to them; in place.

    That is the vocabulary, unless the config names one, and the sizes of a teacher or of a graph.

    Args:
      config: a whole config.
      without_weights: whether a teacher that is not given is of the sizes that the page has.

    Raises:
      UserError: if a teacher is needed and not given, or given and of no use, or if `init_from` is
        of another family than the config.
    """
    if config.init_from:
        _check_family(config)
    parts = PARTS.get(config.objective.name, ()) + PARTS.get(config.model.get("name"), ())
    for part, source in config.part_from.items():
        if source is not None and part not in parts:
            raise UserError(
                f"config.part_from.{part} is of no use to config.objective.name="
                f"{config.objective.name}: leave it out."
            )
    if "teacher" in config.objective:
        teacher = config.part_from.teacher
        if teacher is None and not without_weights:
            raise UserError(
                "config.part_from.teacher is not set: name the workdir of a finished run, or a "
                "Hugging Face folder, to learn from."
            )
        sizes, objective = config.objective.teacher.to_dict(), {}
        if teacher is not None:
            sizes, objective = _sections(teacher)
        if objective.get("scale", 1.0) != 1.0:
            raise UserError(
                f"config.part_from.teacher={teacher} predicts scores divided by "
                f"{objective['scale']}: tune one with config.objective.scale=1."
            )
        config.objective.teacher = ml_collections.ConfigDict(
            sizes | {"dtype": config.model.dtype, "remat": "none"}
        )
    concept_vectors.complete(config)
    runs = [config.init_from, *(x for part, x in config.part_from.items() if part != "entities")]
    sources = [path for path in runs if path]
    if sources and config.data.tokenizer.path is None:
        config.data.tokenizer.path = tokenizer_path(sources[0])
    if config.init_from and config.model.name == "ernie" and config.data.entities.path is None:
        names = pathlib.Path(tokenizer_path(config.init_from)) / entities.FILE
        if names.exists():
            config.data.entities.path = str(names)


def _check_family(config):
    """Refuses weights of another kind of network, or made for another kind of vocabulary."""
    folder, path = pathlib.Path(config.init_from).expanduser(), tokenizer_path(config.init_from)
    if (folder / "checkpoints").is_dir():
        model = json.loads((folder / "config.json").read_text())["model"]
        vocabulary = tokenizers.load(path)
    else:
        _, model = huggingface.read_model(folder)
        vocabulary = huggingface.files.read_tokenizer(folder)
    there, here = model["name"], config.model.name
    # The page may name another kind than a run of it had, which then has another size as well.
    if there == here and vocabulary and model["vocab_size"] != config.model.vocab_size:
        there += f" with a {vocabulary.kind} vocabulary"
        here += f" with a {config.data.tokenizer.kind} vocabulary"
    if there != here and (there, here) != ("encoder", "ernie"):
        raise UserError(
            f"config.init_from={config.init_from} is of another family, {there} instead of {here}: "
            "choose the config of that family, or another checkpoint."
        )


# Objective or network -> its sub-modules that may come from a run of their own, or from a file.
PARTS = {"distill": ("teacher",), "electra": ("generator",), "ernie": ("entities",)}


def _sections(source: str) -> tuple[dict, dict]:
    """Returns the `model` and `objective` sections of what was trained."""
    folder = pathlib.Path(source).expanduser()
    if (folder / "checkpoints").is_dir():
        saved = json.loads((folder / "config.json").read_text())
        return saved["model"], saved["objective"]
    tokenizer_path(source)  # says what is wrong with the path, if anything is
    published = huggingface.load(folder)
    return published.model, published.objective


def load_params(
    config: ml_collections.ConfigDict, params: PyTree, tokenizer: tokenizers.Tokenizer
) -> PyTree:
    """Replaces freshly made parameters by those of checkpoints, where the config names any.

    Args:
      config: a whole config.
      params: the fresh parameters, on their devices.
      tokenizer: the run's vocabulary, which must be that of the checkpoints.

    Raises:
      UserError: if shapes or vocabulary differ.
    """
    params = concept_vectors.fill(config, params)
    if config.init_from:
        key = f"config.init_from={config.init_from}"
        rest = {k: v for k, v in params.items() if not config.part_from.get(k)}
        rest = _fill(config.init_from, rest, tokenizer, key, config.init_layers, heads_differ=True)
        params = {**params, **rest}
    if config.model.name == "ernie":
        params = _with_vectors(config, params)
    for part, source in config.part_from.items():
        if source and part != "entities":
            key = f"config.part_from.{part}={source}"
            params = {**params, **_part(part, source, params, tokenizer, key)}
    return params


def _with_vectors(config, params):
    """Returns the parameters of an ERNIE with the vectors of `part_from.entities`, if there are."""
    path, source = f"{KNOWLEDGE}/entities/table", config.part_from.entities
    if not source:
        known = config.init_from and _sections(config.init_from)[0]["name"] == "ernie"
        if not known and paths.path_matcher("config.optim.frozen", config.optim.frozen)(path):
            raise UserError(
                "config.optim.frozen keeps the vectors of entities as they are, which are drawn at "
                "random: give them with config.part_from.entities, or set config.optim.frozen=()."
            )
        return params
    leaves = digests.named_leaves(params)
    fresh = leaves[path]
    vectors = entity_vectors.read(source, (config.model.entities, fresh.shape[1]))
    return _nest(leaves | {path: entity_vectors.table(fresh, vectors)})


def _part(part, source, params, tokenizer, key):
    """Returns the filled groups of a part: a masked LM's as they are named in its own run."""
    if part == "teacher":
        return {"teacher": _fill(source, params["teacher"], tokenizer, key)}
    if "generator" not in params:
        raise UserError(f"{key} has nowhere to go: with config.objective.tie=all there is none.")
    own = {"network": params["generator"], "masked_lm": params["masked_lm"]}
    filled = _fill(source, own, tokenizer, key)
    return {"generator": filled["network"], "masked_lm": filled["masked_lm"]}


def _fill(
    source: str,
    params: Mapping[str, PyTree],
    tokenizer: tokenizers.Tokenizer,
    key: str,
    chosen: Sequence[int] = (),
    *,
    heads_differ: bool = False,
) -> dict[str, PyTree]:
    """Fills the groups of `params` that `source` has; `chosen` are its layers that are wanted.

    With `heads_differ` a head of another shape starts anew.
    """
    folder = pathlib.Path(source).expanduser()
    vocabulary = tokenizer_path(source)
    if (folder / "checkpoints").is_dir():
        added = _check_vocabulary(tokenizers.load(vocabulary), tokenizer, key)
        given = checkpoint.saved_params(folder / "checkpoints")
    else:
        published, added = huggingface.load(folder), 0
        if published.tokenizer is not None:
            added = _check_vocabulary(published.tokenizer, tokenizer, key)
        given = digests.named_leaves(published.params)

    fresh = digests.named_leaves(params)
    groups = set(map(_group, given))
    for group in sorted(set(map(_group, fresh)) - groups):
        logging.warning("%s has no %s: it starts anew.", key, group)
    if heads_differ:
        differ = {
            name for name, x in fresh.items() if name in given and given[name].shape != x.shape
        }
        for group in sorted(set(map(_group, differ)) - {"network", KNOWLEDGE}):
            logging.warning("The %s of %s has another shape: it starts anew.", group, key)
            groups.remove(group)
    wanted = {name: x for name, x in fresh.items() if _group(name) in groups}
    if not any(name.startswith("network/") for name in wanted):
        raise UserError(f"{key} holds no network of this kind: name another one.")
    for name in sorted(set(given) - set(fresh)):
        if name.split("/")[0] in params:
            logging.warning("%s holds %s, which this network has no place for.", key, name)

    if chosen and not any(BLOCKS in name for name in wanted):
        raise UserError(
            f"config.init_layers={tuple(chosen)} cannot pick from {key}, whose layers are not one "
            "stack: leave it out."
        )
    for name, here in wanted.items():
        there = given[name].shape if name in given else None
        if there and BLOCKS in name and chosen:
            if max(chosen) >= there[0]:
                raise UserError(
                    f"config.init_layers={tuple(chosen)} asks for more than the {there[0]} layers "
                    f"of {key}."
                )
            there = (len(chosen), *there[1:])
        if there and name.endswith(TOKENS):  # new tokens keep the rows that they were drawn
            there = (there[0] + added, *there[1:])
        if there != here.shape:
            raise UserError(
                f"{key} does not fit: {name} is {there or 'absent'} there and {here.shape} here; "
                "set config.model to the sizes of the checkpoint, or choose layers with "
                "config.init_layers."
            )
    if (folder / "checkpoints").is_dir():
        abstract = {
            name: jax.ShapeDtypeStruct(
                given[name].shape,
                given[name].dtype,
                # Layers that will be picked may not divide as those do that are wanted.
                sharding=_whole(x) if given[name].shape != x.shape else x.sharding,
            )
            for name, x in wanted.items()
        }
        restored = checkpoint.restore_params(folder / "checkpoints", _nest(abstract))
        given = digests.named_leaves(restored)

    def place(name, here):
        if name not in wanted:
            return here
        value = given[name][np.array(chosen)] if chosen and BLOCKS in name else given[name]
        if added and name.endswith(TOKENS):
            value = jnp.concatenate([value, here[len(value) :]])
        return jax.device_put(value, here.sharding)

    return _nest({name: place(name, here) for name, here in fresh.items()})


def _group(name: str) -> str:
    """Returns the group of a parameter."""
    return KNOWLEDGE if name.startswith(KNOWLEDGE) else name.split("/")[0]


def _whole(x: Array) -> jax.sharding.Sharding:
    """Returns the sharding that puts all of an array on each device of x."""
    if isinstance(x.sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(x.sharding.mesh, jax.sharding.PartitionSpec())
    return x.sharding


def _nest(leaves: Mapping[str, Array]) -> dict[str, PyTree]:
    """Returns the tree with these paths."""
    tree: dict[str, PyTree] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def _check_vocabulary(theirs, ours, key):
    """Returns how many special tokens the run's vocabulary has behind those of the checkpoint."""
    if isinstance(theirs, tokenizers.WordBpe) and ours.start_id is not None:
        size, theirs = theirs.vocab_size, theirs.with_specials()
        added = theirs.vocab_size - size
    else:
        added = 0
    if theirs.fingerprint != ours.fingerprint:
        raise UserError(
            f"The vocabulary of {key} is not that of this run: leave config.data.tokenizer.path "
            "out to use that of the checkpoint."
        )
    return added
