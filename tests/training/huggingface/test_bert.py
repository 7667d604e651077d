"""BERT checkpoints: parity with PyTorch, round trips, and what published folders look like."""

import json
import re

import ml_dtypes
import numpy as np
import parity
import pytest
import safetensors.numpy

from errors import UserError
from training import huggingface
from training.huggingface import bert, mapping

TINY = dict(
    vocab_size=50, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
    max_position_embeddings=16,
)  # fmt: skip
# What differs from TINY, and the shape of the batch.
CASES = {
    "tiny": (dict(), (3, 9)),
    "longest sequence": (dict(max_position_embeddings=11), (2, 11)),
    "uncased vocabulary": (dict(vocab_size=30522, hidden_size=8, num_attention_heads=2), (2, 5)),
    "cased vocabulary": (dict(vocab_size=28996, hidden_size=8, num_attention_heads=1), (2, 5)),
    "one layer, one head, one token type": (
        dict(num_hidden_layers=1, num_attention_heads=1, type_vocab_size=1),
        (1, 7),
    ),
    "many narrow heads": (dict(hidden_size=14, num_attention_heads=14, type_vocab_size=3), (2, 6)),
    "three layers, tanh gelu": (dict(num_hidden_layers=3, hidden_act="gelu_new"), (4, 8)),
    "relu, other epsilon": (dict(hidden_act="relu", layer_norm_eps=1e-3), (2, 4)),
    "one token": (dict(), (2, 1)),
}


def torch_bert(kind="BertForPreTraining", **changes):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(**TINY | changes, attn_implementation="eager")
    return getattr(transformers, kind)(config)


def make_batch(vocab_size, token_types, rows, length):
    """Returns our batch for rows of different lengths, padded on the right."""
    rng = np.random.default_rng(rows * length)
    real = np.arange(length) < rng.integers((length + 1) // 2, length + 1, (rows, 1))
    real[0] = True
    # 0 is padding: PyTorch's table gives its row no gradient.
    tokens = np.where(real, rng.integers(1, vocab_size, real.shape), 0)
    where = np.broadcast_to(np.arange(length), real.shape)
    weights = real * (rng.random(real.shape) < 0.5)
    weights[:, 0] = 1
    batch = dict(
        tokens=tokens,
        token_types=rng.integers(0, token_types, real.shape) * real,
        segment_ids=real,
        positions=where,
        masked_positions=where,
        targets=rng.integers(1, vocab_size, real.shape),
        pair_positions=np.zeros((rows, 1)),
        pair_labels=rng.integers(0, 2, (rows, 1)),
    )
    floats = dict(weights=weights, pair_weights=np.ones((rows, 1)))
    return {k: v.astype(np.int32) for k, v in batch.items()} | {
        k: v.astype(np.float32) for k, v in floats.items()
    }


def run_torch(model, batch, *, labels=True):
    import torch

    inputs = {
        "input_ids": batch["tokens"],
        "attention_mask": batch["segment_ids"],
        "token_type_ids": batch["token_types"],
    }
    if labels:
        inputs["labels"] = np.where(batch["weights"] > 0, batch["targets"], -100)
        if hasattr(model.cls, "seq_relationship"):
            inputs["next_sentence_label"] = batch["pair_labels"][:, 0]
    return model(**{k: torch.tensor(v, dtype=torch.long) for k, v in inputs.items()})


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_gradients_equal_pytorch(tmp_path, name):
    changes, shape = CASES[name]
    oracle = parity.Oracle(torch_bert(**changes), tmp_path)
    model = oracle.published.model
    assert not oracle.published.missing and not oracle.published.unexpected
    batch = make_batch(model["vocab_size"], model["token_types"], *shape)
    theirs = run_torch(oracle.torch_model, batch)
    predictions, loss, gradients = oracle.run(batch)

    real = batch["segment_ids"] > 0
    parity.assert_close(
        predictions["logits"][real], theirs.prediction_logits.detach().numpy()[real]
    )
    parity.assert_close(
        predictions["sentence_pair"][:, 0], theirs.seq_relationship_logits.detach().numpy()
    )
    assert loss == pytest.approx(theirs.loss.item(), rel=1e-4)
    parity.assert_gradients_close(gradients, oracle.torch_gradients(theirs.loss))


def test_masked_lm_alone_equals_pytorch(tmp_path):
    oracle = parity.Oracle(torch_bert("BertForMaskedLM"), tmp_path, remat="none")
    assert oracle.published.objective == {"name": "masked_lm", "sentence_pair": False}
    batch = make_batch(TINY["vocab_size"], 2, 3, 10)
    theirs = run_torch(oracle.torch_model, batch)
    predictions, loss, gradients = oracle.run(batch)
    real = batch["segment_ids"] > 0
    parity.assert_close(predictions["logits"][real], theirs.logits.detach().numpy()[real])
    assert loss == pytest.approx(theirs.loss.item(), rel=1e-4)
    parity.assert_gradients_close(gradients, oracle.torch_gradients(theirs.loss))


@pytest.mark.parametrize(
    "kind, head, missing",
    [
        ("BertModel", {}, {"masked_lm", "classifier"}),
        ("BertModel", {"add_pooling_layer": False}, {"masked_lm"}),
        ("BertForNextSentencePrediction", {}, {"masked_lm"}),
    ],
)
def test_imports_what_a_bare_network_has(tmp_path, kind, head, missing):
    torch_bert()
    import transformers

    config = transformers.BertConfig(**TINY)
    model = getattr(transformers, kind)(config, **head)
    model.save_pretrained(tmp_path)
    published = huggingface.load(tmp_path)
    assert {path.split("/")[0] for path in published.missing} == missing
    assert not published.unexpected
    assert published.objective["sentence_pair"] == (not head)
    table = model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(published.params["network"]["embedder"]["tokens"]["table"], table)


@pytest.mark.parametrize("sentence_pair", [True, False])
def test_export_gives_the_same_logits_in_transformers(tmp_path, sentence_pair):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, objective, params = random_model(sentence_pair=sentence_pair)
    huggingface.save(tmp_path, model, objective, params)
    kind = transformers.BertForPreTraining if sentence_pair else transformers.BertForMaskedLM
    theirs = parity.read_exported(kind, tmp_path, attn_implementation="eager")
    assert theirs.config.architectures == [kind.__name__]

    batch = make_batch(model["vocab_size"], model["token_types"], 2, 9)
    ours = parity.build(model, objective)
    predictions = ours.apply({"params": params}, batch, method=ours.predict)
    with torch.no_grad():
        theirs_out = run_torch(theirs, batch, labels=False)
    real = batch["segment_ids"] > 0
    logits = theirs_out.prediction_logits if sentence_pair else theirs_out.logits
    parity.assert_close(np.asarray(predictions["logits"])[real], logits.numpy()[real])
    if sentence_pair:
        pairs = theirs_out.seq_relationship_logits.numpy()
        parity.assert_close(np.asarray(predictions["sentence_pair"])[:, 0], pairs)


# What follows needs no PyTorch.


def random_model(*, sentence_pair=True):
    """Returns the sections `model` and `objective`, and random parameters."""
    model = bert.read_config(TINY | {"hidden_act": "gelu_new"})
    objective = {"name": "masked_lm", "sentence_pair": sentence_pair}
    return model, objective, parity.random_params(parity.build(model, objective))


@pytest.fixture
def saved(tmp_path):
    """A folder that we exported, and its parameters."""
    model, objective, params = random_model()
    huggingface.save(tmp_path / "hf", model, objective, params)
    return tmp_path / "hf", params


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("sentence_pair", [True, False])
def test_import_of_export_is_the_same_bit_for_bit(tmp_path, sentence_pair):
    model, objective, params = random_model(sentence_pair=sentence_pair)
    parity.assert_round_trip(tmp_path, model, objective, params)


def test_table_holds_every_parameter_once():
    _, _, params = random_model()
    paths = mapping.paths(bert.TABLE, ["network", "masked_lm", "pooler", "classifier"])
    assert sorted(paths) == sorted(parity.leaves(params))


def without_prefix(tensors):
    return {name.removeprefix("bert."): value for name, value in tensors.items()}


def tensorflow_names(tensors):
    norm = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    return {re.sub("LayerNorm.*", lambda m: norm[m[0]], k): v for k, v in tensors.items()}


def with_copies(tensors):
    return tensors | {
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
        "bert.embeddings.position_ids": np.arange(16)[None],
    }


def only_copies(tensors):
    tensors = with_copies(tensors)
    del tensors["bert.embeddings.word_embeddings.weight"], tensors["cls.predictions.bias"]
    return tensors


@pytest.mark.parametrize(
    "change", [without_prefix, tensorflow_names, with_copies, only_copies], ids=lambda f: f.__name__
)
def test_imports_all_published_names(saved, change):
    folder, params = saved
    parity.change_tensors(folder, change)
    published = huggingface.load(folder)
    assert (published.missing, published.unexpected) == ([], [])
    parity.assert_same_bits(published.params, params)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_imports_other_float_types_as_float32(saved, dtype):
    folder, params = saved
    parity.change_tensors(folder, lambda tensors: {k: v.astype(dtype) for k, v in tensors.items()})
    expected = {k: v.astype(dtype).astype(np.float32) for k, v in parity.leaves(params).items()}
    ours = parity.leaves(huggingface.load(folder).params)
    for path, value in expected.items():
        assert ours[path].dtype == np.float32
        np.testing.assert_array_equal(ours[path], value)


def shard(folder):
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    path.unlink()
    names, weight_map = sorted(tensors), {}
    for i in range(3):
        file = f"model-0000{i + 1}-of-00003.safetensors"
        safetensors.numpy.save_file({n: tensors[n] for n in names[i::3]}, folder / file)
        weight_map |= dict.fromkeys(names[i::3], file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_imports_a_checkpoint_in_several_files(saved):
    folder, params = saved
    shard(folder)
    parity.assert_same_bits(huggingface.load(folder).params, params)


def test_names_what_it_leaves_out(saved):
    folder, params = saved
    extra = {"bert.encoder.layer.0.adapter.weight": np.ones(3, np.float32)}
    extra["classifier.weight"] = np.ones((3, 12), np.float32)
    parity.change_tensors(folder, lambda tensors: tensors | extra)
    published = huggingface.load(folder)
    assert published.unexpected == sorted(extra)
    parity.assert_same_bits(published.params, params)


def edit(name, function):
    """Returns a change of one tensor."""
    return lambda tensors: tensors | {name: function(tensors[name])}


def drop(name):
    return lambda tensors: {k: v for k, v in tensors.items() if k != name}


def infinite(x):
    x[0] = np.inf
    return x


def untie(tensors):
    return edit("cls.predictions.decoder.weight", lambda x: x + 1)(with_copies(tensors))


QUERY = "bert.encoder.layer.1.attention.self.query.weight"
BAD_TENSORS = {
    "missing in the network": (drop(QUERY), "no tensor encoder.layer.1.attention.self.query"),
    "missing in a head": (drop("cls.predictions.bias"), "no tensor cls.predictions.bias"),
    "other shape": (edit(QUERY, lambda x: x[:3]), r"shape \[3, 12\].* says \[12, 12\]"),
    "quantized": (edit(QUERY, lambda x: x.astype(np.int8)), "type int8"),
    "not finite": (edit("bert.embeddings.LayerNorm.bias", infinite), "not finite"),
    "untied": (untie, "our network ties"),
    "twice": (lambda t: t | {QUERY.removeprefix("bert."): t[QUERY]}, "remove one"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_refuses_bad_tensors(saved, name):
    folder, _ = saved
    change, message = BAD_TENSORS[name]
    parity.change_tensors(folder, change)
    with pytest.raises(UserError, match=message):
        huggingface.load(folder)


BAD_CONFIGS = {
    "hidden_act": "silu",
    "position_embedding_type": "relative_key",
    "is_decoder": True,
    "tie_word_embeddings": False,
    "pruned_heads": {"0": [1]},
    "hidden_size": "12",
    "num_hidden_layers": 0,
    "layer_norm_eps": -1.0,
    "model_type": "mamba",
}


@pytest.mark.parametrize("key", BAD_CONFIGS)
def test_refuses_what_the_network_cannot_express(saved, key):
    folder, _ = saved
    change_config(folder, **{key: BAD_CONFIGS[key]})
    with pytest.raises(UserError, match=key):
        huggingface.load(folder)


@pytest.mark.parametrize("knobs", [{"norm_first": True}, {"token_types": 0}, {"name": "graph"}])
def test_refuses_to_export_what_the_layout_cannot_express(tmp_path, knobs):
    model, objective, params = random_model()
    with pytest.raises(UserError, match=next(iter(knobs))):
        huggingface.save(tmp_path / "hf", model | knobs, objective, params)
    assert not (tmp_path / "hf").exists()
