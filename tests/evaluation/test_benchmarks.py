"""Benchmarks: measuring by turns, and the page that they write. None of them is timed here."""

import functools

import pytest
import runs

from errors import UserError
from evaluation import benchmarks, gpu_speed, inference_speed, input_speed, peers, training_speed

QUICK = benchmarks.Options(repeats=1, quick=True)


def test_sides_take_turns_after_a_warm_up():
    calls = []
    sides = {name: lambda name=name: calls.append(name) for name in ("ours", "peer")}
    seconds = benchmarks.alternate(sides, repeats=3)
    assert calls == ["ours", "peer"] * 4
    assert {name: len(values) for name, values in seconds.items()} == {"ours": 3, "peer": 3}


def test_the_ratio_is_that_of_neighbors():
    """Both sides slow down together on a shared machine: the ratio of medians would be 2."""
    result = benchmarks.Result("row", 6, "tokens", {"ours": [1, 1, 4], "peer": [3, 2, 12]})
    assert result.value("ours") == 6 and result.value("peer") == 2
    assert result.ratio == 3
    more = result._replace(more={"GiB": "3.5"})
    assert "| ratio | GiB |" in benchmarks.section("x", inference_speed.greedy_decoding, [more], "")
    memory = benchmarks.Result("row", None, "GiB", {"ours": [2.0, 3.0], "peer": [4.0, 6.0]})
    assert memory.value("ours") == 2.5 and memory.ratio == 2


def test_a_section_takes_the_place_of_its_older_one(tmp_path):
    page = tmp_path / "benchmarks.md"
    result = benchmarks.Result("batch 1", 64, "tokens", {"ours": [2.0], "peer": [4.0]})
    measure = inference_speed.greedy_decoding
    text = benchmarks.section("decoding", measure, [result], "python scripts/bench.py decoding")
    assert "GPT-2 124M with random weights" in text and "Raises" not in text
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
    monkeypatch.setattr(inference_speed, "PROMPT", 2)
    monkeypatch.setattr(inference_speed, "NEW", 2)
    with pytest.raises(UserError, match="do not decode the same tokens"):
        inference_speed.greedy_decoding(QUICK)


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
    monkeypatch.setattr(inference_speed, "_random_gpt2", lambda depth: peer)
    monkeypatch.setattr(inference_speed.embedded, "documents", lambda: [("text", text)])
    monkeypatch.setattr(inference_speed, "BATCH_SIZES", (2,))
    rows = {"choices": (2, (3, 9), [" yes", (1, 4)]), "texts": (1, (0, 0), [(70, 90)])}
    monkeypatch.setattr(inference_speed, "REQUESTS", rows)
    results = inference_speed.harness_requests(QUICK)
    assert [(r.name, r.work) for r in results] == [
        ("choices (HFLM: batch 2)", 4), ("texts (HFLM: batch 2)", 1)
    ]  # fmt: skip
    wrong = lambda self, requests, **_: [(0.0, False)] * len(requests)  # noqa: E731
    monkeypatch.setattr(harness.LanguageModel, "loglikelihood", wrong)
    with pytest.raises(UserError, match="do not find the same"):
        inference_speed.harness_requests(QUICK)


def small(transformers, depth, kind):
    """The network of configs/bert.py:tiny."""
    config = transformers.BertConfig(
        hidden_size=128,
        num_attention_heads=2,
        intermediate_size=512,
        num_hidden_layers=depth,
        vocab_size=2048,
    )
    return kind(config)


def pretrained(torch, transformers, depth):
    network = small(transformers, depth, transformers.BertForPreTraining)
    return network, lambda batch: peers.pretraining_loss(torch, network, batch)


@pytest.fixture
def tiny(monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    row = training_speed.Row("bert", "tiny", 2, 32, pretrained, training_speed.BOTH)
    monkeypatch.setattr(training_speed, "ROWS", {"tiny": row})
    return row


def test_both_sides_train(tiny):
    assert [r.name for r in training_speed.steps(QUICK)] == [
        "tiny (ours float32, peer float32)", "tiny (ours float32, peer bfloat16)"
    ]  # fmt: skip
    ours = training_speed.our_step(training_speed.config(tiny, "float32", 1))
    batch = peers.tensors(ours.batches[0])
    for step in ours.step, lambda: peers.train_step(pretrained, "float32", 1)[1](batch):
        assert 8 < step() < 9  # log 2048 + log 2
    theirs = peers.train_step(pretrained, "bfloat16", 1)[1]
    for step in ours.step, lambda: theirs(batch):
        first = step()
        assert min(step() for _ in range(20)) < first - 0.05
    with pytest.raises(UserError, match="parameters here"):
        training_speed.check_parameters("tiny", ours.parameters, ours.parameters + 1)


def masked(torch, transformers, depth):
    network = small(transformers, depth, transformers.BertForMaskedLM)
    return network, lambda batch: network(**batch).loss


@pytest.mark.slow
def test_depth_is_compiled_anew_each_time(tiny, monkeypatch):
    monkeypatch.setattr(training_speed, "_BERT", tiny)
    (result,) = training_speed.compilation(benchmarks.Options(repeats=2, quick=True))
    assert result.name == "2 layers" and list(result.measured) == ["so deep", "1 layers"]
    assert min(min(seconds) for seconds in result.measured.values()) > 0.1  # not from the cache


def test_packed_and_padded_tokens_are_counted(tiny, monkeypatch):
    row = tiny._replace(batch_size=8, length=input_speed.LENGTH, peer=masked)
    monkeypatch.setattr(input_speed, "NETWORK", row)
    results = input_speed.packing(QUICK)
    assert [result.name for result in results] == [
        f"embedded (ours float32, peer {dtype})" for dtype in ("float32", "bfloat16")
    ]
    assert all(0 < result.value(side) for result in results for side in result.measured)


def test_masked_batches(monkeypatch):
    pytest.importorskip("datasets")
    pytest.importorskip("transformers")
    monkeypatch.setattr(input_speed, "ROWS", 4)
    (result,) = input_speed.masking(QUICK)
    assert result.work == 2 * 4 * 128 and set(result.measured) == {"ours", "datasets"}


def counted(start):
    steps = []
    return {"parameters": start}, steps.append, lambda: start + len(steps)


def broken():
    raise MemoryError("no room")


def test_sides_in_processes_of_their_own():
    with gpu_speed._Side(counted, 7) as one, gpu_speed._Side(counted, 9) as other:
        assert one.facts() == {"parameters": 7} and other.facts() == {"parameters": 9}
        assert 0 <= one.ask(10) < 1 and 0 <= one.ask(10) < 1
        assert one.ask("memory") == 9 and other.ask("memory") == 9
    with gpu_speed._Side(broken) as side, pytest.raises(UserError, match="no room"):
        side.facts()


def test_a_gpu_is_needed():
    with pytest.raises(UserError, match="JAX has no GPU here"):
        gpu_speed.steps(QUICK)


def test_packed_rows_are_full_rows_for_the_peer():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 2048,
        "hidden_size": 128,
        "num_attention_heads": 2,
        "intermediate_size": 512,
    }
    peer = functools.partial(peers.bert_full_rows, **sizes)
    row = gpu_speed.Row(training_speed.Row("bert", "tiny", 2, 128, peer), packed=True)
    ours = training_speed.our_step(gpu_speed._config(row, 1))
    count, step = peers.train_step(peer, "bfloat16", 1)
    training_speed.check_parameters("tiny", ours.parameters, count)
    assert 7 < step(peers.tensors(ours.batches[0])) < 8.5  # log 2048 = 7.6
    assert ours.planned > 12 * ours.parameters and ours.flops > 6 * 256 * 200_000


@pytest.mark.slow
def test_the_script(tmp_path):
    pytest.importorskip("datasets")
    pytest.importorskip("transformers")
    page = tmp_path / "page.md"
    runs.script("bench.py", "masking", "--quick", f"--output={page}")
    text = page.read_text()
    assert text.startswith("# Benchmarks\n\n## masking\n")
    assert "`python scripts/bench.py masking --quick`" in text and "| ratio |" in text
    assert "Name one benchmark: steps, memory," in runs.script("bench.py", status=2)
    said = runs.script("bench.py", "masking", "--device=gpu", status=2)
    assert "--device=gpu is the benchmark gpu" in said
