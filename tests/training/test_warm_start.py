"""Starting weights: groups that both sides have, layers that are chosen, parts from other runs."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny

from data_pipeline import entities, tokenizer_training
from errors import UserError
from model.objectives import distill
from training import checkpoint, huggingface, warm_start

DEPTH = 4


@pytest.fixture(scope="module")
def tokenizer():
    texts = [f"the {a} {b} sees it" for a in ("red", "old", "new") for b in ("cat", "dog")]
    return tokenizer_training.train("wordpiece", texts, 300, True)


@pytest.fixture(scope="module")
def teacher(tokenizer, tmp_path_factory):
    """The workdir of a BERT with four layers, and its parameters."""
    c = tiny.config("bert", **{"model.depth": DEPTH})
    return save(tmp_path_factory.mktemp("teacher"), c, tiny.params(c), tokenizer)


def save(workdir, c, params, tokenizer):
    checkpoints = checkpoint.Checkpointer(workdir / "checkpoints", keep=1, keep_best=0)
    checkpoints.save(5, {"params": params}, meta={})
    checkpoints.close()
    tokenizer.save(workdir / "tokenizer")
    (workdir / "config.json").write_text(json.dumps(c.to_dict(), default=str))
    return workdir, params


def student_config(depth, layers=(), **weights):
    c = tiny.config("bert", **{"model.depth": depth})
    c.model.token_types = 0
    c.objective = dict(
        name="distill",
        classes=0,
        teacher={},
        weights=dict.fromkeys(distill.TERMS, 0.0) | weights,
        temperature=2.0,
        mapping="uniform",
        shared_projection=False,
        logit_chunks=1,
    )
    c.init_layers = layers
    return c


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_student_starts_from_chosen_layers(teacher, tokenizer, caplog):
    folder, theirs = teacher
    c = student_config(2, layers=(0, 3), soft=1.0)
    c.part_from.teacher = c.init_from = str(folder)
    warm_start.complete(c)
    assert c.objective.teacher.depth == DEPTH and c.data.tokenizer.path == f"{folder}/tokenizer"
    with caplog.at_level(logging.WARNING):
        ours = warm_start.load_params(c, tiny.params(c), tokenizer)
    assert "token_types" in caplog.text and "no teacher: it starts anew" not in caplog.text
    same(ours["teacher"], {k: theirs[k] for k in ("network", "masked_lm")})
    same(ours["masked_lm"], theirs["masked_lm"])
    same(
        ours["network"]["stack"],
        jax.tree.map(lambda x: np.asarray(x)[[0, 3]], theirs["network"]["stack"]),
    )
    same(ours["network"]["embedder"]["tokens"], theirs["network"]["embedder"]["tokens"])


def test_groups_that_one_side_lacks_are_left_out(teacher, tokenizer, caplog):
    folder, theirs = teacher
    c = student_config(DEPTH, hidden=1.0)
    c.model.token_types = 2
    c.part_from.teacher = c.init_from = str(folder)
    warm_start.complete(c)
    fresh = tiny.params(c)
    with caplog.at_level(logging.WARNING):
        ours = warm_start.load_params(c, fresh, tokenizer)
    assert "has no project_hidden: it starts anew" in caplog.text
    same(ours["network"], theirs["network"])
    same(ours["project_hidden"], fresh["project_hidden"])


def test_a_published_teacher(tokenizer, tmp_path):
    c = tiny.config("bert")
    params = tiny.params(c)
    huggingface.save(tmp_path / "hf", c.model, c.objective, params, tokenizer=None)
    c = student_config(1, layers=(1,), soft=1.0)
    c.part_from.teacher = c.init_from = str(tmp_path / "hf")
    c.data.tokenizer.path = "given"
    warm_start.complete(c)
    assert c.objective.teacher.dtype == "float32" and c.data.tokenizer.path == "given"
    ours = warm_start.load_params(c, tiny.params(c), tokenizer)
    same(ours["teacher"]["network"], params["network"])
    stack = jax.tree.map(lambda x: np.asarray(x)[[1]], params["network"]["stack"])
    same(ours["network"]["stack"], stack)


def test_both_parts_of_a_two_stage_electra(tokenizer, tmp_path):
    stage_one = tiny.config("bert")
    stage_one.objective.sentence_pair = False
    folder, theirs = save(tmp_path, stage_one, tiny.params(stage_one), tokenizer)
    c = tiny.config("bert")
    c.objective = dict(
        name="electra",
        variant="electra",
        tie="none",
        generator_size=1.0,
        logit_chunks=1,
        weights=dict(masked_lm=1.0, replaced_token=50.0),
    )
    c.init_from = c.part_from.generator = str(folder)
    warm_start.complete(c)
    fresh = tiny.params(c)
    ours = warm_start.load_params(c, fresh, tokenizer)
    same(ours["network"], theirs["network"])
    same(ours["generator"], theirs["network"])
    same(ours["masked_lm"], theirs["masked_lm"])
    same(ours["replaced_token"], fresh["replaced_token"])


def test_nothing_is_named_nothing_changes(tokenizer):
    c = tiny.config("bert")
    warm_start.complete(c)
    params = tiny.params(c)
    same(warm_start.load_params(c, params, tokenizer), params)


@pytest.mark.parametrize(
    ("depth", "layers", "message"),
    [
        (2, (), "does not fit: network/stack/blocks/.* choose layers with config.init_layers"),
        (2, (0, 4), "asks for more than the 4 layers"),
        (2, (0, 1, 2), "does not fit"),
    ],
)
def test_layers_that_do_not_fit(teacher, tokenizer, depth, layers, message):
    c = student_config(depth, layers, soft=1.0)
    c.part_from.teacher = c.init_from = str(teacher[0])
    warm_start.complete(c)
    with pytest.raises(UserError, match=message):
        warm_start.load_params(c, tiny.params(c), tokenizer)


def test_a_missing_or_useless_part_is_told(teacher):
    c = student_config(2, soft=1.0)
    with pytest.raises(UserError, match="config.part_from.teacher is not set"):
        warm_start.complete(c)
    c = tiny.config("bert")
    c.part_from.teacher = str(teacher[0])
    with pytest.raises(UserError, match="config.part_from.teacher is of no use"):
        warm_start.complete(c)


def test_layers_that_are_not_one_stack_cannot_be_chosen(tokenizer, tmp_path):
    c = tiny.config("reformer", **{"model.vocab_size": tokenizer.vocab_size})
    folder, theirs = save(tmp_path, c, tiny.params(c), tokenizer)
    c.init_from, c.init_layers = str(folder), (0,)
    with pytest.raises(UserError, match=r"init_layers=\(0,\) cannot pick from .* not one stack"):
        warm_start.load_params(c, theirs, tokenizer)


def task_config(page, classes, **overrides):
    c = tiny.config(page, **overrides)
    c.objective = dict(name="classification", classes=classes, dropout=0.1, scale=1.0)
    return c


def test_a_head_of_another_shape_starts_anew(tokenizer, tmp_path, caplog):
    """As where RoBERTa and ALBERT go on from MNLI to tasks of two classes."""
    three, two = (task_config("bert", classes) for classes in (3, 2))
    theirs, fresh = tiny.params(three), tiny.params(two)
    two.init_from = str(save(tmp_path, three, theirs, tokenizer)[0])
    with caplog.at_level(logging.WARNING):
        ours = warm_start.load_params(two, fresh, tokenizer)
    assert "The task_classifier of config.init_from=" in caplog.text
    assert "has another shape: it starts anew" in caplog.text
    same(ours["task_classifier"], fresh["task_classifier"])
    for group in ("network", "pooler"):
        same(ours[group], theirs[group])
    three.init_from = two.init_from  # one of the same shape does not
    same(warm_start.load_params(three, jax.tree.map(jnp.zeros_like, theirs), tokenizer), theirs)


@pytest.mark.parametrize(
    ("page", "overrides", "message"),
    [
        ("gpt2", {}, "of another family, encoder instead of decoder: choose the config"),
        ("t5", {}, "encoder instead of encoder_decoder"),
        ("xlnet", {}, "encoder instead of xlnet"),
        (
            "roberta",
            {"model.vocab_size": 500},
            "encoder with a wordpiece vocabulary instead of encoder with a byte_bpe vocabulary",
        ),
    ],
)
@pytest.mark.parametrize("published", [False, True])
def test_a_checkpoint_of_another_family_is_told(
    page, overrides, message, published, teacher, tokenizer, tmp_path
):
    c = tiny.config(page, **overrides)
    c.init_from = str(teacher[0])
    if published:
        c.init_from = str(tmp_path / "hf")
        bert = tiny.config("bert")
        bert.model.vocab_size = tokenizer.vocab_size
        huggingface.save(
            c.init_from, bert.model, bert.objective, tiny.params(bert), tokenizer=tokenizer
        )
    with pytest.raises(UserError, match=message):
        warm_start.complete(c)


def test_a_family_may_have_another_vocabulary(teacher):
    c = tiny.config("roberta")  # of BERT's size here
    c.init_from = str(teacher[0])
    warm_start.complete(c)


def ernie(**overrides):
    overrides = {"model.depth": DEPTH, "model.entities": 3, "model.entity_width": 8} | overrides
    return tiny.config("ernie", **overrides)


def test_an_ernie_starts_from_a_bert_and_given_vectors(teacher, tokenizer, tmp_path, caplog):
    folder, theirs = teacher
    vectors = np.arange(24, dtype=np.float32).reshape(3, 8) / 7
    np.savetxt(tmp_path / "entity2vec.vec", vectors, delimiter="\t", fmt="%.7g")
    safetensors.numpy.save_file({"entities": vectors}, tmp_path / "vectors.safetensors")
    for path in (tmp_path / "entity2vec.vec", tmp_path / "vectors.safetensors", tmp_path):
        c = ernie(init_from=str(folder))
        c.part_from.entities = str(path)
        warm_start.complete(c)
        fresh = tiny.params(c)
        with caplog.at_level(logging.WARNING):
            ours = warm_start.load_params(c, fresh, tokenizer)
        assert "has no network/knowledge: it starts anew" in caplog.text
        same(ours["network"]["stack"], theirs["network"]["stack"])
        same(ours["pooler"], theirs["pooler"])
        knowledge = ours["network"]["knowledge"]
        table = np.asarray(knowledge["entities"]["table"])
        np.testing.assert_allclose(table[1:4], vectors, rtol=1e-6)
        assert (table[[0, *range(4, 128)]] == 0).all()
        same(knowledge["blocks"], fresh["network"]["knowledge"]["blocks"])


def test_an_ernie_goes_on_with_its_entities(tokenizer, tmp_path):
    c = ernie()
    workdir, theirs = save(tmp_path / "run", c, tiny.params(c), tokenizer)
    entities.Entities(["Q1", "Q2", "Q3"]).save(workdir / "tokenizer")
    c = ernie(init_from=str(workdir))
    c.objective = dict(name="classification", classes=2, dropout=0.0)
    c.optim.frozen = ("knowledge/entities/",)
    warm_start.complete(c)
    assert c.data.entities.path == f"{workdir}/tokenizer/entity2id.txt"
    ours = warm_start.load_params(c, tiny.params(c), tokenizer)
    same(ours["network"], theirs["network"])


def test_wrong_vectors_of_entities_are_told(tokenizer, tmp_path):
    c = ernie()
    c.optim.frozen = ("knowledge/entities/",)
    with pytest.raises(UserError, match="drawn at random: give them with config.part_from"):
        warm_start.load_params(c, tiny.params(c), tokenizer)
    (tmp_path / "v.vec").write_text("1\t2\n3\t4\n")
    c.part_from.entities = str(tmp_path / "v.vec")
    with pytest.raises(UserError, match="has 2 vectors of width 2: set config.model.entities"):
        warm_start.load_params(c, tiny.params(c), tokenizer)
    (tmp_path / "v.vec").write_text("one two\n")
    with pytest.raises(UserError, match="holds no vectors of entities"):
        warm_start.load_params(c, tiny.params(c), tokenizer)
    bert = tiny.config("bert")
    bert.part_from.entities = str(tmp_path / "v.vec")
    with pytest.raises(UserError, match="part_from.entities is of no use"):
        warm_start.complete(bert)
