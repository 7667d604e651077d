r"""Plans a run, writes the job that makes an engine run it on many hosts, and submits that.

    python scripts/launch.py --config=configs/gpt2.py:1558m --workdir=DIR --on=slurm --nodes=4 \
        --devices=8 --device_gb=80 --slurm=gpus-per-node=8 --slurm=time=24:00:00 --submit
    python scripts/launch.py --config=configs/gpt3.py:13b --workdir=/data/13b --on=gke \
        --topology=v5p:4x4x4 --image=IMAGE --code=/code --volume=CLAIM:/data \
        --config.microbatches=16 --config.batch_ramp.start=64
    python scripts/launch.py --config=configs/bert.py:large --workdir=DIR --on=tpu-vm \
        --topology=v5e:4x4 --tpu=NAME --zone=ZONE --code=FOLDER
    python scripts/launch.py --config=configs/bert.py:tiny --workdir=DIR --on=local --nodes=2

What does not fit (scripts/plan.py) is refused, unless --anyway. The same command again continues.
"""

import dataclasses
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import jax
import rich.console
from absl import app, flags
from ml_collections import config_flags

from data_pipeline import files
from errors import UserError, exit_on_user_error, parse_flags
from training import compilation_cache, engines, plan_report, topologies
from training import plan as plan_lib

ROOT = pathlib.Path(__file__).resolve().parent.parent

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Of the run, as all of its hosts see it.")
_ON = flags.DEFINE_enum("on", None, ["slurm", "gke", "tpu-vm", "local"], "Which engine runs it.")
_NODES = flags.DEFINE_integer(
    "nodes", None, "Hosts; default: 1, of TPUs one for each 4 chips.", lower_bound=1
)
_DEVICES = flags.DEFINE_integer(
    "devices", None, "Of each host; default: 1, of TPUs those of the slice.", lower_bound=1
)
_TOPOLOGY = flags.DEFINE_string("topology", None, "The slice of TPUs, such as v5p:4x4x4.")
_DEVICE_GB = flags.DEFINE_float(
    "device_gb", None, "Memory of a device (10^9 bytes), where it is neither a TPU nor here."
)
_ANYWAY = flags.DEFINE_bool("anyway", False, "Go on where the plan says that it does not fit.")
_SUBMIT = flags.DEFINE_bool("submit", False, "Hand the job to the engine.")
_NAME = flags.DEFINE_string("name", None, "Of the job; default: the last part of the workdir.")
_OUT = flags.DEFINE_string("out", "runs/jobs", "Folder of the job's file.")
_SLURM = flags.DEFINE_multi_string("slurm", [], "KEY=VALUE of sbatch, such as partition=gpu.")
_IMAGE = flags.DEFINE_string("image", None, "Container with this repository in --code.")
_VOLUME = flags.DEFINE_string("volume", None, "CLAIM:PATH of the workdir's disk, for all pods.")
_RESTARTS = flags.DEFINE_integer("restarts", 20, "Of the set, after a pod failed.", lower_bound=0)
_TPU = flags.DEFINE_string("tpu", None, "Name of the slice of TPU VMs.")
_ZONE = flags.DEFINE_string("zone", None, "Of the slice.")
_CODE = flags.DEFINE_string("code", None, "Folder of this repository there, with its .venv.")

# Engine -> (flags that it needs, flags that it may have): a flag of another one is refused.
_FLAGS = {
    "slurm": ((), ("slurm", "devices", "device_gb")),
    "gke": (("topology", "image", "volume", "code"), ("restarts",)),
    "tpu-vm": (("topology", "tpu", "zone", "code"), ()),
    "local": ((), ("devices", "device_gb")),
}
_SUBMITS = {
    "slurm": ("sbatch",),
    "gke": ("kubectl", "apply", "-f"),
    "tpu-vm": ("bash",),
    "local": ("bash",),
}
_SUFFIXES = {"slurm": "sbatch", "gke": "yaml"}


@exit_on_user_error
def main(argv):
    """Plans, writes, and submits if told so."""
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}: every flag begins with --.")
    if _CONFIG.value is None or _WORKDIR.value is None or _ON.value is None:
        raise UserError(
            "Say what to run, where it keeps its files, and on what: "
            "--config=configs/bert.py:large --workdir=DIR --on=slurm"
        )
    _check_flags(_ON.value)
    topology = topologies.parse(_TOPOLOGY.value) if _TOPOLOGY.value else None
    nodes, devices = _hosts(topology)
    submit = _SUBMITS[_ON.value]
    if _SUBMIT.value and shutil.which(submit[0]) is None:
        raise UserError(f"--submit needs {submit[0]} on this machine: install it, or leave it out.")
    job = _job(nodes, devices)
    path = pathlib.Path(_OUT.value).expanduser() / f"{job.name}.{_SUFFIXES.get(_ON.value, 'sh')}"
    text = _write(job, topology)

    plan = _plan(topology, nodes * devices)
    plan_report.show(plan, rich.console.Console(highlight=False, soft_wrap=True))
    if not _ANYWAY.value:
        _refuse(plan)
    files.write_text(path, text)
    print(f"\n{'Submitting' if _SUBMIT.value else 'Wrote'} {path}", flush=True)
    if _SUBMIT.value:
        sys.exit(subprocess.run([*submit, str(path)]).returncode)
    print(f"Submit it with: {shlex.join([*submit, str(path)])}")


def _check_flags(on: str) -> None:
    needed, possible = _FLAGS[on]
    for name in needed:
        if not flags.FLAGS[name].present:
            raise UserError(f"--on={on} needs --{name}: {flags.FLAGS[name].help}")
    for name in {name for both in _FLAGS.values() for names in both for name in names}:
        if flags.FLAGS[name].present and name not in (*needed, *possible):
            raise UserError(f"--{name} means nothing to --on={on}: leave it out.")


def _hosts(topology: topologies.Topology | None) -> tuple[int, int]:
    """Returns hosts, and devices of each."""
    if topology is None:
        return _NODES.value or 1, _DEVICES.value or 1
    nodes = _NODES.value or -(-topology.chips // 4)
    chips = topology.chips // nodes
    if topology.chips % nodes or chips not in (1, 2, 4, 8):
        raise UserError(
            f"--nodes={nodes} does not divide the {topology.chips} chips of {topology.name}: a "
            "host has 1, 2, 4 or 8 of them."
        )
    return nodes, chips


def _job(nodes: int, devices: int) -> engines.Job:
    """Returns the run, as a process on a host starts it."""
    workdir = pathlib.Path(_WORKDIR.value).expanduser()
    name = _NAME.value or workdir.name.lower().replace("_", "-").replace(".", "-")
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", name):
        raise UserError(
            f"The job cannot be called {name!r}: choose a --name of at most 40 lower-case letters, "
            "digits and dashes that begins with a letter."
        )
    config = flags.FLAGS["config"]
    overrides = config_flags.get_override_values(config)
    values = [f"--config.{key}={value}" for key, value in overrides.items()]
    path = config_flags.get_config_filename(config)
    if _CODE.value:  # elsewhere: the page must be one of the repository
        if not workdir.is_absolute():
            raise UserError(f"--workdir={workdir} must be absolute: it lies on other machines.")
        path = str(pathlib.Path(path).absolute())
        if not path.startswith(f"{ROOT}{os.sep}"):
            raise UserError(f"--config={path} does not lie in {ROOT}, so it is not in --code.")
        path = os.path.relpath(path, ROOT)
        python = "python" if _ON.value == "gke" else ".venv/bin/python"
        folder, script = _CODE.value, "train.py"
    else:
        workdir = workdir.absolute()
        folder, python, script = os.getcwd(), sys.executable, str(ROOT / "train.py")
    run = (f"--config={path}", *values, f"--workdir={workdir}")
    return engines.Job(name, run, nodes, devices, folder, python, script)


def _write(job: engines.Job, topology: topologies.Topology | None) -> str:
    """Returns the text of the job."""
    if _ON.value == "slurm":
        options = {}
        for text in _SLURM.value:
            key, sep, value = text.partition("=")
            if not re.fullmatch("[a-z-]+", key) or not sep or "\n" in value:
                raise UserError(f"--slurm={text} must read KEY=VALUE, such as partition=gpu.")
            options[key] = value
        workdir = pathlib.Path(_WORKDIR.value).expanduser().absolute()
        files.make_writable(workdir)  # Slurm's daemons make no folder for the log
        return engines.slurm(job, str(workdir / "slurm.log"), options)
    if _ON.value == "gke":
        claim, _, mount = _VOLUME.value.partition(":")
        if not claim or not pathlib.PurePath(_WORKDIR.value).is_relative_to(mount or "/nowhere"):
            raise UserError(
                f"--volume={_VOLUME.value} must read CLAIM:PATH, and --workdir={_WORKDIR.value} "
                "lie below that path."
            )
        return engines.jobset(
            job,
            topology,
            image=_IMAGE.value,
            claim=claim,
            mount=mount,
            restarts=_RESTARTS.value,
        )
    if _ON.value == "tpu-vm":
        return engines.tpu_vm(job, tpu=_TPU.value, zone=_ZONE.value)
    return engines.local(job)


def _plan(topology: topologies.Topology | None, devices: int) -> plan_lib.Plan:
    """Compiles the train step for the devices of the job, with what each of them can hold."""
    if topology:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_compilation_cache", False)  # see scripts/plan.py
        return plan_lib.make(_CONFIG.value, topologies.devices(topology))
    compilation_cache.enable()
    if _ON.value == "local" and _NODES.value in (None, 1) and _DEVICES.value is None:
        plan = plan_lib.make(_CONFIG.value)
    else:  # the CPU's compiler stands for that of devices that are not here
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
        plan = plan_lib.make(_CONFIG.value, jax.devices("cpu"))
    limit = plan.memory.limit
    if _DEVICE_GB.value:
        limit = int(_DEVICE_GB.value * 1e9)
    elif limit is None and _ON.value == "local":
        limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // plan.devices
    fits = None if limit is None else plan.memory.needed <= limit
    memory = dataclasses.replace(plan.memory, limit=limit, fits=fits)
    return dataclasses.replace(plan, memory=memory)


def _refuse(plan: plan_lib.Plan) -> None:
    """Raises a UserError unless the plan fits."""
    memory = plan.memory
    if memory.fits is None:
        raise UserError(
            "How much memory a device of the job has is not known here: say it by --device_gb, or "
            "go on with --anyway."
        )
    if not memory.fits:
        raise UserError(
            f"The run does not fit: it needs {memory.needed / 2**30:.2f} GiB of the "
            f"{memory.limit / 2**30:.2f} GiB of each device. {' '.join(plan_lib.advice(plan))} "
            "--anyway goes on."
        )


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
