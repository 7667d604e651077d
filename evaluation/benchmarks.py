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

from data_pipeline import embedded, tokenizer_training
from errors import UserError
from evaluation import decoding, load
from model import objectives
from training import huggingface

PACKAGES = ("jax", "flax", "torch", "transformers", "lm_eval")


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
    torch, peer = _random_gpt2()
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


def _random_gpt2():
    """Returns PyTorch, set to all our cores, and a GPT-2 124M of `transformers`.

    Raises:
      UserError: if they are not installed.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(
            f"The peer of this benchmark is not installed ({error}): make install "
            "EXTRAS=dev,parity,eval."
        ) from error
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    return torch, transformers.GPT2LMHeadModel(transformers.GPT2Config(eos_token_id=None)).eval()


# A row -> contexts, the words that one has at least and at most, and what may follow it: likewise,
# or the very texts.
REQUESTS = {
    "a last word, as in LAMBADA": (64, (45, 85), [(1, 1)]),
    "four endings, as in HellaSwag": (24, (20, 60), [(8, 25)] * 4),
    "yes or no, as in BoolQ": (24, (60, 140), [" yes", " no"]),
    "a text of 1024 tokens and more": (1, (0, 0), [(900, 1100)]),
}
BATCH_SIZES = (4, 24)  # of the peer, which has the faster of them


def harness_requests(repeats: int) -> list[Result]:
    """GPT-2 124M with random weights in float32: log-likelihoods for lm-eval, from text to score.

    The peer is lm-eval's own backend, at the faster of two batch sizes for each row.

    Args:
      repeats: of each measurement.

    Raises:
      UserError: without PyTorch or lm-eval, or if the two sides do not find the same.
    """
    _, weights = _random_gpt2()
    try:
        from lm_eval.api import instance
        from lm_eval.models import huggingface as peers

        from evaluation import harness
    except ImportError as error:
        raise UserError(
            f"lm-eval is not installed ({error}): make install EXTRAS=dev,parity,eval."
        ) from error
    documents = [text for _, text in embedded.documents()]
    tokenizer = tokenizer_training.train("byte_bpe", documents, 8192, False)
    with tempfile.TemporaryDirectory() as folder:
        weights.save_pretrained(folder)
        tokenizer.save(folder)
        ours = harness.wrap(load.load(folder))
        peer = peers.HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=1)
    words, rng = " ".join(documents).split(), np.random.default_rng(0)

    def draw(least, most):
        size, start = rng.integers(least, most + 1), rng.integers(len(words) - most)
        return " ".join(words[start : start + size])

    results = []
    for name, (contexts, size, following) in REQUESTS.items():
        pairs = [
            (context, after if isinstance(after, str) else f" {draw(*after)}")
            for context in [draw(*size) for _ in range(contexts)]
            for after in following
        ]
        method = "loglikelihood" if size[1] else "loglikelihood_rolling"
        asked = [instance.Instance(method, {}, p if size[1] else p[1:], 0) for p in pairs]

        def run(side, method=method, asked=asked):
            return np.array(getattr(side, method)(asked, disable_tqdm=True), np.float64)

        seconds = {}
        for peer.batch_size_per_gpu in BATCH_SIZES:
            start = time.perf_counter()
            expected = run(peer)
            seconds[peer.batch_size_per_gpu] = time.perf_counter() - start
        peer.batch_size_per_gpu = min(seconds, key=seconds.get)
        if not np.allclose(run(ours), expected, rtol=1e-6, atol=1e-3):
            raise UserError("The two sides do not find the same: there is nothing to time.")
        sides = {"ours": lambda: run(ours), "lm-eval HFLM": lambda: run(peer)}
        label = f"{name} (HFLM: batch {peer.batch_size_per_gpu})"
        results.append(Result(label, len(asked), "requests", alternate(sides, repeats)))
    return results


BENCHMARKS: dict[str, Callable[[int], list[Result]]] = {
    "decoding": greedy_decoding,
    "harness": harness_requests,
}


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
