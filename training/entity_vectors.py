"""Vectors of entities from files: an entity's id, from 0, is the number of its row.

They are a file in safetensors with a table `entities`, or a folder with such a vectors.safetensors,
as scripts/train_transe.py leaves it; or text with a line of numbers for each entity, which is the
released layout of ERNIE (entity2vec.vec).
"""

import os
import pathlib

import jax
import numpy as np
import safetensors
from jaxtyping import Array, Float

from data_pipeline.knowledge import store
from errors import UserError

TABLE = "entities"


def read(path: str | os.PathLike, shape: tuple[int, int]) -> Float[np.ndarray, "V Y"]:
    """Returns the vectors in float32.

    Args:
      path: of the file or folder.
      shape: that the model needs: entities, width.

    Raises:
      UserError: if they cannot be read, or are of another shape.
    """
    path = pathlib.Path(path).expanduser()
    path = path / store.VECTORS if path.is_dir() else path
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="np") as file:
                vectors = file.get_tensor(TABLE)
        else:
            vectors = np.loadtxt(path, np.float32, ndmin=2)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} holds no vectors of entities ({error}): give another.") from error
    if vectors.shape != shape:
        raise UserError(
            f"{path} has {len(vectors)} vectors of width {vectors.shape[-1]}: set config.model."
            f"entities and entity_width, which are {shape[0]} and {shape[1]}, to these."
        )
    return vectors.astype(np.float32)


def table(fresh: Float[Array, "rows Y"], vectors: Float[np.ndarray, "V Y"]) -> Array:
    """Returns a table with these vectors, placed as a fresh one is, each process its own part.

    Row 0, and those behind the last vector, stand for none and are zeros.

    Args:
      fresh: the table as it was drawn.
      vectors: at most as many as it has further rows.
    """
    rows = np.zeros(fresh.shape, np.float32)
    rows[1 : len(vectors) + 1] = vectors
    return jax.make_array_from_callback(fresh.shape, fresh.sharding, lambda index: rows[index])
