"""What a run writes about itself, and that writing it never makes the device wait."""

import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from configs import common
from errors import UserError
from training import chips, progress, telemetry


def start(workdir, **kwargs):
    settings = dict(every=2, total_steps=10, tokens_per_step=64) | kwargs
    return telemetry.Telemetry(workdir, **settings)


def metrics(step, **kwargs):
    values = dict(loss=10.0 / step, grad_norm=1.0 + step, tokens=48) | kwargs
    return {name: jnp.float32(value) for name, value in values.items()}


def run(workdir, first, last, **kwargs):
    """Runs steps, with an evaluation at every fourth, and leaves without closing, as if killed."""
    follower = start(workdir, start_step=first - 1, **kwargs)
    for step in range(first, last + 1):
        follower.on_step(step, metrics(step))
        if step % 4 == 0:
            follower.write(step, {"valid/loss": 20.0 / step})
    follower.flush()
    return follower


def rows(workdir):
    """Returns the rows without the figures that are times."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "perf/" not in k} for line in lines]


def scalars(workdir, name):
    events = event_accumulator.EventAccumulator(str(workdir / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


class Unready:
    """A scalar that the device is still computing: waiting for it fails the test."""

    def __init__(self, value=None):
        self.value = value

    def is_ready(self):
        return self.value is not None

    def copy_to_host_async(self):
        pass

    def __array__(self, dtype=None, copy=None):
        assert self.is_ready(), "waited for the device"
        return np.asarray(self.value, dtype)


def test_rows(tmp_path):
    run(tmp_path, 1, 5).close()
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows(tmp_path) == [
        {"step": 2, "train/loss": 5.0, "train/grad_norm": 3.0, "train/tokens": 48.0},
        {"step": 4, "train/loss": 2.5, "train/grad_norm": 5.0, "train/tokens": 48.0},
        {"step": 4, "valid/loss": 5.0},
    ]
    perf = {name: value for name, value in written[1].items() if name.startswith("perf/")}
    assert perf["perf/tokens_per_s"] == pytest.approx(64 / perf["perf/step_time"])
    assert perf["perf/nonpad_tokens_per_s"] == pytest.approx(48 / perf["perf/step_time"])
    assert 0 <= perf["perf/input_wait"] < 1
    assert "perf/mfu" not in perf


def test_the_last_step_has_a_row_wherever_it_falls(tmp_path):
    run(tmp_path, 1, 5, total_steps=5).close()
    assert [row["step"] for row in rows(tmp_path)] == [2, 4, 4, 5]


def test_a_mean_over_nothing_is_null(tmp_path):
    follower = start(tmp_path)
    follower.on_step(2, metrics(2, accuracy=math.nan))
    follower.flush()
    assert rows(tmp_path)[0]["train/accuracy"] is None
    follower.close()


# Resume.


@pytest.mark.parametrize("killed_at", [4, 5, 6, 9])
@pytest.mark.parametrize("cut", [0, 1, 20])
def test_the_joined_files_equal_those_of_one_run(tmp_path, killed_at, cut):
    run(tmp_path / "whole", 1, 10)
    run(tmp_path / "joined", 1, killed_at)
    path = tmp_path / "joined" / "metrics.jsonl"
    saved = 3  # the last checkpoint; the row that the kill cut off is always behind it
    path.write_bytes(path.read_bytes()[: -cut or None])
    run(tmp_path / "joined", saved + 1, 10)
    assert rows(tmp_path / "joined") == rows(tmp_path / "whole")
    for name in ("train/loss", "valid/loss"):
        assert scalars(tmp_path / "joined", name) == scalars(tmp_path / "whole", name)


def test_rows_of_the_checkpoint_itself_stay(tmp_path):
    """A flush precedes the save of step 4, so its rows are there and are not written again."""
    run(tmp_path, 1, 6)
    start(tmp_path, start_step=4).close()
    assert [row["step"] for row in rows(tmp_path)] == [2, 4, 4]


def test_a_new_run_starts_an_empty_file(tmp_path):
    run(tmp_path, 1, 6)
    start(tmp_path).close()
    assert rows(tmp_path) == []


def test_other_damage_of_the_rows_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n[broken\n{"step": 2}\n')
    with pytest.raises(UserError, match="Line 2 of .*metrics.jsonl is not a row"):
        start(tmp_path, start_step=2)


def test_rows_are_on_disk_when_a_save_begins(tmp_path):
    follower = start(tmp_path)
    for step in range(1, 5):
        follower.on_step(step, metrics(step))
    with follower.aside("save"):
        assert [row["step"] for row in rows(tmp_path)] == [2, 4]
        assert [step for step, _ in scalars(tmp_path, "train/loss")] == [2, 4]


# The device never waits.


def test_on_step_waits_for_nothing_and_keeps_the_order(tmp_path):
    follower = start(tmp_path)
    slow = {"loss": Unready(), "grad_norm": Unready(1.0)}
    follower.on_step(1, metrics(1))
    follower.on_step(2, slow)
    for step in range(3, 6):
        follower.on_step(step, metrics(step))
    assert rows(tmp_path) == []  # step 4 is done, but step 2 is before it
    slow["loss"].value = 7.0
    follower.on_step(6, {"loss": Unready()})
    assert [row["step"] for row in rows(tmp_path)] == [2, 4]
    assert rows(tmp_path)[0]["train/loss"] == 7.0
    follower.close()  # with a step in the queue: after an error it must not wait either


def test_the_host_is_a_few_steps_ahead_at_most(tmp_path):
    """Or whoever says stop would wait for all of them, behind 30 steps of seconds each."""
    follower = start(tmp_path)
    for step in range(1, 5):
        follower.on_step(step, {"loss": Unready()})
    with pytest.raises(AssertionError, match="waited for the device"):
        follower.on_step(5, {"loss": Unready()})
    follower.close()


def test_with_real_dispatch(tmp_path):
    """The host runs ahead of a slow step; flush catches up."""

    @jax.jit
    def step(x):
        for _ in range(20):
            x = x @ x / 700
        return x, x.sum()

    follower = start(tmp_path, every=1)
    x = jnp.ones((700, 700))
    step(x)[0].block_until_ready()
    for i in range(1, 4):
        x, loss = step(x)
        follower.on_step(i, {"loss": loss})
    behind = len(rows(tmp_path))
    follower.flush()
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]
    assert behind < 3
    follower.close()


# A loss that is not finite.


@pytest.mark.parametrize("primary", [True, False])
@pytest.mark.parametrize(
    ("name", "value", "became"),
    [("loss", math.nan, "NaN"), ("loss", math.inf, "infinite"), ("grad_norm", math.nan, "NaN")],
)
def test_nan_names_its_step(tmp_path, primary, name, value, became):
    follower = start(tmp_path, primary=primary)
    gate = Unready()  # holds the queue, as a device that is three steps behind
    follower.on_step(1, metrics(1, loss=1.0) | {"gate": gate})
    follower.on_step(2, metrics(2))
    follower.on_step(3, metrics(3, **{name: value}))
    follower.on_step(4, metrics(4, loss=math.nan))
    gate.value = 0.0
    with pytest.raises(UserError, match=f"{name} became {became} at step 3: lower optim.lr"):
        follower.on_step(5, metrics(5, loss=math.nan))
    follower.close()
    if primary:
        assert [row["step"] for row in rows(tmp_path)] == [2]


def test_nothing_is_saved_after_a_nan(tmp_path):
    follower = start(tmp_path)
    saved = False
    with pytest.raises(UserError, match="at step 1"):
        follower.on_step(1, {"loss": jnp.log(-jnp.ones(()))})
        with follower.aside("save"):
            saved = True
    assert not saved
    follower.close()


# Other processes, TensorBoard, the screen.


def test_other_processes_write_nothing(tmp_path, capsys):
    follower = start(tmp_path / "workdir", primary=False)
    for step in range(1, 5):
        follower.on_step(step, metrics(step))
    follower.write(4, {"valid/loss": 1.0})
    follower.close()
    assert not (tmp_path / "workdir").exists()
    assert capsys.readouterr().out == ""


def test_tensorboard(tmp_path):
    run(tmp_path, 1, 6).close()
    assert scalars(tmp_path, "train/loss") == [(s, pytest.approx(10.0 / s)) for s in (2, 4, 6)]
    assert scalars(tmp_path, "valid/loss") == [(4, 5.0)]
    run(tmp_path / "without", 1, 2, tensorboard=False).close()
    assert not (tmp_path / "without" / "tensorboard").exists()


def test_torch_is_neither_imported_nor_blocked(tmp_path):
    script = f"""
import sys
from training import telemetry
follower = telemetry.Telemetry({str(tmp_path)!r}, every=1, total_steps=1, tokens_per_step=1)
assert "tensorboardX" in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_plain_lines_when_not_a_terminal(tmp_path, capsys):
    run(tmp_path, 1, 4).close()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and "\x1b" not in "".join(lines)
    assert lines[0] == "No MFU: the peak speed of 'cpu' is not in training/chips.py."
    assert lines[1].startswith("step 2/10  loss 5  grad_norm 3  tokens 48  ")
    assert " tokens/s  " in lines[1] and lines[1].endswith(" left")
    assert lines[3] == "step 4/10  valid/loss 5"
    assert lines[4].startswith("Time 0:00:0") and "% saving" in lines[4]


def test_bar_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich believe in a terminal
    run(tmp_path, 1, 4).close()
    out = capsys.readouterr().out
    assert "\x1b" in out and "step 4/10" in out and "loss 2.5" in out and " left" in out
    assert "step 4/10  valid/loss 5" in out
    assert "grad_norm" not in out  # rows are in the file; the bar shows the rest


# Speed.


def test_clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    clock = progress.Clock(tokens_per_step=1000, flops_per_step=3e9, peak_flops=1e10)
    now[0] += 40  # compilation
    assert clock.tick(1, 500) == {}
    for step in (2, 3):
        with clock.timed("input"):
            now[0] += 0.5
        now[0] += 1.5
        perf = clock.tick(step, 500)
    assert perf == pytest.approx(
        {
            "perf/step_time": 2.0,
            "perf/tokens_per_s": 500.0,
            "perf/nonpad_tokens_per_s": 250.0,
            "perf/input_wait": 0.25,
            "perf/mfu": 0.15,  # 3e9 / 2 s / 1e10
        }
    )
    clock.begin_lap(3)
    with clock.timed("eval"):
        now[0] += 10
    with clock.timed("save"):
        now[0] += 5
    now[0] += 1
    assert clock.tick(4, 500)["perf/step_time"] == pytest.approx(1.0)
    # 60 s: 40 start, 1 input, 10 evaluation, 5 saving and 4 the rest of the steps
    assert clock.goodput() == (
        "Time 0:01:00: 6.7% steps, 66.7% starting and compiling, 1.7% waiting for input, "
        "16.7% evaluating, 8.3% saving."
    )


def test_chips():
    assert chips.peak_flops("TPU v5 lite") == 197e12
    assert chips.peak_flops("TPU v5p") == 459e12
    assert chips.peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert chips.peak_flops("NVIDIA H100 PCIe") == 756e12
    assert chips.peak_flops("cpu") is None
    assert chips.memory("TPU v5").size == 95 * 2**30 and chips.memory("TPU v5 lite").dims == 2
    assert chips.memory("NVIDIA A100-SXM4-40GB").size == 40e9
    assert chips.memory("NVIDIA A100-SXM4-80GB").size == 80e9
    assert chips.memory("cpu") is None
    for names in map(list, (chips.PEAK_FLOPS, chips.MEMORY)):
        for i, name in enumerate(names):
            assert not any(name.startswith(earlier) for earlier in names[:i]), f"{name} is hidden"
    assert all(chips.peak_flops(name) for name in chips.MEMORY)


def test_mfu_is_written_for_a_known_chip(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(chips.PEAK_FLOPS, "cpu", 1e12)
    run(tmp_path, 1, 4, flops_per_step=8e6).close()  # on 8 devices
    perf = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[1])
    assert perf["perf/mfu"] == pytest.approx(1e-6 / perf["perf/step_time"])
    assert "MFU" not in capsys.readouterr().out


def test_profile(tmp_path):
    follower = start(tmp_path, profile=(2, 3), tensorboard=False)
    for step in range(1, 5):
        follower.on_step(step, metrics(step))
    follower.close()
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


# What was run.


def test_run_info(tmp_path):
    config = common.base()
    telemetry.save_run_info(tmp_path / "run", config)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["optim"]["lr"] == config.optim.lr and saved["init_from"] is None
    assert set(saved) == set(config)
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["packages"]["jax"] == jax.__version__
    assert info["devices"] == {"cpu": 8} and info["command"] == sys.argv
