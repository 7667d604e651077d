"""Fine-tuning from a published checkpoint on a task that is easily told."""

import json
import pathlib

import jax
import numpy as np
import optax
import pytest
import runs
import vocabularies

import train
from configs import bert, finetune, gpt1, t5, tinybert, xlnet
from data_pipeline import tokenizer_training
from evaluation import load
from model import objectives
from training import checkpoint, huggingface, state

GOOD = "good fine lovely great bright".split()
BAD = "bad poor awful weak dull".split()
NEUTRAL = "film plot story actor scene music the a".split()


def sentences(count, seed):
    """Two neutral words around one that tells the label, the label."""
    rng = np.random.default_rng(seed)
    for label in rng.integers(0, 2, count):
        a, b = rng.choice(NEUTRAL, 2)
        yield f"{a} {rng.choice(GOOD if label else BAD)} {b}", label


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """GLUE with SST-2 and STS-B of such sentences."""
    folder = tmp_path_factory.mktemp("glue")
    for name in ("SST-2", "STS-B"):
        (folder / name).mkdir()
    pair = "sentence1\tsentence2\tscore\n"
    for split, count in (("train", 400), ("dev", 45)):
        rows = list(sentences(count, seed=len(split)))
        lines = [f"{text}\t{label}\n" for text, label in rows]
        (folder / "SST-2" / f"{split}.tsv").write_text("sentence\tlabel\n" + "".join(lines))
        lines = [f"{text}\t{text}\t{4.5 * label + 0.25}\n" for text, label in rows]
        (folder / "STS-B" / f"{split}.tsv").write_text(pair + "".join(lines))
    for split, count in (("Train", 400), ("Dev", 45)):
        rows = "".join(f"{json.dumps(row)}\n" for row in questions(count, seed=len(split)))
        (folder / f"ARC-Easy-{split}.jsonl").write_text(rows)
    return folder


def questions(count, seed):
    """In ARC's layout: three to five sentences, of which one is good."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        choices = rng.integers(3, 6)
        answer = rng.integers(choices)
        words = [rng.choice(GOOD if k == answer else BAD) for k in range(choices)]
        texts = [f"{rng.choice(NEUTRAL)} {word}" for word in words]
        options = [{"label": "ABCDE"[k], "text": text} for k, text in enumerate(texts)]
        stem = " ".join(rng.choice(NEUTRAL, 2))
        yield {
            "id": str(i),
            "question": {"stem": stem, "choices": options},
            "answerKey": "ABCDE"[answer],
        }


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small BERT with its pre-training heads, fresh, in Hugging Face's layout."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = vocabularies.wordpiece(folder, [*GOOD, *BAD, *NEUTRAL])
    config = bert.get_config("tiny,quick=1")
    config.model.vocab_size = tokenizer.vocab_size
    params = parameters(config)
    made = folder / "published"
    huggingface.save(made, config.model, config.objective, params, tokenizer)
    return made


def parameters(config):
    init = state.Init(objectives.build(config, "cpu"), optax.identity())
    return state.unbox(jax.jit(init)(jax.random.key(1)).params)


def config(task, folder, published, model="bert-tiny", **overrides):
    c = finetune.get_config(f"{model},task={task},quick=1")
    c.init_from = str(published)
    c.update_from_flattened_dict(small(folder) | overrides)
    return c


def small(folder):
    """Overrides: a run of seconds on these tasks."""
    return {
        "data.path": str(folder),
        "data.length": 16,
        "model.vocab_size": 5 + len(GOOD + BAD + NEUTRAL),
        "model.dtype": "float32",
        "batch_size": 32,
        "total_steps": 100,
        # Without bias correction so short a run is a matter of luck at this learning rate.
        "optim.lr": 2e-3,
        "optim.bias_correction": True,
        "evals.every": 0,
        "evals.batches": 0,
        "checkpoint.every": 1000,
        "log.tensorboard": False,
        "mesh.data": 1,
        "mesh.fsdp": 8,
    }


@pytest.fixture(scope="module")
def finished(folder, published, tmp_path_factory):
    """(workdir, results) of a run on SST-2."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train.train(config("sst-2", folder, published), workdir)


def test_a_separable_task_is_learned(finished):
    workdir, results = finished
    assert set(results) == {"valid/classification", "valid/accuracy", "valid/loss"}
    assert results["valid/accuracy"] > 0.95  # 45 rows: the last batch is not full
    rows = runs.rows(workdir)
    assert rows[-1]["valid/accuracy"] == results["valid/accuracy"]
    assert rows[0]["train/loss"] > 2 * rows[-2]["train/loss"]


def test_the_same_command_continues(finished, folder, published):
    workdir, results = finished
    assert train.train(config("sst-2", folder, published), workdir) == results


@pytest.mark.slow
def test_tinybert_learns_a_task_from_a_tuned_teacher(finished, folder, tmp_path):
    """In two stages: the layers, then the answers, by which the checkpoint is chosen."""
    teacher, _ = finished
    start = ""
    for stage in ("intermediate", "prediction"):
        c = tinybert.get_config(f"tiny,stage={stage},task=sst-2,quick=1")
        c.update_from_flattened_dict(small(folder) | {"model.depth": 1, "model.heads": 2})
        c.part_from.teacher, c.init_from = str(teacher), start
        results = train.train(c, tmp_path / stage)
        found = [row["train/loss"] for row in runs.rows(tmp_path / stage) if "train/loss" in row]
        assert found[-1] < 0.8 * found[0]
        start = str(tmp_path / stage)
    assert results["valid/accuracy"] > 0.9


@pytest.mark.slow
def test_a_choice_is_learned(folder, published, tmp_path):
    """Of three to five; the network is that of pre-training, the head starts anew."""
    results = train.train(config("arc-easy", folder, published), tmp_path)
    assert set(results) == {"valid/classification", "valid/accuracy", "valid/loss"}
    assert results["valid/accuracy"] > 0.95  # at random: 0.26
    assert runs.rows(tmp_path)[0]["train/loss"] == pytest.approx(np.log([3, 4, 5]).mean(), abs=0.2)
    assert set(load.load(tmp_path).params) == {"network", "pooler", "task_classifier"}
    (path,) = runs.script("predict.py", f"--checkpoint={tmp_path}", f"--out={tmp_path}").split()
    assert pathlib.Path(path).read_text().count("\n") == 45
    given = "--task=arc-easy", f"--predictions={path}", f"--data.path={folder}"
    scores = json.loads(runs.script("score.py", *given))
    assert scores["accuracy"] == pytest.approx(results["valid/accuracy"])


@pytest.mark.slow
def test_regression_is_learned(folder, published, tmp_path):
    results = train.train(config("sts-b", folder, published), tmp_path / "run")
    assert set(results) == {"valid/mse", "valid/loss", "valid/pearson", "valid/spearman"}
    assert results["valid/pearson"] > 0.9 and results["valid/mse"] < 1  # the mean scores 5


@pytest.mark.slow
def test_xlnet_is_tuned_by_its_last_token(folder, tmp_path):
    """From a published checkpoint with its SentencePiece vocabulary; one stream, a new pooler."""
    texts = [text for text, _ in sentences(2000, seed=0)]
    tokenizer = tokenizer_training.train("sentencepiece", texts, 300, False, specials="xlnet")
    made = xlnet.get_config("tiny,quick=1")
    made.model.vocab_size = tokenizer.vocab_size
    huggingface.save(tmp_path / "hf", made.model, made.objective, parameters(made), tokenizer)
    overrides = {"model.vocab_size": tokenizer.vocab_size}
    c = config("sst-2", folder, tmp_path / "hf", model="xlnet-tiny", **overrides)
    assert train.train(c, tmp_path / "run")["valid/accuracy"] > 0.95
    params = load.load(tmp_path / "run").params
    assert set(params) == {"network", "pooler", "task_classifier"}
    assert set(params["network"]["embedder"]) == {"tokens"}


@pytest.mark.slow
def test_t5_answers_a_task_in_words(folder, tmp_path):
    """The dev set is scored by what the decoded texts mean, in training and by the script."""
    texts = [text for text, _ in sentences(2000, seed=0)]
    texts += ["sst2 sentence: positive negative"] * 1000
    tokenizer = tokenizer_training.train(
        "sentencepiece", texts, 420, False, specials="t5", sentinels=100
    )
    made = t5.get_config("tiny,quick=1")
    made.model.vocab_size = tokenizer.vocab_size
    huggingface.save(tmp_path / "hf", made.model, made.objective, parameters(made), tokenizer)
    overrides = {"model.vocab_size": tokenizer.vocab_size, "total_steps": 70}
    overrides |= {"model.dropout": 0.0}
    c = config("sst-2", folder, tmp_path / "hf", model="t5-tiny", **overrides)
    c.data.length, c.data.mixture.target_length = 32, 6
    c.optim.update(name="adamw", lr=3e-3)
    results = train.train(c, tmp_path / "run")
    assert results["valid/accuracy"] > 0.95
    assert {"valid/seq2seq_lm", "valid/z_loss"} < set(results)


@pytest.fixture(scope="module")
def pretrained(published, tmp_path_factory):
    """A workdir with the weights of `published`."""
    workdir = tmp_path_factory.mktemp("pretrained")
    found = huggingface.load(published)
    (workdir / "config.json").write_text(load.published_config(found, published).to_json())
    found.tokenizer.save(workdir / "tokenizer")
    checkpoints = checkpoint.Checkpointer(workdir / "checkpoints", keep=1, keep_best=0)
    checkpoints.save(1, {"params": jax.tree.map(jax.numpy.asarray, found.params)}, meta={})
    checkpoints.close()
    return workdir


@pytest.mark.parametrize("source", ["published", "pretrained"])
def test_it_starts_from_the_pooler_but_not_from_the_pretraining_classifier(
    source, folder, published, tmp_path, request
):
    c = config("sst-2", folder, request.getfixturevalue(source), total_steps=1)
    c.optim.update(lr=0.0, warmup_steps=0)
    train.train(c, tmp_path / "run")
    theirs = huggingface.load(published).params
    ours = load.load(tmp_path / "run").params
    assert set(ours) == {"network", "pooler", "task_classifier"}
    for name in ("network", "pooler"):
        jax.tree.map(np.testing.assert_array_equal, ours[name], theirs[name])
    assert (
        ours["task_classifier"]["dense"]["kernel"] != theirs["classifier"]["dense"]["kernel"]
    ).any()


@pytest.fixture(scope="module")
def gpt1_published(tmp_path_factory):
    """A small GPT-1, fresh, in Hugging Face's layout, with a vocabulary of 264 tokens."""
    texts = [" ".join(GOOD + BAD + NEUTRAL)] * 20
    tokenizer = tokenizer_training.train("word_bpe", texts, 264, lowercase=True)
    config = gpt1.get_config("tiny,quick=1")
    config.model.vocab_size = tokenizer.vocab_size
    folder = tmp_path_factory.mktemp("gpt1")
    huggingface.save(folder, config.model, config.objective, parameters(config), tokenizer)
    return folder


def gpt1_config(task, folder, published, **overrides):
    page = finetune.get_config(f"gpt1-tiny,task={task},quick=1")
    c = config(task, folder, published)
    c.model, c.objective = page.model, page.objective
    c.data.update(pipeline=page.data.pipeline, length=32)
    c.data.tokenizer = page.data.tokenizer
    vocab_size = huggingface.load(published).model["vocab_size"] + 3
    c.model.update(vocab_size=vocab_size, dtype="float32", dropout=0.0, attention_dropout=0.0)
    c.update_from_flattened_dict(overrides)
    return c


@pytest.mark.slow
def test_gpt1_learns_a_task_beside_its_language(folder, gpt1_published, tmp_path):
    results = train.train(gpt1_config("sst-2", folder, gpt1_published), tmp_path)
    assert set(results) == {
        f"valid/{n}" for n in ("classification", "accuracy", "loss", "causal_lm")
    }
    assert results["valid/accuracy"] > 0.95
    wanted = results["valid/classification"] + 0.5 * results["valid/causal_lm"]
    assert results["valid/loss"] == pytest.approx(wanted, rel=1e-5)
    assert load.load(tmp_path).tokenizer.start_id is not None


@pytest.mark.slow
def test_gpt1_learns_a_choice(folder, gpt1_published, tmp_path):
    results = train.train(gpt1_config("arc-easy", folder, gpt1_published), tmp_path)
    assert results["valid/accuracy"] > 0.95
    wanted = results["valid/classification"] + 0.5 * results["valid/causal_lm"]
    assert results["valid/loss"] == pytest.approx(wanted, rel=1e-5)


def test_gpt1_grows_by_its_special_tokens(folder, gpt1_published, tmp_path):
    """Both orders of a pair; without learning, all but three rows are those of the checkpoint."""
    c = gpt1_config("sts-b", folder, gpt1_published, total_steps=1)
    c.optim.update(lr=0.0, warmup_steps=0)
    train.train(c, tmp_path)
    theirs = huggingface.load(gpt1_published).params["network"]
    ours = load.load(tmp_path).params["network"]
    table = np.asarray(ours["embedder"]["tokens"].pop("table"))
    before = theirs["embedder"]["tokens"].pop("table")
    np.testing.assert_array_equal(table[:-3], before)
    assert table[-3:].std() == pytest.approx(0.02, rel=0.25)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_the_evaluation_script_reads_the_dev_file(finished, folder):
    workdir, results = finished
    printed = runs.script("evaluate.py", f"--checkpoint={workdir}", "--step=best")
    printed = dict(line.split() for line in printed.splitlines())
    assert float(printed["accuracy"]) == pytest.approx(results["valid/accuracy"], abs=1e-4)
    assert "unigram_entropy" not in printed


def test_predictions_are_written_and_scored(finished, folder, tmp_path):
    """The file of the dev set scores what the training measured; there is one of the test set."""
    workdir, results = finished
    (path,) = runs.script("predict.py", f"--checkpoint={workdir}", f"--out={tmp_path}").split()
    assert path == str(tmp_path / "SST-2.tsv")
    scored = json.loads(
        runs.script("score.py", "--task=glue", f"--predictions={tmp_path}", f"--data.path={folder}")
    )
    assert scored["sst-2"] == {"accuracy": pytest.approx(results["valid/accuracy"])}
    assert scored["averages"] == {}

    texts = [GOOD[0], BAD[0], GOOD[1]]
    lines = [f"{10 + i}\tthe {text} film\n" for i, text in enumerate(texts)]
    (tmp_path / "test.tsv").write_text("index\tsentence\n" + "".join(lines))
    runs.script(
        "predict.py",
        *(f"--checkpoint={workdir}", "--split=test", "--step=best", f"--out={tmp_path}"),
        f"--data.path={tmp_path}",
    )
    assert (tmp_path / "SST-2.tsv").read_text() == "index\tprediction\n10\t1\n11\t0\n12\t1\n"


@pytest.mark.slow
def test_a_model_of_mnli_predicts_all_of_it(published, tmp_path):
    """The other half and the diagnostic set; what is not there is left out."""
    (tmp_path / "MNLI").mkdir()
    (tmp_path / "diagnostic").mkdir()
    head = "index\tsentence1\tsentence2\tgold_label\n"
    rows = "".join(f"{i}\tthe film\tthe plot\t{x}\n" for i, x in enumerate(["neutral"] * 32))
    for name in ("train", "dev_matched"):
        (tmp_path / "MNLI" / f"{name}.tsv").write_text(head + rows)
    pair = "index\tsentence1\tsentence2\n5\tthe film\tthe plot\n6\tthe plot\tthe film\n"
    (tmp_path / "MNLI" / "test_matched.tsv").write_text(pair)
    (tmp_path / "diagnostic" / "diagnostic.tsv").write_text(pair)
    workdir, out = tmp_path / "run", tmp_path / "out"
    c = config("mnli", tmp_path, published, total_steps=5)
    c.optim.update(lr=5e-3, warmup_steps=0)
    assert train.train(c, workdir)["valid/accuracy"] == 1.0
    printed = runs.script("predict.py", f"--checkpoint={workdir}", f"--out={out}", "--split=test")
    assert printed.split() == [str(out / "MNLI-m.tsv"), str(out / "AX.tsv")]
    assert (out / "AX.tsv").read_text() == "index\tprediction\n5\tneutral\n6\tneutral\n"
