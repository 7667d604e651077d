"""Zero-, one- and few-shot results of checkpoints on tasks, and the page that shows them."""

import contextlib
import dataclasses
import difflib
import functools
import json
import os
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence

import jax
import lm_eval
import matplotlib

matplotlib.use("Agg")  # a file, not a window

import matplotlib.pyplot as plt
from lm_eval import tasks as lm_eval_tasks

from data_pipeline.tasks import prompts
from errors import UserError
from evaluation import harness, harness_tasks, load, packed, reports

BOOTSTRAP = 1000  # draws, for the errors of numbers that are no means
PUBLISHED = "lm-eval's own"


@dataclasses.dataclass(frozen=True)
class Result:
    """What a checkpoint reaches in a task.

    Attributes:
      checkpoint: its name.
      parameters: how many it has.
      task: its name.
      shots: demonstrations before each document.
      documents: that were measured.
      cut: prompts that were longer than the model has positions.
      split: whose documents are measured; PUBLISHED for a task that lm-eval brings.
      demonstrations: the split that demonstrations are drawn from; likewise.
      measure: the number that stands for the task.
      values: all of lm-eval's numbers.
      errors: their standard errors, where there are some.
    """

    checkpoint: str
    parameters: int
    task: str
    shots: int
    documents: int
    cut: int
    split: str
    demonstrations: str
    measure: str
    values: Mapping[str, float]
    errors: Mapping[str, float]


@functools.cache
def _published_tasks() -> lm_eval_tasks.TaskManager:
    """Returns the index of lm-eval's own tasks, which takes seconds to make."""
    return lm_eval_tasks.TaskManager()


def check_task(name: str) -> None:
    """Raises a UserError for a task that neither we nor lm-eval have."""
    if name in prompts.PROMPTS:
        return
    known = _published_tasks().all_tasks
    if name not in known:
        near = difflib.get_close_matches(name, [*prompts.PROMPTS, *known], n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise UserError(
            f"Unknown task {name!r}.{hint} Choose one of ours ({', '.join(prompts.PROMPTS)}) or "
            "one of lm-eval's."
        )


def measure(
    name: str,
    model: load.Model,
    task: str,
    shots: int,
    *,
    folders: Sequence[str] = (),
    limit: int = 0,
    seed: int = 0,
    batch_tokens: int = 0,
    report: packed.Report | None = None,
) -> list[Result]:
    """Measures a model in a task.

    Args:
      name: of the checkpoint.
      model: the model.
      task: of prompts.PROMPTS or lm-eval's.
      shots: demonstrations before each document, drawn by the seed for each anew.
      folders: where the files of our tasks lie; (): tasks are lm-eval's, which it downloads.
      limit: the most documents, the first ones; 0: all.
      seed: of the draws.
      batch_tokens: see packed.look_up.
      report: likewise.

    Returns:
      One result; of a group of lm-eval's one for each task.

    Raises:
      UserError: for a model that does not suit, data that is missing, and where demonstrations make
        more than a quarter of the prompts longer than the model has positions.
    """
    backend = harness.wrap(model, whole=shots > 0, batch_tokens=batch_tokens, report=report)
    local = folders and task in prompts.PROMPTS
    splits = (PUBLISHED, PUBLISHED)
    if local:
        documents = prompts.read(task, folders, shots)
        splits = documents.measured, documents.demonstrations
        made = harness_tasks.LocalTask(task, documents, backend.count_tokens)
        manager = lm_eval_tasks.TaskManager(include_defaults=False)
    else:
        published = prompts.PROMPTS[task].published if task in prompts.PROMPTS else task
        if not published:
            raise UserError(f"lm-eval has no task {task}: give local files by --data=FOLDER.")
        manager = _published_tasks()
        made = _download(manager, published)
    # Errors of averages would be bootstrapped in forked processes, which JAX may not bear.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    with contextlib.redirect_stdout(sys.stderr):  # it prints what it is doing
        found = lm_eval.simple_evaluate(
            model=backend,
            tasks=made if isinstance(made, list) else [made],
            task_manager=manager,
            num_fewshot=shots,
            limit=limit or None,
            bootstrap_iters=BOOTSTRAP,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=None,
            fewshot_random_seed=seed,
            log_samples=False,
        )
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    results = []
    for each, numbers in found["results"].items():
        values, deviations = _numbers(numbers)
        if values:
            headline = prompts.PROMPTS[task].measure if local else next(iter(values))
            documents = found["n-samples"].get(each, {}).get("effective", 0)
            results.append(
                Result(
                    *(name, parameters, task if local else each, shots, documents, backend.cut),
                    *(*splits, headline, values, deviations),
                )
            )
    return results


def _download(manager, name: str) -> list:
    """Loads a task of lm-eval's, whose data comes over the network."""
    try:
        loaded = manager.load([name])
    except (OSError, ValueError) as error:  # as all of datasets' errors, ConnectionError first
        line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(
            f"The data of {name} cannot be fetched ({line}): give local files of one of "
            f"{', '.join(prompts.PROMPTS)} by --data=FOLDER."
        ) from error
    return [*loaded.get("groups", {}).values()] or [*loaded["tasks"].values()]


def _numbers(numbers: Mapping) -> tuple[dict[str, float], dict[str, float]]:
    """Parts lm-eval's {"acc,none": ..., "acc_stderr,none": ...} into values and their errors."""
    values, deviations = {}, {}
    for key, value in numbers.items():
        key, _, kind = key.partition(",")
        if not kind or not isinstance(value, int | float):
            continue
        if key.endswith("_stderr"):
            deviations[key.removesuffix("_stderr")] = float(value)
        else:
            values[key if kind == "none" else f"{key} ({kind})"] = float(value)
    return values, deviations


# The page


def say(results: Sequence[Result]) -> str:
    """Returns the tables of all tasks in Markdown, each a row a checkpoint and a column a K."""
    parts = []
    for task in dict.fromkeys(result.task for result in results):
        of_task = [result for result in results if result.task == task]
        parts += [f"## {task}", _describe(of_task), _table(of_task), _all_numbers(of_task)]
    return "\n\n".join(parts) + "\n"


def write(folder: pathlib.Path, results: Sequence[Result], command: str, seed: int) -> None:
    """Writes fewshot.md, fewshot.json and fewshot.png.

    Args:
      folder: made if it is missing.
      results: of one or several checkpoints.
      command: that measured them.
      seed: of the demonstrations.

    Raises:
      UserError: if the folder cannot be written.
    """
    text = [
        "# Zero, one and few shots",
        f"`{command}`",
        f"Demonstrations are drawn for each document anew, by the seed {seed}. ± is the standard "
        "error over the documents.",
        "![by model size](fewshot.png)",
        say(results),
    ]
    content = {
        "command": command,
        "seed": seed,
        "lm_eval": lm_eval.__version__,
        "results": [dataclasses.asdict(result) for result in results],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "fewshot.json").write_text(json.dumps(content, indent=1) + "\n")
        (folder / "fewshot.md").write_text("\n\n".join(text))
        (folder / "fewshot.png").write_bytes(_plot(results))
    except OSError as error:
        raise UserError(f"--out={folder} cannot be written ({error}): name another.") from error


def _describe(results: Sequence[Result]) -> str:
    first = results[0]
    counted = f"{first.documents} documents"
    if first.split == PUBLISHED:
        return f"{counted} of {first.split} task, in its prompt; the number is {first.measure}."
    prompt = prompts.PROMPTS[first.task]
    what = prompts.MEASURES[first.measure]
    if prompt.kind == "word":
        what = "the last word, where greedy decoding gives all of it"
    elif prompt.kind == "contexts":
        what = "the likelihood of the text behind the choices, as it is"
    text = f"{counted} of the split {first.split}. The number is {first.measure}: {what}."
    if any(result.shots for result in results):
        text += f" Demonstrations come from the split {results[-1].demonstrations}."
    text += f" The paper's few-shot K is {prompt.shots}." if prompt.shots else ""
    if cut := [result for result in results if result.cut]:
        told = ", ".join(f"{r.cut} of {r.checkpoint} at K = {r.shots}" for r in cut)
        text += f" Prompts that lost their beginning, as they were too long: {told}."
    return text


def _table(results: Sequence[Result]) -> str:
    shots = sorted({result.shots for result in results})
    rows = {}
    for result in sorted(results, key=lambda r: r.parameters):
        row = rows.setdefault((result.checkpoint, result.parameters), {})
        row[result.shots] = _cell(result, result.measure)
    return reports.markdown_table(
        ["checkpoint", "parameters", *(f"K = {k}" for k in shots)],
        [
            [checkpoint, f"{parameters:,}", *(row.get(k, "–") for k in shots)]
            for (checkpoint, parameters), row in rows.items()
        ],
    )


def _all_numbers(results: Sequence[Result]) -> str:
    names = list(dict.fromkeys(name for result in results for name in result.values))
    if len(names) == 1:
        return "It is the only number."
    rows = [
        [result.checkpoint, str(result.shots), *(_cell(result, name) for name in names)]
        for result in sorted(results, key=lambda r: (r.parameters, r.shots))
    ]
    return reports.markdown_table(["checkpoint", "K", *names], rows)


def _cell(result: Result, name: str) -> str:
    """Writes a share in percent, anything else as it is."""
    if name not in result.values:
        return "–"
    scale, digits = (100, 1) if _is_share(name) else (1, 2)
    text = f"{result.values[name] * scale:.{digits}f}"
    error = result.errors.get(name)
    return text if error is None else f"{text} ± {error * scale:.{digits}f}"


def _is_share(name: str) -> bool:
    return name.startswith(("acc", "exact", "f1"))


def _plot(results: Sequence[Result]) -> bytes:
    """Draws each task's number over the parameters, a line for each K."""
    names = list(dict.fromkeys(result.task for result in results))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(4.5 * columns, 3.5 * rows), layout="constrained", squeeze=False
    )
    for panel in panels.flat[len(names) :]:
        panel.axis("off")
    for task, axes in zip(names, panels.flat):
        of_task = [result for result in results if result.task == task]
        for shots in sorted({result.shots for result in of_task}):
            line = sorted((r for r in of_task if r.shots == shots), key=lambda r: r.parameters)
            scale = 100 if _is_share(line[0].measure) else 1
            axes.errorbar(
                [r.parameters for r in line],
                [scale * r.values[r.measure] for r in line],
                yerr=[scale * r.errors.get(r.measure, 0.0) for r in line],
                fmt=".-",
                label=f"K = {shots}",
            )
        axes.set(title=task, xlabel="parameters", ylabel=of_task[0].measure, xscale="log")
        axes.grid(alpha=0.3)
        axes.legend()
    return reports.png(figure)


def name_checkpoints(folders: Sequence[str]) -> dict[str, str]:
    """Returns folder -> a short name for it: its last part, or all where two have the same."""
    last = [pathlib.Path(folder).name for folder in folders]
    return {
        folder: name if last.count(name) == 1 else re.sub(r"/+$", "", folder)
        for folder, name in zip(folders, last, strict=True)
    }
