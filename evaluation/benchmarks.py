"""Our speed beside that of the program a user would take instead, measured in one run by turns."""

import datetime
import importlib.metadata
import inspect
import os
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax

PACKAGES = ("jax", "flax", "torch", "transformers", "lm_eval")


class Options(NamedTuple):
    """What a benchmark is told.

    Attributes:
      repeats: calls of each side.
      quick: networks of one layer, to see that it runs.
      source: of text, where a benchmark reads some, see data_pipeline/sources.py.
    """

    repeats: int = 5
    quick: bool = False
    source: str = "embedded"

    @property
    def depth(self) -> int | None:
        """Layers of the networks; None: as many as were published."""
        return 1 if self.quick else None


class Result(NamedTuple):
    """One row of a benchmark.

    Attributes:
      name: of the row.
      work: units that one call does; None: what was measured is no time but units.
      unit: of the work, such as "tokens".
      measured: side -> the seconds (without work: units) of each call; first ours, then the peer's.
      more: what else a column of the table has.
    """

    name: str
    work: int | None
    unit: str
    measured: Mapping[str, Sequence[float]]
    more: Mapping[str, str] = {}

    def value(self, side: str) -> float:
        """Returns the median: units a second, or units."""
        median = statistics.median(self.measured[side])
        return median if self.work is None else self.work / median

    @property
    def ratio(self) -> float:
        """How many times better ours is: the median over calls that followed each other."""
        ours, peer = self.measured.values()
        return statistics.median(b / a for a, b in zip(ours, peer, strict=True))


def alternate(sides: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Returns the seconds of `repeats` calls of each side, taken by turns after one warm-up each.

    Args:
      sides: name -> a call that returns when its work is done.
      repeats: how many.
    """
    for call in sides.values():
        call()
    seconds = {name: [] for name in sides}
    for _ in range(repeats):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def section(name: str, measure: Callable, results: Sequence[Result], command: str) -> str:
    """Returns the Markdown of one benchmark: what ran, medians, ratios and every number.

    Args:
      name: of the benchmark.
      measure: the function that measured it, whose docstring says what.
      results: its rows.
      command: that makes it.
    """
    description = " ".join(inspect.getdoc(measure).split("\n\nRaises:")[0].split())
    sides, unit = list(results[0].measured), results[0].unit
    if results[0].work is not None:
        unit += "/s"
    lines = [
        f"## {name}",
        "",
        description,
        "",
        f"{machine()}; {datetime.date.today():%Y-%m-%d}. `{command}`",
        "",
        f"| | {' | '.join([f'{side}, {unit}' for side in sides] + ['ratio', *results[0].more])} |",
        f"| --- | {'--- | ' * (len(sides) + len(results[0].more))}--- |",
    ]
    for result in results:
        rates = [f"{result.value(side):,.1f}" for side in sides]
        cells = [result.name, *rates, f"**{result.ratio:.2f}**", *result.more.values()]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"{'Seconds' if results[0].work else unit} of each call, by turns:", ""]
    for result in results:
        for side in sides:
            numbers = " ".join(f"{number:.3f}" for number in result.measured[side])
            lines.append(f"- {result.name}, {side}: {numbers}")
    return "\n".join(lines) + "\n"


def write(path: pathlib.Path, name: str, text: str) -> None:
    """Puts the section of a benchmark into a page, in the place of an older one."""
    page = path.read_text() if path.exists() else "# Benchmarks\n"
    page = re.sub(rf"^## {name}\n.*?(?=^## |\Z)", "", page, flags=re.M | re.S).rstrip()
    path.write_text(f"{page}\n\n{text}")


def machine() -> str:
    """Returns processor, cores and versions."""
    processor = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    told = cpuinfo.read_text() if cpuinfo.exists() else ""
    if found := re.search(r"model name\s*: (.*)", told):
        processor = found[1]
    if found and not re.search(r"\b(avx512_bf16|amx_bf16)\b", told):
        processor += " (without products in bfloat16)"
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES if _version(name))
    cores = len(os.sched_getaffinity(0))
    backend = jax.default_backend()
    if backend != "cpu":
        backend = jax.local_devices()[0].device_kind
    return f"{processor}, {cores} cores, {backend}; {versions}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
