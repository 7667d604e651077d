"""Benchmarks: measuring by turns, and the page that they write. None of them is timed here."""

import pytest

from errors import UserError
from evaluation import benchmarks


def test_sides_take_turns_after_a_warm_up():
    calls = []
    sides = {name: lambda name=name: calls.append(name) for name in ("ours", "peer")}
    seconds = benchmarks.alternate(sides, repeats=3)
    assert calls == ["ours", "peer"] * 4
    assert {name: len(values) for name, values in seconds.items()} == {"ours": 3, "peer": 3}


def test_the_ratio_is_that_of_neighbors():
    """Both sides slow down together on a shared machine: the ratio of medians would be 2."""
    result = benchmarks.Result("row", 6, "tokens", {"ours": [1, 1, 4], "peer": [3, 2, 12]})
    assert result.rate("ours") == 6 and result.rate("peer") == 2
    assert result.ratio == 3


def test_a_section_takes_the_place_of_its_older_one(tmp_path):
    page = tmp_path / "benchmarks.md"
    result = benchmarks.Result("batch 1", 64, "tokens", {"ours": [2.0], "peer": [4.0]})
    text = benchmarks.section("decoding", [result], "python scripts/bench.py decoding")
    assert "| batch 1 | 32.0 | 16.0 | **2.00** |" in text
    benchmarks.write(page, "decoding", text)
    benchmarks.write(page, "other", "## other\n\nkept\n")
    benchmarks.write(page, "decoding", text.replace("32.0", "33.0"))
    written = page.read_text()
    assert written.startswith("# Benchmarks\n") and written.count("## decoding") == 1
    assert "33.0" in written and "32.0" not in written and "## other\n\nkept\n" in written


def test_sides_that_differ_are_not_timed(monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from evaluation import decoding

    wrong = lambda *args, batch_size, max_tokens, **kwargs: [[[0] * max_tokens]] * batch_size  # noqa: E731
    monkeypatch.setattr(decoding, "sample", wrong)
    with pytest.raises(UserError, match="do not decode the same tokens"):
        benchmarks.greedy_decoding(repeats=1, prompt=2, new=2)


def test_requests_of_the_harness(monkeypatch):
    """All of it but the size: a network of one layer, and few requests."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("lm_eval")
    pytest.importorskip("accelerate")
    from evaluation import harness

    config = transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=64)
    config.vocab_size = 8192
    peer = torch, transformers.GPT2LMHeadModel(config).eval()
    text = "the quick brown fox jumps over the lazy dog and a cat sat on the mat " * 20
    monkeypatch.setattr(benchmarks, "_random_gpt2", lambda: peer)
    monkeypatch.setattr(benchmarks.embedded, "documents", lambda: [("text", text)])
    monkeypatch.setattr(benchmarks, "BATCH_SIZES", (2,))
    rows = {"choices": (2, (3, 9), [" yes", (1, 4)]), "texts": (1, (0, 0), [(70, 90)])}
    monkeypatch.setattr(benchmarks, "REQUESTS", rows)
    results = benchmarks.harness_requests(1)
    assert [(r.name, r.work) for r in results] == [
        ("choices (HFLM: batch 2)", 4), ("texts (HFLM: batch 2)", 1)
    ]  # fmt: skip
    wrong = lambda self, requests, **_: [(0.0, False)] * len(requests)  # noqa: E731
    monkeypatch.setattr(harness.LanguageModel, "loglikelihood", wrong)
    with pytest.raises(UserError, match="do not find the same"):
        benchmarks.harness_requests(1)
