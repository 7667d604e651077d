"""Training beside `transformers`: the speed of a step, its memory, the time to the first one."""

import concurrent.futures
import functools
import importlib
import itertools
import math
import multiprocessing
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import ml_collections

from data_pipeline import loader, pipeline
from errors import UserError
from evaluation import benchmarks, peers
from training import setup as setup_lib


class Row(NamedTuple):
    """A network, its batch, and its peer in the dtypes that it is measured in."""

    page: str
    size: str
    batch_size: int
    length: int
    peer: Callable
    dtypes: tuple[str, ...] = ("bfloat16",)


BOTH = ("float32", "bfloat16")
ROWS = {
    "BERT-base, 8 x 128": Row("bert", "base", 8, 128, peers.bert, BOTH),
    "GPT-2 124M, 4 x 256": Row("gpt2", "124m", 4, 256, peers.gpt2, BOTH),
    "ELECTRA-small, 16 x 128": Row("electra", "small", 16, 128, peers.electra),
    "ALBERT-base, 8 x 128": Row("albert", "base", 8, 128, peers.albert),
    "T5-small, 4 x (512 + 114)": Row("t5", "small", 4, 512, peers.t5),
}
_BERT = next(iter(ROWS.values()))


def steps(options: benchmarks.Options) -> list[benchmarks.Result]:
    """Steps of pre-training with AdamW, dropout and clipping, on rows that are the same.

    Ours computes in the faster of float32 and bfloat16 (named in the row), the peer in float32 or
    by autocast to bfloat16; the parameters of both are float32.

    Raises:
      UserError: without PyTorch, or if the two sides do not have as many parameters.
    """
    results, depth = [], options.depth
    for name, row in ROWS.items():
        build = lambda dtype, row=row: our_step(config(row, dtype, depth))  # noqa: E731
        dtype, ours = fastest(build, BOTH[:1] if options.quick else BOTH)
        sides, batch = {"ours": ours.step}, peers.tensors(ours.batches[0])
        for other in row.dtypes:
            count, step = peers.train_step(row.peer, other, depth)
            check_parameters(name, ours.parameters, count)
            sides[other] = lambda step=step, batch=batch: step(batch).item()
        tokens = sum(batch[x].numel() for x in ("tokens", "decoder_tokens") if x in batch)
        found = benchmarks.alternate(sides, options.repeats)
        for other in row.dtypes:
            label = f"{name} (ours {dtype}, peer {other})"
            both = {"ours": found["ours"], "transformers": found[other]}
            results.append(benchmarks.Result(label, tokens, "tokens", both))
    return results


def check_parameters(name: str, ours: int, theirs: int) -> None:
    """Raises UserError if the networks are not of one size."""
    if ours != theirs:
        raise UserError(
            f"{name}: {ours:,} parameters here, {theirs:,} there: there is nothing to compare."
        )


def config(
    row: Row, dtype: str, depth: int | None, as_page: bool = False
) -> ml_collections.ConfigDict:
    """Returns the config of a row: the page's, with another batch and AdamW.

    Args:
      row: of `ROWS`.
      dtype: to compute in.
      depth: layers, if not the page's.
      as_page: whether to save memory as the page does; the peer gives memory for speed.
    """
    c = importlib.import_module(f"configs.{row.page}").get_config(row.size)
    c.model.dtype = dtype
    if not as_page:
        c.model.update(remat="none", scan_layers=False)
        if "logit_chunks" in c.objective:
            c.objective.logit_chunks = 1
    if depth:
        c.model.depth = depth
    c.batch_size, c.data.length = row.batch_size, row.length
    if "max_predictions" in c.data.masking:
        c.data.masking.max_predictions = math.ceil(0.15 * row.length)
    c.data.source = "embedded"
    c.data.tokenizer.vocab_size = 2048  # of the embedded text; the model's stays
    c.optim.update(name="adamw", lr=1e-4, schedule="constant", warmup_steps=0, clip_norm=1.0)
    return c


def packed(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Makes a config one of masked tokens alone, whole sentences packed into rows; returns it."""
    c.objective.sentence_pair, c.data.packing = False, True
    c.data.format.update(name="doc_sentences", negatives="none", negative_rate=0.0)
    return c


class Ours(NamedTuple):
    """Our side.

    Attributes:
      parameters: how many.
      step: takes one step, or as many as it is told, and returns the last loss.
      batches: which the steps take in turn.
      flops: of a step, by the objective.
      planned: bytes that the compiler wants for it.
    """

    parameters: int
    step: Callable[..., float]
    batches: list[dict[str, jax.Array]]
    flops: float
    planned: int


def our_step(c: ml_collections.ConfigDict, count: int = 1) -> Ours:
    """Builds the step of train.py on one device.

    Args:
      c: a whole config.
      count: batches.
    """
    setup = setup_lib.prepare(c, jax.local_devices()[:1])
    data = pipeline.prepare_data(c)
    with setup.placed():
        abstract = setup.abstract()
        state = setup.init.sharded(jax.random.key(0), abstract)
        with loader.Loader(data.train, mesh=setup.mesh, batch_size=c.batch_size) as batches:
            found = [next(batches) for _ in range(count)]
        key = jax.random.key(0)
        train_step = setup.train_step(abstract).lower(state, found[0], key).compile()
    turns, memory = itertools.cycle(found), train_step.memory_analysis()

    def step(times: int = 1) -> float:
        nonlocal state
        with setup.placed():
            for _ in range(times):
                state, metrics = train_step(state, next(turns), key)
        return float(jax.block_until_ready((state, metrics))[1]["loss"])

    return Ours(
        parameters=sum(x.size for x in jax.tree.leaves(state.params)),
        step=step,
        batches=found,
        flops=setup.objective.flops({name: x.shape for name, x in found[0].items()}),
        planned=memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
    )


def fastest(build: Callable[[str], Ours], dtypes: Sequence[str]) -> tuple[str, Ours]:
    """Returns the dtype in which our step is fastest, and the step."""
    sides = {dtype: build(dtype) for dtype in dtypes}
    seconds = benchmarks.alternate({dtype: side.step for dtype, side in sides.items()}, 2)
    dtype = min(seconds, key=lambda dtype: min(seconds[dtype]))
    return dtype, sides[dtype]


def memory(options: benchmarks.Options) -> list[benchmarks.Result]:
    """The largest resident memory of a process that takes three steps of BERT-base, 8 x 128.

    Ours as in the benchmark `steps`, and as its page has it: the layers in a loop, what is between
    their products computed again. The peer's has imported JAX besides PyTorch.
    """
    found = {"steps": [], "page": [], "transformers": []}
    for _ in range(options.repeats):
        found["steps"].append(_alone(_our_memory, options.depth, False))
        found["page"].append(_alone(_our_memory, options.depth, True))
        found["transformers"].append(_alone(_their_memory, options.depth))
    return [
        benchmarks.Result(
            f"float32, {name}",
            None,
            "GiB",
            {"ours": found[side], "transformers": found["transformers"]},
        )
        for side, name in (("steps", "as in `steps`"), ("page", "as the page has it"))
    ]


def _alone(function, *args):
    """Calls it in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *args).result()


def _our_memory(depth, as_page):
    return _after_three(our_step(config(_BERT, "float32", depth, as_page)).step)


def _their_memory(depth):
    data = pipeline.prepare_data(config(_BERT, "float32", depth))
    batch = peers.tensors(data.train.batch(range(_BERT.batch_size)))
    step = peers.train_step(_BERT.peer, "float32", depth)[1]
    return _after_three(lambda: step(batch).item())


def _after_three(call):
    for _ in range(3):
        call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def compilation(options: benchmarks.Options) -> list[benchmarks.Result]:
    """Seconds to trace and compile the step of BERT-base, 8 x 128, with more layers and with six.

    The layers are a loop, as by default. There is no peer: at a ratio of 1 the time does not grow
    with the depth.
    """
    first, *deeper = (1, 2) if options.quick else (6, 12, 24, 48)
    batch = pipeline.prepare_data(config(_BERT, "bfloat16", first)).train.batch(range(8))

    def compiled(depth):
        c = config(_BERT, "bfloat16", depth)
        c.model.scan_layers = True
        setup = setup_lib.prepare(c, jax.local_devices()[:1])
        with setup.placed():
            abstract = setup.abstract()
            setup.train_step(abstract).lower(abstract, batch, jax.random.key(0)).compile()

    cached = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        calls = {depth: functools.partial(compiled, depth) for depth in (first, *deeper)}
        found = benchmarks.alternate(calls, options.repeats)
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
    shallow = f"{first} layers"
    return [
        benchmarks.Result(f"{n} layers", None, "s", {"so deep": found[n], shallow: found[first]})
        for n in deeper
    ]


def first_step(options: benchmarks.Options) -> list[benchmarks.Result]:
    """From the start of train.py to the end of its first step: BERT-base, 8 x 128.

    The first launch finds no text, vocabulary or compiled program in the caches, the second those
    that the first has left. There is no peer.
    """
    root = pathlib.Path(__file__).resolve().parent.parent
    found = {"second launch": [], "first launch": []}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            for launch in ("first launch", "second launch"):
                command = [
                    *(sys.executable, root / "train.py", f"--config={root}/configs/bert.py:base"),
                    f"--workdir={folder}/{launch}",
                    f"--config.batch_size={_BERT.batch_size}",
                    "--config.data.source=embedded",
                    f"--config.data.cache_dir={folder}/cache",
                    "--config.data.tokenizer.vocab_size=2048",
                    "--config.log.every=1",
                    *(["--config.model.depth=1"] if options.quick else []),
                ]
                found[launch].append(_until_first_step(command, folder))
    return [benchmarks.Result("BERT-base", None, "seconds", found)]


def _until_first_step(command, folder):
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/xla"}
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as run:
        said = []
        for line in run.stdout:
            said.append(line)
            if line.startswith("step 1/"):
                seconds = time.perf_counter() - start
                run.kill()
                return seconds
        raise UserError(f"train.py did not take a step: {''.join(said)}{run.stderr.read()}")
