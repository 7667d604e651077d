"""Our speed beside that of the program a user would take instead, measured in one run by turns."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from errors import UserError
from evaluation import decoding
from model import objectives
from training import huggingface

PACKAGES = ("jax", "flax", "torch", "transformers")


class Result(NamedTuple):
    """One row of a benchmark.

    Attributes:
      name: of the row.
      work: units that one call does.
      unit: of the work, such as "tokens".
      seconds: side -> the duration of each call, "ours" and the peer's name.
    """

    name: str
    work: int
    unit: str
    seconds: Mapping[str, Sequence[float]]

    def rate(self, side: str) -> float:
        """Returns the median units a second."""
        return self.work / statistics.median(self.seconds[side])

    @property
    def ratio(self) -> float:
        """Ours over the peer's: the median of the ratios of calls that followed each other."""
        ours, peer = self.seconds.values()
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


def greedy_decoding(repeats: int, prompt: int = 32, new: int = 64) -> list[Result]:
    """GPT-2 124M with random weights in float32: greedy decoding with a cache.

    Args:
      repeats: of each measurement.
      prompt: tokens of each prompt.
      new: tokens that are decoded for each.

    Raises:
      UserError: without PyTorch, or if the two sides do not decode the same tokens.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(
            f"The peer of this benchmark is not installed ({error}): make install "
            "EXTRAS=dev,parity."
        ) from error
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    peer = transformers.GPT2LMHeadModel(transformers.GPT2Config(eos_token_id=None)).eval()
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        published = huggingface.load(folder)
    config = {"model": {**published.model, "dtype": "float32"}, "objective": published.objective}
    objective = objectives.build(ml_collections.ConfigDict(config), jax.default_backend())
    params = jax.device_put(published.params)
    rng = np.random.default_rng(0)
    results = []
    for rows in (1, 8):
        prompts = rng.integers(0, published.model["vocab_size"], (rows, prompt))

        def ours(prompts=prompts):
            return np.array(
                decoding.sample(
                    objective,
                    params,
                    prompts.tolist(),
                    max_tokens=new,
                    eot_id=None,
                    temperature=0,
                    batch_size=len(prompts),
                )
            )[:, 0]

        def theirs(prompts=prompts):
            prompts = torch.tensor(prompts)
            with torch.no_grad():
                tokens = peer.generate(
                    prompts,
                    attention_mask=torch.ones_like(prompts),
                    max_new_tokens=new,
                    min_new_tokens=new,
                    do_sample=False,
                    pad_token_id=0,
                )
            return tokens[:, prompt:].numpy()

        if not np.array_equal(ours(), theirs()):
            raise UserError(
                "The two sides do not decode the same tokens: there is nothing to time."
            )
        sides = {"ours": ours, "transformers generate": theirs}
        results.append(Result(f"batch {rows}", rows * new, "tokens", alternate(sides, repeats)))
    return results


BENCHMARKS: dict[str, Callable[[int], list[Result]]] = {"decoding": greedy_decoding}


def section(name: str, results: Sequence[Result], command: str) -> str:
    """Returns the Markdown of one benchmark: what ran, medians, ratios and every number."""
    description = " ".join(BENCHMARKS[name].__doc__.split("\n\n")[0].split())
    sides = list(results[0].seconds)
    lines = [
        f"## {name}",
        "",
        description,
        "",
        f"{machine()}; {datetime.date.today():%Y-%m-%d}. `{command}`",
        "",
        f"| | {' | '.join(f'{side}, {results[0].unit}/s' for side in sides)} | ratio |",
        f"| --- | {'--- | ' * len(sides)}--- |",
    ]
    for result in results:
        rates = " | ".join(f"{result.rate(side):.1f}" for side in sides)
        lines.append(f"| {result.name} | {rates} | **{result.ratio:.2f}** |")
    lines += ["", "Seconds of each call, by turns:", ""]
    for result in results:
        for side in sides:
            numbers = " ".join(f"{seconds:.3f}" for seconds in result.seconds[side])
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
    if cpuinfo.exists() and (found := re.search(r"model name\s*: (.*)", cpuinfo.read_text())):
        processor = found[1]
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES if _version(name))
    cores = len(os.sched_getaffinity(0))
    return f"{processor}, {cores} cores, {jax.default_backend()}; {versions}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
