"""Checkpoints are tested as users lose them: flipped bytes, missing files, SIGKILL, a full disk."""

import functools
import gc
import os
import resource
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checkpoints import (
    ROOT,
    abstract,
    assert_equal,
    data_files,
    flip,
    make_state,
    mesh_sharding,
    open_at,
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


def test_nothing_to_restore(tmp_path):
    assert restore(tmp_path / "new") is None


@pytest.mark.parametrize("shape", [(1,), (8,), (2, 4), (2, 2, 2)])
def test_restores_the_same_bits_on_another_mesh(tmp_path, shape):
    saved = make_state(3, sharding=mesh_sharding(4, 2))
    checkpointer = open_at(tmp_path)
    checkpointer.save(3, saved, meta={"next_step": 3, "note": None})
    checkpointer.wait()
    target = abstract(make_state(0, sharding=mesh_sharding(*shape)))
    restored, meta = checkpointer.restore(target)
    checkpointer.close()
    assert meta == {"next_step": 3, "note": None}
    assert_equal(saved, restored)
    assert restored.params["embedding"].sharding == target.params["embedding"].sharding


def test_donated_state_does_not_disturb_a_save_in_the_background(tmp_path):
    @functools.partial(jax.jit, donate_argnums=0)
    def step(state):
        return jax.tree.map(lambda x: x * 0 - 1, state)

    checkpointer = open_at(tmp_path)
    state = make_state(1)
    checkpointer.save(1, state, meta={})
    for _ in range(3):
        state = step(state)
    checkpointer.close()
    assert_equal(restore(tmp_path)[0], make_state(1))


# Damage.


def test_a_flipped_byte_is_never_restored(tmp_path, caplog):
    save(tmp_path / "good", 1, 2)
    good = make_state(2)
    largest = data_files(tmp_path / "good" / "2")[0].relative_to(tmp_path / "good")
    size = (tmp_path / "good" / largest).stat().st_size
    assert size > 40_000  # random numbers cannot be compressed: almost all is array data
    found = []
    for position in np.linspace(100, size - 1000, 12).astype(int):
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        flip(tmp_path / "bad" / largest, position)
        caplog.clear()
        state, meta = restore(tmp_path / "bad")
        found.append(meta["at"])
        assert_equal(state, make_state(1) if meta["at"] == 1 else good)
        assert ("checkpoint of step 2" in caplog.text) == (meta["at"] == 1)
        shutil.rmtree(tmp_path / "bad")
    assert found.count(1) >= 10  # a byte between two arrays is harmless


def test_a_flipped_byte_in_any_other_file_is_never_restored(tmp_path):
    save(tmp_path / "good", 1, 2)
    files = [path for path in (tmp_path / "good" / "2").rglob("*") if path.is_file()]
    for path in files:
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        damaged = tmp_path / "bad" / path.relative_to(tmp_path / "good")
        if damaged.stat().st_size:
            flip(damaged, damaged.stat().st_size // 2)
        state, meta = restore(tmp_path / "bad")
        assert_equal(state, make_state(meta["at"]))
        shutil.rmtree(tmp_path / "bad")


def damage_manifest(path):
    manifest = path / "manifest" / "metadata"
    text = manifest.read_text()
    assert "[96, 32]" in text  # a changed digit: valid JSON, and not another config's checkpoint
    manifest.write_text(text.replace("[96, 32]", "[97, 32]"))


DAMAGES = {
    "manifest changed": damage_manifest,
    "manifest truncated": lambda path: truncate(path / "manifest" / "metadata"),
    "manifest missing": lambda path: shutil.rmtree(path / "manifest"),
    "data missing": lambda path: data_files(path)[0].unlink(),
    "data truncated": lambda path: truncate(data_files(path)[0]),
    "state missing": lambda path: shutil.rmtree(path / "state"),
    "empty": lambda path: (shutil.rmtree(path), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_reported_and_the_checkpoint_before_is_used(tmp_path, caplog, damage):
    save(tmp_path, 1, 2, 3, metrics=lambda step: {"valid/loss": 1.0 / step})
    DAMAGES[damage](tmp_path / "3")
    checkpointer = open_at(tmp_path)
    state, meta = checkpointer.restore(abstract(make_state(0)))
    assert meta == {"at": 2}
    assert_equal(state, make_state(2))
    assert "checkpoint of step 3" in caplog.text and "damaged" in caplog.text
    assert checkpointer.all_steps() == [1, 2] and (tmp_path / "3.damaged").is_dir()
    checkpointer.save(3, make_state(3), meta={"at": "again"})  # the resumed run comes by again
    checkpointer.close()
    assert restore(tmp_path)[1] == {"at": "again"}


def test_all_damaged_is_an_error_that_moves_nothing(tmp_path):
    save(tmp_path, 1, 2)
    for step in "12":
        shutil.rmtree(tmp_path / step / "manifest")
    with pytest.raises(UserError, match=r"(?s)damaged.*step 2:.*step 1:"):
        restore(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


def test_sigkill_in_the_middle_of_a_save(tmp_path):
    script = f"""
import os, signal, jax
from tests.training import checkpoints as t
checkpointer = t.open_at({str(tmp_path)!r})
checkpointer.save(1, t.make_state(1), meta={{"at": 1}})
checkpointer.wait()
checkpointer.save(2, t.make_state(2, vocab=400_000), meta={{"at": 2}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert any(".orbax-checkpoint-tmp" in name for name in os.listdir(tmp_path))
    state, meta = restore(tmp_path)
    assert meta == {"at": 1}
    assert_equal(state, make_state(1))
    assert os.listdir(tmp_path) == ["1"]
    save(tmp_path, 2)
    assert restore(tmp_path)[1] == {"at": 2}


# What stays.


def test_newest_and_best_stay_whether_or_not_steps_have_metrics(tmp_path):
    losses = {1: 3.0, 2: 1.0, 3: None, 4: 2.0, 5: float("nan"), 6: None}
    metrics = {s: None if loss is None else {"valid/loss": loss} for s, loss in losses.items()}
    save(tmp_path, 1, 2, 3, keep=2, metrics=metrics.get)
    save(tmp_path, 4, 5, 6, keep=2, metrics=metrics.get)  # resumed: the best is remembered
    checkpointer = open_at(tmp_path, keep=2)
    assert checkpointer.all_steps() == [2, 5, 6]
    assert checkpointer.best_step() == 2
    checkpointer.save(7, make_state(7), meta={}, metrics={"valid/loss": 0.5})
    checkpointer.save(8, make_state(8), meta={})
    checkpointer.wait()
    assert checkpointer.all_steps() == [7, 8] and checkpointer.best_step() == 7
    checkpointer.close()


def test_the_best_may_be_the_highest(tmp_path):
    scores = {1: 0.5, 2: 0.9, 3: 0.7, 4: 0.1}
    by = {"best": "max:valid/f1", "keep": 1}
    save(tmp_path, *scores, metrics=lambda s: {"valid/f1": scores[s], "valid/loss": -s}, **by)
    checkpointer = open_at(tmp_path, **by)
    assert checkpointer.all_steps() == [2, 4] and checkpointer.best_step() == 2
    with pytest.raises(UserError, match="best=max:valid/f1 is not measured .* of valid/loss"):
        checkpointer.save(5, make_state(5), meta={}, metrics={"valid/loss": 1.0})
    checkpointer.close()
    target = abstract(make_state(0).params)
    for best, found in [("max:valid/f1", 2), ("min:valid/loss", 4)]:
        params = checkpoint.restore_params(tmp_path, target, "best", best)
        assert_equal(params, make_state(found).params)


@pytest.mark.parametrize("best", ["valid/f1", "highest:valid/f1", "max:"])
def test_the_order_of_the_best_must_be_told(best, tmp_path):
    with pytest.raises(UserError, match="must say whether less or more is better"):
        open_at(tmp_path, best=best)


def test_without_any_metric_the_newest_stay(tmp_path):
    save(tmp_path, 1, 2, 3, 4, keep=2, keep_best=0)
    checkpointer = open_at(tmp_path)
    assert checkpointer.all_steps() == [3, 4] and checkpointer.best_step() is None
    checkpointer.close()


# Mistakes and accidents.


def test_file_too_large(tmp_path):
    """The limit acts as a full disk does, without root."""
    save(tmp_path, 1)
    checkpointer = open_at(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(UserError, match="File too large.*last good checkpoint is step 1"):
            checkpointer.save(2, make_state(2, vocab=50_000), meta={})
            checkpointer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    checkpointer.close()
    assert os.listdir(tmp_path) == ["1"]
    assert_equal(restore(tmp_path)[0], make_state(1))


def test_full_disk(tmp_path, capfd):
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs root to mount a small disk")
    try:
        save(tmp_path / "checkpoints", 1)
        checkpointer = open_at(tmp_path / "checkpoints")
        with pytest.raises(UserError, match="No space left on device.*is step 1"):
            checkpointer.save(2, make_state(2, vocab=50_000), meta={})
            checkpointer.save(3, make_state(3, vocab=50_000), meta={})  # learns of it here at last
        checkpointer.close()
        assert "Traceback" not in capfd.readouterr().err
        assert_equal(restore(tmp_path / "checkpoints")[0], make_state(1))
        save(tmp_path / "checkpoints", 2)  # what failed left its room
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"vocab": 128},
            r"params/embedding is float32\[96, 32\] there and float32\[128, 32\] here",
        ),
        ({"width": 16}, r"params/embedding is float32\[96, 32\] there and float32\[96, 16\] here"),
        ({"optimizer": optax.sgd(1.0)}, r"opt_state/1/0/count is int32\[\] there and absent here"),
        ({"optimizer": optax.sgd(1.0, momentum=0.9)}, r"opt_state/0/trace/\S+ is absent there"),
    ],
)
def test_another_config_is_one_clear_sentence_and_no_damage(tmp_path, change, message):
    save(tmp_path, 1, 2)
    checkpointer = open_at(tmp_path)
    with pytest.raises(UserError, match=message):
        checkpointer.restore(abstract(make_state(0, **change)))
    checkpointer.close()
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    save(tmp_path, 1)
    state = make_state(2)
    kernel = state.params["layers"]["kernel"].at[3, 1, 2].set(jnp.inf)
    state.params["layers"]["kernel"] = kernel
    checkpointer = open_at(tmp_path)
    with pytest.raises(UserError, match="params/layers/kernel is not finite after step 2.*step 1"):
        checkpointer.save(2, state, meta={})
    checkpointer.close()
    assert os.listdir(tmp_path) == ["1"]


@pytest.mark.parametrize("step", [1, 2])
def test_a_step_that_is_not_new_is_refused(tmp_path, step):
    save(tmp_path, 2)
    checkpointer = open_at(tmp_path)
    with pytest.raises(UserError, match=f"Step {step} was not saved.*already holds step 2"):
        checkpointer.save(step, make_state(step), meta={})
    checkpointer.close()


def test_bad_arguments(tmp_path):
    with pytest.raises(UserError, match="checkpoint.keep must be at least 1"):
        open_at(tmp_path, keep=0)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Could not open the checkpoints.*Not a directory"):
        open_at(tmp_path / "file" / "checkpoints")
