"""Pseudo-log-likelihoods against the model on one masked copy at a time."""

import functools

import jax
import numpy as np
import pytest

from errors import UserError
from evaluation import packed, pseudo_likelihood

SENTENCES = ["the quick brown fox jumps", "a cat sat on the mat and it slept .", "dog"]
LENGTH = 16


@functools.partial(jax.jit, static_argnames=("objective",))
def predict(objective, params, batch):
    return objective.apply({"params": params}, batch, method="predict")["logits"]


def alone(model, tokenizer, ids, place):
    """Log-probabilities [V] of one masked token of a sentence."""
    row = np.zeros((1, LENGTH), np.int32)
    row[0, : len(ids)] = ids
    row[0, place] = tokenizer.mask_id
    real = (np.arange(LENGTH) < len(ids)).astype(np.int32)[None]
    batch = {
        "tokens": row,
        "token_types": 0 * row,
        "segment_ids": real,
        "positions": np.arange(LENGTH, dtype=np.int32) * real,
        "masked_positions": np.int32([[place]]),
        "pair_positions": np.zeros((1, 1), np.int32),
    }
    return np.asarray(jax.nn.log_softmax(predict(model.objective, model.params, batch)[0, 0]))


@pytest.fixture(scope="module")
def model(open_model, bert_config, wordpiece):
    return open_model(bert_config, wordpiece)


def test_adds_each_token_where_it_alone_is_masked(model, wordpiece):
    packed._look_up.clear_cache()
    scores = pseudo_likelihood.score(model, SENTENCES)
    assert packed._look_up._cache_size() == 1
    for score, sentence in zip(scores, SENTENCES, strict=True):
        ids = [wordpiece.cls_id, *wordpiece.encode(sentence), wordpiece.sep_id]
        total = sum(
            alone(model, wordpiece, ids, place)[ids[place]] for place in range(1, len(ids) - 1)
        )
        np.testing.assert_allclose(score.log_likelihood, total, rtol=1e-5, atol=1e-4)


def test_bad_input(model, gpt_config):
    with pytest.raises(UserError, match="between 3 and the model's 64 positions"):
        pseudo_likelihood.score(model, ["the " * 63])
    with pytest.raises(UserError, match="between 3"):
        pseudo_likelihood.score(model, [""])
    with pytest.raises(UserError, match="causal_lm, which fills no masks"):
        pseudo_likelihood.score(model._replace(config=gpt_config), SENTENCES)
