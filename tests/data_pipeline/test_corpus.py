"""Corpora are the same whatever interrupts or shares the work, and say what is wrong with text."""

import filecmp
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import ml_collections
import numpy as np
import pytest

from data_pipeline import (
    corpus,
    files,
    records,
    sentences,
    sources,
    tokenizer_training,
)
from errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORDS = "the of and sea shell sun moon river stone tree Mr. Smith walks sings reads slowly".split()


def make_text(documents, seed=0):
    """Documents of random sentences, one paragraph a line, blank lines between documents."""
    rng = random.Random(seed)

    def sentence():
        return " ".join(rng.choices(WORDS, k=rng.randint(3, 12))).capitalize() + "."

    def paragraph():
        return " ".join(sentence() for _ in range(rng.randint(1, 5)))

    return "\n\n".join(
        "\n".join(paragraph() for _ in range(rng.randint(1, 6))) for _ in range(documents)
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text(make_text(300))
    return sources.open_source(str(path))


@pytest.fixture(scope="module", params=["wordpiece", "byte_bpe", "sentencepiece"])
def tokenizer(request, source):
    texts = [d.text for d in source.documents()]
    return tokenizer_training.train(request.param, texts, 300, request.param == "wordpiece")


@pytest.fixture(scope="module")
def wordpiece(source):
    return tokenizer_training.train("wordpiece", [d.text for d in source.documents()], 300, True)


def contents(directory):
    """Every file of a corpus but the lock, as bytes."""
    paths = (p for p in pathlib.Path(directory).rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(directory)): p.read_bytes() for p in paths}


# Corpora


def test_what_a_corpus_holds(tmp_path, source, tokenizer):
    made = corpus.prepare_corpus(source, tokenizer, tmp_path, valid_fraction=0.1, workers=1)
    texts = [d.text for d in source.documents()]
    for split in corpus.SPLITS:
        wanted = [t for t in texts if corpus.held_out(t, 0.1) == (split == "valid")]
        found = [records.decode_arrays(r) for r in records.Records(made.shards(split))]
        counts = made.manifest["splits"][split]
        assert counts["documents"] == len(found) == len(wanted) > 10
        assert counts["tokens"] == sum(len(tokens) for tokens, _ in found)
        assert counts["sentences"] == sum(len(lengths) for _, lengths in found)
        assert counts["bytes"] == sum(len(text.encode()) for text in wanted)
        for text, (tokens, lengths) in zip(wanted, found, strict=True):
            assert lengths.sum() == len(tokens) and lengths.all()
            if tokenizer.kind == "byte_bpe":
                assert len(lengths) == 1 and tokenizer.decode(tokens) == text
                continue
            parts = [s for line in text.split("\n") for s in sentences.split(line)]
            pieces = np.split(tokens, np.cumsum(lengths)[:-1])
            assert [list(p) for p in pieces] == tokenizer.encode_batch(parts)
    assert made.manifest["tokenizer"] == tokenizer.fingerprint
    assert made.manifest["source"] == source.fingerprint()
    assert made.manifest["vocab_size"] == tokenizer.vocab_size
    assert corpus.open_corpus(tmp_path) == made


def test_workers_and_order_of_finishing_change_nothing(tmp_path, source, wordpiece):
    for name, workers in (("one", 1), ("two", 2)):
        corpus.prepare_corpus(
            source,
            wordpiece,
            tmp_path / name,
            valid_fraction=0.1,
            workers=workers,
            shard_bytes=20_000,
        )
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two")
    assert len([name for name in one if name.startswith("train")]) > 3


def test_a_finished_corpus_is_not_made_again(tmp_path, source, wordpiece):
    corpus.prepare_corpus(source, wordpiece, tmp_path, valid_fraction=0.1, workers=1)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.array_record")}
    corpus.prepare_corpus(source, wordpiece, tmp_path, valid_fraction=0.1, workers=1)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.array_record")}


def test_progress_ends_at_all(tmp_path, source, wordpiece):
    seen = []
    corpus.prepare_corpus(
        source,
        wordpiece,
        tmp_path,
        valid_fraction=0.1,
        workers=1,
        shard_bytes=20_000,
        progress=lambda *args: seen.append(args),
    )
    assert len(seen) > 3 and {stage for stage, _, _ in seen} == {"tokenize"}
    done = [d for _, d, _ in seen]
    assert done == sorted(done) and seen[-1][1] == seen[-1][2]


def test_held_out_share():
    texts = [f"text {i}" for i in range(20_000)]
    share = np.mean([corpus.held_out(text, 0.1) for text in texts])
    assert abs(share - 0.1) < 0.01
    kept = [corpus.held_out(text, 0.2) for text in texts if corpus.held_out(text, 0.1)]
    assert all(kept)  # a bigger share holds out the same documents and more


def prepare(arguments):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "scripts/prepare_corpus.py", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True)


def test_sigkill_and_restart_give_the_same_bytes(tmp_path, wordpiece):
    text = tmp_path / "big.txt"
    text.write_text(make_text(16_000))
    wordpiece.save(tmp_path / "vocab")
    flags = [f"--source={text}", f"--tokenizer={tmp_path}/vocab", "--shard_mb=1", "--workers=2"]
    whole = prepare([*flags, f"--output={tmp_path}/whole"])
    assert whole.wait(timeout=300) == 0, whole.stderr.read()

    killed = tmp_path / "killed"
    for finished in (1, 4):  # chunks at the moment of the kill
        process = prepare([*flags, f"--output={killed}"])
        while len(list(killed.glob("chunks/*.json"))) < finished:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (killed / "manifest.json").exists()
    with pytest.raises(UserError, match="holds no finished corpus"):
        corpus.open_corpus(killed)
    kept = {p: p.stat().st_mtime_ns for p in killed.glob("chunks/*.json")}
    last = prepare([*flags, f"--output={killed}"])
    assert last.wait(timeout=300) == 0, last.stderr.read()
    assert contents(killed) == contents(tmp_path / "whole")
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items())  # not made again


def test_two_processes_share_one_folder(tmp_path, wordpiece):
    text = tmp_path / "a.txt"
    text.write_text(make_text(2000))
    wordpiece.save(tmp_path / "vocab")
    flags = [f"--source={text}", f"--tokenizer={tmp_path}/vocab", f"--output={tmp_path}/out"]
    both = [prepare(flags) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]


def test_workers_end_with_a_killed_parent():
    code = (
        "import os, time; from data_pipeline import files\n"
        "if __name__ == '__main__':\n"
        "    pool = files.process_pool(1)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    path = ROOT / "tests"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        worker = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 10
    while runs(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not runs(worker)


def runs(process):
    """Whether a process is there and not a zombie (Linux)."""
    try:
        return bool(pathlib.Path(f"/proc/{process}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


# Vocabularies


def settings(**changes):
    values = {
        "kind": "wordpiece",
        "path": None,
        "vocab_size": 300,
        "lowercase": True,
        "specials": "",
        "sentinels": 0,
    }
    return ml_collections.ConfigDict(values | changes)


def test_a_vocabulary_is_trained_once(tmp_path, source, monkeypatch):
    first = corpus.prepare_tokenizer(source, settings(), tmp_path)
    monkeypatch.setattr(tokenizer_training, "train", None)  # not called again
    assert corpus.prepare_tokenizer(source, settings(), tmp_path).fingerprint == first.fingerprint
    with pytest.raises(TypeError):
        corpus.prepare_tokenizer(source, settings(vocab_size=301), tmp_path)
    (vocabulary,) = tmp_path.rglob("vocab.txt")
    vocabulary.write_text(vocabulary.read_text().replace("sea", "see"))
    with pytest.raises(UserError, match="was changed: delete this folder"):
        corpus.prepare_tokenizer(source, settings(), tmp_path)


def test_a_given_vocabulary_is_loaded(tmp_path, source, wordpiece):
    wordpiece.save(tmp_path / "v")
    found = corpus.prepare_tokenizer(source, settings(path=str(tmp_path / "v")), tmp_path / "c")
    assert found.fingerprint == wordpiece.fingerprint and not (tmp_path / "c").exists()
    with pytest.raises(UserError, match="set the tokenizer's kind to wordpiece"):
        corpus.prepare_tokenizer(
            source, settings(path=str(tmp_path / "v"), kind="byte_bpe"), tmp_path
        )


def test_a_big_source_is_sampled(source, monkeypatch):
    everything = list(corpus.Sample(source, None))
    assert everything == [d.text for d in source.documents()]
    monkeypatch.setattr(corpus, "TRAINING_BYTES", source.size() // 4)
    part = list(corpus.Sample(source, None))
    assert part == list(corpus.Sample(source, None)) and 0.15 < len(part) / len(everything) < 0.35


def test_train_tokenizer_writes_the_published_layout(tmp_path, source):
    flags = [f"--source={source.paths[0]}", "--kind=byte_bpe", "--vocab_size=300"]
    for name in ("a", "b"):
        subprocess.run(
            [sys.executable, "scripts/train_tokenizer.py", *flags, f"--output={tmp_path}/{name}"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
        )
    names = ["merges.txt", "tokenizer_config.json", "vocab.json"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == names
    match, _, _ = filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False)
    assert match == names


# What is refused


def test_too_few_documents(tmp_path, wordpiece):
    text = tmp_path / "one.txt"
    text.write_text("A single document.\n")
    one = sources.open_source(str(text))
    for fraction, split, change in ((0.02, "valid", "raise"), (0.999, "train", "lower")):
        with pytest.raises(UserError, match=f"none falls into {split}.*{change} valid_fraction"):
            corpus.prepare_corpus(one, wordpiece, tmp_path / split, valid_fraction=fraction)


@pytest.mark.parametrize("fraction", [0, 1, -0.1])
def test_bad_fraction(tmp_path, source, wordpiece, fraction):
    with pytest.raises(UserError, match="between 0 and 1"):
        corpus.prepare_corpus(source, wordpiece, tmp_path, valid_fraction=fraction)


def test_a_folder_with_another_corpus(tmp_path, source, wordpiece):
    corpus.prepare_corpus(source, wordpiece, tmp_path, valid_fraction=0.1, workers=1)
    with pytest.raises(UserError, match="begun with another valid_fraction"):
        corpus.prepare_corpus(source, wordpiece, tmp_path, valid_fraction=0.2)
    cased = tokenizer_training.train("wordpiece", [d.text for d in source.documents()], 300, False)
    with pytest.raises(UserError, match="begun with another tokenizer"):
        corpus.prepare_corpus(source, cased, tmp_path, valid_fraction=0.1)


def test_unreadable_text_leaves_no_corpus(tmp_path, wordpiece):
    (tmp_path / "a.txt").write_text(make_text(50))
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    broken = sources.open_source(str(tmp_path))
    with pytest.raises(UserError, match="b.txt is not UTF-8"):
        corpus.prepare_corpus(broken, wordpiece, tmp_path / "out", valid_fraction=0.1, workers=1)
    with pytest.raises(UserError, match="holds no finished corpus"):
        corpus.open_corpus(tmp_path / "out")


def test_a_folder_that_cannot_be_made(tmp_path, source, wordpiece):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        corpus.prepare_corpus(source, wordpiece, tmp_path / "file" / "out", valid_fraction=0.1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--source=nowhere.txt", "--tokenizer_kind=wordpiece"], "There is no file nowhere.txt"),
        (["--source=embedded"], "Give either --tokenizer or"),
        (["nowhere.txt", "--tokenizer_kind=wordpiece"], "is not a flag: give --source=nowhere.txt"),
        (["--tokenizer=nowhere"], "There is no vocabulary at nowhere"),
    ],
)
def test_program_ends_with_one_sentence(flags, message, tmp_path):
    process = prepare([*flags, f"--cache_dir={tmp_path}"])
    output, error = process.communicate(timeout=120)
    assert process.returncode == 2 and output == ""
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_exclusive_waits(tmp_path):
    with files.exclusive(tmp_path):
        code = (
            f"from data_pipeline import files\nwith files.exclusive({str(tmp_path)!r}): print('in')"
        )
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1.5)
    assert process.communicate(timeout=30)[0] == b"in\n"


def test_sentences_of_a_masked_lms_byte_bpe_keep_every_byte(tmp_path):
    text = "One sentence.  Another one! \n\n  A third? Yes.\n"
    t = tokenizer_training.train("byte_bpe", [text] * 4, 280, False, specials="roberta")
    pieces = corpus._pieces(t, text)
    assert pieces == ["One sentence.", "  Another one!", " \n\n  A third?", " Yes.\n"]
    assert corpus._pieces(t, " \n") == [" \n"]
    plain = tokenizer_training.train("byte_bpe", [text] * 4, 280, False)
    assert corpus._pieces(plain, text) == [text]
