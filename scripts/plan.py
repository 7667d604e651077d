r"""Tells before a run whether it fits, what bounds its speed, and how long it will take.

    python scripts/plan.py --config=configs/bert.py:tiny
    python scripts/plan.py --config=configs/gpt3.py:175b --topology=v5p:8x8x8 \
        --config.mesh.fsdp=64 --config.mesh.tensor=8 --config.batch_size=1536 \
        --config.microbatches=3 --config.batch_ramp.start=512 --json=plan.json
    python scripts/plan.py --config=configs/bert.py:large --topology=v5e:4x4 --search

The very train step of train.py is compiled, for the devices of this machine or, with --topology,
for a slice of TPUs that need not be here (extra `tpu`). No text is read, no weight is made. With
--search other meshes, remat policies and microbatches are tried too, a compilation each.
"""

import json
import pathlib

import jax
import rich.console
from absl import app, flags
from ml_collections import config_flags

from data_pipeline import files
from errors import UserError, exit_on_user_error, parse_flags
from training import compilation_cache, plan_report, plan_search, topologies
from training import plan as plan_lib

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", None, "CHIP:SHAPE, such as v5e:4x4 or v5p:2x2x2.")
_SEARCH = flags.DEFINE_bool("search", False, "Try other meshes, remat policies, microbatches.")
_JSON = flags.DEFINE_string("json", None, "A file for the whole plan.")


@exit_on_user_error
def main(argv):
    """Prints the plan."""
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}: every flag begins with --.")
    if _CONFIG.value is None:
        raise UserError("Say what to plan: --config=configs/bert.py:large --topology=v5e:4x4")
    path = pathlib.Path(_JSON.value).expanduser() if _JSON.value else None
    if path:
        files.make_writable(path.parent)
    devices = None
    if _TOPOLOGY.value:
        topology = topologies.parse(_TOPOLOGY.value)
        jax.config.update("jax_platforms", "cpu")  # an accelerator that is here is of no use
        # What is compiled for chips that are not here cannot be read from the cache again.
        jax.config.update("jax_enable_compilation_cache", False)
        devices = topologies.devices(topology)
    else:
        compilation_cache.enable()
    plan = plan_lib.make(_CONFIG.value, devices, without_weights=True)
    console = rich.console.Console(highlight=False, soft_wrap=True)
    plan_report.show(plan, console)
    _write(path, plan.to_dict())
    if _SEARCH.value:
        console.print("\nTried:")
        trials = []
        for trial in plan_search.search(_CONFIG.value, plan, devices):
            plan_report.show_trial(trial, console)
            trials.append(trial)
            _write(path, plan.to_dict() | {"search": [trial.to_dict() for trial in trials]})
        plan_report.show_frontier(trials, console)


def _write(path, content):
    if path:
        files.write_text(path, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
