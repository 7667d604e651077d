"""What a run must be continued with, and which batches it has left out after a bad step."""

import json
import os
import pathlib
from typing import Any

import jax
import ml_collections
from jax.experimental import multihost_utils

from data_pipeline import files
from errors import UserError

_LEFT_OUT = "left_out.json"


def meta(config: ml_collections.ConfigDict, tokenizer: str, text: str) -> dict[str, Any]:
    """Returns what a checkpoint says about its run, beside the state.

    Args:
      config: the run's.
      tokenizer: a hash of the vocabulary.
      text: a hash of the training text or rows.
    """
    return {
        "tokenizer": tokenizer,
        "text": text,
        "batch_size": config.batch_size,
        "batch_ramp": config.batch_ramp.to_dict(),
    }


def check_continues(saved: dict[str, Any], now: dict[str, Any], workdir: pathlib.Path) -> None:
    """Refuses to go on with other text, another vocabulary or other batches.

    Args:
      saved: `meta` of the checkpoint; an old one may lack keys.
      now: `meta` of this run.
      workdir: of the run.

    Raises:
      UserError: naming what differs.
    """
    if saved["tokenizer"] != now["tokenizer"]:
        raise UserError(
            f"The run in {workdir} was started with another vocabulary: give that one with "
            "config.data.tokenizer.path, or choose another --workdir."
        )
    if saved.get("text", now["text"]) != now["text"]:
        raise UserError(
            f"The text of the run in {workdir} has changed: its hash was {saved['text']} and is "
            f"{now['text']}. Restore the text, or choose another --workdir with config.init_from="
            f"{workdir}."
        )
    if saved["batch_size"] != now["batch_size"]:
        raise UserError(
            f"The run in {workdir} has config.batch_size={saved['batch_size']}: keep it (to save "
            "memory raise config.microbatches), or choose another --workdir with "
            f"config.init_from={workdir}."
        )
    if saved.get("batch_ramp", now["batch_ramp"]) != now["batch_ramp"]:
        raise UserError(
            f"The run in {workdir} has config.batch_ramp={saved['batch_ramp']}: keep it, or choose "
            f"another --workdir with config.init_from={workdir}."
        )


def left_out(workdir: str | os.PathLike) -> list[tuple[int, int]]:
    """Returns (step of a checkpoint, bad step behind it): batches between these were left out."""
    path = pathlib.Path(workdir) / _LEFT_OUT
    if not path.exists():
        return []
    pairs = files.read_json(path, list)
    if not all(isinstance(p, list) and [*map(type, p)] == [int, int] for p in pairs):
        raise UserError(f"{path} is damaged: it must hold pairs of steps.")
    return [tuple(pair) for pair in pairs]


def leave_out(workdir: str | os.PathLike, checkpoint: int, bad: int) -> None:
    """Notes that the run goes back from a bad step, and leaves out what it was trained on since.

    Args:
      workdir: shared by all processes.
      checkpoint: the step of the newest checkpoint, 0 if there is none.
      bad: the step that was bad.
    """
    multihost_utils.sync_global_devices("resume:all_have_read")
    if jax.process_index() == 0:
        pairs = [*left_out(workdir), (checkpoint, bad)]
        with files.replacing(pathlib.Path(workdir) / _LEFT_OUT) as temporary:
            temporary.write_text(json.dumps(pairs) + "\n")
    multihost_utils.sync_global_devices("resume:leave_out")
