"""Training on one GPU beside `transformers` compiled by PyTorch, and what that GPU can do."""

import contextlib
import functools
import multiprocessing
import os
import statistics
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from errors import UserError
from evaluation import benchmarks, peers, training_speed
from training import compilation_cache

STEPS = 5  # of a call
_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_XL = {"n_embd": 1600, "n_layer": 48, "n_head": 25}


class Row(NamedTuple):
    """A network and its batch, as in training_speed.py; packed: documents share rows."""

    network: training_speed.Row
    packed: bool = False


def _row(page, size, batch_size, length, peer, packed=False):
    return Row(training_speed.Row(page, size, batch_size, length, peer), packed)


ROWS = {
    "BERT-large, 64 x 512, packed": _row(
        "bert", "large", 64, 512, functools.partial(peers.bert_full_rows, **_LARGE), True
    ),
    "BERT-large, 256 x 128": _row(
        "bert", "large", 256, 128, functools.partial(peers.bert, **_LARGE)
    ),
    "GPT-2 124M, 32 x 1024": _row("gpt2", "124m", 32, 1024, peers.gpt2),
    "GPT-2 1558M, 8 x 1024": _row("gpt2", "1558m", 8, 1024, functools.partial(peers.gpt2, **_XL)),
    "ELECTRA-small, 256 x 128": _row("electra", "small", 256, 128, peers.electra),
    "ALBERT-base, 64 x 512": _row("albert", "base", 64, 512, peers.albert),
}


def steps(options: benchmarks.Options) -> list[benchmarks.Result]:
    """Steps of pre-training on one GPU, bfloat16 over float32 parameters, AdamW and clipping.

    The peer is compiled by `torch.compile` and has PyTorch's fused AdamW and its attention
    (`scaled_dot_product_attention`). Packed rows are full rows for it: it sees as many tokens, and
    no mask. Ceilings are products of 8192 x 8192 and copies of 2 GiB, read and write counted; FLOP
    are those of the network, without what is computed again.

    Raises:
      UserError: without a GPU or PyTorch, or if the two sides do not have as many parameters.
    """
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the peer needs memory too
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.5"
    if jax.default_backend() != "gpu":
        raise UserError(f"JAX has no GPU here, but {jax.default_backend()}.")
    with _Side(_ceilings) as side:
        product, copy = side.facts()["product"], side.facts()["copy"]
    print(f"product {product / 1e12:.0f} TFLOP/s, copy {copy / 1e12:.2f} TB/s", flush=True)
    _compile_peers(options.depth)
    results = []
    for name, row in ROWS.items():
        with _Side(_theirs, row, options.depth) as other, _Side(_ours, row, options.depth) as ours:
            found, theirs = ours.facts(), other.facts()
            training_speed.check_parameters(name, found["parameters"], theirs["parameters"])
            seconds = {"ours": [], "transformers": []}
            for _ in range(options.repeats):
                seconds["ours"].append(ours.ask(STEPS))
                seconds["transformers"].append(other.ask(STEPS))
            memory = ours.ask("memory"), other.ask("memory")
        rate = STEPS * found["flops"] / statistics.median(seconds["ours"])
        more = {
            "TFLOP/s": f"{rate / 1e12:.0f}",
            f"of {product / 1e12:.0f} measured": f"{rate / product:.0%}",
            "GiB planned": f"{found['planned'] / 2**30:.1f}",
            "GiB used": f"{memory[0] / 2**30:.1f}",
            "GiB, transformers": f"{memory[1] / 2**30:.1f}",
        }
        work = STEPS * row.network.batch_size * row.network.length
        results.append(benchmarks.Result(name, work, "tokens", seconds, more))
        print(f"{name}: {results[-1].ratio:.2f} {more} {seconds}", flush=True)
    return results


def _compile_peers(depth):
    """Fills the cache of PyTorch's compiler, on all cores, before anything is measured."""
    with contextlib.ExitStack() as stack:
        for side in [stack.enter_context(_Side(_theirs, row, depth)) for row in ROWS.values()]:
            try:
                side.facts()
            except UserError as error:  # the memory may be too small for all: that one comes later
                print(str(error).rstrip().rsplit("\n", 1)[-1], flush=True)


class _Side:
    """A process that builds something, tells facts of it, and runs it as often as it is told."""

    def __init__(self, build: Callable, *args):
        spawn = multiprocessing.get_context("spawn")
        self._end, other = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(other, build, *args), daemon=True)
        self._process.start()
        other.close()
        self._facts = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._end.close()
        self._process.terminate()
        self._process.join()

    def facts(self) -> dict[str, float]:
        """Waits until it is built."""
        self._facts = self._facts or self._received()
        return self._facts

    def ask(self, what: int | str) -> float:
        """Returns the seconds of as many steps, or bytes for "memory"."""
        self.facts()
        self._end.send(what)
        return self._received()

    def _received(self):
        try:
            answer = self._end.recv()
        except EOFError:
            raise UserError("A process of this benchmark has died: is the memory enough?") from None
        if isinstance(answer, str):
            raise UserError(f"A process of this benchmark has failed:\n{answer}")
        return answer


def _serve(end, build, *args):
    try:
        facts, run, memory = build(*args)
        end.send(facts)
        while True:
            what = end.recv()
            if what == "memory":
                end.send(memory())
                continue
            start = time.perf_counter()
            run(what)
            end.send(time.perf_counter() - start)
    except EOFError:
        return  # told to go
    except Exception:
        end.send(traceback.format_exc())


def _ceilings():
    a, b = jax.random.normal(jax.random.key(0), (2, 8192, 8192), jnp.bfloat16)
    flat = jax.random.normal(jax.random.key(1), (2**29,), jnp.float32)
    product = _seconds(jax.jit(jnp.matmul), a, b)
    copy = _seconds(jax.jit(jnp.negative), flat)
    return {"product": 2 * 8192**3 / product, "copy": 2 * flat.nbytes / copy}, None, None


def _seconds(call, *args, times=10):
    """Returns the median of five measurements of a call, in seconds."""
    jax.block_until_ready(call(*args))
    found = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(times):
            result = call(*args)
        jax.block_until_ready(result)
        found.append((time.perf_counter() - start) / times)
    return statistics.median(found)


def _config(row, depth):
    c = training_speed.config(row.network, "bfloat16", depth)
    return training_speed.packed(c) if row.packed else c


def _ours(row, depth):
    compilation_cache.enable()
    ours = training_speed.our_step(_config(row, depth))
    ours.step(3)
    device = jax.local_devices()[0]
    facts = {"parameters": ours.parameters, "flops": ours.flops, "planned": ours.planned}
    return facts, ours.step, lambda: device.memory_stats()["peak_bytes_in_use"]


def _theirs(row, depth):
    jax.config.update("jax_platforms", "cpu")  # for the rows alone
    data = training_speed.pipeline.prepare_data(_config(row, depth))
    torch, _ = peers.libraries()
    batch = peers.tensors(data.train.batch(range(row.network.batch_size)), "cuda")
    count, step = peers.train_step(row.network.peer, "bfloat16", depth, "cuda")

    def run(times):
        for _ in range(times):
            loss = step(batch)
        loss.item()

    run(3)
    memory = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    return {"parameters": count}, run, lambda: memory
