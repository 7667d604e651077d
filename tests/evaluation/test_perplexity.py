import gzip
import math

import jax
import numpy as np
import pytest
import tiny

from errors import UserError
from evaluation import perplexity
from training import huggingface

SIZES = {"model.width": 16, "model.heads": 2, "model.vocab_size": 290}
TEXT = "the quick brown fox jumps over the lazy dog . a cat sat on the mat and it slept\n" * 6


@pytest.fixture(scope="module")
def model(open_model, byte_bpe):
    return open_model(tiny.config("gpt2", **SIZES), byte_bpe)


def test_a_model_that_knows_nothing_is_as_perplexed_as_it_has_tokens(model):
    nothing = model._replace(params=jax.tree.map(lambda x: 0 * x, model.params))
    found = perplexity.measure(nothing, TEXT)
    tokens = len(model.tokenizer.encode(TEXT))
    assert found["tokens"] == tokens and found["words"] == len(TEXT.split())
    assert found["bytes"] == len(TEXT.encode())
    nats = tokens * math.log(290)
    assert found["token_perplexity"] == pytest.approx(290)
    assert found["word_perplexity"] == pytest.approx(math.exp(nats / found["words"]))
    assert found["bits_per_byte"] == pytest.approx(nats / found["bytes"] / math.log(2))


def test_equals_the_sliding_window_of_transformers(model, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = model.config
    huggingface.save(tmp_path, config.model, config.objective, jax.device_get(model.params))
    peer = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    tokenizer = model.tokenizer
    ids = torch.tensor([[tokenizer.eot_id, *tokenizer.encode(TEXT)]])
    length, stride = 64, 24
    nats, counted, previous = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + length, ids.shape[1])
        labels = ids[:, begin:end].clone()
        labels[:, : previous - begin] = -100
        with torch.no_grad():
            loss = peer(ids[:, begin:end], labels=labels).loss
        size = int((labels[:, 1:] != -100).sum())
        nats, counted, previous = nats + float(loss) * size, counted + size, end
        if end == ids.shape[1]:
            break
    found = perplexity.measure(model, TEXT, stride=stride)
    assert found["tokens"] == counted == ids.shape[1] - 1
    assert found["token_perplexity"] == pytest.approx(math.exp(nats / counted), rel=1e-5)


def test_the_stride_does_not_matter_within_one_window(model):
    short = "the quick brown fox"
    assert perplexity.measure(model, short) == perplexity.measure(model, short, stride=1)


def test_words_are_those_before_detokenization(model):
    found = perplexity.measure(model, "a cat , a dog .", detokenize=perplexity.from_wikitext)
    assert found["words"] == 6
    assert found["tokens"] == len(model.tokenizer.encode("a cat, a dog ."))


def test_wikitext_is_made_running_text():
    tokens = (
        ' = Title = \n 12 @,@ 000 well @-@ known cats ( big " ones " ) ; they \'s slept , too .'
    )
    text = perplexity.from_wikitext(tokens)
    assert text == ' = Title =\n12,000 well-known cats (big "ones"); they\'s slept, too .'


def test_wikitext_as_lm_eval_has_it(shared):
    pytest.importorskip("lm_eval")
    from lm_eval.tasks.wikitext import preprocess_wikitext

    text = gzip.open(shared / "data/text/wikitext-2/valid.txt.gz", "rt", encoding="utf-8").read()
    expected = preprocess_wikitext.wikitext_detokenizer({"page": text})
    assert perplexity.from_wikitext(text) == expected


def test_bad_input(model, open_model):
    with pytest.raises(UserError, match="65 tokens exceed the model's 64"):
        perplexity.measure(model, TEXT, length=65)
    with pytest.raises(UserError, match="too short"):
        perplexity.measure(model, "")
    t5 = open_model(tiny.config("t5", **SIZES))
    with pytest.raises(UserError, match="does not go on with it"):
        perplexity.measure(t5, TEXT)
    assert np.isfinite(perplexity.measure(model, TEXT, stride=64)["token_perplexity"])
