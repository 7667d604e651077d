import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs import gpt3
from data_pipeline import loader, noise
from errors import UserError


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A dataset whose rows tell their index."""

    seconds: float = 0.0
    broken: int = -1

    def batch(self, indices):
        time.sleep(self.seconds)
        if self.broken in indices:
            raise UserError(f"Record {self.broken} is damaged.")
        keys = noise.make_keys(0, indices)
        return {
            "tokens": (noise.random_bits(keys, 6) % np.uint64(100)).astype(np.int32),
            "label": np.asarray(indices, np.int32),
        }


def make_mesh(devices, data=4, fsdp=2, tensor=1):
    grid = np.array(devices[: data * fsdp * tensor]).reshape(data, fsdp, tensor)
    return jax.sharding.Mesh(grid, ("data", "fsdp", "tensor"))


def labels(batches):
    return [np.asarray(batch["label"]).tolist() for batch in batches]


STEPS = [list(range(16 * s, 16 * s + 16)) for s in range(9)]


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 1, 1)])
def test_rows_are_the_same_on_every_mesh(devices, shape):
    mesh = make_mesh(devices, *shape)
    with loader.Loader(Numbers(), mesh=mesh, batch_size=16, start_step=2, end_step=5) as batches:
        got = list(batches)
    assert labels(got) == STEPS[2:5]
    expected = Numbers().batch(np.arange(32, 48))["tokens"]
    np.testing.assert_array_equal(got[0]["tokens"], expected)
    for value in got[0].values():
        spec = jax.sharding.PartitionSpec(("data", "fsdp"))
        assert value.sharding.is_equivalent_to(jax.sharding.NamedSharding(mesh, spec), value.ndim)
        assert value.addressable_shards[0].data.shape[0] == 16 // (shape[0] * shape[1])


def test_rows_that_are_left_out(devices):
    """From step 2 on the rows of step 5, from step 4 on one batch more behind these."""
    options = {"mesh": make_mesh(devices), "batch_size": 16, "left_out": [(2, 5), (4, 5)]}
    for start in (0, 3):  # also of a run that continues
        with loader.Loader(Numbers(), start_step=start, end_step=5, **options) as batches:
            assert labels(batches) == [STEPS[s] for s in (0, 1, 5, 6, 8)][start:]


def test_rows_that_are_left_out_of_a_batch_that_grows(devices):
    ramp = loader.Sizes(16, start=8, steps=3)
    mesh = make_mesh(devices)
    options = {"mesh": mesh, "batch_size": 16, "ramp": ramp, "microbatches": 2, "end_step": 4}
    with loader.Loader(Numbers(), left_out=[(1, 3)], **options) as batches:
        real = [sorted(set(np.asarray(b["label"]).tolist()) - {0}) for b in batches]
    sizes = [ramp.rows(s) for s in range(4)]
    gone = sizes[1] + sizes[2]
    assert real[0] == list(range(1, 8)) and real[1][0] == 8 + gone
    assert len(real[1]) == sizes[1] and real[2][0] == 8 + gone + sizes[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_state_continues_exactly(devices, workers):
    mesh = make_mesh(devices)
    options = {"mesh": mesh, "batch_size": 16, "workers": workers, "prefetch": 3}
    with loader.Loader(Numbers(), **options) as batches:
        assert labels(next(batches) for _ in range(4)) == STEPS[:4]
        state = json.loads(json.dumps(batches.get_state()))
        assert state == {"next_step": 4}  # not what was built ahead
        assert labels(next(batches) for _ in range(3)) == STEPS[4:7]
        batches.set_state(state)
        assert labels(next(batches) for _ in range(2)) == STEPS[4:6]
    other = {"mesh": make_mesh(devices, 2, 1, 2), "batch_size": 16, "workers": 0}
    with loader.Loader(Numbers(), **other) as batches:
        batches.set_state(state)
        assert labels(next(batches) for _ in range(2)) == STEPS[4:6]


def test_batches_are_built_while_the_step_runs(devices):
    slow = Numbers(seconds=0.05)
    with loader.Loader(slow, mesh=make_mesh(devices), batch_size=8, prefetch=2) as batches:

        def wait():
            start = time.perf_counter()
            next(batches)
            return time.perf_counter() - start

        assert wait() >= 0.05
        waited = 0.0
        for _ in range(4):
            time.sleep(0.1)  # a step
            waited += wait()
        assert waited < 0.05


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_record_is_told(devices, workers):
    mesh = make_mesh(devices)
    options = {"mesh": mesh, "batch_size": 8, "workers": workers}
    with loader.Loader(Numbers(broken=12), **options) as batches:
        next(batches)
        with pytest.raises(UserError, match="Record 12 is damaged"):
            next(batches)


def test_batch_must_divide(devices):
    mesh = make_mesh(devices)
    with pytest.raises(UserError, match="batch_size=12 must be a multiple of 8"):
        loader.Loader(Numbers(), mesh=mesh, batch_size=12)
    with pytest.raises(UserError, match="multiple of 16.*microbatches = 2"):
        loader.Loader(Numbers(), mesh=mesh, batch_size=24, microbatches=2)


RAMP = loader.Sizes(full=32, start=8, steps=6)


def test_a_ramp_takes_every_row_once(devices):
    """In order, on any mesh and in any microbatches; what is not filled is padding."""
    rows = [RAMP.rows(step) for step in range(8)]
    assert rows == [8, 16, 16, 24, 24, 32, 32, 32]
    assert [RAMP.before(step) for step in range(9)] == np.cumsum([0, *rows]).tolist()
    for data, microbatches, first in ((1, 4, 0), (4, 4, 3), (2, 8, 2), (8, 4, 6)):
        options = {"mesh": make_mesh(devices, data, 1), "batch_size": 32, "ramp": RAMP}
        options |= {"microbatches": microbatches, "start_step": first, "end_step": 8}
        with loader.Loader(Numbers(), **options) as batches:
            for step, batch in enumerate(batches, first):
                own = np.asarray(batch["label"]).reshape(-1, microbatches)
                used = microbatches * rows[step] // 32
                wanted = RAMP.before(step) + np.arange(rows[step])
                np.testing.assert_array_equal(own[:, :used].reshape(-1), wanted)
                assert not np.asarray(own[:, used:]).any()
                assert len(batch["tokens"]) == 32
                tokens = np.asarray(batch["tokens"]).reshape(-1, microbatches, 6)
                assert not tokens[:, used:].any() and tokens[:, :used].any()


def test_the_papers_ramp_sees_the_papers_tokens():
    c = gpt3.get_config("175b")
    ramp = loader.sizes(c)
    assert (ramp.rows(0), ramp.rows(c.batch_ramp.steps)) == (16, 1568)
    tokens = lambda step: ramp.before(step) * c.data.length  # noqa: E731
    assert tokens(c.batch_ramp.steps) == pytest.approx(12e9, rel=0.01)
    assert tokens(c.optim.warmup_steps) == pytest.approx(375e6, rel=0.02)
    assert tokens(c.optim.decay_steps) == pytest.approx(260e9, rel=0.01)
    assert tokens(c.total_steps) == pytest.approx(300e9, rel=0.01)


@pytest.mark.parametrize("start, steps", [(8, 0), (0, 8), (6, 8), (4, 8), (-8, 8)])
def test_a_wrong_ramp_is_told(start, steps):
    c = gpt3.get_config("tiny")
    c.batch_size, c.microbatches = 32, 4
    c.batch_ramp.update(start=start, steps=steps)
    with pytest.raises(UserError, match="config.batch_ramp"):
        loader.sizes(c)


PROCESS = """
import sys

import jax
import numpy as np
import test_loader
from data_pipeline import loader

seen = []


class Recorder(test_loader.Numbers):
    def batch(self, indices):
        seen.append(indices.tolist())
        return super().batch(indices)


process = int(sys.argv[2])
jax.distributed.initialize(sys.argv[1], 2, process)
mesh = test_loader.make_mesh(jax.devices(), 2, 2)
options = dict(mesh=mesh, batch_size=8, start_step=3, end_step=4)
with loader.Loader(Recorder(), **options) as batches:
    batch = next(batches)
own = [[24, 25, 26, 27], [28, 29, 30, 31]][process]
assert seen == [own], seen  # no process builds the rows of another
for name, value in batch.items():
    assert value.shape[0] == 8
    shards = sorted(value.addressable_shards, key=lambda shard: shard.index[0].start)
    local = np.concatenate([shard.data for shard in shards])
    np.testing.assert_array_equal(local, test_loader.Numbers().batch(np.array(own))[name])
"""


def environment():
    """For a script that imports this file, in a process with two devices."""
    here = pathlib.Path(__file__).parent
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (here.parents[1], here))),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }


def test_two_processes_hold_the_rows_of_one(tmp_path):
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, str(script), address]
    both = [subprocess.Popen([*command, str(i)], env=environment()) for i in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]


KILLED = """
import multiprocessing
import os
import signal

import jax
import test_loader
from data_pipeline import loader

if __name__ == "__main__":
    mesh = test_loader.make_mesh(jax.devices(), 1, 1)
    batches = loader.Loader(test_loader.Numbers(), mesh=mesh, batch_size=8, workers=2)
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_when_the_run_is_killed(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    run = subprocess.run(
        [sys.executable, str(script)], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert run.returncode == -signal.SIGKILL
    workers = run.stdout.split()
    assert len(workers) == 2
    for _ in range(100):
        alive = [pid for pid in workers if pathlib.Path("/proc", pid).exists()]
        if not alive:
            return
        time.sleep(0.1)
    raise AssertionError(f"processes {alive} outlived the run")
