import jax
import numpy as np
import pytest

from data_pipeline import tokenizer_training
from errors import UserError
from evaluation import fill_mask

SENTENCES = [
    "the [MASK] fox sat .",
    "[MASK]",
    "a cat [MASK] on the [MASK] and it [MASK] .",
    "the un[MASK]s dog",
]


def probabilities(model, tokenizer, ids, place):
    """The softmax at one place of one sentence, without padding."""
    objective, params = model
    ids = np.int32([ids])
    batch = {
        "tokens": ids,
        "token_types": np.zeros_like(ids),
        "segment_ids": np.ones_like(ids),
        "positions": np.arange(ids.shape[1], dtype=np.int32)[None],
        "masked_positions": np.int32([[place]]),
        "pair_positions": np.zeros((1, 1), np.int32),
    }
    logits = objective.apply({"params": params}, batch, method="predict")["logits"][0, 0]
    return np.asarray(jax.nn.softmax(logits[: tokenizer.vocab_size]))


def test_equals_the_model_on_each_sentence_alone(bert, wordpiece):
    found = fill_mask.fill_masks(*bert, wordpiece, SENTENCES, candidates=4)
    assert [len(masks) for masks in found] == [1, 1, 3, 1]
    text = "[CLS] a cat [MASK] on the [MASK] and it [MASK] . [SEP]".split()
    ids = [wordpiece.token_to_id(token) for token in text]
    for masks, place in zip(found[2], (3, 6, 9)):
        p = probabilities(bert, wordpiece, ids, place)
        best = np.argsort(-p)[:4]
        assert [c.token for c in masks] == [wordpiece.id_to_token(i) for i in best]
        np.testing.assert_allclose([c.probability for c in masks], p[best], rtol=1e-4)
    # Within a word the pieces on both sides of the mask are encoded by themselves.
    text = "[CLS] the un [MASK] [UNK] dog [SEP]".split()
    p = probabilities(bert, wordpiece, [wordpiece.token_to_id(t) for t in text], 3)
    np.testing.assert_allclose(found[3][0][0].probability, p.max(), rtol=1e-4)


def test_only_the_vocabulary_is_shown_though_the_table_is_longer(bert, wordpiece):
    objective, params = bert
    assert objective.network.config.vocab_size > wordpiece.vocab_size
    everything = wordpiece.vocab_size
    (candidates,) = fill_mask.fill_masks(*bert, wordpiece, SENTENCES[:1], candidates=everything)[0]
    assert len({c.token for c in candidates}) == everything
    assert sum(c.probability for c in candidates) == pytest.approx(1, abs=1e-5)
    ranked = [c.probability for c in candidates]
    assert ranked == sorted(ranked, reverse=True)


def test_sentences_of_similar_length_share_a_compilation(bert, wordpiece):
    fill_mask._best.clear_cache()
    for sentences in (SENTENCES[:1], SENTENCES[1:2], ["a [MASK] dog slept on the mat ."]):
        fill_mask.fill_masks(*bert, wordpiece, sentences)
    assert fill_mask._best._cache_size() == 1


@pytest.mark.parametrize(
    "sentences, candidates, message",
    [
        (["the [MASK] .", "no mask here"], 5, r"no \[MASK\] in 'no mask here'"),
        (["the [MASK] " + "dog " * 70], 5, "74 tokens, but the model has 64 positions"),
        (["[MASK]"], 0, "0 candidates"),
        (["[MASK]"], 99, "99 candidates"),
    ],
)
def test_bad_input_is_told_in_a_sentence(bert, wordpiece, sentences, candidates, message):
    with pytest.raises(UserError, match=message):
        fill_mask.fill_masks(*bert, wordpiece, sentences, candidates=candidates)


def test_the_space_before_a_mask_belongs_to_the_missing_word():
    t = tokenizer_training.train("byte_bpe", ["The cat sat."] * 9, 270, False, specials="roberta")
    ids = fill_mask._encode(t, "The <mask> sat.", 64)
    assert ids == [t.cls_id, *t.encode("The"), t.mask_id, *t.encode(" sat."), t.sep_id]
