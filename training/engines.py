"""A run as the job of an engine: Slurm, GKE, hosts of a TPU slice, or processes of this machine.

Each function returns the text of a file for the engine, which tells train.py to stop by SIGTERM, so
that it saves. The same command again continues: Slurm and GKE start it themselves. On all but this
machine train.py finds the other processes by itself (`jax.distributed.initialize`).
"""

import dataclasses
import shlex
from collections.abc import Mapping

import yaml

from training import topologies

# Seconds between the signal and the end, for a checkpoint. After a scancel or a requeue Slurm has
# its own, KillWait: 30, unless its administrator says otherwise.
NOTICE = 120
# GKE's name of a chip, as node label cloud.google.com/gke-tpu-accelerator.
_GKE_CHIPS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
}


@dataclasses.dataclass(frozen=True)
class Job:
    """A run of train.py.

    Attributes:
      name: lower-case letters, digits and dashes.
      flags: of train.py: its config and its workdir.
      nodes: hosts.
      devices: of a host.
      folder: where it starts, on the nodes.
      python: the interpreter there.
      script: train.py there.
    """

    name: str
    flags: tuple[str, ...]
    nodes: int
    devices: int
    folder: str
    python: str
    script: str

    @property
    def command(self) -> list[str]:
        """What each process runs, but for what tells it who it is."""
        return [self.python, self.script, *self.flags]


def slurm(job: Job, log: str, options: Mapping[str, str]) -> str:
    """Returns an sbatch file: one task for each device, as JAX wants it there.

    Args:
      job: what to run.
      log: the file of its output; a job that is requeued goes on writing there.
      options: more of sbatch's, such as {"partition": "gpu", "gpus-per-node": "8"}.
    """
    settings = {
        "job-name": job.name,
        "nodes": job.nodes,
        "ntasks-per-node": job.devices,
        "chdir": job.folder,
        "output": log,
        "open-mode": "append",
        "signal": f"B:USR1@{NOTICE}",
    } | dict(options)
    lines = [f"#SBATCH --{key}={value}" for key, value in settings.items()]
    return f"""\
#!/bin/bash
{chr(10).join(lines)}
#SBATCH --requeue
# SIGTERM (scancel, scontrol requeue, a preemption) goes on to the tasks, which save. Before the end
# of its time Slurm sends SIGUSR1: then the job saves, and stands in the queue again.
trap 'kill -TERM "$tasks"' TERM
trap 'again=1; kill -TERM "$tasks"' USR1
srun --kill-on-bad-exit=1 {shlex.join([*job.command, "--distributed"])} &
tasks=$!
while
  wait "$tasks"
  status=$?
  kill -0 "$tasks" 2>/dev/null # a signal ends `wait` before the tasks end
do :; done
[[ -z ${{again:-}} ]] || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
"""


def jobset(
    job: Job, topology: topologies.Topology, *, image: str, claim: str, mount: str, restarts: int
) -> str:
    """Returns the YAML of a JobSet for GKE: one slice of TPUs, a pod on each of its hosts.

    Args:
      job: what to run; `folder` and `python` are those of the image.
      topology: the slice.
      image: a container with this repository and the extra `tpu`.
      claim: PersistentVolumeClaim, which all pods can write.
      mount: where it is mounted; the workdir and the text lie below it.
      restarts: how often all pods start again after one has failed.
    """
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": NOTICE,
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": _GKE_CHIPS[topology.chip],
            "cloud.google.com/gke-tpu-topology": "x".join(map(str, topology.shape)),
        },
        "containers": [
            {
                "name": "train",
                "image": image,
                "workingDir": job.folder,
                "command": [*job.command, "--distributed"],
                "resources": {"limits": {"google.com/tpu": job.devices}},
                "volumeMounts": [{"name": "runs", "mountPath": mount}],
            }
        ],
        "volumes": [{"name": "runs", "persistentVolumeClaim": {"claimName": claim}}],
    }
    pods = {
        "completionMode": "Indexed",
        "parallelism": job.nodes,
        "completions": job.nodes,
        "backoffLimit": 0,  # a pod alone cannot come back: the whole set restarts
        "template": {"spec": pod},
    }
    manifest = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": job.name,
            "annotations": {
                "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
            },
        },
        "spec": {
            "failurePolicy": {"maxRestarts": restarts},
            "replicatedJobs": [{"name": "slice", "replicas": 1, "template": {"spec": pods}}],
        },
    }
    return yaml.safe_dump(manifest, sort_keys=False, width=1000)


def tpu_vm(job: Job, *, tpu: str, zone: str) -> str:
    """Returns a shell script that starts train.py on all hosts of a slice of TPU VMs, by gcloud.

    Args:
      job: what to run; `folder` and `python` are those of the hosts.
      tpu: its name.
      zone: of Google Cloud.
    """
    there = f"cd {shlex.quote(job.folder)} && exec {shlex.join([*job.command, '--distributed'])}"
    command = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", tpu, f"--zone={zone}"]
    return f"#!/bin/bash\nexec {shlex.join([*command, '--worker=all', f'--command={there}'])}\n"


def local(job: Job) -> str:
    """Returns a shell script that runs the processes on this machine; several devices are CPUs.

    If one of them dies the others are ended; SIGTERM goes on to all.
    """
    cpus = f"export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES={job.devices}"
    if job.nodes == 1:
        lines = ["#!/bin/bash", f"cd {shlex.quote(job.folder)} || exit"]
        lines += [cpus] if job.devices > 1 else []
        return "\n".join([*lines, f"exec {shlex.join(job.command)}", ""])
    free = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])"
    return f"""\
#!/bin/bash
cd {shlex.quote(job.folder)} || exit
{cpus}
port=$({shlex.join([job.python, "-c", free])})
for ((i = 0; i < {job.nodes}; i++)); do
  {shlex.join(job.command)} \\
    --coordinator="127.0.0.1:$port" --processes={job.nodes} --process="$i" &
done
trap 'kill -TERM $(jobs -rp) 2>/dev/null' TERM INT
while [[ -n $(jobs -rp) ]]; do
  wait -n && continue
  status=${{status:-$?}} # the first one's; the others would wait for it forever
  kill -TERM $(jobs -rp) 2>/dev/null
done
exit "${{status:-0}}"
"""
