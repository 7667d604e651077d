import heapq
import re
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny

from data_pipeline import tokenizer_training
from errors import UserError
from evaluation import fill_mask, load
from training import huggingface, sharding


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_workdir_gives_back_what_was_trained(gpt_workdir, byte_bpe):
    workdir, config, params = gpt_workdir
    for step, expected in ((None, 2), (2, 2), ("1", 1), ("best", 1)):
        model = load.load(workdir, step=step)
        assert_equal(model.params, params[expected])
    assert model.config.to_json() == config.to_json()
    assert model.config.is_locked
    assert model.tokenizer.fingerprint == byte_bpe.fingerprint
    assert model.objective.network.config.width == config.model.width


def test_overrides_are_of_the_saved_config(gpt_workdir):
    workdir, config, _ = gpt_workdir
    overrides = {"model.dtype": "bfloat16", "data.cache_dir": "x", "data.source": "y"}
    model = load.load(workdir, overrides=overrides)
    assert model.objective.network.types.compute == "bfloat16"
    assert (model.config.data.cache_dir, model.config.data.source) == ("x", "y")
    assert model.config.data.length == config.data.length


def test_any_mesh(gpt_workdir, devices):
    workdir, _, params = gpt_workdir
    mesh = sharding.make_mesh({"data": 1, "fsdp": 4, "tensor": 2}, devices)
    model = load.load(workdir, mesh=mesh)
    assert_equal(model.params, params[2])
    table = model.params["network"]["embedder"]["tokens"]["table"]
    assert table.addressable_shards[0].data.size == table.size // 8


@pytest.fixture
def published(bert, bert_config, wordpiece, tmp_path):
    folder = tmp_path / "published"
    huggingface.save(folder, bert_config.model, bert_config.objective, bert[1], wordpiece)
    return folder


def test_a_hugging_face_folder(published, bert, bert_config, wordpiece):
    model = load.load(published)
    assert_equal(model.params, bert[1])
    assert model.objective.network.config.width == bert_config.model.width
    assert model.config.model.dtype == "float32"
    assert model.tokenizer.fingerprint == wordpiece.fingerprint
    assert model.config.data.pipeline == "masked_lm"
    assert model.config.data.length <= model.config.model.max_positions
    assert model.config.data.tokenizer.path == str(published)
    with pytest.raises(UserError, match="has no steps to choose from"):
        load.load(published, step="best")


@pytest.mark.parametrize(
    ("page", "kind", "specials"),
    [
        ("roberta", "byte_bpe", "roberta"),
        ("albert", "sentencepiece", ""),
        ("electra", "wordpiece", ""),  # the generator
        ("distilbert", "wordpiece", ""),
    ],
)
def test_each_masked_lm_fills_masks(page, kind, specials, wordpiece, tmp_path):
    tokenizer = wordpiece
    if kind != "wordpiece":
        texts = [x for x in re.__doc__.splitlines() + heapq.__doc__.splitlines() if x]
        lowercase = kind == "sentencepiece"
        tokenizer = tokenizer_training.train(kind, texts, 300, lowercase, specials)
    config = tiny.config(page, **{"model.width": 16, "model.heads": 2, "model.vocab_size": 300})
    if page in ("electra", "distilbert"):
        config.objective = {"name": "masked_lm", "sentence_pair": False}
    objective, params = tiny.objective(config), tiny.params(config)
    folder = tmp_path / "published"
    huggingface.save(folder, config.model, config.objective, params, tokenizer, page)
    model = load.load(folder)
    assert_equal(model.params, params)
    assert model.config.objective.to_dict() == config.objective.to_dict()
    mask = tokenizer.id_to_token(tokenizer.mask_id)
    sentences = [f"the quick {mask} fox", f"{mask} cat"]
    args = (model.params, tokenizer, sentences)
    assert fill_mask.fill_masks(model.objective, *args) == fill_mask.fill_masks(objective, *args)


def test_a_published_checkpoint_lacks_something(published):
    weights = published / "model.safetensors"
    tensors = safetensors.numpy.load_file(weights)
    headless = {name: x for name, x in tensors.items() if not name.startswith("cls.predictions")}
    safetensors.numpy.save_file(headless, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match="no pre-training head"):
        load.load(published)
    safetensors.numpy.save_file(tensors, weights, metadata={"format": "pt"})
    (published / "vocab.txt").unlink()
    with pytest.raises(UserError, match="holds no vocabulary"):
        load.load(published)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: shutil.rmtree(d), "There is no folder"),
        (lambda d: (d / "config.json").unlink(), "has no config.json"),
        (lambda d: (d / "config.json").write_text('{"seed": '), "config.json is damaged"),
        (lambda d: (d / "config.json").write_text('{"a": 1}'), "neither the config of a run"),
        (lambda d: shutil.rmtree(d / "checkpoints"), "There is no checkpoint in"),
        (lambda d: shutil.rmtree(d / "tokenizer"), "no vocabulary at"),
    ],
)
def test_not_a_workdir(gpt_workdir, tmp_path, damage, message):
    workdir = shutil.copytree(gpt_workdir[0], tmp_path / "copy")
    damage(workdir)
    with pytest.raises(UserError, match=message):
        load.load(workdir)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"step": "newest"}, 'must be a number or "best"'),
        ({"step": 7}, "no checkpoint of step 7"),
        ({"overrides": {"data.sorce": "x"}}, "The config has no data.sorce"),
        ({"overrides": {"data.length": "long"}}, "config.data.length cannot be 'long'"),
        ({"overrides": {"model.width": 32}}, "does not fit this config"),
    ],
)
def test_bad_input_is_told_in_a_sentence(gpt_workdir, options, message):
    with pytest.raises(UserError, match=message):
        load.load(gpt_workdir[0], **options)


def test_best_needs_evaluations(bert_workdir):
    with pytest.raises(UserError, match="No checkpoint in .* valid/loss"):
        load.load(bert_workdir, step="best")
