"""GPT-1 checkpoints: parity with PyTorch, round trips, and what is refused."""

import json

import jax
import numpy as np
import parity
import pytest
import test_gpt2

from errors import UserError
from evaluation import load
from training import huggingface
from training.huggingface import gpt2, mapping, openai_gpt

TINY = dict(vocab_size=50, n_embd=12, n_layer=2, n_head=3, n_positions=16)


@pytest.mark.parametrize(
    ("changes", "shape"), [({}, (3, 9)), ({"afn": "relu", "n_positions": 11}, (2, 11))]
)
def test_logits_loss_and_gradients_equal_pytorch(tmp_path, changes, shape):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.OpenAIGPTConfig(**TINY | changes)
    oracle = parity.Oracle(transformers.OpenAIGPTLMHeadModel(config), tmp_path, remat="none")
    assert not oracle.published.missing and not oracle.published.unexpected
    batch = test_gpt2.make_batch(50, *shape)
    theirs = test_gpt2.run_torch(oracle.torch_model, batch)
    predictions, loss, gradients = oracle.run(batch)

    real = batch["segment_ids"] > 0
    parity.assert_close(predictions["logits"][real], theirs.logits.detach().numpy()[real])
    assert loss == pytest.approx(theirs.loss.item(), rel=1e-4)
    parity.assert_gradients_close(gradients, oracle.torch_gradients(theirs.loss))


def random_model():
    model = openai_gpt.read_config(TINY)
    objective, _ = openai_gpt.objective(())
    return model, objective, parity.random_params(parity.build(model, objective))


def test_import_of_export_is_the_same_bit_for_bit(tmp_path):
    model, objective, params = random_model()
    assert sorted(mapping.paths(openai_gpt.TABLE, ["network"])) == sorted(parity.leaves(params))
    parity.assert_round_trip(tmp_path, model, objective, params)


def test_export_gives_the_same_logits_in_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    model, objective, params = random_model()
    huggingface.save(tmp_path, model, objective, params)
    test_gpt2.assert_exported(transformers.OpenAIGPTLMHeadModel, tmp_path, model, objective, params)


def test_its_page_is_gpt1(tmp_path, shared):
    model, objective, params = random_model()
    model["vocab_size"] = 40478
    params["network"]["embedder"]["tokens"]["table"] = np.ones((40478, 12), np.float32)
    tokenizer = huggingface.tokenizers.load(shared / "data/vocab/gpt1")
    huggingface.save(tmp_path / "hf", model, objective, params, tokenizer)
    opened = load.load(tmp_path / "hf")
    assert opened.config.data.tokenizer.kind == opened.tokenizer.kind == "word_bpe"
    assert not opened.config.model.norm_first and opened.config.model.width == 12


@pytest.mark.parametrize(
    ("key", "value"), [("afn", "silu"), ("embd_pdrop", 0.3), ("tie_word_embeddings", False)]
)
def test_refuses_what_the_network_cannot_express(tmp_path, key, value):
    model, objective, params = random_model()
    huggingface.save(tmp_path, model, objective, params)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=key):
        huggingface.load(tmp_path)


@pytest.mark.parametrize(
    "knobs",
    [{"norm_first": True}, {"mlp_width": 9}, {"bands": (0, 4)}, {"activation": "gelu"}],
)
def test_refuses_to_export_what_the_layout_cannot_express(tmp_path, knobs):
    model, objective, params = random_model()
    with pytest.raises(UserError, match=next(iter(knobs))):
        huggingface.save(tmp_path, model | knobs, objective, params, family="openai-gpt")


def test_refuses_to_export_a_fine_tuned_model(tmp_path):
    model, objective, params = random_model()
    with pytest.raises(UserError, match="gpt_classification"):
        tuned = objective | {"name": "gpt_classification"}
        huggingface.save(tmp_path, model, tuned, params, family="openai-gpt")


def test_a_gpt3_with_dense_attention_is_a_gpt2(tmp_path):
    """And the import fits a banded network, whose parameters are the same."""
    model = gpt2.read_config(test_gpt2.TINY) | {"bands": (0,)}
    objective, _ = gpt2.objective(())
    params = parity.random_params(parity.build(model, objective))
    huggingface.save(tmp_path, model, objective, params)
    published = huggingface.load(tmp_path)
    parity.assert_same_bits(published.params, params)
    banded = parity.build(model | {"bands": (0, 3)}, objective)
    assert jax.tree.map(np.shape, parity.random_params(banded)) == jax.tree.map(
        np.shape, published.params
    )
