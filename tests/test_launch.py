"""launch.py: refuses what does not fit or belong, writes the job, and hands it over."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import runs
import yaml


def launch(folder, *flags, status=0, env=None):
    """Runs it in `folder`; returns (stdout, stderr)."""
    overrides = runs.SMALL | {"data.cache_dir": folder / "cache"}
    command = [
        sys.executable,
        str(runs.ROOT / "scripts" / "launch.py"),
        f"--config={runs.ROOT}/configs/bert.py:tiny,quick=1",
        *(f"--config.{key}={value}" for key, value in overrides.items()),
        *flags,
    ]
    env = os.environ | {"PYTHONPATH": str(runs.ROOT), "XLA_FLAGS": ""} | (env or {})
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


TPUS = ("--topology=v5e:4x4", "--code=/code", "--workdir=/data/run")
MISTAKES = {
    "--workdir=run --on=slurm --zone=here": "--zone means nothing to --on=slurm",
    "--workdir=run --on=gke --image=x": "--on=gke needs --topology",
    "--workdir=run": "Say what to run",
    f"{' '.join(TPUS)} --on=tpu-vm --tpu=x --zone=y --nodes=3": "does not divide the 16 chips",
    "--workdir=. --on=local --name=Run_1": "cannot be called 'Run_1'",
    "--workdir=run --on=slurm --slurm=gpu": "--slurm=gpu must read KEY=VALUE",
    f"{' '.join(TPUS)} --on=gke --image=x --volume=c:/disk": "must read CLAIM:PATH",
}


@pytest.mark.parametrize("flags", ["--workdir=run --on=slurm --zone=here", *list(MISTAKES)[3:4]])
def test_a_mistake_is_one_line(flags, tmp_path):
    _, told = launch(tmp_path, *flags.split(), status=2)
    assert told.startswith("error: ") and told.count("\n") == 1 and MISTAKES[flags] in told


@pytest.mark.slow
@pytest.mark.parametrize("flags", MISTAKES)
def test_every_mistake_is_one_line(flags, tmp_path):
    test_a_mistake_is_one_line(flags, tmp_path)


@pytest.mark.slow
def test_what_does_not_fit_is_refused_and_written_anyway(tmp_path):
    """A device of 1 MB."""
    flags = ("--workdir=run", "--on=slurm", "--nodes=2", "--config.mesh.data=2")
    _, told = launch(tmp_path, *flags, "--device_gb=0.001", status=2)
    assert "error: The run does not fit: it needs" in told and "--config.mesh.data=1" in told
    assert not (tmp_path / "runs").exists()
    out, _ = launch(tmp_path, *flags, "--device_gb=0.001", "--anyway")
    assert "DOES NOT FIT" in out
    path = tmp_path / "runs" / "jobs" / "run.sbatch"
    text = path.read_text()
    assert f"sbatch {path.relative_to(tmp_path)}" in out
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=1\n" in text
    assert f"--config.mesh.data=2 --workdir={tmp_path}/run --distributed &" in text


@pytest.mark.slow
def test_a_job_of_this_machine_is_submitted_and_trains(tmp_path):
    """Two processes, to a checkpoint; the submitted command's status is that of launch.py."""
    flags = ("--workdir=run", "--on=local", "--nodes=2", "--submit", "--out=jobs")
    few = ("--config.total_steps=3", "--config.evals.batches=1", "--config.mesh.data=2")
    few += ("--config.optim.warmup_steps=1", "--config.optim.decay_steps=3")
    out, _ = launch(tmp_path, *flags, *few)
    assert "274,690 parameters" not in out and "on 2 device(s)" in out
    assert re.search(r"together .* GiB: fits", out)
    assert (tmp_path / "run" / "checkpoints" / "3").is_dir()
    assert [row["step"] for row in runs.rows(tmp_path / "run")] == [3, 3]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu")
@pytest.mark.parametrize("on", ["gke", "tpu-vm"])
def test_jobs_of_slices_are_planned_for_their_chips(on, tmp_path):
    more = {
        "gke": ("--image=i", "--volume=disk:/data", "--workdir=/data/run"),
        "tpu-vm": ("--tpu=x", "--zone=y", "--workdir=/mnt/run"),
    }[on]
    flags = ("--topology=v5e:2x4", "--code=/code", "--config.mesh.data=8", f"--on={on}", *more)
    out, _ = launch(tmp_path, *flags, "--out=jobs")
    assert "8 x TPU v5 lite" in out and "fits" in out
    [path] = (tmp_path / "jobs").iterdir()
    if on == "gke":
        pods = yaml.safe_load(path.read_text())["spec"]["replicatedJobs"][0]["template"]["spec"]
        assert pods["parallelism"] == 2
        command = pods["template"]["spec"]["containers"][0]["command"]
        assert command[:3] == ["python", "train.py", "--config=configs/bert.py:tiny,quick=1"]
    else:
        assert "cd /code && exec .venv/bin/python train.py" in path.read_text()
