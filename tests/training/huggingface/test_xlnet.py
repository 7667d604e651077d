"""XLNet checkpoints: parity with PyTorch in two streams, one stream and with a memory."""

import batches
import jax
import numpy as np
import parity
import pytest

from errors import UserError
from model import losses
from training import huggingface
from training.huggingface import mapping
from training.huggingface import xlnet as family

TINY = dict(vocab_size=50, d_model=12, n_layer=2, n_head=3, d_inner=20)
# What differs from TINY, the shape of the batch, and what it has.
CASES = {
    "tiny": (dict(), (3, 9, 4), dict()),
    "reversed rows": (dict(bi_data=True), (4, 9, 4), dict(reversed=True)),
    "memory": (dict(), (2, 8, 3), dict(memory=5)),
    "longer memory, reversed rows": (
        dict(n_layer=3, bi_data=True),
        (2, 7, 3),
        dict(memory=11, reversed=True),
    ),
    "padding": (dict(n_head=1), (3, 10, 4), dict(padding=3)),
    "one layer, tanh gelu": (dict(n_layer=1, ff_activation="gelu_new"), (1, 6, 2), dict()),
    "relu, other epsilon": (dict(ff_activation="relu", layer_norm_eps=1e-3), (2, 5, 2), dict()),
}


def torch_xlnet(**changes):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.XLNetConfig(**TINY | changes, attn_implementation="eager", mem_len=None)
    return transformers.XLNetLMHeadModel(config)


def run_torch(model, batch, *, queries=True):
    """The same for PyTorch: ranks as a mask, positions as one-hot rows, memory as states."""
    import torch

    tensors = lambda **kw: {k: torch.tensor(np.array(v)) for k, v in kw.items()}  # noqa: E731
    inputs = tensors(
        input_ids=batch["tokens"].astype(int), token_type_ids=batch["token_types"].astype(int)
    )
    inputs |= tensors(attention_mask=(batch["segment_ids"] > 0).astype(np.float32))
    if queries:
        rank, positions = batch["rank"], batch["masked_positions"]
        hidden = rank[:, None, :] >= rank[:, :, None]
        # Equal ranks see each other's content; no query asks for one of them.
        hidden &= ~((rank[:, None, :] == rank[:, :, None]) & (rank[:, :, None] < 0))
        one_hot = np.eye(rank.shape[1], dtype=np.float32)[positions]
        inputs |= tensors(perm_mask=hidden.astype(np.float32), target_mapping=one_hot)
        labels = np.where(batch["weights"] > 0, batch["targets"], -100).astype(int)
        inputs |= tensors(labels=labels)
    if "memory_tokens" in batch:
        before = tensors(input_ids=batch["memory_tokens"].astype(int))
        inputs["mems"] = model(**before, use_mems=True).mems
    return model(**inputs)


@pytest.mark.parametrize("name", CASES)
def test_two_streams_equal_pytorch(tmp_path, name):
    """Logits, loss and gradients."""
    changes, (rows, length, predictions), has = CASES[name]
    remat = "none" if name == "tiny" else "dots"
    oracle = parity.Oracle(torch_xlnet(**changes), tmp_path, remat=remat)
    assert not oracle.published.missing and not oracle.published.unexpected
    batch = batches.permutation_lm(rows, length, predictions, 50, **has)
    theirs = run_torch(oracle.torch_model, batch)
    found, loss, gradients = oracle.run(batch)
    parity.assert_close(found["logits"], theirs.logits.detach().numpy())
    assert loss == pytest.approx(theirs.loss.item(), rel=1e-4)
    parity.assert_gradients_close(gradients, oracle.torch_gradients(theirs.loss))


def test_one_stream_equals_pytorch(tmp_path):
    """As in fine-tuning: all tokens see each other, and each gets scores from its own content."""
    import torch

    oracle = parity.Oracle(torch_xlnet(), tmp_path)
    batch = batches.permutation_lm(3, 9, 4, 50, padding=2)
    fields = {k: batch[k] for k in ("tokens", "token_types", "segment_ids")}
    real = batch["segment_ids"] > 0
    targets = np.roll(batch["tokens"], 1, axis=1)
    logits = run_torch(oracle.torch_model, batch, queries=False).logits
    chosen = torch.tensor(targets[real].astype(int))
    theirs = torch.nn.functional.cross_entropy(logits[torch.tensor(real)], chosen)

    def scores(module):
        return module.output(
            module.network(fields, train=False).hidden, module.network.embedder.tokens
        )

    def loss(params):
        logits = oracle.objective.apply({"params": params}, method=scores)
        return losses.mean(losses.cross_entropy(logits, targets), real).value, logits

    (value, ours), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        oracle.published.params
    )
    parity.assert_close(np.asarray(ours)[real], logits.detach().numpy()[real])
    assert value == pytest.approx(theirs.item(), rel=1e-4)
    parity.assert_gradients_close(gradients, oracle.torch_gradients(theirs))


def test_export_gives_the_same_logits_in_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, objective, params = random_model()
    huggingface.save(tmp_path, model, objective, params)
    theirs = parity.read_exported(transformers.XLNetLMHeadModel, tmp_path)
    batch = batches.permutation_lm(2, 9, 3, model["vocab_size"])
    ours = parity.build(model, objective)
    predict = jax.jit(lambda params: ours.apply({"params": params}, batch, method="predict"))
    with torch.no_grad():
        logits = run_torch(theirs, batch).logits.numpy()
    parity.assert_close(np.asarray(predict(params)["logits"]), logits)


# What follows needs no PyTorch.


def random_model():
    """Returns the sections `model` and `objective`, and random parameters."""
    model = family.read_config(TINY)
    objective, _ = family.objective(())
    return model, objective, parity.random_params(parity.build(model, objective))


def test_import_of_export_is_the_same_bit_for_bit(tmp_path):
    model, objective, params = random_model()
    parity.assert_round_trip(tmp_path, model, objective, params)
    assert sorted(mapping.paths(family.TABLE, ["network", "output"])) == sorted(
        parity.leaves(params)
    )


def test_imports_what_other_architectures_publish(tmp_path):
    """Names without the prefix, the copy of the tied table, a head that we have no place for."""
    model, objective, params = random_model()
    huggingface.save(tmp_path / "hf", model, objective, params)

    def change(tensors):
        tensors = {name.removeprefix("transformer."): value for name, value in tensors.items()}
        tensors["lm_loss.weight"] = tensors["word_embedding.weight"]
        return tensors | {"logits_proj.bias": np.ones(2, np.float32)}

    parity.change_tensors(tmp_path / "hf", change)
    published = huggingface.load(tmp_path / "hf")
    assert (published.missing, published.unexpected) == ([], ["logits_proj.bias"])
    parity.assert_same_bits(published.params, params)


BAD_CONFIGS = {
    "attn_type": "uni",
    "clamp_len": 64,
    "same_length": True,
    "untie_r": False,
    "tie_word_embeddings": False,
    "ff_activation": "silu",
    "d_head": 5,
}


@pytest.mark.parametrize("key", BAD_CONFIGS)
def test_refuses_what_the_network_cannot_express(key):
    with pytest.raises(UserError, match=key):
        family.read_config(TINY | {key: BAD_CONFIGS[key]})


@pytest.mark.parametrize("knobs", [{"attention_dropout": 0.3}, {"head_size": 7}])
def test_refuses_to_export_what_the_layout_cannot_express(tmp_path, knobs):
    model, objective, params = random_model()
    with pytest.raises(UserError, match=next(iter(knobs))):
        huggingface.save(tmp_path / "hf", model | knobs, objective, params)
    assert not (tmp_path / "hf").exists()
