"""From a published checkpoint's names, layouts and settings to ours and back.

A family is described once, by tables that are read in both directions.

Axes: `V` vocabulary, `T` positions, `A` token types, `D` width (`O` for the other axis of a square
kernel), `E` width of the tables, `H` heads, `K` head width, `F` feed-forward width, `C` classes of
the sentence-pair head, `S` a single one, which our parameter may be without, `X` same or other
segment; `N` layers, `G` groups of layers that share their parameters. Of T5: `B` buckets of
relative positions, `I` feed-forward width if it is gated and `J` if not, `W` vocabulary if the
logits have a kernel of their own; else these are 0. A family may have more of its own.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import errors
from errors import UserError

# Published name -> ours. The first of each is the one that we write.
ACTIVATIONS = {
    "gelu": "gelu",  # with the error function
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
FLOATS = ("float32", "bfloat16", "float16", "float64")


class Row(NamedTuple):
    """One tensor of a published checkpoint.

    Attributes:
      ours: path of the parameter; `a/b|c/d` means the parameters a/b/d and a/c/d, which the
        published tensor holds side by side along its last axis.
      axes: its axes.
      theirs: name of the published tensor; `{}` is the number of a layer and `{g}` that of a
        group, and our parameter then has a first axis N or G that stacks them. Another letter
        stands for some of the layers: their numbers are the size of its axis.
      layout: axes of that tensor; letters without a space between them are one flattened axis.
    """

    ours: str
    axes: str
    theirs: str
    layout: str

    @property
    def paths(self) -> list[str]:
        """Our parameters in this tensor."""
        paths = [""]
        for part in self.ours.split("/"):
            paths = [f"{path}/{choice}" for path in paths for choice in part.split("|")]
        return [path[1:] for path in paths]

    @property
    def group(self) -> str:
        """The sub-module of the objective that it belongs to: the network or one of the heads."""
        return self.ours.split("/")[0]

    @property
    def stacked(self) -> str:
        """The first axis of our parameter, such as `N`; "" if it is not stacked."""
        number = re.search(r"\{(\w?)\}", self.theirs)
        return (number[1].upper() or "N") if number else ""

    def names(self, sizes: Mapping[str, int]) -> list[str]:
        """The published names: one a layer or group, or just one."""
        numbers = sizes[self.stacked] if self.stacked else 1
        letter = self.stacked.lower()
        numbers = range(numbers) if isinstance(numbers, int) else numbers
        return [self.theirs.format(i, **{letter: i}) for i in numbers]


class Table(NamedTuple):
    """The tensors of a family, all named without the prefix.

    Attributes:
      prefix: what stands before the names, except in a checkpoint of the bare network.
      bare: beginnings of the names that never have the prefix.
      rows: in the order of the network.
      copies: name of a tied copy, which may be absent -> name of what it repeats.
      buffers: regular expression of what holds nothing learned.
    """

    prefix: str
    bare: str | tuple[str, ...]
    rows: tuple[Row, ...]
    copies: dict[str, str]
    buffers: str


class Knob(NamedTuple):
    """A number in both configs; the default is what an absent key means in the published one."""

    ours: str
    theirs: str
    default: int | float


class Imported(NamedTuple):
    """Our parameters from a published checkpoint, and the names of what we have no place for."""

    params: dict[str, Any]
    unexpected: list[str]


def under(ours: str, theirs: str, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Returns `rows` with `ours` and `theirs` set before their two names."""
    return tuple(r._replace(ours=ours + r.ours, theirs=theirs + r.theirs) for r in rows)


def sizes(model: Mapping[str, Any]) -> dict[str, int]:
    """Returns the length of every axis, from the `model` section of a config."""
    return {
        "V": model["vocab_size"],
        "T": model["max_positions"],
        "A": model.get("token_types", 0),
        "D": model["width"],
        "O": model["width"],
        "E": model.get("embed_width") or model["width"],
        "S": 1,
        "H": model["heads"],
        "K": model.get("head_size") or model["width"] // model["heads"],
        "F": model["mlp_width"],
        "C": 2,
        "X": 2,
        "N": model["depth"],
        "G": model.get("groups", 1),
        "B": model.get("relative_buckets", 0),
        "I": model["mlp_width"] if model.get("gated") else 0,
        "J": 0 if model.get("gated") else model["mlp_width"],
        "W": 0 if model.get("tied", True) else model["vocab_size"],
    }


def rows_of(table: Table, sizes: Mapping[str, int | Sequence[int]]) -> list[Row]:
    """Returns the rows of a model.

    Tables as wide as the network are not projected, and an axis of size 0 is that of a parameter
    which the model does not have.
    """
    same = sizes["E"] == sizes["D"]
    rows = [row for row in table.rows if not (same and row.ours.startswith("network/project/"))]
    return [row for row in rows if all(sizes[x] for x in [*row.axes.split(), *row.stacked])]


def from_published(
    table: Table, sizes: Mapping[str, int], tensors: Mapping[str, np.ndarray], source: str
) -> Imported:
    """Reads our parameters, in float32.

    Args:
      table: of the family.
      sizes: length of every axis.
      tensors: by published name, with or without the prefix; LayerNorm's may be gamma and beta.
      source: where they come from, for messages.

    Returns:
      The network and those heads that are there, as a tree.

    Raises:
      UserError: for a tensor that is missing, of another shape, not of floats or not finite, and
        for a copy that differs from its original.
    """
    wanted: dict[str, list[str]] = {}
    rows = rows_of(table, sizes)
    for row in rows:
        wanted.setdefault(row.group, []).extend(row.names(sizes))
    found = _canonical_names(table, tensors, source)
    own = {name for names in wanted.values() for name in names}
    copies = {name: original for name, original in table.copies.items() if name not in own}
    _resolve_copies(copies, found, tensors, source)
    present = {
        group
        for group, names in wanted.items()
        if group == "network" or not found.keys().isdisjoint(names)
    }
    params: dict[str, Any] = {}
    for row in (row for row in rows if row.group in present):
        layers = []
        for name in row.names(sizes):
            if name not in found:
                raise UserError(
                    f"{source} has no tensor {name}: the download is incomplete, or its "
                    "config.json is that of another model."
                )
            layers.append(found[name])
        for path, value in zip(row.paths, _read(row, sizes, tensors, layers, source), strict=True):
            _put(params, path, value)
    used = {name for group in present for name in wanted[group]}
    return Imported(params, sorted(found[name] for name in found.keys() - used))


def to_published(
    table: Table, sizes: Mapping[str, int], params: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the published (name, tensor) of all parameters; the inverse of `from_published`."""
    for row in (row for row in rows_of(table, sizes) if row.group in params):
        parts = [np.asarray(_get(params, path), np.float32) for path in row.paths]
        flat = [math.prod(sizes[letter] for letter in axis) for axis in row.layout.split()]
        ours = row.axes.split()
        order = [ours.index(letter) for letter in row.layout.replace(" ", "") if letter in ours]
        for i, name in enumerate(row.names(sizes)):
            here = [part[i] if row.stacked else part for part in parts]
            name = name if name.startswith(table.bare) else table.prefix + name
            yield name, np.concatenate([x.transpose(order).reshape(flat) for x in here], axis=-1)


def paths(table: Table, groups: Sequence[str]) -> list[str]:
    """Returns the parameters in `groups`."""
    return [path for row in table.rows if row.group in groups for path in row.paths]


def read_knobs(knobs: Sequence[Knob], config: Mapping[str, Any]) -> dict[str, int | float]:
    """Reads the numbers of a published config.

    Raises:
      UserError: for what is no number, and for a size below 1.
    """
    values = {}
    for knob in knobs:
        value = config.get(knob.theirs, knob.default)
        kind, least = (int, 1) if isinstance(knob.default, int) else (float, 0)
        if isinstance(value, bool) or not isinstance(value, (int, kind)) or value < least:
            what = "a whole number" if kind is int else "a number"
            raise UserError(
                f"{knob.theirs}={value!r} in config.json must be {what} of at least {least}."
            )
        values[knob.ours] = kind(value)
    return values


def require(config: Mapping[str, Any], fixed: Mapping[str, Any], problem: str) -> None:
    """Checks settings that the other side has no knob for.

    Args:
      config: where a setting may be absent, and then is as required.
      fixed: setting -> the one value that can be expressed.
      problem: such as "in config.json is beyond our network".

    Raises:
      UserError: naming the first setting that differs.
    """
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise UserError(
                f"{name}={config[name]!r} {problem}: convert only a model with {name}={value!r}."
            )


def write_knobs(knobs: Sequence[Knob], model: Mapping[str, Any]) -> dict[str, int | float]:
    """Writes the numbers of a published config; the inverse of `read_knobs`."""
    return {knob.theirs: model[knob.ours] for knob in knobs}


def read_activation(config: Mapping[str, Any], key: str, default: str) -> str:
    """Returns our name of the activation `config[key]`.

    Raises:
      UserError: for one that we do not have.
    """
    return ACTIVATIONS[
        errors.one_of(f"{key} in config.json", config.get(key, default), ACTIVATIONS)
    ]


def write_activation(name: str) -> str:
    """Returns the published name of our activation `name`."""
    return next(theirs for theirs, ours in ACTIVATIONS.items() if ours == name)


def _canonical(name: str, prefix: str) -> str:
    name = name.removeprefix(prefix)
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))


def _canonical_names(table: Table, tensors: Mapping, source: str) -> dict[str, str]:
    """Returns canonical name -> name in `tensors`, without the buffers."""
    found: dict[str, str] = {}
    for name in tensors:
        canonical = _canonical(name, table.prefix)
        if re.fullmatch(table.buffers, canonical):
            continue
        if canonical in found:
            raise UserError(f"{source} holds {name} and {found[canonical]}: remove one of them.")
        found[canonical] = name
    return found


def _resolve_copies(
    copies: dict[str, str], found: dict[str, str], tensors: Mapping, source: str
) -> None:
    """Takes tied copies out of `found`, or lets them stand for an original that is absent."""
    for copy, original in copies.items():
        if copy not in found:
            continue
        name = found.pop(copy)
        kept = found.setdefault(original, name)
        if kept != name and not np.array_equal(tensors[kept], tensors[name]):
            raise UserError(
                f"{name} differs from {kept} in {source}, but our network ties them: choose a "
                "checkpoint that was trained with tied embeddings."
            )


def _read(
    row: Row, sizes: Mapping[str, int], tensors: Mapping, names: list[str], source: str
) -> list[np.ndarray]:
    """Reads the parameters that `row` describes from the tensors of all its layers."""
    ours = row.axes.split()
    theirs = [letter for letter in row.layout.replace(" ", "") if letter in ours]
    order = [theirs.index(letter) for letter in ours]
    shape = [math.prod(sizes[letter] for letter in axis) for axis in row.layout.split()]
    shape[-1] *= len(row.paths)
    stacked = np.empty((len(row.paths), len(names), *(sizes[x] for x in ours)), np.float32)
    for layer, name in enumerate(names):
        tensor = tensors[name]
        if list(tensor.shape) != shape:
            raise UserError(
                f"{name} in {source} has shape {list(tensor.shape)}, but its config.json says "
                f"{shape}: use the config.json that belongs to these weights."
            )
        if tensor.dtype.name not in FLOATS:
            raise UserError(
                f"{name} in {source} is of type {tensor.dtype.name}: save the checkpoint as "
                "float32, bfloat16 or float16."
            )
        tensor = tensor.astype(np.float32)
        if not np.isfinite(tensor).all():
            raise UserError(f"{name} in {source} is not finite: download or train it again.")
        for part, value in enumerate(np.split(tensor, len(row.paths), axis=-1)):
            stacked[part, layer] = value.reshape([sizes[x] for x in theirs]).transpose(order)
    return list(stacked if row.stacked else stacked[:, 0])


def _put(tree: dict[str, Any], path: str, value: np.ndarray) -> None:
    *parents, leaf = path.split("/")
    for name in parents:
        tree = tree.setdefault(name, {})
    tree[leaf] = value


def _get(tree: Mapping[str, Any], path: str) -> Any:
    for name in path.split("/"):
        tree = tree[name]
    return tree
