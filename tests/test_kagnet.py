"""KagNet from triples to answers: only the graph can tell them, and it does."""

import json
import shutil

import graphs
import jax
import numpy as np
import optax
import pytest
import runs
import vocabularies

import train
from configs import bert, finetune, kagnet
from data_pipeline.knowledge import store
from errors import UserError
from evaluation import load
from model import objectives
from training import huggingface, state

pytest.importorskip("simplemma")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """graph, commonsense_qa_v1.0 and published (a small BERT)."""
    root = tmp_path_factory.mktemp("kagnet")
    home = graphs.folder(root / "graph")
    graphs.questions(root / "commonsense_qa_v1.0", home, unknown=True)
    tokenizer = vocabularies.wordpiece(root, graphs.WORDS)
    c = bert.get_config("tiny,quick=1")
    c.model.vocab_size = tokenizer.vocab_size
    init = state.Init(objectives.build(c, "cpu"), optax.identity())
    params = state.unbox(jax.jit(init)(jax.random.key(1)).params)
    huggingface.save(root / "published", c.model, c.objective, params, tokenizer)
    return root


def config(folder, page=kagnet, arg="tiny,task=commonsenseqa-1.0,quick=1", **overrides):
    c = page.get_config(arg)
    c.init_from = str(folder / "published")
    c.data.path, c.data.cache_dir = str(folder), str(folder / "cache")
    c.data.length, c.model.vocab_size = 12, 5 + len(graphs.WORDS)
    c.model.update(dtype="float32", dropout=0.0, attention_dropout=0.0)
    c.batch_size, c.total_steps = 32, 80
    c.optim.update(lr=3e-3, bias_correction=True, lr_factors=())
    c.evals.update(every=0, batches=0)
    c.checkpoint.every = 1000
    c.log.tensorboard = False
    c.mesh.update(data=8, fsdp=1, tensor=1)
    if page is kagnet:
        c.data.graphs.path = str(folder / "graph")
    c.update_from_flattened_dict(overrides)
    return c


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train.train(config(folder), workdir)


def test_the_graph_tells_what_the_text_does_not(folder, finished, tmp_path):
    """32 things that no training question names, and a question without a concept."""
    workdir, results = finished
    assert results["valid/accuracy"] > 0.9
    assert results["valid/grounded"] == pytest.approx(32 / 33)
    c = config(folder, finetune, "model=bert-tiny,task=commonsenseqa-1.0,quick=1")
    alone = train.train(c, tmp_path / "text")
    assert alone["valid/accuracy"] < 0.7
    assert runs.rows(workdir)[-1]["valid/accuracy"] == results["valid/accuracy"]


def test_training_starts_from_the_vectors_and_moves_them(folder, finished, tmp_path):
    c = config(folder, **{"total_steps": 1, "optim.lr": 0.0, "optim.warmup_steps": 0})
    train.train(c, tmp_path / "run")
    fresh, trained = (load.load(x).params["graph"] for x in (tmp_path / "run", finished[0]))
    found = store.load(folder / "graph")
    table = np.asarray(fresh["concepts"]["table"]["table"])
    assert not table[0].any() and not table[1 + len(found.entities) :].any()
    np.testing.assert_array_equal(table[1 : 1 + len(found.entities)], found.entity_vectors)
    relations = np.asarray(fresh["paths"]["relations"]["table"])
    np.testing.assert_array_equal(relations[1:18], found.relation_vectors)
    np.testing.assert_array_equal(relations[18:], found.relation_vectors)
    assert np.abs(np.asarray(trained["concepts"]["table"]["table"]) - table).max() > 1e-3


@pytest.mark.slow
def test_the_codes_form_keeps_the_encoder(folder, tmp_path):
    c = config(folder, arg="tiny,task=commonsenseqa-1.0,form=code,quick=1")
    c.optim.lr, c.total_steps = 1e-2, 60
    results = train.train(c, tmp_path / "run")
    assert results["valid/accuracy"] > 0.9
    given = load.load(folder / "published").params["network"]
    kept = load.load(tmp_path / "run").params["network"]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(kept), jax.device_get(given))


def test_a_choice_is_explained(folder, finished, tmp_path):
    """The right path is what it looks at; a question without concepts says so."""
    picture = tmp_path / "new" / "why.png"
    flags = [f"--checkpoint={finished[0]}", f"--out={picture}"]
    printed = runs.script("explain.py", *flags)
    first = json.loads(
        (folder / "commonsense_qa_v1.0" / "dev_rand_split.jsonl").read_text().split("\n")[0]
    )
    assert first["question"]["stem"] in printed
    right = next(
        x["text"] for x in first["question"]["choices"] if x["label"] == first["answerKey"]
    )
    assert f"{graphs.THINGS[int(first['id'])]} -atlocation-> {right}" in printed
    assert "chosen, right" in printed and "-relatedto->" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = runs.script("explain.py", flags[0], "--question=x")
    assert printed.count("no pair of concepts") == 3
    told = runs.script("explain.py", flags[0], "--question=y", status=2)
    assert "There is no question 'y'" in told


def test_another_graph_than_that_of_training_is_told(folder, finished, tmp_path):
    shutil.copytree(folder / "graph", tmp_path / "graph")
    names = tmp_path / "graph" / "entities.txt"
    first, second, *rest = names.read_text().splitlines()
    names.write_text("\n".join([second, first, *rest, ""]))
    other = json.loads((finished[0] / "config.json").read_text())
    assert other["data"]["graphs"]["digest"] == store.digest(folder / "graph")
    flags = [f"--checkpoint={finished[0]}", f"--override=data.graphs.path={tmp_path / 'graph'}"]
    told = runs.script("evaluate.py", *flags, status=2)
    assert "numbers concepts otherwise" in told


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.graphs.path": "/does/not/exist"}, "holds no vectors.safetensors"),
        ({"data.graphs.hops": 0}, "data.graphs.hops=0 must be at least 1"),
        ({"data.graphs.concepts": 3}, "no room for a path of 2 hops"),
        ({"objective.loss": "hinge"}, "Unknown config.objective.loss"),
        ({"objective.reasoner.gcn_form": "mean"}, "Choose one of: code, paper"),
        ({"objective.reasoner.lstm": 0}, "must be at least 1"),
        ({"optim.lr_factors": (("^graph/",),)}, "must be pairs"),
        ({"data.task": "commonsense"}, "Did you mean 'commonsenseqa'"),
    ],
)
def test_a_wrong_value_is_told(overrides, message, folder, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        train.train(config(folder, **overrides), tmp_path / "run")
    assert "\n" not in str(error.value)


def test_a_missing_graph_is_told(folder, tmp_path):
    c = config(folder)
    c.data.graphs.path = None
    with pytest.raises(UserError, match="config.data.graphs.path is not set"):
        train.train(c, tmp_path / "run")
