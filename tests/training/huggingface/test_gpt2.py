"""GPT-2 checkpoints: parity with PyTorch, round trips, and what published folders look like."""

import json

import ml_dtypes
import numpy as np
import parity
import pytest

from errors import UserError
from training import huggingface
from training.huggingface import gpt2, mapping

TINY = dict(
    vocab_size=50, n_embd=12, n_layer=2, n_head=3, n_positions=16, bos_token_id=0, eos_token_id=0
)
# What differs from TINY, the shape of the batch, and on which side it is padded.
CASES = {
    "tiny": (dict(), (3, 9), "right"),
    "padded on the left": (dict(), (3, 9), "left"),
    "longest sequence": (dict(n_positions=11), (2, 11), "right"),
    "published vocabulary": (dict(vocab_size=50257, n_embd=8, n_head=2), (2, 5), "right"),
    "one layer, one head": (dict(n_layer=1, n_head=1), (1, 7), "right"),
    "narrow heads, odd feed-forward width": (
        dict(n_embd=14, n_head=14, n_inner=9),
        (2, 8),
        "right",
    ),
    "three layers, exact gelu": (dict(n_layer=3, activation_function="gelu"), (4, 8), "left"),
    "relu, other epsilon": (
        dict(activation_function="relu", layer_norm_epsilon=1e-3),
        (2, 4),
        "right",
    ),
}


def torch_gpt2(**changes):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(**TINY | changes, attn_implementation="eager")
    return transformers.GPT2LMHeadModel(config)


def make_batch(vocab_size, rows, length, side="right"):
    """Returns our batch for rows of different lengths, every token predicting the next one."""
    rng = np.random.default_rng(rows * length)
    real = np.arange(length) < rng.integers((length + 1) // 2, length + 1, (rows, 1))
    real[0] = True
    if side == "left":
        real = real[:, ::-1]
    tokens = np.where(real, rng.integers(0, vocab_size, real.shape), 0)
    following = np.roll(real, -1, axis=1) & real
    following[:, -1] = False
    batch = dict(
        tokens=tokens,
        segment_ids=real,
        positions=np.maximum(np.cumsum(real, axis=1) - 1, 0),
        targets=np.roll(tokens, -1, axis=1),
    )
    batch = {name: value.astype(np.int32) for name, value in batch.items()}
    return batch | {"weights": following.astype(np.float32)}


def run_torch(model, batch):
    import torch

    real = batch["segment_ids"] > 0
    # The loss of transformers predicts token t+1 at t: no target is padding, nor the first token.
    predicted = np.roll(batch["weights"] > 0, 1, axis=1)
    inputs = {
        "input_ids": batch["tokens"],
        "attention_mask": real,
        "position_ids": batch["positions"],
        "labels": np.where(predicted, batch["tokens"], -100),
    }
    return model(**{k: torch.tensor(v, dtype=torch.long) for k, v in inputs.items()})


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_gradients_equal_pytorch(tmp_path, name):
    changes, shape, side = CASES[name]
    remat = "none" if name == "tiny" else "dots"
    oracle = parity.Oracle(torch_gpt2(**changes), tmp_path, remat=remat)
    assert not oracle.published.missing and not oracle.published.unexpected
    batch = make_batch(oracle.published.model["vocab_size"], *shape, side)
    theirs = run_torch(oracle.torch_model, batch)
    predictions, loss, gradients = oracle.run(batch)

    real = batch["segment_ids"] > 0
    parity.assert_close(predictions["logits"][real], theirs.logits.detach().numpy()[real])
    assert loss == pytest.approx(theirs.loss.item(), rel=1e-4)
    parity.assert_gradients_close(gradients, oracle.torch_gradients(theirs.loss))


def test_export_gives_the_same_logits_in_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    model, objective, params = random_model()
    huggingface.save(tmp_path, model, objective, params)
    assert_exported(transformers.GPT2LMHeadModel, tmp_path, model, objective, params)


def assert_exported(kind, folder, model, objective, params):
    """PyTorch's class reads the folder whole, and gives the logits of our network."""
    torch = pytest.importorskip("torch")
    theirs = parity.read_exported(kind, folder, attn_implementation="eager")

    batch = make_batch(model["vocab_size"], 2, 9)
    ours = parity.build(model, objective)
    predictions = ours.apply({"params": params}, batch, method=ours.predict)
    with torch.no_grad():
        logits = run_torch(theirs, batch).logits.numpy()
    real = batch["segment_ids"] > 0
    parity.assert_close(np.asarray(predictions["logits"])[real], logits[real])


# What follows needs no PyTorch.


def random_model():
    """Returns the sections `model` and `objective`, and random parameters."""
    model = gpt2.read_config(TINY)
    objective, _ = gpt2.objective(())
    return model, objective, parity.random_params(parity.build(model, objective))


@pytest.fixture
def saved(tmp_path):
    """A folder that we exported, and its parameters."""
    model, objective, params = random_model()
    huggingface.save(tmp_path / "hf", model, objective, params)
    return tmp_path / "hf", params


def test_import_of_export_is_the_same_bit_for_bit(tmp_path):
    model, objective, params = random_model()
    parity.assert_round_trip(tmp_path, model, objective, params)


def test_table_holds_every_parameter_once():
    _, _, params = random_model()
    assert sorted(mapping.paths(gpt2.TABLE, ["network"])) == sorted(parity.leaves(params))


def as_released(tensors):
    """Names of openai-community/gpt2: no prefix, and the causal mask of every layer."""
    tensors = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    mask = np.tril(np.ones((16, 16), np.float32))[None, None]
    return tensors | {f"h.{i}.attn.bias": mask for i in range(2)}


def with_copy(tensors):
    return tensors | {"lm_head.weight": tensors["transformer.wte.weight"]}


def only_copy(tensors):
    tensors = with_copy(tensors)
    del tensors["transformer.wte.weight"]
    return tensors


@pytest.mark.parametrize("change", [as_released, with_copy, only_copy], ids=lambda f: f.__name__)
def test_imports_all_published_names(saved, change):
    folder, params = saved
    parity.change_tensors(folder, change)
    published = huggingface.load(folder)
    assert (published.missing, published.unexpected) == ([], [])
    parity.assert_same_bits(published.params, params)


def test_imports_bfloat16_as_float32(saved):
    folder, params = saved
    parity.change_tensors(folder, lambda t: {k: v.astype(ml_dtypes.bfloat16) for k, v in t.items()})
    ours = parity.leaves(huggingface.load(folder).params)
    for path, value in parity.leaves(params).items():
        np.testing.assert_array_equal(ours[path], value.astype(ml_dtypes.bfloat16))


def test_names_what_it_leaves_out(saved):
    folder, _ = saved
    parity.change_tensors(folder, lambda t: t | {"multiple_choice_head.summary.bias": np.zeros(1)})
    assert huggingface.load(folder).unexpected == ["multiple_choice_head.summary.bias"]


BAD_CONFIGS = {
    "scale_attn_by_inverse_layer_idx": True,
    "scale_attn_weights": False,
    "add_cross_attention": True,
    "tie_word_embeddings": False,
    "activation_function": "silu",
    "embd_pdrop": 0.3,
    "n_embd": 12.5,
}


@pytest.mark.parametrize("key", BAD_CONFIGS)
def test_refuses_what_the_network_cannot_express(saved, key):
    folder, _ = saved
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: BAD_CONFIGS[key]}))
    with pytest.raises(UserError, match=key):
        huggingface.load(folder)


@pytest.mark.parametrize("knobs", [{"norm_first": False}, {"token_types": 2}, {"bands": (0, 8)}])
def test_refuses_to_export_what_the_layout_cannot_express(tmp_path, knobs):
    model, objective, params = random_model()
    with pytest.raises(UserError, match=next(iter(knobs))):
        huggingface.save(tmp_path / "hf", model | knobs, objective, params, family="gpt2")
    assert not (tmp_path / "hf").exists()
