"""A Slurm of one machine: a run that is cut off and put back into the queue, and a sweep.

`make slurm-test` runs this file; pytest does not collect it by itself, for it needs Debian's
packages slurm-wlm and munge, and root.
"""

import os
import pathlib
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time

import pytest
import runs

SECONDS = 200  # that any part of it may take, on a busy machine


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_until(condition, what, seconds=SECONDS, every=0.2):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"after {seconds} s: not {what}"
        time.sleep(every)


class Slurm:
    """munged, slurmctld and slurmd as children of this process, all files in one folder."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons = []

    def start(self):
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir()
        (self.folder / "spool").mkdir()
        control, node = free_ports(2)
        host = socket.gethostname().partition(".")[0]
        (self.folder / "slurm.conf").write_text(
            f"""\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={self.folder}/munge.socket
CredType=cred/munge
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
KillWait=30
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd.pid
SlurmctldLogFile={self.folder}/slurmctld.log
SlurmdLogFile={self.folder}/slurmd.log
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP
"""
        )
        self._spawn(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={self.folder}/munge.socket",
            f"--pid-file={self.folder}/munged.pid",
            f"--log-file={self.folder}/munged.log",
            f"--seed-file={self.folder}/munged.seed",
        )
        wait_until((self.folder / "munge.socket").exists, "munged ready", 20)
        self._spawn("slurmctld", "-D", "-i")
        self._spawn("slurmd", "-D", "-N", "localhost")
        wait_until(lambda: "idle" in self.run("sinfo", "--noheader", check=False), "idle", 60)

    def _spawn(self, *command):
        path = shutil.which(command[0], path="/usr/sbin:/usr/bin:/sbin:/bin")
        with (self.folder / f"{command[0]}.out").open("w") as out:
            self.daemons.append(
                subprocess.Popen([path, *command[1:]], env=self.env, stdout=out, stderr=out)
            )

    def run(self, *command, check=True):
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=30)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def job(self, number):
        """Returns what scontrol knows of a job."""
        return dict(re.findall(r"(\w+)=(\S+)", self.run("scontrol", "show", "job", number)))

    def stop(self):
        self.run("scancel", "--user=root", "--signal=KILL", check=False)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def logs(self):
        return "\n".join(f"{p}:\n{p.read_text()[-3000:]}" for p in self.folder.glob("*.log"))


@pytest.fixture
def slurm(tmp_path):
    cluster = Slurm(tmp_path / "slurm")
    cluster.folder.mkdir()
    try:
        cluster.start()
        yield cluster
    except AssertionError:
        print(cluster.logs())
        raise
    finally:
        cluster.stop()


def environment(env):
    """What a script of ours runs in: our modules, one device a process."""
    return {k: v for k, v in env.items() if k != "XLA_FLAGS"} | {
        "PYTHONPATH": str(runs.ROOT),
        "JAX_PLATFORMS": "cpu",
    }


def launch(workdir, on, *flags, env=os.environ):
    """Starts launch.py for a run of two sharded processes; returns the process."""
    overrides = runs.SMALL | {
        "data.cache_dir": workdir.parent / "cache",
        "mesh.fsdp": 2,
        "mesh.data": 1,
        "total_steps": 120,
        "batch_size": 32,  # or the run would be over before it is told to stop
        "evals.every": 0,
        "evals.batches": 2,
        "log.every": 1,
        "checkpoint.every": 1000,
    }
    command = [
        sys.executable,
        str(runs.ROOT / "scripts" / "launch.py"),
        f"--config={runs.ROOT}/configs/bert.py:tiny,quick=1",
        f"--workdir={workdir}",
        f"--on={on}",
        f"--out={workdir.parent}",
        "--submit",
        *flags,
        *(f"--config.{key}={value}" for key, value in overrides.items()),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=workdir.parent, env=environment(env), **pipes)


def rows(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def test_a_run_that_is_requeued_ends_as_one_that_is_not(slurm, tmp_path):
    runs.finish(launch(tmp_path / "whole", "local", "--nodes=2"))
    whole = runs.rows(tmp_path / "whole")
    assert len(whole) == 121

    workdir = tmp_path / "joined"
    submitted = launch(workdir, "slurm", "--devices=2", "--device_gb=1", env=slurm.env)
    number = re.search(r"Submitted batch job (\d+)", runs.finish(submitted))[1]

    def log():
        path = workdir / "slurm.log"
        return path.read_text() if path.exists() else ""

    def ended():
        state = slurm.job(number)["JobState"]
        return state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")

    wait_until(lambda: rows(workdir) > 20, "at step 20", every=0.01)
    slurm.run("scontrol", "requeue", number)
    wait_until(lambda: slurm.job(number)["JobState"] == "PENDING", "in the queue again")
    saved = int(re.search(r"Told to stop: saved step (\d+)", log())[1])
    assert 20 < saved < 120
    slurm.run("scontrol", "update", f"JobId={number}", "StartTime=now")  # Slurm waits 2 minutes
    wait_until(ended, "finished")
    job = slurm.job(number)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), log()
    assert f"step {saved} of 120" in log()
    assert runs.rows(workdir) == whole


def test_runs_of_a_sweep_are_jobs(slurm, tmp_path):
    grid = f"--grid=data.source=embedded,{tmp_path}/none.txt"
    values = runs.SMALL | {"data.cache_dir": tmp_path / "cache", "evals.batches": 1}
    command = [
        *(sys.executable, str(runs.ROOT / "scripts" / "sweep.py"), "--launcher=slurm"),
        *(f"--config={runs.ROOT}/configs/bert.py:tiny,quick=1", grid, f"--runs={tmp_path}/runs"),
        *("--slurm=cpus_per_task=1", "--slurm=timeout_min=10"),
        *(f"--set={key}={value}" for key, value in values.items()),
    ]
    env = environment(slurm.env)
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=2 * SECONDS
    )
    assert done.returncode == 1 and "1 of 2 failed" in done.stderr, done.stdout + done.stderr
    assert done.stdout.count("submitted ") == 2
    good = next(tmp_path.glob("runs/*/data.source=embedded-seed0"))
    assert "valid/loss" in runs.rows(good)[-1]
    (bad,) = set(good.parent.iterdir()) - {good}
    assert "none.txt" in (bad / "train.log").read_text()
