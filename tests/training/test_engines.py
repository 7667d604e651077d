"""Jobs: the files are those that the engines take, and their shell scripts do as they say."""

import copy
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import jsonschema
import pytest
import yaml

from training import engines, topologies

SCHEMA = json.loads(
    (pathlib.Path(__file__).parents[1] / "fixtures" / "jobset.schema.json").read_text()
)


def job(**changes):
    values = {
        "name": "gpt3-13b",
        "flags": ("--config=configs/gpt3.py:13b", "--config.model.bands=(0, 256)"),
        "nodes": 16,
        "devices": 4,
        "folder": "/code",
        "python": "python",
        "script": "train.py",
    }
    return engines.Job(**(values | changes))


def jobset():
    topology = topologies.parse("v5p:4x4x4")
    options = {"image": "registry/image:1", "claim": "disk", "mount": "/data", "restarts": 3}
    return yaml.safe_load(engines.jobset(job(), topology, **options))


def test_a_jobset_is_what_its_schema_says():
    manifest = jobset()
    jsonschema.validate(manifest, SCHEMA)
    [replicated] = manifest["spec"]["replicatedJobs"]
    pods = replicated["template"]["spec"]
    pod = pods["template"]["spec"]
    assert pods["parallelism"] == pods["completions"] == 16
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x4",
    }
    [container] = pod["containers"]
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert container["command"] == ["python", "train.py", *job().flags, "--distributed"]


@pytest.mark.parametrize(
    "path",
    [
        ("spec", "replicatedJobs", 0, "name"),
        ("spec", "replicatedJobs", 0, "template", "spec", "template"),
        ("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "containers"),
    ],
    ids=lambda path: path[-1],
)
def test_the_schema_knows_a_wrong_jobset(path):
    manifest = copy.deepcopy(jobset())
    *above, last = path
    section = manifest
    for key in above:
        section = section[key]
    section[last + "s"] = section.pop(last)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, SCHEMA)


def test_a_jobset_names_every_chip_that_can_be_planned_for():
    assert set(engines._GKE_CHIPS) == set(topologies.DIMS)


def test_hosts_of_a_slice_get_the_whole_command():
    flags = ("--config=a.py:x", "--workdir=/runs/it's here")
    text = engines.tpu_vm(job(flags=flags, folder="/home/me/the code"), tpu="slice", zone="here")
    words = shlex.split(text.splitlines()[1])
    assert words[:7] == ["exec", "gcloud", "compute", "tpus", "tpu-vm", "ssh", "slice"]
    assert words[7:9] == ["--zone=here", "--worker=all"]
    there = shlex.split(words[9].removeprefix("--command="))
    assert there == ["cd", "/home/me/the code", "&&", "exec", *job(flags=flags).command, there[-1]]
    assert there[-1] == "--distributed"


# Shell scripts, run for real with small programs in the place of train.py and of Slurm's.


def program(folder, name, text):
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return str(path)


def start(folder, text, **kwargs):
    script = folder / "job.sh"
    script.write_text(text)
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    return subprocess.Popen(["bash", str(script)], env=env, cwd=folder, **kwargs)


def wait_for(path):
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.01)


TASKS = """
import pathlib, signal, sys, time
def stop(*_):
    pathlib.Path("told").touch()
    time.sleep(0.2)  # a save
    pathlib.Path("saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
pathlib.Path("ready").write_text(" ".join(sys.argv[1:]))
time.sleep({seconds})
"""
SCONTROL = 'import pathlib, sys; pathlib.Path("again").write_text(" ".join(sys.argv[1:]))'


@pytest.mark.parametrize(
    ("sent", "status", "again"),
    [(None, 0, None), (signal.SIGTERM, 143, None), (signal.SIGUSR1, 143, "requeue 7")],
    ids=["ends", "told to stop", "out of time"],
)
def test_slurms_script_lets_the_tasks_save(sent, status, again, tmp_path):
    program(tmp_path, "srun", TASKS.format(seconds=60 if sent else 0))
    program(tmp_path, "scontrol", SCONTROL)
    text = engines.slurm(job(), f"{tmp_path}/log", {"partition": "gpu", "signal": "B:USR1@600"})
    assert text.count("#SBATCH --signal=") == 1 and "#SBATCH --signal=B:USR1@600\n" in text
    for line in ("nodes=16", "ntasks-per-node=4", "partition=gpu", "requeue", "open-mode=append"):
        assert f"#SBATCH --{line}\n" in text
    process = start(tmp_path, text)
    wait_for(tmp_path / "ready")
    words = (tmp_path / "ready").read_text()
    assert words.startswith("--kill-on-bad-exit=1 python train.py --config=configs/gpt3.py:13b ")
    if sent:
        process.send_signal(sent)
    assert process.wait(30) == status
    assert (tmp_path / "saved").exists() == bool(sent)
    assert again == ((tmp_path / "again").read_text() if (tmp_path / "again").exists() else None)


RANK = """
import pathlib, sys
rank = sys.argv[-1].removeprefix("--process=")
pathlib.Path("rank" + rank).write_text(" ".join(sys.argv[1:-1]))
"""


def run_local(folder, text, nodes=3):
    script = program(folder, "train.py", RANK + text)
    there = {"folder": str(folder), "python": sys.executable, "script": script}
    return start(folder, engines.local(job(nodes=nodes, **there)))


def test_local_processes_know_each_other(tmp_path):
    assert run_local(tmp_path, "").wait(30) == 0
    seen = {(tmp_path / f"rank{i}").read_text() for i in range(3)}
    assert len(seen) == 1 and not (tmp_path / "rank3").exists()
    [flags] = seen
    assert "--config.model.bands=(0, 256) --coordinator=127.0.0.1:" in flags
    assert flags.endswith("--processes=3")


def test_one_local_process_that_fails_ends_the_others(tmp_path):
    text = "import time\nif rank == '1': sys.exit(2)\ntime.sleep(60)"
    assert run_local(tmp_path, text).wait(30) == 2


def test_local_processes_are_all_told_to_stop(tmp_path):
    text = """
import signal, time
def stop(*_):
    pathlib.Path("saved" + rank).touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
pathlib.Path("ready" + rank).touch()
time.sleep(60)
"""
    process = run_local(tmp_path, text)
    for i in range(3):
        wait_for(tmp_path / f"ready{i}")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert all((tmp_path / f"saved{i}").exists() for i in range(3))


def test_one_local_process_is_alone(tmp_path):
    script = program(tmp_path, "train.py", "import sys; sys.exit(len(sys.argv))")
    there = {"folder": str(tmp_path), "python": sys.executable, "script": script}
    assert start(tmp_path, engines.local(job(nodes=1, devices=1, **there))).wait(30) == 3
    count = "import os, sys; sys.exit(int(os.environ['JAX_NUM_CPU_DEVICES']))"
    there["script"] = program(tmp_path, "count.py", count)
    assert start(tmp_path, engines.local(job(nodes=1, devices=4, **there))).wait(30) == 4
