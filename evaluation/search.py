"""Points of a grid or a random search, and values as flags give them."""

import itertools
import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from errors import UserError


def grid(axes: Sequence[str]) -> list[dict[str, Any]]:
    """Returns all combinations of axes such as "optim.lr=1e-4,3e-4".

    Raises:
      UserError: for an axis that does not read so.
    """
    keys, values = [], []
    for axis in axes:
        key, sep, rest = axis.partition("=")
        if not (key and sep and rest):
            raise UserError(f"--grid={axis} must read KEY=VALUE,VALUE,...")
        keys.append(key)
        values.append([parse(value) for value in rest.split(",")])
    return [dict(zip(keys, point, strict=True)) for point in itertools.product(*values)]


def sample(axes: Sequence[str], count: int, seed: int) -> list[dict[str, Any]]:
    """Draws `count` points from axes such as "optim.lr=log:1e-4:1e-2".

    Kinds: log:LOW:HIGH, uniform:LOW:HIGH, choice:VALUE,VALUE,...

    Raises:
      UserError: for an axis that does not read so.
    """
    rng = random.Random(seed)
    parsed = [_parse_axis(axis) for axis in axes]
    return [{key: draw(rng) for key, draw in parsed} for _ in range(count)]


def _parse_axis(axis: str) -> tuple[str, Callable[[random.Random], Any]]:
    """Returns the key of an axis and what draws its values."""
    key, _, rest = axis.partition("=")
    kind, _, numbers = rest.partition(":")
    try:
        if kind == "choice" and numbers:
            values = [parse(value) for value in numbers.split(",")]
            return key, lambda rng: rng.choice(values)
        low, high = map(float, numbers.split(":"))
        if kind == "uniform":
            return key, lambda rng: rng.uniform(low, high)
        if kind == "log" and 0 < low <= high:
            return key, lambda rng: math.exp(rng.uniform(math.log(low), math.log(high)))
    except ValueError:
        pass  # told below, as any other mistake
    raise UserError(
        f"--sample={axis} must read KEY=log:LOW:HIGH, KEY=uniform:LOW:HIGH or "
        "KEY=choice:VALUE,VALUE,..."
    )


def parse(text: str) -> Any:
    """Reads a value as JSON does, True and False too; anything else is a string."""
    try:
        return json.loads({"True": "true", "False": "false"}.get(text, text))
    except ValueError:
        return text


def parse_assignments(flag: str, texts: Sequence[str]) -> dict[str, Any]:
    """Reads KEY=VALUE of a repeated flag.

    Raises:
      UserError: for what does not read so.
    """
    values = {}
    for text in texts:
        key, sep, value = text.partition("=")
        if not (key and sep):
            raise UserError(f"--{flag}={text} must read KEY=VALUE.")
        values[key] = parse(value)
    return values
