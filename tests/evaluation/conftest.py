"""Tiny models with large random weights: each token matters to the scores of the next."""

import jax
import jax.numpy as jnp
import ml_collections
import pytest

from configs import common
from evaluation import load
from model import objectives
from training import sharding


def _config(name, network, **knobs):
    config = common.base()
    config.model = common.network(
        network, width=16, depth=2, heads=2, dtype="float32", remat="none", dropout=0.0, **knobs
    )
    config.objective = ml_collections.ConfigDict(name)
    return config


@pytest.fixture(scope="session")
def gpt_config():
    """A decoder with a vocabulary of 40 and 64 positions."""
    knobs = dict(vocab_size=40, max_positions=64, norm_first=True, norm_eps=1e-5)
    return _config({"name": "causal_lm", "logit_chunks": 1}, "decoder", **knobs)


@pytest.fixture(scope="session")
def bert_config():
    """An encoder with a vocabulary of 40 and 64 positions."""
    knobs = dict(vocab_size=40, max_positions=64, token_types=2)
    return _config({"name": "masked_lm", "next_sentence": True}, "encoder", **knobs)


def _random(config):
    objective = objectives.build(config, "cpu")
    mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])
    abstract = load.abstract_params(objective, mesh, config.rules)
    leaves, tree = jax.tree.flatten(abstract)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    params = [0.4 * jax.random.normal(k, x.shape, jnp.float32) for k, x in zip(keys, leaves)]
    return objective, jax.tree.unflatten(tree, params)


@pytest.fixture(scope="session")
def gpt(gpt_config):
    """(objective, params) of `gpt_config`."""
    return _random(gpt_config)


@pytest.fixture(scope="session")
def bert(bert_config):
    """(objective, params) of `bert_config`."""
    return _random(bert_config)
