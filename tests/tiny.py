"""The smallest configs, objectives and parameters that tests share."""

import copy
import functools
import importlib

import jax
import ml_collections
import optax

from model import objectives
from training import state

VOCAB = 97  # divides by nothing, as 50257 does
# Knobs of a network that no parameter depends on.
COMPUTES = dict(dtype="float32", dropout=0.0, attention_dropout=0.0, remat="none", scan_layers=True)


def config(page: str, **overrides) -> ml_collections.ConfigDict:
    """A paper's page, two layers of width 32, float32 and without dropout unless overridden."""
    # The paper's values, shrunk.
    c = importlib.import_module(f"configs.{page}").get_config("quick=1")
    c.model.update(width=32, heads=4, depth=2, vocab_size=VOCAB, max_positions=64)
    c.optim.update(lr=2e-3, warmup_steps=2)
    c.model.update(dtype="float32", dropout=0.0, attention_dropout=0.0)
    c.update_from_flattened_dict(overrides)
    return c


def objective(c):
    return objectives.build(c, "cpu")


@functools.cache
def _params(make):
    return state.unbox(jax.jit(state.Init(make, optax.identity()))(jax.random.key(0)).params)


def params(c):
    """Freshly made parameters of a config, made once for all that differ in how they compute."""
    c = copy.deepcopy(c)
    c.model.update({knob: value for knob, value in COMPUTES.items() if knob in c.model})
    return _params(objective(c))
