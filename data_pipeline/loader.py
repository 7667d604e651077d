"""From a dataset to global sharded arrays: worker processes, prefetch, and a state of one number.

Row r of step s is row s * batch_size + r of the dataset, whatever the mesh and the number of
processes; each process builds only the rows that its own devices hold. A run that has left rows out
(training/resume.py) is ahead by so many from then on.

While the batch grows (see `Sizes`), the rows of a step follow those of the one before, and the rest
of the batch is padding: its shape stays, and the train step skips microbatches without a token.
"""

import collections
import concurrent.futures
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data_pipeline import files, pipeline, rows
from errors import UserError

BATCH_AXES = ("data", "fsdp")  # the axes of the mesh that the rows are spread over
_FOREVER = 1 << 40  # steps


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How many rows each step has: `full`, or at first fewer (GPT-3, appendix B).

    The batch grows linearly with the steps, from `start` rows in the first one to all from step
    `steps` on, always a multiple of `start`. Both 0: no ramp.
    """

    full: int
    start: int = 0
    steps: int = 0

    def rows(self, step: int) -> int:
        """Rows of a step, the first being 0."""
        return int(self._of_ramp(step)) if step < self.steps else self.full

    def before(self, step: int) -> int:
        """Rows of all steps before this one."""
        ramp = min(step, self.steps)
        rows = int(self._of_ramp(np.arange(ramp)).sum()) if ramp else 0
        return rows + (step - ramp) * self.full

    def _of_ramp(self, step):
        more = self.full // self.start - 1  # rounded to the nearest number of equal parts
        return self.start * (1 + (2 * more * step + self.steps) // (2 * self.steps))


@dataclasses.dataclass(frozen=True)
class _LocalBatch:
    """Maps a step to this process's rows of its batch; picklable."""

    dataset: pipeline.Dataset
    sizes: Sizes
    microbatches: int
    rows: np.ndarray  # which rows of the batch, rising
    left_out: tuple[tuple[int, int], ...]  # (from which step on, how many rows are left out)

    def __call__(self, step: int) -> rows.Rows:
        # Microbatch m has the rows m, m + M, ...: of a smaller batch the first ones are full.
        used = self.sizes.rows(step) * self.microbatches // self.sizes.full
        turn, place = np.divmod(self.rows, self.microbatches)
        real = place < used
        before = self.sizes.before(step) + sum(n for start, n in self.left_out if step >= start)
        index = before + (turn * used + place)[real]
        batch = self.dataset.batch(index)
        if real.all():
            return batch
        padded = {name: np.zeros((len(real), *x.shape[1:]), x.dtype) for name, x in batch.items()}
        for name, value in batch.items():
            padded[name][real] = value
        return padded


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over `data` and `fsdp`, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def check_batch(batch_size: int, microbatches: int, mesh: Mesh) -> None:
    """Raises a UserError if a microbatch cannot be cut evenly over the mesh."""
    ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if microbatches < 1 or batch_size < 1 or batch_size % (microbatches * ways):
        raise UserError(
            f"config.batch_size={batch_size} must be a multiple of {ways * microbatches}: "
            f"mesh data x fsdp = {ways}, times config.microbatches = {microbatches}."
        )


def sizes(config: Mapping) -> Sizes:
    """Returns the rows of each step, from a whole config.

    Raises:
      UserError: for a ramp that the batch or its microbatches cannot follow.
    """
    full, start, steps = config.batch_size, config.batch_ramp.start, config.batch_ramp.steps
    if start == steps == 0:
        return Sizes(full)
    part = full // config.microbatches
    if steps < 1 or start < 1 or start % part or full % start:
        raise UserError(
            f"config.batch_ramp={{start: {start}, steps: {steps}}} must be 0 and 0 (no ramp), or "
            f"start divide config.batch_size={full} and be a multiple of the {part} rows of a "
            "microbatch (raise config.microbatches), and steps be at least 1."
        )
    return Sizes(full, start, steps)


class Loader:
    """Iterates over the batches of steps start_step, ..., end_step - 1: fields of global arrays.

    Batches are built and sent to the devices ahead of time, by worker processes and one thread.
    Close it, or use it in a `with` statement: workers live until then.
    """

    def __init__(
        self,
        dataset: pipeline.Dataset,
        *,
        mesh: Mesh,
        batch_size: int,
        microbatches: int = 1,
        ramp: Sizes | None = None,
        workers: int = 0,
        prefetch: int = 8,
        start_step: int = 0,
        end_step: int | None = None,
        left_out: Sequence[tuple[int, int]] = (),
    ):
        """Starts nothing yet: the first `next` does.

        Args:
          dataset: gives the rows.
          mesh: with the axes `data` and `fsdp`, over which the rows are spread.
          batch_size: rows in a step, over all processes.
          microbatches: slices of a step; each must spread evenly over the mesh.
          ramp: the rows of each step; None: batch_size.
          workers: processes that build batches; 0: a thread of this one does.
          prefetch: batches built and on the devices ahead.
          start_step: the first step.
          end_step: one past the last; None: never ends.
          left_out: (step, later step): from the first of them on, the rows are those that would
            have come from the second one on.

        Raises:
          UserError: when batch_size does not divide.
        """
        check_batch(batch_size, microbatches, mesh)
        self._sharding = batch_sharding(mesh)
        self._batch_size = batch_size
        held = np.zeros(batch_size, bool)
        for index in self._sharding.addressable_devices_indices_map((batch_size,)).values():
            held[index] = True
        self._rows = np.flatnonzero(held)
        ramp = ramp or Sizes(batch_size)
        skips = tuple((start, ramp.before(end) - ramp.before(start)) for start, end in left_out)
        self._make = _LocalBatch(dataset, ramp, microbatches, self._rows, skips)
        self._workers = workers
        self._prefetch = max(1, prefetch)
        self._end_step = _FOREVER if end_step is None else end_step
        self._start(start_step)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, jax.Array]:
        while len(self._ahead) < self._prefetch and self._submitted < self._end_step:
            self._ahead.append(self._thread.submit(self._build, self._host_batches))
            self._submitted += 1
        if not self._ahead:
            raise StopIteration
        batch = self._ahead.popleft().result()
        self._next_step += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns where it stands, for a checkpoint; the same in all processes."""
        return {"next_step": self._next_step}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes on from `state`, which may come from another mesh, or other workers or processes."""
        self.close()
        self._start(state["next_step"])

    def close(self) -> None:
        """Ends the thread and the workers."""
        self._thread.shutdown(cancel_futures=True)
        self._ahead.clear()
        self._host_batches.close()

    def _start(self, step: int) -> None:
        self._next_step = self._submitted = step
        self._ahead = collections.deque()
        self._host_batches = self._iterate(step)
        # One thread: the batches come in order.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="loader")

    def _iterate(self, step: int) -> Iterator[rows.Rows]:
        batches = grain.MapDataset.range(step, self._end_step).map(self._make)
        batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        if self._workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain reads a flag; a notebook has parsed none
            batches = batches.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=self._workers,
                    per_worker_buffer_size=-(-self._prefetch // self._workers),
                ),
                worker_init_fn=files.end_with_parent,
            )
        return iter(batches)

    def _build(self, host_batches: Iterator[rows.Rows]) -> dict[str, jax.Array]:
        return {name: self._to_devices(value) for name, value in next(host_batches).items()}

    def _to_devices(self, local: np.ndarray) -> jax.Array:
        def part(index):  # the rows of one device
            wanted = np.arange(self._batch_size)[index[0]]
            return local[np.searchsorted(self._rows, wanted)]

        shape = (self._batch_size, *local.shape[1:])
        return jax.make_array_from_callback(shape, self._sharding, part)
