"""The two programs, each in a process of its own, as a user runs them."""

import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(script, *args, stdin="", status=0):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "scripts" / script, *map(str, args)]
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, env=env, encoding="utf-8"
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def test_generate_continues(gpt_workdir):
    workdir = gpt_workdir[0]
    args = (f"--checkpoint={workdir}", "--max_tokens=8", "--samples=2", "--top_k=20")
    text = run("generate.py", *args, "--prompt=the cat", "--prompts=-", stdin="a dog\n\n")
    blocks = text.split("--- prompt ")
    assert [block.split("\n")[0] for block in blocks[1:]] == [
        "1, sample 1", "1, sample 2", "2, sample 1", "2, sample 2"
    ]  # fmt: skip
    assert blocks[1].split("\n", 1)[1].startswith("the cat")
    assert blocks[4].split("\n", 1)[1].startswith("a dog")
    again = run("generate.py", *args, "--prompt=the cat", "--prompt=a dog")
    assert again == text


def test_generate_answers(t5_workdir):
    args = (f"--checkpoint={t5_workdir}", "--max_tokens=8", "--temperature=0")
    text = run("generate.py", *args, "--prompt=the <extra_id_0> cat", "--prompt=a dog")
    blocks = text.split("--- prompt ")
    assert [block.split("\n")[0] for block in blocks[1:]] == ["1, sample 1", "2, sample 1"]
    assert "cat\n" != blocks[1].split("\n", 1)[1] != blocks[2].split("\n", 1)[1]  # no prompts
    error = run("generate.py", *args, "--prompt=<extra_id_20>", status=2)
    assert "has 20 sentinels" in error and error.count("\n") == 1


def test_generate_fills_masks(bert_workdir):
    text = run(
        "generate.py",
        f"--checkpoint={bert_workdir}",
        "--prompt=the [MASK] sat on the [MASK] .",
        "--top_k=3",
    )
    sentence, *masks = text.splitlines()
    assert sentence == "the [MASK] sat on the [MASK] ."
    assert [mask.split(":")[0] for mask in masks] == ["  mask 1", "  mask 2"]
    assert all(mask.count("%") == 3 for mask in masks)


@pytest.mark.parametrize(
    "args, message",
    [
        ((), "There is nothing to do"),
        (("--prompts=/no/such/file",), "/no/such/file cannot be read"),
        (("--prompt=the", "--beams=2", "--top_k=3"), "Beam search does not draw"),
    ],
)
def test_generate_tells_mistakes_in_a_line(gpt_workdir, args, message):
    error = run("generate.py", f"--checkpoint={gpt_workdir[0]}", *args, status=2)
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.slow
def test_evaluate_measures_another_objective(t5_workdir, tmp_path):
    documents = [f"the cat sat on mat {i} and it slept ." for i in range(100, 400)]
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    results = []
    for name in ("spans", "prefix_lm"):
        found = run(
            "evaluate.py",
            f"--checkpoint={t5_workdir}",
            f"--data.source={tmp_path / 'text.txt'}",
            "--data.layout=blank_lines",
            "--data.length=32",
            "--data.valid_fraction=0.2",
            f"--data.cache_dir={tmp_path / 'cache'}",
            f"--override=data.corruption.name={name}",
        )
        results.append(dict(line.split() for line in found.splitlines()))
    names = {"seq2seq_lm", "z_loss", "accuracy", "loss", "unigram_entropy"}
    assert set(results[0]) == set(results[1]) == names
    assert results[0]["loss"] != results[1]["loss"]


def test_evaluate(gpt_workdir, byte_bpe, tmp_path):
    workdir, config, _ = gpt_workdir
    # All documents have as many tokens and bytes: it does not matter which are held out.
    documents = [f"the cat sat on mat {i} and it slept ." for i in range(100, 400)]
    tokens = {len(byte_bpe.encode(document)) for document in documents}
    size = {len(document.encode()) for document in documents}
    assert len(tokens) == len(size) == 1
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    found = run(
        "evaluate.py",
        f"--checkpoint={workdir}",
        "--step=best",
        f"--data.source={tmp_path / 'text.txt'}",
        "--data.layout=blank_lines",
        "--data.valid_fraction=0.2",
        f"--data.cache_dir={tmp_path / 'cache'}",
        f"--json={tmp_path / 'results.json'}",
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert {line.split()[0] for line in found.splitlines()} == set(results) == {
        "causal_lm", "accuracy", "loss", "perplexity", "unigram_entropy", "bits_per_byte"
    }  # fmt: skip
    assert results["loss"] > results["unigram_entropy"]  # the weights are random
    bits = results["loss"] / math.log(2) * (tokens.pop() + 1) / size.pop()
    assert results["bits_per_byte"] == pytest.approx(bits)


def test_perplexity(gpt_workdir, tmp_path):
    text, results = tmp_path / "text.txt", tmp_path / "results.json"
    text.write_text("the cat sat on the mat and it slept . " * 9)
    args = f"--checkpoint={gpt_workdir[0]}", f"--text={text}", "--stride=16", f"--json={results}"
    found = run("perplexity.py", *args)
    written = json.loads(results.read_text())
    assert [line.split()[0] for line in found.splitlines()] == list(written) == [
        "tokens", "token_perplexity", "words", "bytes", "word_perplexity", "bits_per_byte"
    ]  # fmt: skip
    assert written["words"] == 90
    error = run("perplexity.py", *args[:2], "--stride=65", status=2)
    assert "Windows of 64 tokens cannot begin every 65" in error and error.count("\n") == 1


@pytest.mark.slow
def test_fewshot(gpt_workdir, tmp_path):
    pytest.importorskip("lm_eval")
    lines = [json.dumps({"text": f"the cat sat on the {word}"}) for word in ("mat", "dog", "fox")]
    (tmp_path / "lambada").mkdir()
    (tmp_path / "lambada/lambada_test.jsonl").write_text("\n".join(lines))
    args = f"--checkpoint={gpt_workdir[0]}", "--task=lambada", f"--data={tmp_path}"
    found = run("fewshot.py", *args, "--shots=0", "--shots=1", f"--out={tmp_path / 'page'}")
    assert "3 documents of the split test" in found
    assert "| checkpoint | parameters | K = 0 | K = 1 |" in found
    page = (tmp_path / "page/fewshot.md").read_text()
    assert page.endswith(found) and "`python scripts/fewshot.py --checkpoint=" in page
    error = run("fewshot.py", *args[:2], f"--data={tmp_path / 'no'}", status=2)
    assert "There is no folder" in error and error.splitlines()[-1].startswith("error: ")


def test_predict_looks_at_the_folder_of_its_files_first(tmp_path):
    """Before the checkpoint, which is not there either."""
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "folder"
    nowhere = tmp_path / "nowhere"
    error = run("predict.py", f"--checkpoint={nowhere}", f"--out={out}", status=2)
    assert f"{out} cannot be written" in error and error.count("\n") == 1
