"""Saving and restoring the train state, with the guarantees that Orbax does not give.

Orbax writes the arrays: asynchronously, sharded, atomically (the last act is a rename). On top:

- every array carries a digest, for Orbax restores a flipped bit without a word;
- a damaged checkpoint is reported and set aside, and the one before it is used;
- another width or vocabulary, a full disk, weights that are not finite: each is one sentence.

A checkpoint is `DIRECTORY/STEP/{state,manifest}`, on a file system that all processes share. The
manifest holds `leaves` (path -> dtype, shape, digest), `metrics` and `meta`.
"""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from errors import UserError
from training import digests, retention

PyTree = Any
# What the operating system says, in the words of both Python and TensorStore (a ValueError).
_STORAGE_ERROR = re.compile(
    r"No space left on device|Disk quota exceeded|File too large|Read-only file system"
    r"|Permission denied|Not a directory|Input/output error"
)


class Checkpointer:
    """The checkpoints of one run: the newest ones and those that are best by a metric."""

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep: int,
        keep_best: int,
        best: str = retention.BY_LOSS,
        async_: bool = True,
    ):
        """Opens or makes `directory`, and removes what an interrupted save left in it.

        Args:
          directory: usually WORKDIR/checkpoints.
          keep: how many of the newest checkpoints stay.
          keep_best: how many of the best ones stay besides.
          best: min:METRIC or max:METRIC, by which they are best.
          async_: write in the background; `wait` and `close` block until all is written.

        Raises:
          UserError: if `keep` is 0, `best` does not read so, or the directory cannot be made.
        """
        self._best = retention.parse(best)
        if keep < 1:
            raise UserError("checkpoint.keep must be at least 1, or no run could be resumed.")
        logging.get_absl_logger().addFilter(_drop_orbax_tracebacks)
        self._directory = pathlib.Path(directory).absolute()
        with self._storage_errors("open the checkpoints"):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()
        self._policy = retention.LatestAndBest(
            keep, keep_best, _scores(self._directory, self._best)
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            enable_async_checkpointing=async_,
            lightweight_initialize=True,  # do not parse files that may be damaged
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def save(
        self, step: int, state: PyTree, *, meta: dict, metrics: dict[str, float] | None = None
    ) -> None:
        """Saves `state`; returns when its arrays are copied, the files may still be written.

        Args:
          step: number of finished steps; larger than that of every checkpoint so far.
          state: the TrainState; all leaves are jax arrays.
          meta: what else a resumed run must know; anything that JSON can say.
          metrics: the evaluation at this step, if there was one.

        Raises:
          UserError: for weights that are not finite, metrics without the one that tells which are
            best, a step that is not new, or a full disk (here or in the save before, which was
            still writing).
        """
        if metrics and self._best.metric not in metrics:
            raise UserError(
                f"config.checkpoint.best={self._best} is not measured on held-out rows: choose one "
                f"of {', '.join(metrics)}."
            )
        leaves, not_finite = digests.describe(state)
        broken = [name for name in not_finite if name.startswith("params/")]
        if broken:
            raise UserError(
                f"{broken[0]} is not finite after step {step}, so it was not saved: lower optim.lr "
                f"or raise optim.warmup_steps; the last good checkpoint is {self._last_good()}."
            )
        manifest = _seal({"leaves": leaves, "metrics": metrics or {}, "meta": meta})
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state), manifest=ocp.args.JsonSave(manifest)
        )
        self._policy.add(step, self._best.score(metrics or {}))
        with self._storage_errors(f"save step {step}"):
            saved = self._manager.save(step, args=items)
        if not saved:  # Orbax says no more than this
            raise UserError(
                f"Step {step} was not saved, because {self._directory} already holds step "
                f"{self._manager.latest_step()}: resume from that one or choose another --workdir."
            )

    def restore(self, abstract_state: PyTree) -> tuple[PyTree, dict] | None:
        """Restores the newest undamaged checkpoint, and sets those behind it aside.

        Args:
          abstract_state: the state as `jax.ShapeDtypeStruct`s with shardings, of any mesh.

        Returns:
          (state, meta), or None when there is no checkpoint.

        Raises:
          UserError: if the checkpoint does not fit `abstract_state`, or all are damaged.
        """
        steps = self.all_steps()
        if not steps:
            return None
        found = _restore_newest(self._directory, steps, abstract_state, exact=True)
        self._set_aside([step for step in steps if step > found.step])
        return found.tree, found.manifest["meta"]

    def wait(self) -> None:
        """Blocks until everything is written.

        Raises:
          UserError: if the disk is full.
        """
        with self._storage_errors("finish the last save"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the writing threads.

        Raises:
          UserError: if the disk is full.
        """
        with self._storage_errors("finish the last save"):
            self._manager.close()

    def all_steps(self) -> list[int]:
        """Returns the steps whose checkpoints are completely written, in order."""
        return saved_steps(self._directory)

    def best_step(self) -> int | None:
        """Returns the best step, or None if none was saved with its metric."""
        return retention.lowest(_scores(self._directory, self._best))

    def _last_good(self) -> str:
        steps = self.all_steps()
        return f"step {steps[-1]}" if steps else "none"

    def _set_aside(self, steps: Sequence[int]) -> None:
        """Renames damaged checkpoints, so that the resumed run can save these steps again."""
        if not steps:
            return
        if jax.process_index() == 0:
            for step in steps:
                aside = self._directory / f"{step}.damaged"
                if aside.exists():
                    shutil.rmtree(aside)
                (self._directory / str(step)).rename(aside)
        multihost_utils.sync_global_devices("checkpoint:set_aside")
        self._manager.reload()

    def _remove_unfinished(self) -> None:
        if jax.process_index() == 0:
            for path in self._directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(path, ignore_errors=True)  # never read; the next start tries again

    @contextlib.contextmanager
    def _storage_errors(self, action: str) -> Iterator[None]:
        """Tells errors of the disk in one sentence; others are bugs and pass."""
        try:
            yield
        except Exception as error:
            reason = _STORAGE_ERROR.search(str(error))
            if reason is None:
                raise
            self._remove_unfinished()  # or the rest of the failed save keeps the disk full
            raise UserError(
                f"Could not {action} in {self._directory} ({reason[0]}): make room there or choose "
                "another --workdir, and start again; the last good checkpoint is "
                f"{self._last_good()}."
            ) from error


def restore_params(
    directory: str | os.PathLike,
    abstract_params: PyTree,
    step: int | str | None = None,
    best: str = retention.BY_LOSS,
) -> PyTree:
    """Restores parameters alone, and changes nothing in `directory`.

    Args:
      directory: usually WORKDIR/checkpoints.
      abstract_params: the parameters as `jax.ShapeDtypeStruct`s with shardings. The checkpoint may
        hold more than these.
      step: None: the newest undamaged one; "best"; or a number.
      best: min:METRIC or max:METRIC, by which it is best.

    Raises:
      UserError: if there is no such checkpoint, it does not fit, or it is damaged.
    """
    directory = pathlib.Path(directory).absolute()
    steps = _choose_steps(directory, step, best)
    found = _restore_newest(directory, steps, {"params": abstract_params}, exact=False)
    return found.tree["params"]


def saved_params(directory: str | os.PathLike) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the path and shape of every parameter in the newest undamaged checkpoint.

    Raises:
      UserError: if there is no checkpoint, or all manifests are damaged.
    """
    directory = pathlib.Path(directory).absolute()
    for number in reversed(_choose_steps(directory, None)):
        try:
            leaves = _read_manifest(directory / str(number))["leaves"]
        except Exception as error:  # damage of any kind
            logging.warning("The manifest of checkpoint %d cannot be read: %s.", number, error)
            continue
        return {
            name.removeprefix("params/"): jax.ShapeDtypeStruct(shape, dtype)
            for name, (dtype, shape, _) in leaves.items()
            if name.startswith("params/")
        }
    raise UserError(
        f"Every checkpoint that was tried in {directory} is damaged: restore the folder."
    )


def _choose_steps(
    directory: pathlib.Path, step: int | str | None, best: str = retention.BY_LOSS
) -> list[int]:
    """Returns the steps that may be read, rising."""
    steps = saved_steps(directory)
    if not steps:
        raise UserError(f"There is no checkpoint in {directory}: train first or name another one.")
    if step == "best":
        by = retention.parse(best)
        step = retention.lowest(_scores(directory, by))
        if step is None:
            raise UserError(
                f"No checkpoint in {directory} was saved with {by.metric}: ask for the newest."
            )
    if step is None:
        return steps
    if step not in steps:
        raise UserError(
            f"There is no checkpoint of step {step} in {directory}: choose one of {steps}."
        )
    return [step]


class _Restored(NamedTuple):
    step: int
    tree: PyTree
    manifest: dict


def _restore_newest(
    directory: pathlib.Path, steps: Sequence[int], abstract: PyTree, *, exact: bool
) -> _Restored:
    """Restores the last of `steps` that is undamaged, and warns of every damaged one."""
    reasons = []
    for step in reversed(steps):
        tree, manifest, reason = _read(directory / str(step), abstract, exact=exact)
        if not reason:
            return _Restored(step, tree, manifest)
        reasons.append(f"step {step}: {reason}")
        logging.warning("The checkpoint of step %d in %s is damaged: %s.", step, directory, reason)
    raise UserError(
        f"Every checkpoint that was tried in {directory} is damaged ({'; '.join(reasons)}): "
        "restore the folder from a backup, or start anew in another --workdir."
    )


def _read(path: pathlib.Path, abstract: PyTree, *, exact: bool) -> tuple[PyTree, dict, str]:
    """Returns (tree, manifest, what is damaged); the last is "" on all processes or on none."""
    tree, manifest, reason = None, {}, ""
    try:
        manifest = _read_manifest(path)
        _check_fits(path, manifest["leaves"], abstract, exact=exact)
        # Not the manager: at its barriers others would hang if only this process fails to read.
        tree = ocp.PyTreeCheckpointHandler().restore(
            path / "state",
            args=ocp.args.PyTreeRestore(
                item=abstract,
                restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                partial_restore=True,
            ),
        )
    except (UserError, jax.errors.JaxRuntimeError):  # the latter: out of device memory
        raise
    except Exception as error:  # Orbax and TensorStore raise many types, even a bare Exception
        while error.__cause__:
            error = error.__cause__
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    if not _on_all_processes(not reason):
        return None, {}, reason or "another process could not read it"
    found = digests.describe(tree).leaves
    wrong = [name for name, leaf in found.items() if leaf != manifest["leaves"][name]]
    if wrong:
        reason = f"the digest of {wrong[0]} is wrong ({len(wrong)} of {len(found)} arrays)"
    return tree, manifest, reason


def _check_fits(path: pathlib.Path, saved: dict, abstract: PyTree, *, exact: bool) -> None:
    """Raises a UserError that names the first array in which checkpoint and config differ.

    Args:
      path: of the checkpoint.
      saved: the `leaves` of its manifest.
      abstract: what is wanted.
      exact: whether the checkpoint may hold nothing else.
    """
    wanted = {
        name: digests.dtype_and_shape(leaf) for name, leaf in digests.named_leaves(abstract).items()
    }

    def say(leaf: list | None) -> str:
        return f"{leaf[0]}{leaf[1]}" if leaf else "absent"

    for name in [*wanted, *(saved if exact else ())]:
        there, here = saved.get(name), wanted.get(name)
        if here != (there and there[:2]):
            raise UserError(
                f"The checkpoint {path} does not fit this config: {name} is {say(there)} there and "
                f"{say(here)} here; use the config and vocabulary that it was trained with, or "
                "choose another --workdir."
            )


def _on_all_processes(value: bool) -> bool:
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.array(value)).all())


def _seal(body: dict) -> dict:
    return {"body": body, "checksum": _checksum(body)}


def _checksum(body: dict) -> str:
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=16).hexdigest()


def _read_manifest(path: pathlib.Path) -> dict:
    sealed = json.loads((path / "manifest" / "metadata").read_bytes())
    if sealed["checksum"] != _checksum(sealed["body"]):
        raise ValueError("the checksum of the manifest is wrong")
    return sealed["body"]


def saved_steps(directory: pathlib.Path) -> list[int]:
    """Returns the steps of the checkpoints that are completely written, in order."""
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal())


def _scores(directory: pathlib.Path, best: retention.Best) -> dict[int, float]:
    """Returns step -> score, of the checkpoints that have one and a readable manifest."""
    scores = {}
    for step in saved_steps(directory):
        try:
            scores[step] = best.score(_read_manifest(directory / str(step))["metrics"])
        except Exception as error:  # damage of any kind, told in full when the step is restored
            logging.warning("The manifest of checkpoint %d cannot be read: %s.", step, error)
    return {step: score for step, score in scores.items() if math.isfinite(score)}


def _drop_orbax_tracebacks(record) -> bool:
    """Keeps Orbax from logging an error five times; it raises it as well, and we tell it once."""
    return not (record.exc_info and "orbax" in pathlib.Path(record.pathname).parts)
