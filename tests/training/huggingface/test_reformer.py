"""Reformer checkpoints: parity with PyTorch on the same rotations, and round trips."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import test_gpt2

from configs import reformer as page
from errors import UserError
from model import lsh, objectives
from training import huggingface, state
from training.huggingface import mapping, reformer

TINY = dict(
    vocab_size=50,
    hidden_size=12,
    attention_head_size=5,
    num_attention_heads=3,
    feed_forward_size=20,
    attn_layers=["local", "lsh"],
    max_position_embeddings=48,
    axial_pos_shape=[6, 8],
    axial_pos_embds_dim=[4, 8],
    lsh_attn_chunk_length=4,
    local_attn_chunk_length=8,
    num_buckets=6,
    num_hashes=2,
    hash_seed=3,
    lsh_attention_probs_dropout_prob=0.0,
    local_attention_probs_dropout_prob=0.0,
    hidden_dropout_prob=0.0,
    is_decoder=True,
    pad_token_id=0,
)
# What differs from TINY, the shape of the batch, and on which side it is padded.
CASES = {
    "local and lsh in turns": (
        dict(attn_layers=["local", "lsh"] * 2, hidden_act="gelu"),
        (2, 48),
        "right",
    ),
    "one round": (dict(num_hashes=1, attn_layers=["lsh", "lsh"]), (1, 48), "right"),
    "factors, three rounds": (
        dict(num_hashes=3, num_buckets=[4, 2], attn_layers=["lsh"]),
        (2, 48),
        "left",
    ),
    "local, learned positions": (
        dict(attn_layers=["local"], axial_pos_embds=False),
        (2, 32),
        "right",
    ),
    "shorter than a chunk": (
        dict(lsh_attn_chunk_length=64, local_attn_chunk_length=64),
        (2, 9),
        "left",
    ),
}


def torch_reformer(**changes):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    return transformers.ReformerModelWithLMHead(transformers.ReformerConfig(**TINY | changes))


@pytest.fixture
def same_rotations(monkeypatch):
    """Our rotations become those of PyTorch's generator, new in each layer there as here."""

    def draw(key, heads, width, rounds, buckets):
        import torch

        torch.manual_seed(TINY["hash_seed"])
        shape = (heads, width, rounds, sum(buckets) // 2)
        return jnp.asarray(torch.randn(shape, dtype=torch.float64).numpy(), jnp.float32)

    monkeypatch.setattr(lsh, "draw_rotations", draw)


def run_torch(model, batch):
    """Returns logits and loss, in training mode: only there do its gradients exist.

    In float64, for the log-normalizer of a token that sees itself alone is -1e5, and in float32 an
    error of 0.004 there is one of 0.4 % in its weights. Positions are read one by one as in
    evaluation, or they would have to be all there are.
    """
    import torch

    model.double().train()
    model.reformer.embeddings.eval()
    real = batch["segment_ids"] > 0
    predicted = np.roll(batch["weights"] > 0, 1, axis=1)
    inputs = {
        "input_ids": batch["tokens"],
        "attention_mask": real,
        "labels": np.where(predicted, batch["tokens"], -100),
    }
    output = model(**{k: torch.tensor(v, dtype=torch.long) for k, v in inputs.items()})
    return output.logits, output.loss


def make_batch(rows, length, side):
    """Returns a batch whose positions are those of the row, padding included."""
    batch = test_gpt2.make_batch(TINY["vocab_size"], rows, length, side)
    batch["positions"] = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    return batch


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_gradients_equal_pytorch(tmp_path, name, same_rotations):
    changes, shape, side = CASES[name]
    oracle = parity.Oracle(torch_reformer(**changes), tmp_path)
    assert not oracle.published.missing and not oracle.published.unexpected
    batch = make_batch(*shape, side)
    their_logits, their_loss = run_torch(oracle.torch_model, batch)
    predictions, loss, gradients = oracle.run(batch)

    real = batch["segment_ids"] > 0
    parity.assert_close(predictions["logits"][real], their_logits.detach().numpy()[real])
    assert loss == pytest.approx(their_loss.item(), rel=1e-4)
    parity.assert_gradients_close(gradients, oracle.torch_gradients(their_loss))


def test_export_gives_the_same_logits_in_transformers(tmp_path, same_rotations):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, objective, params = random_model(num_buckets=[4, 2])
    huggingface.save(tmp_path, model, objective, params)
    theirs = parity.read_exported(
        transformers.ReformerModelWithLMHead, tmp_path, hash_seed=TINY["hash_seed"]
    )

    batch = make_batch(2, 32, "right")
    ours = parity.build(model, objective)
    predict = jax.jit(lambda p: ours.apply({"params": p}, batch, method=ours.predict))
    predictions = predict(params)
    with torch.no_grad():
        logits = run_torch(theirs, batch)[0].numpy()
    real = batch["segment_ids"] > 0
    parity.assert_close(np.asarray(predictions["logits"])[real], logits[real])


def test_enwik8_has_as_many_parameters_as_in_transformers():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = page.get_config("enwik8")
    published = reformer.write_config(config.model.to_dict(), {})
    with torch.device("meta"):
        theirs = transformers.ReformerModelWithLMHead(transformers.ReformerConfig(**published))
    count = sum(p.numel() for n, p in theirs.named_parameters() if n != "lm_head.bias")
    assert state.count_parameters(objectives.build(config, "cpu")) == count


# What follows needs no PyTorch.


def random_model(**changes):
    """Returns the sections `model` and `objective`, and random parameters."""
    model = reformer.read_config(TINY | changes)
    objective, _ = reformer.objective(())
    return model, objective, parity.random_params(parity.build(model, objective))


@pytest.mark.parametrize(
    "changes",
    [dict(), dict(axial_pos_embds=False, attn_layers=["lsh"], num_buckets=None)],
    ids=["axial", "learned"],
)
def test_import_of_export_is_the_same_bit_for_bit(tmp_path, changes):
    model, objective, params = random_model(**changes)
    parity.assert_round_trip(tmp_path, model, objective, params)
    rows = mapping.rows_of(reformer.TABLE, reformer.sizes(model))
    assert sorted(path for row in rows for path in row.paths) == sorted(parity.leaves(params))


def test_layers_are_read_as_a_cycle():
    model = reformer.read_config(TINY | dict(attn_layers=["local", "local", "lsh"] * 2))
    assert (model["attention"], model["depth"]) == ("local,local,lsh", 6)
    assert reformer.write_config(model, {})["attn_layers"] == ["local", "local", "lsh"] * 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("is_decoder", False),
        ("lsh_num_chunks_before", 2),
        ("attn_layers", ["full"]),
        ("local_attention_probs_dropout_prob", 0.3),
        ("axial_pos_shape", [2, 4, 6]),
        ("hidden_act", "silu"),
    ],
)
def test_refuses_what_the_network_cannot_express(tmp_path, key, value):
    huggingface.save(tmp_path / "hf", *random_model())
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=key):
        huggingface.load(tmp_path / "hf")


@pytest.mark.parametrize(
    "knobs",
    [
        {"reversible": False},
        {"bucket_mask": True},
        {"attention": "full_shared,local"},
        {"axial_shape": (2, 4, 6), "axial_widths": ()},
    ],
)
def test_refuses_to_export_what_the_layout_cannot_express(tmp_path, knobs):
    model, objective, params = random_model()
    with pytest.raises(UserError, match=next(iter(knobs))):
        huggingface.save(tmp_path / "hf", model | knobs, objective, params)
    assert not (tmp_path / "hf").exists()
