"""Decoding and scoring beside the programs that a user would take instead."""

import tempfile
import time

import jax
import ml_collections
import numpy as np

from data_pipeline import embedded, tokenizer_training
from errors import UserError
from evaluation import benchmarks, decoding, load, peers
from model import objectives
from training import huggingface

PROMPT, NEW = 32, 64  # tokens that are given, and that are decoded


def greedy_decoding(options: benchmarks.Options) -> list[benchmarks.Result]:
    """GPT-2 124M with random weights in float32: greedy decoding with a cache.

    Raises:
      UserError: without PyTorch, or if the two sides do not decode the same tokens.
    """
    torch, peer = _random_gpt2(options.depth)
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        published = huggingface.load(folder)
    config = {"model": {**published.model, "dtype": "float32"}, "objective": published.objective}
    objective = objectives.build(ml_collections.ConfigDict(config), jax.default_backend())
    params = jax.device_put(published.params)
    rng = np.random.default_rng(0)
    results = []
    for rows in (1, 8):
        prompts = rng.integers(0, published.model["vocab_size"], (rows, PROMPT))

        def ours(prompts=prompts):
            return np.array(
                decoding.sample(
                    objective,
                    params,
                    prompts.tolist(),
                    max_tokens=NEW,
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
                    max_new_tokens=NEW,
                    min_new_tokens=NEW,
                    do_sample=False,
                    pad_token_id=0,
                )
            return tokens[:, PROMPT:].numpy()

        if not np.array_equal(ours(), theirs()):
            raise UserError(
                "The two sides do not decode the same tokens: there is nothing to time."
            )
        sides = {"ours": ours, "transformers generate": theirs}
        seconds = benchmarks.alternate(sides, options.repeats)
        results.append(benchmarks.Result(f"batch {rows}", rows * NEW, "tokens", seconds))
    return results


def _random_gpt2(depth):
    """Returns PyTorch and a GPT-2 124M of `transformers`."""
    torch, transformers = peers.libraries()
    config = transformers.GPT2Config(eos_token_id=None, n_layer=depth or 12)
    return torch, transformers.GPT2LMHeadModel(config).eval()


# A row -> contexts, the words that one has at least and at most, and what may follow it: likewise,
# or the very texts.
REQUESTS = {
    "a last word, as in LAMBADA": (64, (45, 85), [(1, 1)]),
    "four endings, as in HellaSwag": (24, (20, 60), [(8, 25)] * 4),
    "yes or no, as in BoolQ": (24, (60, 140), [" yes", " no"]),
    "a text of 1024 tokens and more": (1, (0, 0), [(900, 1100)]),
}
BATCH_SIZES = (4, 24)  # of the peer, which has the faster of them


def harness_requests(options: benchmarks.Options) -> list[benchmarks.Result]:
    """GPT-2 124M with random weights in float32: log-likelihoods for lm-eval, from text to score.

    The peer is lm-eval's own backend, at the faster of two batch sizes for each row.

    Raises:
      UserError: without PyTorch or lm-eval, or if the two sides do not find the same.
    """
    _, weights = _random_gpt2(options.depth)
    try:
        from lm_eval.api import instance
        from lm_eval.models import huggingface as hf_backend

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
        peer = hf_backend.HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=1)
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
        measured = benchmarks.alternate(sides, options.repeats)
        results.append(benchmarks.Result(label, len(asked), "requests", measured))
    return results
