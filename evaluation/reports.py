"""Pages that set a paper's table beside what our runs of it have measured."""

import base64
import html
import io
import math
import pathlib
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")  # a file, not a window

import matplotlib.pyplot as plt

from configs import ablations
from data_pipeline import files as files_lib
from evaluation import jobs as jobs_lib
from evaluation import sweeps

RULE = (
    "A row is compared with the row *{base}*. It **agrees in sign** if ours is better or worse "
    "than that row as the paper's is, and **in sign and order** if it also has the same place "
    "among the rows that both have (rows with equal numbers in the paper share their places); else "
    "it **disagrees**, also where the paper's two numbers are equal. Where the difference of the "
    "means is no more than two standard errors (from the seeds of both rows), or there is only one "
    "seed, the **budget is too small** to tell. ± is the standard deviation over the seeds, n "
    "their number."
)
COSTS = ("parameters", "pf_days")  # columns that no run measures
CORES = (
    "XLA cuts sums by the number of CPU cores: with more or fewer of them than the runs had, the "
    "numbers are others, as with another seed."
)


class Sample(NamedTuple):
    """What the seeds of a row gave."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """The standard deviation over the seeds, 0 for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


class Page(NamedTuple):
    """A table with its numbers: row -> column -> the seeds' values."""

    name: str
    scale: str
    table: ablations.Table
    command: str  # of the sweep
    cores: set[int]  # of a run, where several ran at a time
    jobs: Sequence[jobs_lib.Job]
    ours: Mapping[str, Mapping[str, Sample]]


def collect(
    name: str, scale: str, seeds: int, runs: pathlib.Path, more: Mapping, parallel: int = 1
) -> Page:
    """Reads what the runs of a table have left.

    Args:
      name: of the table.
      scale: a key of its scales.
      seeds: as given to the sweep, like what follows.
      runs: folder of all sweeps.
      more: overrides for every run.
      parallel: runs at a time.

    Raises:
      UserError: as `sweeps.from_table` and `jobs.share_cores`.
    """
    jobs = sweeps.from_table(name, scale, seeds, runs, more)
    table = ablations.load(name)
    training = {job.name: job for job in jobs if job.name == job.chain}
    ours = {}
    for row in table.rows:
        ours[row] = {}
        for label, column in table.columns.items():
            values = (
                sweeps.measure(training[sweeps.run_name(row, seed)], label, column)
                for seed in range(seeds)
            )
            if found := tuple(value for value in values if value is not None):
                ours[row][label] = Sample(found)
    sets = [f"--set={key}={value}" for key, value in more.items()]
    command = ["python", "scripts/sweep.py", name, f"--scale={scale}", f"--seeds={seeds}"]
    if parallel > 1:
        command.append(f"--parallel={parallel}")
    command = shlex.join([*command, f"--runs={runs}", *sets])
    return Page(name, scale, table, command, jobs_lib.share_cores(parallel)[0], jobs, ours)


def verdict(
    row: str,
    base: str,
    ours: Mapping[str, Sample],
    paper: Mapping[str, float],
    *,
    ours_higher: bool,
    paper_higher: bool,
) -> str:
    """Compares one row with the base row; see RULE.

    Args:
      row: the row.
      base: the row that it is compared with.
      ours: row -> values of the seeds.
      paper: row -> the number as printed.
      ours_higher: whether more is better in ours.
      paper_higher: the same of the paper.
    """
    if row not in ours or base not in ours:
        return "not run"
    if row == base or row not in paper or base not in paper:
        return ""
    a, b = ours[row], ours[base]
    if min(len(a.values), len(b.values)) < 2:
        return "budget too small"
    error = math.sqrt(a.deviation**2 / len(a.values) + b.deviation**2 / len(b.values))
    if abs(a.mean - b.mean) <= 2 * error:
        return "budget too small"
    better_here = (a.mean > b.mean) == ours_higher
    better_there = (paper[row] > paper[base]) == paper_higher
    if paper[row] == paper[base] or better_here != better_there:
        return "disagrees"
    both = [r for r in ours if r in paper]
    place = sorted(both, key=lambda r: ours[r].mean, reverse=ours_higher).index(row)
    printed = sorted((paper[r] for r in both), reverse=paper_higher)
    first = printed.index(paper[row])
    same = first <= place < first + printed.count(paper[row])
    return "agrees in sign and order" if same else "agrees in sign"


def write(page: Page, output: pathlib.Path) -> list[pathlib.Path]:
    """Writes NAME.md with its pictures and a self-contained NAME.html; returns all files."""
    output.mkdir(parents=True, exist_ok=True)
    law, law_picture = _law(page)
    pictures = {"curves": _curves(page), "parameters": _parameters(page), "law": law_picture}
    files = []
    for kind, picture in pictures.items():
        if picture is not None:
            files.append(output / f"{page.name}_{kind}.png")
            files[-1].write_bytes(picture)
    headings, rows = _cells(page)
    text = [
        f"# {page.table.title}",
        page.table.source + f". Scale: {page.scale}.",
        page.table.notes,
        markdown_table(headings, rows),
        law,
        RULE.format(base=page.table.base),
        *(f"![{path.stem}]({path.name})" for path in files),
        "## Seeds",
        markdown_table(*_seeds(page)),
        "## Commands",
        f"Every run, in the order of the sweep; `{page.command}` makes them all. {_versions(page)}",
        CORES if page.cores else "",
        "```\n" + _commands(page) + "\n```",
    ]
    markdown = output / f"{page.name}.md"
    markdown.write_text("\n\n".join(filter(None, text)) + "\n")
    web = output / f"{page.name}.html"
    web.write_text(_html(page, headings, rows, law, pictures))
    return [markdown, web, *files]


def _seeds(page: Page) -> tuple[list[str], list[list[str]]]:
    """The numbers of the single runs, in the order of the seeds: what a command gives."""
    measured = {k: v for k, v in page.table.columns.items() if v.metric not in COSTS}
    rows = []
    for row, samples in page.ours.items():
        seeds = {k: samples[k].values if k in samples else () for k in measured}
        rows.append([row, *(", ".join(_number(x, measured[k]) for x in seeds[k]) for k in seeds)])
    return ["row", *measured], rows


def _versions(page: Page) -> str:
    """Says with which code the runs were made."""
    found = set()
    for job in page.jobs:
        path = job.workdir / "run.json"
        if job.result is None and path.exists():
            run = files_lib.read_json(path)
            commit, plus, changes = (run["git_commit"] or "unknown").partition("+")
            found.add(f"commit {commit:.12}{plus}{changes}, jax {run['packages']['jax']}")
    return f"Made by {'; '.join(sorted(found))}." if found else ""


def _commands(page: Page) -> str:
    return "\n".join(shlex.join(job.command(page.cores)) for job in page.jobs)


def _cells(page: Page) -> tuple[list[str], list[list[str]]]:
    table = page.table
    printed = list(dict.fromkeys(c for row in table.paper.values() for c in row))
    headings = ["row", *(f"paper: {c}" for c in printed), *(f"ours: {c}" for c in table.columns)]
    judged = {label: column for label, column in table.columns.items() if column.like}
    headings += [f"verdict: {label} against {column.like}" for label, column in judged.items()]
    rows = []
    for row in table.rows:
        numbers = table.paper.get(row, {})
        cells = [row, *(f"{numbers[c]:g}" if c in numbers else "" for c in printed)]
        cells += [_say(page.ours[row].get(label), table.columns[label]) for label in table.columns]
        for label, column in judged.items():
            cells.append(
                verdict(
                    row,
                    table.base,
                    {r: values[label] for r, values in page.ours.items() if label in values},
                    {r: v[column.like] for r, v in table.paper.items() if column.like in v},
                    ours_higher=column.higher_is_better,
                    paper_higher=column.like_higher_is_better,
                )
            )
        rows.append(cells)
    return headings, rows


def _say(sample: Sample | None, column: ablations.Column) -> str:
    """Writes a number with fixed digits: a rerun must give the same to the last one."""
    if sample is None:
        return "–"
    if column.metric == "parameters":
        return f"{sample.mean:,.0f}"
    if column.metric == "pf_days":
        return f"{sample.mean:.3g}"
    mean = _number(sample.mean, column)
    if len(sample.values) == 1:
        return f"{mean} (n=1)"
    return f"{mean} ± {_number(sample.deviation, column)} (n={len(sample.values)})"


def _number(value: float, column: ablations.Column) -> str:
    return f"{100 * value:.1f}" if column.percent else f"{value:.4f}"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table of cells that hold no line ends."""
    line = lambda cells: "| " + " | ".join(cells) + " |"  # noqa: E731
    return "\n".join([line(headings), line(["---"] * len(headings)), *map(line, rows)])


def _html(page, headings, rows, law, pictures) -> str:
    cell = lambda tag, text: f"<{tag}>{html.escape(text)}</{tag}>"  # noqa: E731

    def table(headings, rows):
        lines = ["".join(cell("th", text) for text in headings)]
        lines += ["".join(cell("td", text) for text in row) for row in rows]
        return "<table>" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "</table>"

    body = [f"<h1>{html.escape(page.table.title)}</h1>", f"<p>{html.escape(page.table.source)}</p>"]
    body += [cell("p", page.table.notes), table(headings, rows), cell("p", law)]
    body.append(cell("p", RULE.format(base=page.table.base).replace("*", "")))
    for picture in filter(None, pictures.values()):
        data = base64.b64encode(picture).decode()
        body.append(f'<img src="data:image/png;base64,{data}">')
    body.append(f"<h2>Seeds</h2>{table(*_seeds(page))}")
    body.append(
        f"<h2>Commands</h2><p>{_versions(page)}</p><pre>{html.escape(_commands(page))}</pre>"
    )
    style = (
        "body{font-family:sans-serif;max-width:70em;margin:auto}table{border-collapse:collapse}"
        "td,th{border:1px solid #ccc;padding:.3em .6em;text-align:left}pre{overflow:auto}"
    )
    return (
        f'<!doctype html><meta charset="utf-8"><title>{html.escape(page.table.title)}</title>'
        f"<style>{style}</style>" + "\n".join(body) + "\n"
    )


def png(figure) -> bytes:
    """Returns a figure as a picture, the same bytes for the same figure, and closes it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def _curves(page: Page) -> bytes | None:
    """Draws a metric of the runs themselves over the steps, the mean of the seeds for each row.

    It is that of the first column which they have: not of fine-tuning, though of other held-out
    rows. Without any it is the loss.
    """
    columns = page.table.columns.values()
    metrics = (c.metric for c in columns if not c.tune and c.metric not in COSTS)
    metric = "valid/" + next(metrics, "loss").removeprefix("valid/")
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    drawn = False
    for row in page.table.rows:
        by_step: dict[int, list[float]] = {}
        for job in page.jobs:
            if job.name == job.chain and job.name.rpartition("-seed")[0] == sweeps.slug(row):
                for step, value in sweeps.curve(job.workdir, metric):
                    by_step.setdefault(step, []).append(value)
        if by_step:
            steps = sorted(by_step)
            axes.plot(steps, [statistics.fmean(by_step[s]) for s in steps], ".-", label=row)
            drawn = True
    if not drawn:
        plt.close(figure)
        return None
    axes.set(xlabel="step", ylabel=metric)
    axes.grid(alpha=0.3)
    axes.legend()
    return png(figure)


def _parameters(page: Page) -> bytes | None:
    """Draws the first other column over the number of parameters, where the table has them."""
    columns = page.table.columns
    size = next((label for label, c in columns.items() if c.metric == "parameters"), None)
    other = next((label for label, c in columns.items() if c.metric not in COSTS), None)
    points = {
        row: (values[size].mean, values[other])
        for row, values in page.ours.items()
        if size in values and other in values
    }
    if len({x for x, _ in points.values()}) < 2:
        return None
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for row, (x, sample) in points.items():
        axes.errorbar(x, sample.mean, yerr=sample.deviation, fmt="o", label=row)
    axes.set(xlabel="parameters", ylabel=other)
    axes.grid(alpha=0.3)
    axes.legend()
    return png(figure)


def fit_power_law(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Returns (factor, exponent) of y = factor * x ** exponent, by least squares of the logarithms.

    Raises:
      ValueError: for fewer than two different x.
    """
    line = statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y])
    return math.exp(line.intercept), line.slope


def _law(page: Page) -> tuple[str, bytes | None]:
    """Fits the table's law to the rows: a sentence, and a picture with logarithmic axes."""
    law = page.table.law
    points = {
        row: (values[law.x].mean, values[law.y])
        for row, values in page.ours.items()
        if law and law.x in values and law.y in values
    }
    if len({x for x, _ in points.values()}) < 2:
        return "", None
    xs = sorted(x for x, _ in points.values())
    factor, exponent = fit_power_law(*zip(*((x, y.mean) for x, y in points.values())))
    fitted = f"{law.y} = {factor:.3g} x {law.x}^{exponent:.3f}"
    printed = f"{law.factor:.3g} x {law.x}^{law.exponent:.3f}"
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for row, (x, sample) in points.items():
        axes.errorbar(x, sample.mean, yerr=sample.deviation, fmt="o", label=row)
    axes.plot(xs, [factor * x**exponent for x in xs], "k--", label=f"ours: {fitted}")
    axes.set(xlabel=law.x, ylabel=law.y, xscale="log", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return f"Fitted to our rows: {fitted}. The paper's: {printed}.", png(figure)
