"""A plan as a person reads it."""

from collections.abc import Sequence

import rich.console
import rich.table

from training import plan as plan_lib
from training import plan_search


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


def show_trial(trial: plan_search.Trial, console: rich.console.Console) -> None:
    """Prints a line about a plan that was tried."""
    flags = trial.flags or "as it is"
    if trial.plan is None:
        console.print(f"{flags}: {trial.refusal}")
        return
    memory, times = trial.plan.memory, trial.plan.times
    seconds = f", {times.least:.4g} to {times.most:.4g} s" if times else ""
    fits = ", DOES NOT FIT" if memory.fits is False else ""
    console.print(f"{flags}: {_size(memory.needed)}{seconds}{fits}")


def show_frontier(trials: Sequence[plan_search.Trial], console: rich.console.Console) -> None:
    """Prints the plans than which none that was tried is both smaller and faster, and the best."""
    console.print("\nThe frontier, than which none is at once smaller and faster:")
    for trial in plan_search.frontier(trials):
        show_trial(trial, console)
    best = min(trials, key=lambda trial: trial.cost)
    if best.plan.memory.fits is False:  # there is one: the config's own
        console.print("None of them fits: use more chips, or such with more memory.")
    elif best.overrides:
        console.print(f"Best: {best.flags}")
    else:
        console.print("Best: the config as it is.")


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
    console.print(f"\nA step: {plan.flops / 1e12:.4g} TFLOP of the model over all devices.")
    if plan.refusal:
        return
    console.print(
        f"From and to the memory of each {plan.traffic / 1e9:.4g} GB (XLA, with every loop counted "
        f"once: {plan.traffic_counted_once / 1e9:.4g} GB)."
    )
    times = plan.times
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
