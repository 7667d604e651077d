"""The ledger: plans of the shipped configs, kept with the code, so that growth is seen."""

import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

GROWTH = 1.05  # of memory or communication, beyond which a plan is worse than the ledger's

_COMMAND = re.compile(r"python scripts/plan\.py ((?:[^\n\\]|\\\n)*)")
_HEAD = """# Plans of the shipped configs

What the compiler says of each train step, for slices of TPUs: made by `make plans` from the
`scripts/plan.py` commands in the docstrings of `configs/`, with {versions}. The numbers are
compiled, not measured: none of these steps has run. Times are those of the data sheets, from
"everything overlaps" to "nothing does"; what a plan reads from the program and what it computes
itself is told in `training/plan.py`.

"""
_COLUMNS = (
    "config and flags",
    "chips",
    "parameters",
    "rows",
    "a chip needs, GiB",
    "of",
    "FLOP a step",
    "seconds",
    "bound by",
    "days",
    "chip-hours",
    "collectives, GB a step",
)


def commands(pages: Sequence[pathlib.Path]) -> list[str]:
    """Returns the flags of every `scripts/plan.py` command in the docstrings of config pages."""
    found = []
    for page in pages:
        for flags in _COMMAND.findall(page.read_text()):
            found.append(" ".join(shlex.split(flags.replace("\\\n", " "))))
    return found


def worse(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Says in what a plan is worse: more memory, more communication, another kind of collective.

    Args:
      before: a plan as `Plan.to_dict` has it.
      now: of the same command.
    """
    result = []
    old, new = before["memory"]["needed"], now["memory"]["needed"]
    if new > GROWTH * old:
        result.append(f"{new / 2**30:.2f} GiB a chip, {new / old - 1:.1%} more than {_gib(old)}.")
    if before["memory"]["fits"] and not now["memory"]["fits"]:
        result.append("It does not fit any more.")
    if not before["refusal"]:  # else there was no program to look at
        sizes = {_kind(row): row["bytes"] for row in before["communication"]}
        for row in now["communication"]:
            told = f"{_kind(row)}, {row['bytes'] / 1e9:.3f} GB a step"
            if _kind(row) not in sizes:
                result.append(f"A new collective: {told}.")
            elif row["bytes"] > GROWTH * sizes[_kind(row)]:
                result.append(f"More to send: {told}, before {sizes[_kind(row)] / 1e9:.3f}.")
    if before["versions"] != now["versions"]:
        result = [
            f"{line} (Versions: {before['versions']}, now {now['versions']}.)" for line in result
        ]
    return result


def page(plans: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the ledger for people, in Markdown.

    Args:
      plans: by their flags.
    """
    versions = {tuple(plan["versions"].items()) for plan in plans.values()}
    text = "; ".join(", ".join(f"{name} {v}" for name, v in each) for each in sorted(versions))
    head = _HEAD.format(versions=text) + _line(_COLUMNS) + _line(["---"] * len(_COLUMNS))
    return head + "".join(_line(_row(flags, plan)) for flags, plan in plans.items())


def _row(flags, plan):
    memory, times = plan["memory"], plan["times"]
    size = re.search(r"configs/(\S+)", flags)[1]
    rest = [f"`{flag}`" for flag in flags.split() if "=" in flag and "--config=" not in flag]
    return [
        " ".join([f"`{size}`", *(flag.replace("--config.", "") for flag in rest)]),
        f"{plan['devices']} {plan['device']}",
        f"{plan['parameters'] / 1e6:,.1f} M",
        f"{plan['batch_size']} in {plan['microbatches']}",
        f"{memory['needed'] / 2**30:.2f}",
        f"{memory['limit'] / 2**30:.0f}" + ("" if memory["fits"] else ": does not fit"),
        f"{plan['flops']:.3g}",
        f"{times['least']:.3g} to {times['most']:.3g}" if times else "-",
        times["bottleneck"] if times else "-",
        "{:.3g} to {:.3g}".format(*plan["days"]) if times else "-",
        " to ".join(f"{x:,.0f}" if x >= 10 else f"{x:.2g}" for x in plan["chip_hours"])
        if times
        else "-",
        "; ".join(f"{_kind(row)} {row['bytes'] / 1e9:.3g}" for row in plan["communication"])
        or "none",
    ]


def _line(cells):
    return "| " + " | ".join(cells) + " |\n"


def _kind(row):
    return f"{row['kind']} over {' x '.join(row['axes']) or 'nothing'}"


def _gib(size):
    return f"{size / 2**30:.2f} GiB"
