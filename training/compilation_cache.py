"""Compiled programs kept between processes: the second start of a run is quick."""

import os
import pathlib

import jax


def enable() -> None:
    """Makes JAX keep them in ~/.cache/bert-to-gpt3/xla, unless JAX_COMPILATION_CACHE_DIR is set."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = pathlib.Path("~/.cache/bert-to-gpt3/xla").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache))
