"""What a run writes about itself: metrics.jsonl, TensorBoard events, a progress bar, versions.

The contract with checkpoints: all rows of steps up to s are on disk before the save of step s
begins (`Telemetry.aside` flushes), and a run that resumes from s removes the rows behind s, for it
will write them again. So whenever a run is killed, the joined file equals that of an uninterrupted
run: bit for bit in all keys but `perf/...`, which are times.
"""

import collections
import contextlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

import jax
import ml_collections
import numpy as np

from errors import UserError
from training import chips, progress

_CHECKED = ("loss", "grad_norm")  # a run stops at the first step where one of these is not finite
# Steps that the host may be ahead of the device: enough to keep it busy. Whoever tells the run to
# stop waits for these and for the save.
_AHEAD = 4
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class BadStep(UserError):
    """A step whose loss or gradient is not finite, or whose loss is a spike."""

    def __init__(self, step: int, message: str):
        """Takes the step, the first being 1, and what happened."""
        super().__init__(message)
        self.step = step


class Telemetry:
    """Follows a run without making the device wait for the host.

    `on_step` queues the metrics of a step as they are, still being computed; every later call takes
    from the queue what is finished by then, and waits only where the host is more than `_AHEAD`
    steps ahead. `flush`, and what is said to call it, waits for all.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        every: int,
        total_steps: int,
        tokens_per_step: int,
        flops_per_step: float | None = None,
        full_steps: Callable[[int], float] = float,
        tensorboard: bool = True,
        profile: tuple[int, ...] = (),
        primary: bool = True,
        start_step: int = 0,
        may_skip: int = 0,
    ):
        """Removes the rows behind `start_step` and opens the files.

        Args:
          workdir: holds metrics.jsonl, tensorboard/ and profile/.
          every: steps between two rows; the last step has a row too.
          total_steps: where the run ends.
          tokens_per_step: positions of a full batch, padding included, over all devices.
          flops_per_step: of the model, forward and backward, over all devices; None: no MFU.
          full_steps: how many steps of full batches have as many rows as the first so many steps.
          tensorboard: write events too.
          profile: first and last step of a trace for TensorBoard's profile tab; () for none.
          primary: whether this process writes and prints; the others only check the loss.
          start_step: the step of the checkpoint that the run continues; 0 for a new run.
          may_skip: bad steps in a row that are only told, for they are not taken (guard.py).

        Raises:
          UserError: if metrics.jsonl is damaged elsewhere than in its last line.
        """
        self._workdir = pathlib.Path(workdir)
        self._every, self._total_steps = every, total_steps
        self._may_skip, self._skipped = may_skip, 0
        self._primary = primary
        self._queue: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()
        kind = jax.devices()[0].device_kind
        peak = chips.peak_flops(kind)
        self._clock = progress.Clock(
            tokens_per_step=tokens_per_step,
            flops_per_step=flops_per_step,
            peak_flops=peak and peak * jax.device_count(),
            full_steps=full_steps,
        )
        self._alone = jax.process_count() == 1
        self._profile = profile if primary else ()
        self._tracing = False
        if primary:
            self._workdir.mkdir(parents=True, exist_ok=True)
            self._rows = _open_rows(self._workdir / "metrics.jsonl", start_step)
            self._events = (
                _Events(self._workdir / "tensorboard", start_step) if tensorboard else None
            )
            self._progress = progress.Progress(total_steps=total_steps, start_step=start_step)
            if peak is None:
                self.say(f"No MFU: the peak speed of {kind!r} is not in training/chips.py.")
        self._trace(start_step + 1)

    def on_step(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes the metrics of a dispatched step, and handles the finished ones.

        Args:
          step: how many steps are done when this one is; the first is 1.
          metrics: scalars on the device; `tokens`, if there, counts those that are not padding.

        Raises:
          BadStep: if loss or grad_norm of a finished step is not finite, or the step was skipped.
        """
        for value in metrics.values():
            value.copy_to_host_async()
        self._queue.append((step, dict(metrics)))
        # Several processes must stop behind the same step: there only the queue's length counts.
        while self._alone and self._queue and _ready(self._queue[0][1]):
            self._finish(*self._queue.popleft())
        while len(self._queue) > _AHEAD:
            self._finish(*self._queue.popleft())
        self._trace(step + 1)

    def flush(self) -> None:
        """Waits for all queued steps, then brings all rows to the disk.

        Raises:
          BadStep: as `on_step`.
        """
        # One by one: after a NaN other processes may stop, and waiting for later steps would hang.
        while self._queue:
            step, metrics = self._queue.popleft()
            self._finish(step, jax.block_until_ready(metrics))
        if self._primary:
            os.fsync(self._rows.fileno())
            if self._events:
                self._events.flush()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a row, such as {"valid/loss": 2.5}, behind those of all steps so far. Flushes."""
        self.flush()
        self._write_row(step, values, {})

    @contextlib.contextmanager
    def aside(self, what: str) -> Iterator[None]:
        """Flushes, then counts the time of its body as `what` ("eval", "save"), not as steps."""
        self.flush()
        with self._clock.timed(what):
            yield

    def waiting_for_input(self) -> contextlib.AbstractContextManager:
        """Counts the time of its body, which fetches the next batch, as waiting for input."""
        return self._clock.timed("input")

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if self._primary:
            self._progress.say(text)

    def close(self) -> None:
        """Closes the files and says where the time went. Does not flush: safe after an error."""
        if self._tracing:
            jax.profiler.stop_trace()
        if self._primary:
            self._rows.close()
            if self._events:
                self._events.close()
            self._progress.close()
            self.say(self._clock.goodput())

    def _finish(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Checks one finished step and, if it is its turn, writes its row."""
        values = {name: float(np.asarray(value)) for name, value in metrics.items()}
        self._check(step, values)
        perf = self._clock.tick(step, values.get("tokens"))
        if self._primary:
            self._progress.step(step, values.get("loss"), perf)
        if step % self._every == 0 or step == self._total_steps:
            self._write_row(step, {f"train/{name}": v for name, v in values.items()}, perf)
            self._clock.begin_lap(step)

    def _check(self, step: int, values: Mapping[str, float]) -> None:
        """Raises a BadStep, or tells of it if more may be skipped."""
        what = f"loss {values['loss']:.4g} is a spike" if values.get("skipped") else ""
        for name in reversed(_CHECKED):
            if not math.isfinite(values.get(name, 0.0)):
                what = f"{name} became {'NaN' if math.isnan(values[name]) else 'infinite'}"
        if not what:
            self._skipped = 0
            return
        self._skipped += 1
        if self._skipped > self._may_skip:
            raise BadStep(
                step,
                f"{what} at step {step}: lower optim.lr, raise optim.warmup_steps or lower "
                "optim.clip_norm, and start again; the last checkpoint is from before it.",
            )
        self.say(f"Skipped step {step}: {what}.")

    def _write_row(self, step: int, values: Mapping[str, float], perf: Mapping[str, float]) -> None:
        if not self._primary:
            return
        values = {name: float(value) for name, value in values.items()}
        # JSON has no NaN: a mean over nothing is null.
        row = {n: v if math.isfinite(v) else None for n, v in (values | perf).items()}
        self._rows.write(json.dumps({"step": step} | row) + "\n")
        self._rows.flush()  # what the kernel has survives SIGKILL
        if self._events:
            self._events.write(step, values | perf)
        self._progress.row(step, values, perf)

    def _trace(self, next_step: int) -> None:
        """Starts the profiler's trace before its first step, and ends it behind its last one."""
        inside = bool(self._profile) and self._profile[0] <= next_step <= self._profile[1]
        if inside and not self._tracing:
            jax.profiler.start_trace(str(self._workdir / "profile"))
        elif self._tracing and not inside:
            self.flush()  # the trace is to hold the end of its last step
            jax.profiler.stop_trace()
        self._tracing = inside


def _ready(metrics: Mapping[str, jax.Array]) -> bool:
    return all(value.is_ready() for value in metrics.values())


def save_run_info(workdir: str | os.PathLike, config: ml_collections.ConfigDict) -> None:
    """Writes config.json (every key) and run.json (versions, commit, devices, command)."""
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    _replace(workdir / "config.json", config.to_json_best_effort(indent=2) + "\n")
    info = {
        "command": sys.argv,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": dict(collections.Counter(device.device_kind for device in jax.devices())),
        "processes": jax.process_count(),
    }
    _replace(workdir / "run.json", json.dumps(info, indent=2) + "\n")


class _Events:
    """A TensorBoard event file of scalars.

    Written by tensorboardX's inner, synchronous writer: its SummaryWriter hands events to a thread,
    and `flush` does not wait for that.
    """

    def __init__(self, directory: pathlib.Path, start_step: int):
        event_file_writer, self._event_pb2, self._summary_pb2 = _import_tensorboardx()
        directory.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files in the order of their names, which have the time in them: a
        # clock may be set back.
        number = sum("tfevents" in path.name for path in directory.iterdir())
        self._writer = event_file_writer.EventsWriter(str(directory / f"events.{number:06}"))
        # Makes TensorBoard forget what an earlier process wrote for the steps to come.
        start = self._event_pb2.SessionLog(status=self._event_pb2.SessionLog.START)
        self._put(step=start_step + 1, session_log=start)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        scalars = [
            self._summary_pb2.Summary.Value(tag=n, simple_value=v) for n, v in values.items()
        ]
        self._put(step=step, summary=self._summary_pb2.Summary(value=scalars))

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _put(self, **fields) -> None:
        self._writer.write_event(self._event_pb2.Event(wall_time=time.time(), **fields))


def _import_tensorboardx():
    """Imports what we use of tensorboardX, without torch, which takes it seconds if installed."""
    without_torch = "torch" not in sys.modules
    if without_torch:
        sys.modules["torch"] = None
    try:
        from tensorboardX import event_file_writer
        from tensorboardX.proto import event_pb2, summary_pb2
    finally:
        if without_torch:
            del sys.modules["torch"]
    return event_file_writer, event_pb2, summary_pb2


def _open_rows(path: pathlib.Path, start_step: int) -> TextIO:
    """Opens metrics.jsonl to append to, without the rows behind `start_step` (0: without any)."""
    if path.exists():
        lines = path.read_text(errors="replace").split("\n")
        kept = []
        for number, line in enumerate(lines, start=1):
            try:
                step = json.loads(line)["step"]
            except (ValueError, TypeError, KeyError):
                if number == len(lines):  # empty, or cut off when the process was killed
                    break
                raise UserError(
                    f"Line {number} of {path} is not a row of metrics: delete the line or the file."
                ) from None
            if start_step and step <= start_step:
                kept.append(line + "\n")
        _replace(path, "".join(kept))
    return path.open("a")


def _replace(path: pathlib.Path, text: str) -> None:
    """Writes a file so that it is the old or the new one whenever the process is killed."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _git_commit() -> str | None:
    """Returns the commit of this code, with "+changes" if files differ; None without git."""
    here = pathlib.Path(__file__).parent

    def git(*args) -> str | None:
        try:
            done = subprocess.run(["git", *args], cwd=here, capture_output=True, text=True)
        except FileNotFoundError:  # git is not installed
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return commit and commit + ("+changes" if git("status", "--porcelain", "-uno") else "")
