"""Small runs of train.py for tests, in this process or in one of their own."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A quick BERT: a second of training behind the start-up.
SMALL = {
    "model.vocab_size": 600,
    "data.tokenizer.vocab_size": 600,
    "data.length": 32,
    "data.masking.max_predictions": 5,
    "model.width": 32,
    "optim.warmup_steps": 10,
    "log.tensorboard": False,
}
SMALL_GPT = {k: v for k, v in SMALL.items() if "masking" not in k}


def command(page, workdir, overrides, *flags):
    values = [f"--config.{key}={value}" for key, value in overrides.items()]
    return [
        sys.executable,
        str(ROOT / "train.py"),
        f"--config={ROOT}/configs/{page}.py:tiny,quick=1",
        f"--workdir={workdir}",
        *values,
        *flags,
    ]


def start(page, workdir, overrides, *flags, **kwargs):
    """Starts a run as a user would; returns the process."""
    return spawn(command(page, workdir, overrides, *flags), **kwargs)


def start_several(count, page, workdir, overrides, *flags, **kwargs):
    """Starts a run of several processes that find each other through this machine's network."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [*flags, f"--coordinator=127.0.0.1:{port}", f"--processes={count}"]
    return [
        start(page, workdir, overrides, *flags, f"--process={i}", **kwargs) for i in range(count)
    ]


def finish_all(processes):
    """Waits for the processes of one run; if one fails, or all take too long, none is left."""
    try:
        for process in processes:
            finish(process)
    finally:
        for process in processes:
            process.kill()


def spawn(command, *, devices=1, **kwargs):
    """Starts a command in the repository's root, on fake CPU devices; returns the process."""
    flags = os.environ.get("XLA_FLAGS", "")  # of two that are the same the last counts
    env = os.environ | {
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=env, **(options | kwargs))


def finish(process, status=0, seconds=300):
    """Waits for a process and returns its output; fails if it ends otherwise than expected."""
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()  # one that hangs would go on beside the tests after it
    assert process.returncode == status, output
    return output


def rows(workdir):
    """The rows of metrics.jsonl without the times."""
    lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("perf/")} for line in lines
    ]


def script(name, *arguments, status=0):
    """Runs a script as a user would; returns what it prints."""
    command = [sys.executable, ROOT / "scripts" / name, *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr
