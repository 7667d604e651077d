"""Tiny models with large random weights, so that each token matters, and their workdirs."""

import jax
import jax.numpy as jnp
import pytest
import tiny
import vocabularies

from data_pipeline import tokenizer_training
from evaluation import load
from model import objectives
from training import checkpoint, sharding

TEXT = "the quick brown fox jumps over the lazy dog . a cat sat on the mat and it slept"
SIZES = {"model.width": 16, "model.heads": 2, "model.vocab_size": 40}


@pytest.fixture(scope="session")
def gpt_config():
    """A decoder with a vocabulary of 40 and 64 positions."""
    return tiny.config("gpt2", **SIZES)


@pytest.fixture(scope="session")
def bert_config():
    """An encoder with a vocabulary of 40 and 64 positions."""
    return tiny.config("bert", **SIZES)


def random_model(config, seed=3):
    """Returns (objective, params)."""
    objective = objectives.build(config, "cpu")
    mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])
    leaves, tree = jax.tree.flatten(load.abstract_params(objective, mesh, config.rules))
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    params = [0.4 * jax.random.normal(k, x.shape, jnp.float32) for k, x in zip(keys, leaves)]
    return objective, jax.tree.unflatten(tree, params)


@pytest.fixture(scope="session")
def open_model():
    """Returns make(config, tokenizer, mesh) -> a random model as `load.load` opens it."""

    def make(config, tokenizer=None, mesh=None):
        objective, params = random_model(config)
        mesh = mesh or sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])
        abstract = load.abstract_params(objective, mesh, config.rules)
        params = jax.device_put(params, jax.tree.map(lambda x: x.sharding, abstract))
        return load.Model(config, objective, params, tokenizer)

    return make


@pytest.fixture(scope="session")
def gpt(gpt_config):
    """(objective, params) of `gpt_config`."""
    return random_model(gpt_config)


@pytest.fixture(scope="session")
def banded():
    """(objective, params) of a GPT-3 whose second layer sees 5 tokens."""
    return random_model(tiny.config("gpt3", **SIZES, **{"model.bands": (0, 5)}))


@pytest.fixture(scope="session")
def xlnet():
    """(objective, params) of an XLNet with a vocabulary of 40.

    A query starts from the same vector everywhere: what it attends to must outweigh that, and the
    biases.
    """
    objective, params = random_model(tiny.config("xlnet", **SIZES))
    blocks = params["network"]["stack"]["blocks"]
    for name in ("attention_norm", "mlp_norm"):
        blocks[name]["scale"] += 1
        blocks[name]["bias"] *= 0.1
    for name in ("value", "out"):
        blocks["attention"][name]["kernel"] *= 5
    return objective, params


@pytest.fixture(scope="session")
def bert(bert_config):
    """(objective, params) of `bert_config`."""
    return random_model(bert_config)


@pytest.fixture(scope="session")
def wordpiece(tmp_path_factory):
    """A WordPiece vocabulary of 24 whole words and pieces."""
    words = [*sorted(set(TEXT.split())), "##s", "un"]
    return vocabularies.wordpiece(tmp_path_factory.mktemp("vocabulary"), words)


@pytest.fixture(scope="session")
def byte_bpe():
    """A byte-level BPE vocabulary of a few words."""
    return tokenizer_training.train("byte_bpe", [TEXT] * 4, 280, False)


@pytest.fixture(scope="session")
def make_workdir(tmp_path_factory):
    """Returns make(config, tokenizer, {step: (params, metrics)}) -> a workdir like train.py's."""

    def make(config, tokenizer, steps):
        workdir = tmp_path_factory.mktemp("workdir")
        (workdir / "config.json").write_text(config.to_json_best_effort())
        tokenizer.save(workdir / "tokenizer")
        checkpoints = checkpoint.Checkpointer(workdir / "checkpoints", keep=9, keep_best=0)
        for step, (params, metrics) in steps.items():
            checkpoints.save(step, {"params": params}, meta={}, metrics=metrics)
        checkpoints.close()
        return workdir

    return make


@pytest.fixture(scope="session")
def gpt_workdir(make_workdir, byte_bpe):
    """(workdir, config, {step: params}) of a GPT; of its steps 1 and 2 the first is the better."""
    config = tiny.config("gpt2", **SIZES | {"model.vocab_size": 290})
    params = {step: random_model(config, step)[1] for step in (1, 2)}
    steps = {step: (params[step], {"valid/loss": float(step)}) for step in params}
    return make_workdir(config, byte_bpe, steps), config, params


@pytest.fixture(scope="session")
def t5_workdir(make_workdir):
    """A T5 at step 1, with 20 sentinels in its vocabulary."""
    tokenizer = tokenizer_training.train("sentencepiece", [TEXT] * 4, 280, False, "t5", 20)
    sizes = SIZES | {"model.vocab_size": tokenizer.vocab_size + 3, "data.tokenizer.sentinels": 20}
    config = tiny.config("t5", **sizes)
    return make_workdir(config, tokenizer, {1: (random_model(config)[1], None)})


@pytest.fixture(scope="session")
def bert_workdir(make_workdir, bert_config, bert, wordpiece):
    """A BERT at step 1."""
    return make_workdir(bert_config, wordpiece, {1: (bert[1], None)})
