"""Checkpoints read for their parameters alone, and by two processes."""

import gc
import os
import socket
import sys

import pytest
import runs
from checkpoints import (
    abstract,
    assert_equal,
    data_files,
    make_state,
    mesh_sharding,
    restore,
    save,
    truncate,
)

from errors import UserError
from training import checkpoint

# When Orbax fails to read it leaves coroutines behind, which complain when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collect_garbage():
    yield
    gc.collect()


# Parameters alone.


def test_restore_params(tmp_path):
    losses = {1: 2.0, 2: 1.0, 3: 3.0}
    save(tmp_path, 1, 2, 3, metrics=lambda step: {"valid/loss": losses[step]})
    before = sorted(tmp_path.rglob("*"))
    target = abstract(make_state(0, sharding=mesh_sharding(2, 4)).params)
    for step, found in [(None, 3), ("best", 2), (1, 1)]:
        params = checkpoint.restore_params(tmp_path, target, step)
        assert_equal(params, make_state(found).params)
        assert params["embedding"].sharding == target["embedding"].sharding
    part = checkpoint.restore_params(tmp_path, {"embedding": target["embedding"]})
    assert_equal(part, {"embedding": make_state(3).params["embedding"]})
    assert sorted(tmp_path.rglob("*")) == before


def test_restore_params_mistakes(tmp_path):
    target = abstract(make_state(0).params)
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoint.restore_params(tmp_path / "nowhere", target)
    save(tmp_path, 1, 2)
    with pytest.raises(UserError, match=r"no checkpoint of step 7 .* choose one of \[1, 2\]"):
        checkpoint.restore_params(tmp_path, target, 7)
    with pytest.raises(UserError, match="No checkpoint in .* was saved with valid/loss"):
        checkpoint.restore_params(tmp_path, target, "best")
    with pytest.raises(UserError, match="params/head is absent there"):
        checkpoint.restore_params(tmp_path, {**target, "head": target["embedding"]})
    truncate(data_files(tmp_path / "2")[0])
    assert_equal(checkpoint.restore_params(tmp_path, target), make_state(1).params)
    with pytest.raises(UserError, match="damaged"):
        checkpoint.restore_params(tmp_path, target, 2)
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


# Two processes, with two devices each: more of them in a process would wait for each other in a
# collective now and then, without end.

TWO_PROCESSES = """
import sys, jax
index, port, directory = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", 2, index)
from tests.training import checkpoints as t
assert jax.device_count() == 4
saved = t.make_state(1, sharding=t.mesh_sharding(4))
checkpointer = t.open_at(directory)
for step in (1, 2):
    checkpointer.save(step, saved, meta={"at": step})
checkpointer.wait()
from jax.experimental import multihost_utils
if index == 0:
    t.truncate(t.data_files(t.pathlib.Path(directory) / "2")[0])
multihost_utils.sync_global_devices("damaged")
state, meta = checkpointer.restore(t.abstract(t.make_state(0, sharding=t.mesh_sharding(2, 2))))
assert meta == {"at": 1}, meta
assert t.digests.describe(state) == t.digests.describe(saved)
assert checkpointer.all_steps() == [1]
checkpointer.save(2, state, meta={"at": "again"})
checkpointer.close()
print("fine", index)
"""


def test_two_processes_save_and_restore_and_one_continues(tmp_path):
    with socket.socket() as server:
        server.bind(("localhost", 0))
        port = str(server.getsockname()[1])
    processes = [
        runs.spawn(
            [sys.executable, "-c", TWO_PROCESSES, str(index), port, str(tmp_path)], devices=2
        )
        for index in range(2)
    ]
    for index, process in enumerate(processes):
        assert f"fine {index}" in runs.finish(process)
    state, meta = restore(tmp_path)
    assert meta == {"at": "again"}
    assert_equal(state, make_state(1))
