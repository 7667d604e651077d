"""A job of a sweep: one command, what it must have left when it is finished, and reading that."""

import dataclasses
import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What a run takes from the checkpoint or the folder of vectors that it names
# (`warm_start.complete`).
_TAKEN = {"objective.teacher", "data.graphs.digest"} | {
    f"objective.reasoner.{size}" for size in ("entities", "relations", "width")
}


@dataclasses.dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
      name: such as "all-seed0", or "all-seed0.sst-2" for what follows a run.
      workdir: of the run that it trains or evaluates.
      script: to run, from the repository.
      flags: of the script.
      wanted: dotted overrides of a training run.
      result: file that an evaluation writes; None: a training run.
      needs: name of the job that must be finished before.
      chain: name of the training run that it is, or follows.
    """

    name: str
    workdir: pathlib.Path
    script: str
    flags: tuple[str, ...]
    wanted: Mapping[str, Any]
    result: pathlib.Path | None = None
    needs: str = ""
    chain: str = ""

    def command(self, cores: set[int]) -> list[str]:
        """Returns the command as one would type it in the repository, for a share of the cores."""
        pinned = ["taskset", "--cpu-list", ",".join(map(str, sorted(cores)))] if cores else []
        return [*pinned, "python", self.script, *self.flags]

    @property
    def log(self) -> pathlib.Path:
        """Where the command's output goes."""
        return self.workdir / (f"{self.result.stem}.log" if self.result else "train.log")

    def is_finished(self) -> bool:
        """Whether nothing is left to do.

        Raises:
          UserError: if the workdir holds a run of another config.
        """
        if self.result is not None:
            return self.result.exists()
        config = saved_config(self.workdir)
        if config is None:
            return False
        wanted = json.loads(self.config().to_json_best_effort())
        for key, found, value in _differences(config, wanted):
            if found is None and key not in self.wanted:
                continue  # a key younger than the run
            raise UserError(
                f"{self.workdir} holds a run with config.{key}={found!r}, not {value!r}: give the "
                "same --set and --config, choose another --runs, or delete it."
            )
        last = config["total_steps"]
        saved = (self.workdir / "checkpoints" / str(last)).is_dir()
        return saved and "valid/loss" in last_validation(self.workdir, last)

    def start(self, cores: set[int]) -> subprocess.Popen:
        """Starts the command on these CPU cores (where the system can say so); {}: on all."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        pages = f"--config={ROOT}/configs/"  # from whatever folder
        rest = [flag.replace("--config=configs/", pages, 1) for flag in self.flags]
        command = [sys.executable, str(ROOT / self.script), *rest]
        with self.log.open("a") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env=environment())
        if cores:
            os.sched_setaffinity(process.pid, cores)  # long before XLA counts them
        return process

    def config(self) -> ml_collections.ConfigDict:
        """Returns the whole config of a training run.

        Raises:
          UserError: if its page or a key does not exist, or a value does not suit.
        """
        flag = self.flags[0].removeprefix("--config=")
        path, _, arg = flag.partition(":")
        at = f"--config={flag}"
        try:
            config = _page(path).get_config(*[arg] if arg else []).lock()
            for key, value in self.wanted.items():
                at = f"config.{key}={value}"
                config.update_from_flattened_dict({key: value})
        except (AttributeError, KeyError, TypeError, ValueError, ImportError, OSError) as error:
            text = str(error.args[0] if error.args else error)
            text = text[max(text.find("Did you mean"), 0) :]  # before it lies a dump of the section
            raise UserError(f"{self.name} cannot have {at}: {' '.join(text.split())}") from error
        return config


def share_cores(parallel: int) -> list[set[int]]:
    """Returns for each of so many jobs the CPU cores that it may use; empty sets mean all.

    Raises:
      UserError: for no job at a time, or more of them than cores.
    """
    if not hasattr(os, "sched_setaffinity"):  # not on macOS
        return [set() for _ in range(parallel)]
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= parallel <= len(cores):
        raise UserError(f"--parallel={parallel} must be from 1 to the {len(cores)} CPU cores.")
    return [set(cores[i::parallel]) for i in range(parallel)] if parallel > 1 else [set()]


def environment() -> dict[str, str]:
    """Returns this process's environment, with this checkout before an installed one."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def saved_config(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Returns the whole config of a run, None before it has begun."""
    path = workdir / "config.json"
    return json.loads(path.read_text()) if path.exists() else None


def last_validation(workdir: pathlib.Path, step: int) -> dict[str, float]:
    """Returns what was measured on held-out rows at `step`; nothing if it was not reached."""
    at_step = (row for row in rows(workdir) if row["step"] == step)
    return {k: v for row in at_step for k, v in row.items() if k.startswith("valid/")}


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the rows of a run's metrics.jsonl, but what a kill left of the last one."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _differences(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], above: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yields (dotted key, saved, wanted) where a run's config differs from the one that is wanted.

    What the wanted one leaves open, and what is in _TAKEN, the run has from other runs.
    """
    for name, value in wanted.items():
        found = saved.get(name)
        if above + name in _TAKEN:
            continue
        if isinstance(value, Mapping) and isinstance(found, Mapping):
            yield from _differences(found, value, f"{above}{name}.")
        elif value is not None and found != value:
            yield above + name, found, value


def _page(path: str):
    """Returns the module of a config file, one of the repository's from whatever folder."""
    if path.startswith("configs/"):
        return importlib.import_module(path.removesuffix(".py").replace("/", "."))
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    if spec is None:
        raise ImportError(f"{path} is not a Python file.")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    return page
