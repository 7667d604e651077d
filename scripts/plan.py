r"""Tells before a run whether it fits, what bounds its speed, and how long it will take.

    python scripts/plan.py --config=configs/bert.py:tiny
    python scripts/plan.py --config=configs/gpt3.py:175b --topology=v5p:8x8x8 \\
        --config.mesh.fsdp=64 --config.mesh.tensor=8 --config.batch_size=1536 \\
        --config.microbatches=3 --config.batch_ramp.start=512 --json=plan.json

The very train step of train.py is compiled, for the devices of this machine or, with --topology,
for a slice of TPUs that need not be here (extra `tpu`). No text is read, no weight is made.
"""

import json
import pathlib

import jax
import rich.console
import rich.table
from absl import app, flags
from ml_collections import config_flags

from errors import UserError, exit_on_user_error, parse_flags
from training import compilation_cache, topologies
from training import plan as plan_lib

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", None, "CHIP:SHAPE, such as v5e:4x4 or v5p:2x2x2.")
_JSON = flags.DEFINE_string("json", None, "A file for the whole plan.")


@exit_on_user_error
def main(argv):
    """Prints the plan."""
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}: every flag begins with --.")
    if _CONFIG.value is None:
        raise UserError("Say what to plan: --config=configs/bert.py:large --topology=v5e:4x4")
    devices = None
    if _TOPOLOGY.value:
        topology = topologies.parse(_TOPOLOGY.value)
        jax.config.update("jax_platforms", "cpu")  # an accelerator that is here is of no use
        jax.config.update("jax_enable_compilation_cache", False)  # nor are programs for none
        devices = topologies.devices(topology)
    else:
        compilation_cache.enable()
    plan = plan_lib.make(_CONFIG.value, devices)
    show(plan, rich.console.Console(highlight=False, soft_wrap=True))
    if _JSON.value:
        try:
            pathlib.Path(_JSON.value).write_text(json.dumps(plan.to_dict(), indent=1) + "\n")
        except OSError as error:
            raise UserError(f"--json={_JSON.value} cannot be written: {error}.") from error


def show(plan: plan_lib.Plan, console: rich.console.Console) -> None:
    """Prints a plan for people."""
    mesh = " x ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1)
    console.print(
        f"{plan.parameters:,} parameters on {plan.devices} x {plan.device}"
        f"{f' ({mesh})' if mesh else ''}; {plan.batch_size} rows, {plan.tokens:,} tokens a step"
        f"{f', in {plan.microbatches} microbatches' if plan.microbatches > 1 else ''}."
    )
    console.print(_memory_table(plan.memory))
    if plan.refusal:
        console.print(f"The compiler refused it: {plan.refusal}")
    if plan.communication:
        console.print(_communication_table(plan.communication))
    _show_times(plan, console)
    for advice in plan_lib.advice(plan):
        console.print(f"* {advice}")


def _table(title, first, *columns):
    table = rich.table.Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _memory_table(memory):
    table = _table("\nMemory of a device", "", "")
    names = {
        "parameters": "parameters",
        "optimizer": "optimizer",
        "batch": "batch, padding of layouts",
        "gradients": "gradients",
        "activations": "activations, other temporaries",
        "outputs": "outputs",
        "code": "code",
    }
    for field, name in names.items():
        value = getattr(memory, field)
        table.add_row(name, "?" if value is None else _size(value))
    fits = {True: "fits", False: "DOES NOT FIT", None: "limit not known"}[memory.fits]
    limit = "" if memory.limit is None else f" of {_size(memory.limit)}"
    table.add_row("together", f"{_size(memory.needed)}{limit}: {fits}")
    return table


def _communication_table(rows):
    table = _table("\nCollectives of a step", "kind", "axes", "in the text", "runs", "GB", "ms")
    for row in rows:
        milliseconds = "?" if row.seconds is None else f"{1e3 * row.seconds:.2f}"
        table.add_row(
            row.kind,
            " x ".join(row.axes) or "-",
            str(row.instructions),
            f"{row.runs:.0f}",
            f"{row.bytes / 1e9:.3f}",
            milliseconds,
        )
    return table


def _show_times(plan, console):
    console.print(
        f"\nA step: {plan.flops / 1e12:.4g} TFLOP of the model over all devices; "
        f"{plan.traffic / 1e9:.4g} GB from and to the memory of each "
        f"(XLA, with every loop counted once: {plan.traffic_counted_once / 1e9:.4g} GB)."
    )
    times = plan.times
    if plan.refusal:
        return
    if times is None:
        console.print(f"No times: training/chips.py does not know {plan.device!r}.")
        return
    console.print(
        f"Compute {times.compute:.4g} s (recomputed: up to {times.recompute:.4g} s more), memory "
        f"{times.memory:.4g} s, interconnect {times.interconnect:.4g} s: bound by "
        f"{times.bottleneck}."
    )
    least, most = times.least, times.most
    console.print(
        f"{least:.4g} to {most:.4g} s a step (MFU {plan.utilization(least):.0%} to "
        f"{plan.utilization(most):.0%}), whether all of that overlaps or nothing."
    )
    days = plan.days(least), plan.days(most)
    hours = [24 * plan.devices * x for x in days]
    console.print(
        f"{plan.steps:,.0f} full steps, {plan.steps * plan.tokens / 1e9:,.4g} billion tokens: "
        f"{days[0]:,.3g} to {days[1]:,.3g} days, {hours[0]:,.4g} to {hours[1]:,.4g} chip-hours."
    )


def _size(size):
    unit, name = (2**30, "GiB") if size >= 2**30 else (2**20, "MiB")
    return f"{size / unit:.2f} {name}"


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
