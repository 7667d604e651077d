"""RoBERTa, ALBERT, ELECTRA and DistilBERT: parity with PyTorch, round trips, what is refused."""

import json

import jax
import numpy as np
import parity
import pytest
from test_bert import make_batch

from errors import UserError
from model import losses
from training import huggingface
from training.huggingface import albert, distilbert, electra, roberta

BERT = dict(
    vocab_size=50, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
    max_position_embeddings=16, type_vocab_size=2,
)  # fmt: skip
ROBERTA = BERT | dict(type_vocab_size=1, max_position_embeddings=18)
ALBERT = BERT | dict(embedding_size=8, num_hidden_layers=4)
ELECTRA = BERT | dict(embedding_size=8)
DISTILBERT = dict(
    vocab_size=50, dim=12, n_layers=3, n_heads=3, hidden_dim=20, max_position_embeddings=16
)
# Class of transformers, its config, and the shape of the batch.
CASES = {
    "roberta": ("RobertaForMaskedLM", ROBERTA, (3, 9)),
    "roberta, longest sequence": ("RobertaForMaskedLM", ROBERTA, (2, 16)),
    "roberta, its epsilon": (
        "RobertaForMaskedLM",
        ROBERTA | dict(layer_norm_eps=1e-5, num_attention_heads=1),
        (2, 7),
    ),
    "albert": ("AlbertForPreTraining", ALBERT, (3, 9)),
    "albert, two groups": ("AlbertForPreTraining", ALBERT | dict(num_hidden_groups=2), (2, 8)),
    "albert, all groups, gelu": (
        "AlbertForMaskedLM",
        ALBERT | dict(num_hidden_groups=4, hidden_act="gelu"),
        (2, 8),
    ),
    "electra generator": ("ElectraForMaskedLM", ELECTRA, (3, 9)),
    "electra generator, wide tables": (
        "ElectraForMaskedLM",
        ELECTRA | dict(embedding_size=12),
        (2, 6),
    ),
    "distilbert": ("DistilBertForMaskedLM", DISTILBERT, (3, 9)),
    "distilbert, relu": ("DistilBertForMaskedLM", DISTILBERT | dict(activation="relu"), (2, 6)),
}


def build(kind, settings):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = getattr(transformers, kind)
    settings = settings | {k: 0 for k in ("bos_token_id", "eos_token_id")}
    return model(model.config_class(**settings, attn_implementation="eager"))


def inputs(oracle, shape):
    """Our batch, and the same for PyTorch."""
    import torch

    model = oracle.published.model
    batch = make_batch(model["vocab_size"], max(model["token_types"], 1), *shape)
    real = batch["segment_ids"] > 0
    tokens = np.where(batch["tokens"] < 2, 2, batch["tokens"])  # 0 and 1 are padding
    pad = oracle.torch_model.config.pad_token_id
    batch["tokens"] = np.where(real, tokens, pad).astype(np.int32)
    theirs = {"input_ids": batch["tokens"], "attention_mask": batch["segment_ids"]}
    if model["token_types"]:
        theirs["token_type_ids"] = batch["token_types"]
    return batch, real, {k: torch.tensor(v, dtype=torch.long) for k, v in theirs.items()}


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_gradients_equal_pytorch(tmp_path, name):
    import torch

    kind, settings, shape = CASES[name]
    oracle = parity.Oracle(build(kind, settings), tmp_path)
    assert not oracle.published.missing and not oracle.published.unexpected
    batch, real, theirs = inputs(oracle, shape)
    labels = np.where(batch["weights"] > 0, batch["targets"], -100)
    theirs["labels"] = torch.tensor(labels, dtype=torch.long)
    if kind == "AlbertForPreTraining":
        order = torch.tensor(batch["pair_labels"][:, 0], dtype=torch.long)
        theirs["sentence_order_label"] = order
    output = oracle.torch_model(**theirs)
    predictions, loss, gradients = oracle.run(batch)

    logits = output.prediction_logits if kind == "AlbertForPreTraining" else output.logits
    parity.assert_close(predictions["logits"][real], logits.detach().numpy()[real])
    if kind == "AlbertForPreTraining":
        order = output.sop_logits.detach().numpy()
        parity.assert_close(predictions["sentence_pair"][:, 0], order)
    assert loss == pytest.approx(output.loss.item(), rel=1e-4)
    parity.assert_gradients_close(gradients, oracle.torch_gradients(output.loss))


def discriminator_scores(module, batch):
    return module.replaced_token(module.network(batch, train=False).hidden)


@pytest.mark.parametrize("settings", [ELECTRA, ELECTRA | dict(embedding_size=12)])
def test_discriminator_equals_pytorch(tmp_path, settings):
    """Scores, binary cross-entropy over the tokens that are there, and its gradients."""
    import torch

    oracle = parity.Oracle(build("ElectraForPreTraining", settings), tmp_path)
    published, objective = oracle.published, oracle.objective
    assert set(published.params) == {"network", "replaced_token"}
    assert {path.split("/")[0] for path in published.missing} == {"masked_lm", "generator"}
    batch, real, theirs = inputs(oracle, (3, 9))
    labels = np.random.default_rng(0).integers(0, 2, real.shape)
    output = oracle.torch_model(**theirs, labels=torch.tensor(labels, dtype=torch.float))

    def loss(params):
        logits = objective.apply({"params": params}, batch, method=discriminator_scores)
        return losses.mean(losses.binary_cross_entropy(logits, labels), real).value, logits

    grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, logits), gradients = grad(published.params)
    parity.assert_close(np.asarray(logits)[real], output.logits.detach().numpy()[real])
    assert value == pytest.approx(output.loss.item(), rel=1e-4)
    parity.assert_gradients_close(gradients, oracle.torch_gradients(output.loss))


# What follows needs no PyTorch.

SECTIONS = {
    "roberta": (
        roberta,
        ROBERTA | dict(layer_norm_eps=1e-5),
        {"name": "masked_lm", "sentence_pair": False},
    ),
    "albert": (albert, ALBERT, {"name": "masked_lm", "sentence_pair": True}),
    "electra": (electra, ELECTRA, {"name": "masked_lm", "sentence_pair": False}),
    "distilbert": (distilbert, DISTILBERT, {"name": "masked_lm", "sentence_pair": False}),
}


def random_model(name):
    family, settings, objective = SECTIONS[name]
    model = family.read_config(settings)
    return model, objective, parity.random_params(parity.build(model, objective))


@pytest.mark.parametrize("name", SECTIONS)
def test_import_of_export_is_the_same_bit_for_bit(tmp_path, name):
    parity.assert_round_trip(tmp_path, *random_model(name))
    config = json.loads((tmp_path / "a/config.json").read_text())
    assert config["model_type"] == name


@pytest.mark.parametrize("name", SECTIONS)
def test_export_gives_the_same_logits_in_transformers(tmp_path, name):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, objective, params = random_model(name)
    huggingface.save(tmp_path, model, objective, params)
    kind = json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    theirs = parity.read_exported(
        getattr(transformers, kind), tmp_path, attn_implementation="eager"
    )
    oracle = type("Oracle", (), {"published": huggingface.load(tmp_path), "torch_model": theirs})
    batch, real, given = inputs(oracle, (2, 9))
    ours = parity.build(model, objective)
    predictions = ours.apply({"params": params}, batch, method=ours.predict)
    with torch.no_grad():
        output = theirs(**given)
    logits = output.prediction_logits if name == "albert" else output.logits
    parity.assert_close(np.asarray(predictions["logits"])[real], logits.numpy()[real])


def electra_run(tie):
    model = electra.read_config(ELECTRA)
    objective, _ = electra.objective([])
    objective |= {"tie": tie, "generator_size": 1 / 3}
    return model, objective, parity.random_params(parity.build(model, objective))


@pytest.mark.parametrize("tie", ["embeddings", "tokens", "none"])
def test_both_networks_of_an_electra_run(tmp_path, tie):
    """The discriminator, and the generator as a masked LM of its own with the shared tables."""
    model, objective, params = electra_run(tie)
    huggingface.save(tmp_path / "d", model, objective, params)
    published = huggingface.load(tmp_path / "d")
    parity.assert_same_bits(published.params, {k: params[k] for k in published.params})
    assert set(published.params) == {"network", "replaced_token"}

    small, section, own = electra.generator(model, objective, params)
    huggingface.save(tmp_path / "g", small, section, own)
    published = huggingface.load(tmp_path / "g")
    assert not published.missing and published.objective == section
    assert (published.model["width"], published.model["heads"]) == (4, 1)
    batch = make_batch(50, 2, 2, 9)
    run, alone = parity.build(model, objective), parity.build(published.model, section)
    together = run.apply({"params": params}, batch, method=run.predict)["logits"]
    by_itself = alone.apply({"params": published.params}, batch, method=alone.predict)["logits"]
    np.testing.assert_allclose(together, by_itself, rtol=1e-5, atol=1e-5)


def test_an_exported_discriminator_gives_the_same_scores_in_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, objective, params = electra_run("embeddings")
    huggingface.save(tmp_path, model, objective, params)
    theirs = parity.read_exported(transformers.ElectraForPreTraining, tmp_path)
    oracle = type("Oracle", (), {"published": huggingface.load(tmp_path), "torch_model": theirs})
    batch, real, given = inputs(oracle, (2, 9))
    ours = parity.build(model, objective).apply(
        {"params": params}, batch, method=discriminator_scores
    )
    with torch.no_grad():
        logits = theirs(**given).logits.numpy()
    parity.assert_close(np.asarray(ours)[real], logits[real])


def test_a_student_is_exported_without_its_teacher(tmp_path):
    model = distilbert.read_config(DISTILBERT)
    objective = dict(
        name="distill",
        classes=0,
        teacher=model,
        weights=dict(soft=1.0, masked_lm=1.0, cosine=0, embedding=0, hidden=1.0, attention=0),
        temperature=2.0,
        mapping="uniform",
        shared_projection=False,
        logit_chunks=1,
    )
    params = parity.random_params(parity.build(model, objective))
    huggingface.save(tmp_path / "hf", model, objective, params)
    published = huggingface.load(tmp_path / "hf")
    assert published.family == "distilbert" and not published.unexpected
    parity.assert_same_bits(published.params, {k: params[k] for k in ("network", "masked_lm")})


def test_the_layout_can_be_chosen(tmp_path):
    model, objective, params = random_model("distilbert")
    huggingface.save(tmp_path / "hf", model, objective, params, family="roberta")
    assert huggingface.load(tmp_path / "hf").family == "roberta"
    with pytest.raises(UserError, match="token types"):
        huggingface.save(tmp_path / "no", model, objective, params, family="bert")


BAD_CONFIGS = [
    ("roberta", {"type_vocab_size": 2}, "type_vocab_size=2"),
    ("roberta", {"pad_token_id": 0}, "pad_token_id=0"),
    ("albert", {"inner_group_num": 2}, "inner_group_num=2"),
    ("albert", {"embedding_size": 12}, "narrower tables"),
    ("electra", {"hidden_act": "relu", "architectures": ["ElectraForMaskedLM"]}, "hidden_act"),
    ("distilbert", {"activation": "silu"}, "activation"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD_CONFIGS)
def test_refuses_what_the_network_cannot_express(name, change, message):
    family, settings, _ = SECTIONS[name]
    with pytest.raises(UserError, match=message):
        family.read_config(settings | change)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"sharing": "attention"}, "sharing='attention'"),
        ({"causal": True}, "causal=True"),
        ({"embed_width": 8, "activation": "relu"}, "embed_width=8"),
    ],
)
def test_refuses_to_export_what_no_layout_can_express(tmp_path, knobs, message):
    model = huggingface.bert.read_config(BERT) | knobs
    with pytest.raises(UserError, match=f"No published layout has a place.*{message}"):
        huggingface.save(tmp_path / "hf", model, {"name": "masked_lm", "sentence_pair": True}, {})


def test_tinyberts_shapes_are_berts(tmp_path):
    """312 wide in 12 heads, without pre-training heads, and what only distillation needed."""
    model = huggingface.bert.read_config(BERT | dict(hidden_size=24, num_attention_heads=12))
    objective = {"name": "masked_lm", "sentence_pair": True}
    params = parity.random_params(parity.build(model, objective))
    huggingface.save(tmp_path / "hf", model, objective, params)

    def change(tensors):
        kept = {k: v for k, v in tensors.items() if not k.startswith("cls.")}
        return kept | {"fit_dense.weight": np.ones((30, 24), np.float32)}

    parity.change_tensors(tmp_path / "hf", change)
    published = huggingface.load(tmp_path / "hf")
    assert published.unexpected == ["fit_dense.weight"]
    assert set(published.params) == {"network", "pooler"}
