"""T5 checkpoints of both versions: parity with PyTorch, round trips, and what is refused."""

import json

import numpy as np
import parity
import pytest

from errors import UserError
from training import huggingface
from training.huggingface import mapping, t5

TINY = dict(
    vocab_size=50,
    d_model=12,
    d_kv=5,
    d_ff=20,
    num_layers=2,
    num_heads=3,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=12,
)
V11 = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
# What differs from TINY, and the shape of the batch: rows, tokens of the encoder, of the decoder.
CASES = {
    "1.0": (dict(), (3, 19, 9)),
    "1.1": (V11, (3, 9, 19)),
    "published buckets": (
        dict(relative_attention_num_buckets=32, relative_attention_max_distance=128),
        (2, 140, 9),
    ),
    "three layers, one head": (dict(num_layers=3, num_heads=1, **V11), (2, 5, 6)),
}


def torch_t5(**changes):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**TINY | changes, attn_implementation="eager")
    )
    if changes.get("tie_word_embeddings") is False:  # which `transformers` 5 ties all the same
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def make_batch(vocab_size, rows, length, targets):
    """Returns our batch for rows of different lengths on both sides."""
    rng = np.random.default_rng(rows * length)

    def real(length):
        real = np.arange(length) < rng.integers((length + 1) // 2, length + 1, (rows, 1))
        real[0] = True
        return real

    ids, decoder_ids = real(length), real(targets)
    words = np.where(decoder_ids, rng.integers(1, vocab_size, decoder_ids.shape), 0)
    batch = dict(
        tokens=np.where(ids, rng.integers(1, vocab_size, ids.shape), 0),
        segment_ids=ids,
        decoder_tokens=np.pad(words[:, :-1], ((0, 0), (1, 0))),
        decoder_segment_ids=decoder_ids,
        targets=words,
    )
    batch = {name: value.astype(np.int32) for name, value in batch.items()}
    return batch | {"weights": decoder_ids.astype(np.float32)}


def run_torch(model, batch):
    import torch

    inputs = {
        "input_ids": batch["tokens"],
        "attention_mask": batch["segment_ids"],
        "decoder_input_ids": batch["decoder_tokens"],
        "decoder_attention_mask": batch["decoder_segment_ids"],
        "labels": np.where(batch["weights"] > 0, batch["targets"], -100),
    }
    return model(**{k: torch.tensor(v, dtype=torch.long) for k, v in inputs.items()})


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_gradients_equal_pytorch(tmp_path, name):
    changes, shape = CASES[name]
    oracle = parity.Oracle(torch_t5(**changes), tmp_path, remat="dots")
    assert not oracle.published.missing and not oracle.published.unexpected
    batch = make_batch(TINY["vocab_size"], *shape)
    theirs = run_torch(oracle.torch_model, batch)
    predictions, loss, gradients = oracle.run(batch)

    real = batch["weights"] > 0
    parity.assert_close(predictions["logits"][real], theirs.logits.detach().numpy()[real])
    z_loss = theirs.logits[real].logsumexp(-1).square().mean()
    their_loss = theirs.loss + oracle.objective.weights["z_loss"] * z_loss
    assert loss == pytest.approx(their_loss.item(), rel=1e-4)
    parity.assert_gradients_close(gradients, oracle.torch_gradients(their_loss))


# What follows needs no PyTorch but where it says so.


def random_model(**changes):
    """Returns the sections `model` and `objective`, and random parameters."""
    model = t5.read_config(TINY | changes)
    objective, _ = t5.objective(())
    return model, objective, parity.random_params(parity.build(model, objective))


@pytest.mark.parametrize("changes", [{}, V11], ids=["1.0", "1.1"])
def test_export_gives_the_same_logits_in_transformers(tmp_path, changes):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, objective, params = random_model(**changes)
    huggingface.save(tmp_path, model, objective, params)
    theirs = parity.read_exported(
        transformers.T5ForConditionalGeneration, tmp_path, attn_implementation="eager"
    )

    batch = make_batch(model["vocab_size"], 2, 9, 7)
    ours = parity.build(model, objective)
    predictions = ours.apply({"params": params}, batch, method=ours.predict)
    with torch.no_grad():
        logits = run_torch(theirs, batch).logits.numpy()
    real = batch["weights"] > 0
    parity.assert_close(np.asarray(predictions["logits"])[real], logits[real])


@pytest.mark.parametrize("changes", [{}, V11], ids=["1.0", "1.1"])
def test_import_of_export_is_the_same_bit_for_bit(tmp_path, changes):
    model, objective, params = random_model(**changes)
    parity.assert_round_trip(tmp_path, model, objective, params)
    rows = mapping.rows_of(t5.TABLE, mapping.sizes(model))
    ours = [path for row in rows for path in row.paths]
    assert sorted(ours) == sorted(parity.leaves(params))  # each of them once


@pytest.fixture
def saved(tmp_path):
    """A folder that we exported, and its parameters."""
    model, objective, params = random_model()
    huggingface.save(tmp_path / "hf", model, objective, params)
    return tmp_path / "hf", params


def as_released(tensors):
    """Names of the first files: the table three times, and one that nothing reads."""
    table = tensors["shared.weight"]
    side = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    return tensors | {
        "encoder.embed_tokens.weight": table,
        "decoder.embed_tokens.weight": table,
        "lm_head.weight": table,
        side: np.ones((8, 3), np.float32),
    }


def test_imports_all_published_names(saved):
    folder, params = saved
    parity.change_tensors(folder, as_released)
    published = huggingface.load(folder)
    assert (published.missing, published.unexpected) == ([], [])
    parity.assert_same_bits(published.params, params)


def test_a_missing_tensor_is_named(saved):
    folder, _ = saved
    name = "decoder.block.1.layer.1.EncDecAttention.k.weight"
    parity.change_tensors(folder, lambda t: {k: v for k, v in t.items() if k != name})
    with pytest.raises(UserError, match=f"no tensor {name}"):
        huggingface.load(folder)


@pytest.mark.parametrize(
    "wrong", [{"num_decoder_layers": 3}, {"feed_forward_proj": "silu"}, {"d_model": 12.5}]
)
def test_refuses_what_the_network_cannot_express(saved, wrong):
    folder, _ = saved
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(UserError, match=next(iter(wrong))):
        huggingface.load(folder)


@pytest.mark.parametrize("knobs", [{"norm": "layer"}, {"bias": True}, {"mlp_dropout": 0.5}])
def test_refuses_to_export_what_the_layout_cannot_express(tmp_path, knobs):
    model, objective, params = random_model()
    with pytest.raises(UserError, match=next(iter(knobs))):
        huggingface.save(tmp_path / "hf", model | knobs, objective, params)
    assert not (tmp_path / "hf").exists()
