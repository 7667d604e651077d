"""TinyBERT's augmentation: what is replaced, how often, and by what."""

import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from data_pipeline import noise
from data_pipeline.tasks import TASKS, glue
from errors import UserError
from evaluation import augmentation, fill_mask, word_vectors

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = ["The quick fox jumps!", "a cat slept on the mat", "dogs and 7 lazys", ""]


@pytest.fixture(scope="module")
def finder(bert, wordpiece):
    return augmentation.CandidateFinder(*bert, wordpiece, batch_size=4)


def best(model, tokenizer, text, place, count):
    """The masked LM's candidates for one word, from the model on that one row without padding."""
    objective, params = model
    pieces = [tokenizer.token_to_id(p) for p in text.split()]
    masked = list(pieces)
    masked[place] = tokenizer.mask_id
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    ids = np.int32([[cls, *masked, sep, *pieces, sep]])
    batch = {
        "tokens": ids,
        "token_types": (np.arange(ids.shape[1]) >= len(pieces) + 2).astype(np.int32)[None],
        "segment_ids": np.ones_like(ids),
        "positions": np.arange(ids.shape[1], dtype=np.int32)[None],
        "masked_positions": np.int32([[place + 1]]),
        "pair_positions": np.zeros((1, 1), np.int32),
    }
    logits = objective.apply({"params": params}, batch, method="predict")["logits"][0, 0]
    order = np.argsort(-np.asarray(logits[: tokenizer.vocab_size]))[:count]
    tokens = [tokenizer.id_to_token(i) for i in order]
    return [t for t in tokens if not t.startswith(("##", "["))]


def test_candidates_of_words_of_one_piece_are_the_models(bert, wordpiece, finder):
    found = finder.find(TEXTS, 6)
    assert found[0].words == ["the", "quick", "fox", "jumps", "!"]
    assert sorted(found[0].candidates) == [1, 2, 3]  # neither a stop word nor a mark
    assert sorted(found[1].candidates) == [1, 2, 5]
    assert found[3] == ([], {})
    assert found[1].candidates[2] == best(bert, wordpiece, TEXTS[1], 2, 6)
    assert found[1].candidates[5] == best(bert, wordpiece, TEXTS[1], 5, 6)
    text = "the quick fox jumps [UNK]"
    assert found[0].candidates[2] == best(bert, wordpiece, text, 2, 6)


def test_candidates_of_other_words_are_the_nearest(bert, wordpiece, finder):
    (found,) = finder.find(TEXTS[2:3], 3)
    assert found.words == ["dogs", "and", "7", "lazys"] and sorted(found.candidates) == [0, 3]
    table = np.asarray(bert[1]["network"]["embedder"]["tokens"]["table"])
    pieces = [wordpiece.token_to_id(t) for t in ("dog", "##s")]
    vector = table[pieces].mean(axis=0)
    cosines = table @ vector / np.linalg.norm(table, axis=1)
    words = [i for i in range(wordpiece.vocab_size) if wordpiece.id_to_token(i).isalpha()]
    nearest = sorted(words, key=lambda i: -cosines[i])[:3]
    assert found.candidates[0] == [wordpiece.id_to_token(i) for i in nearest]


def test_a_word_that_the_model_cannot_see_stays(finder):
    (found,) = finder.find(["fox " * 80], 3)  # 64 positions
    assert sorted(found.candidates) == list(range(63))


def test_texts_of_similar_length_share_a_compilation(finder):
    finder.find(TEXTS, 5)
    fill_mask._best.clear_cache()
    finder.find(TEXTS, 5)
    finder.find(["a fox", "quick dogs sat", "brown cat on a mat"], 5)
    assert fill_mask._best._cache_size() == 1


# Copies

WORDS = augmentation.Words(
    [f"w{i}" for i in range(40)], {i: [f"c{i}.{j}" for j in range(5)] for i in range(30)}
)


def test_words_are_replaced_at_the_rate_asked_for_by_any_candidate_alike():
    settings = augmentation.Settings(replace=0.4, copies=400)
    copies = augmentation.variants(WORDS, noise.make_keys(0, 0, 0), settings)
    assert len(copies) == 400  # so many words: no two are equal
    changed = np.array([[c != w for c, w in zip(copy, WORDS.words)] for copy in copies])
    assert not changed[:, 30:].any()
    count = 400 * 30
    error = math.sqrt(0.4 * 0.6 / count)
    assert abs(changed[:, :30].mean() - 0.4) < 3 * error
    # Each word by itself, and not one with the next.
    assert np.abs(changed[:, :30].mean(axis=0) - 0.4).max() < 4.5 * math.sqrt(0.4 * 0.6 / 400)
    both = (changed[:, :29] & changed[:, 1:30]).mean()
    assert abs(both - 0.16) < 3 * math.sqrt(0.16 * 0.84 / (400 * 29))
    choices = [int(w.split(".")[1]) for copy in copies for w in copy if "." in w]
    share = np.bincount(choices, minlength=5) / len(choices)
    assert np.abs(share - 0.2).max() < 3 * math.sqrt(0.2 * 0.8 / len(choices))


def test_copies_differ_from_each_other_and_from_the_text():
    words = augmentation.Words(["a", "good", "film"], {1: ["good", "bad"], 2: ["plot"]})
    key = noise.make_keys(0, 0, 0)
    copies = augmentation.variants(words, key, augmentation.Settings(copies=200))
    assert sorted(copies) == [["a", "bad", "film"], ["a", "bad", "plot"], ["a", "good", "plot"]]
    assert augmentation.variants(words, key, augmentation.Settings(replace=0.0)) == []
    assert augmentation.variants(words._replace(candidates={}), key, augmentation.Settings()) == []


def test_copies_are_a_pure_function_of_the_key():
    settings = augmentation.Settings()
    first = augmentation.variants(WORDS, noise.make_keys(3, 1, 0), settings)
    assert first == augmentation.variants(WORDS, noise.make_keys(3, 1, 0), settings)
    assert first[:5] == augmentation.variants(
        WORDS, noise.make_keys(3, 1, 0), settings._replace(copies=5)
    )
    for other in ((4, 1, 0), (3, 2, 0), (3, 1, 1)):
        assert first != augmentation.variants(WORDS, noise.make_keys(*other), settings)


def table(task, *rows):
    columns = tuple(["index", *task.texts, task.label])
    return glue.Table(pathlib.Path("train.tsv"), columns, "\t".join(columns), [*map(list, rows)])


def test_of_a_pair_one_text_changes_at_a_time(finder):
    rte = TASKS["rte"]
    rows = [
        ("0", "The fox Jumps!", "A cat sat.", "entailment"),
        ("1", "the lazy dog", "a brown fox", "not_entailment"),
    ]
    settings = augmentation.Settings(copies=6, candidates=8)
    made = list(augmentation.augment(rte, table(rte, *rows), finder, settings))
    for row in map(list, rows):
        mine = [m for m in made if m[0] == row[0]]
        assert mine[0] == row  # first, as it is
        assert all(m[3] == row[3] for m in mine)
        first, second = ([m for m in mine[1:] if m[j] == row[j]] for j in (2, 1))
        assert len(first) + len(second) == len(mine) - 1
        assert mine[1:] == first + second and first and second
        assert len({tuple(m) for m in mine}) == len(mine)


def test_the_same_rows_whatever_the_batch_and_the_chunk(bert, wordpiece, monkeypatch):
    sst = TASKS["sst-2"]
    rows = [(str(i), f"the {a} {b} sat", "1") for i, (a, b) in enumerate(
        (a, b) for a in ("lazy", "quick", "brown") for b in ("dog", "fox", "dogs")
    )]  # fmt: skip
    settings = augmentation.Settings(copies=4)

    def made(batch_size):
        finder = augmentation.CandidateFinder(*bert, wordpiece, batch_size=batch_size)
        return list(augmentation.augment(sst, table(sst, *rows), finder, settings))

    whole = made(4)
    monkeypatch.setattr(augmentation, "CHUNK", 2)
    assert made(16) == whole
    settings = settings._replace(seed=1)
    assert made(16) != whole


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(replace=1.5), "replace=1.5 must be between 0 and 1"),
        (dict(candidates=0), "must be at least 1"),
        (dict(copies=0), "must be at least 1"),
    ],
)
def test_wrong_numbers_are_told(finder, settings, message):
    rte = TASKS["rte"]
    with pytest.raises(UserError, match=message):
        list(augmentation.augment(rte, table(rte), finder, augmentation.Settings(**settings)))


def test_a_vocabulary_without_words_is_told(bert, byte_bpe):
    with pytest.raises(UserError, match="not of byte_bpe"):
        augmentation.CandidateFinder(*bert, byte_bpe)


# Word vectors


def test_nearest_words_of_a_glove_file(tmp_path):
    path = tmp_path / "glove.txt"
    lines = ["good 1 0 0", "fine 2 0.2 0", "bad -1 0 0", ". . 0 0 1", "plot 0 1 0"]
    path.write_text("\n".join(lines) + "\n")
    vectors = word_vectors.read_glove(path)
    assert vectors.words == ["good", "fine", "bad", ". .", "plot"]
    assert vectors.nearest("good", 2) == ["fine", ". ."]  # at cosine 0 the order of the file
    assert vectors.nearest("Good", 1) == ["Fine"]
    assert vectors.nearest("good", 99) == ["fine", ". .", "plot", "bad"]
    assert vectors.nearest("unheard", 2) == []
    assert word_vectors.read_glove(path, rows=2).words == ["good", "fine"]


@pytest.mark.parametrize("text", ["", "good 1 0\nbad 1\n", "good 1 x\n", "good\n", "good 1 nan\n"])
def test_wrong_vectors_are_told(tmp_path, text):
    path = tmp_path / "glove.txt"
    path.write_text(text)
    with pytest.raises(UserError, match="cannot be read as word vectors") as error:
        word_vectors.read_glove(path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be read as word vectors"):
        word_vectors.read_glove(tmp_path / "nowhere")


# The script


def test_the_script_writes_a_training_file(bert_workdir, tmp_path):
    (tmp_path / "CoLA").mkdir()
    lines = 'a\t1\t\tThe fox "jumps.\nb\t0\t*\tdogs cat slept the\n'
    (tmp_path / "CoLA" / "train.tsv").write_text(lines)
    glove = tmp_path / "glove.txt"
    glove.write_text("dogs 1 0\nwolves 1 0.1\nmat 0 1\n")
    output = tmp_path / "augmented.tsv"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "scripts" / "augment.py", f"--checkpoint={bert_workdir}"]
    command += ["--task=cola", f"--data={tmp_path}", f"--output={output}"]
    flags = [f"--vectors={glove}", "--copies=8", "--candidates=1", "--replace=0.9"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    found = glue.read(TASKS["cola"], output, "train")
    assert f"{len(found)} rows from 2" in done.stdout
    texts = [e.texts[0] for e in found]
    assert texts[0] == 'The fox "jumps.'
    start = texts.index("dogs cat slept the")
    assert [e.label for e in found] == [1.0] * start + [0.0] * (len(found) - start)
    assert any(text.startswith("wolves ") for text in texts[start:])
    assert len(set(texts)) == len(texts)
    done = subprocess.run([*command, "--copies=0"], capture_output=True, text=True, env=env)
    assert done.returncode == 2 and done.stderr.startswith("error: candidates and copies")
