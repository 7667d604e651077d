"""Parameters by their paths, which read "network/stack/blocks/mlp/up/kernel"."""

import re
from collections.abc import Callable, Sequence

import jax
from jaxtyping import Array, PyTree

import errors


def path_matcher(key: str, patterns: Sequence[str]) -> Callable[[str], bool]:
    """Returns whether any of the regular expressions is found in a parameter's path.

    Raises:
      UserError: naming the config key, if a pattern is not a regular expression.
    """
    try:
        compiled = [re.compile(pattern) for pattern in patterns]
    except (re.error, TypeError) as error:
        raise errors.UserError(f"{key}={tuple(patterns)}: {error}.") from error
    return lambda path: any(pattern.search(path) for pattern in compiled)


def map_with_path(
    f: Callable[[str, Array], object], tree: PyTree, is_leaf: Callable[..., bool] | None = None
) -> PyTree:
    """Maps f(path, leaf) over a tree."""

    def name(path):
        return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")

    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: f(name(path), leaf), tree, is_leaf=is_leaf
    )
