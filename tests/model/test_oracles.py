"""Tiny random models with the outputs of a reference library (shared/data/model_oracles)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from model import heads, losses, networks, objectives

CASES = {"bert": "axlearn.common.bert_test.npz", "gpt2": "axlearn.common.causal_lm_test.npz"}
SIZES = dict(vocab_size=24, width=16, depth=2, heads=4, mlp_width=64, dtype="float32")
BERT = dict(SIZES, name="encoder", max_positions=20, token_types=2, norm_eps=1e-12)
GPT2 = dict(SIZES, name="decoder", max_positions=11, norm_first=True, norm_eps=1e-5)
# Our parameter -> theirs, in one layer.
LAYER = {
    "attention/query/kernel": "self_attention/attention/i_proj/q_proj/weight",
    "attention/query/bias": "self_attention/attention/i_proj/q_proj/bias",
    "attention/key/kernel": "self_attention/attention/i_proj/k_proj/weight",
    "attention/key/bias": "self_attention/attention/i_proj/k_proj/bias",
    "attention/value/kernel": "self_attention/attention/i_proj/v_proj/weight",
    "attention/value/bias": "self_attention/attention/i_proj/v_proj/bias",
    "attention/out/kernel": "self_attention/attention/o_proj/weight",
    "attention/out/bias": "self_attention/attention/o_proj/bias",
    "attention_norm/scale": "self_attention/norm/scale",
    "attention_norm/bias": "self_attention/norm/bias",
    "mlp/up/kernel": "feed_forward/linear1/weight",
    "mlp/up/bias": "feed_forward/linear1/bias",
    "mlp/down/kernel": "feed_forward/linear2/weight",
    "mlp/down/bias": "feed_forward/linear2/bias",
    "mlp_norm/scale": "feed_forward/norm/scale",
    "mlp_norm/bias": "feed_forward/norm/bias",
}


class Classifier(nn.Module):
    """An encoder, the pooler on its first token, and a linear layer."""

    network: nn.Module
    classes: int

    @nn.compact
    def __call__(self, batch):
        config, types = self.network.config, self.network.types
        hidden = self.network(batch, train=False).hidden
        pooled = heads.Pooler(config, types, name="pooler")(hidden[:, :1])
        return heads.Classifier(self.classes, config, types, name="classifier")(pooled)[:, 0]


@pytest.fixture(scope="module")
def cases(shared):
    """Returns family -> case -> {"params", "inputs", "outputs"} -> path -> array."""
    found = {}
    for family, name in CASES.items():
        with np.load(shared / "data" / "model_oracles" / name) as file:
            for key in file.files:
                case, part, path = key.split("/", 2)
                parts = found.setdefault((family, case), {})
                parts.setdefault(part, {})[path] = file[key]
    return found


def network(theirs, stem, outer):
    """Returns our parameters of a network from theirs below `stem`; `outer` names the single norm:
    that of an encoder's embeddings, or that behind a decoder's layers.
    """
    norm = "embed_norm" if stem == "encoder" else "norm"
    ours = {
        "embedder/tokens/table": theirs[f"{stem}/emb/token_emb/weight"],
        "embedder/positions/table": theirs[f"{stem}/emb/pos_emb/weight"][0],
        f"{norm}/scale": theirs[f"{stem}/{outer}/scale"],
        f"{norm}/bias": theirs[f"{stem}/{outer}/bias"],
    }
    if f"{stem}/emb/type_emb/weight" in theirs:
        ours["embedder/token_types/table"] = theirs[f"{stem}/emb/type_emb/weight"]
    for path, name in LAYER.items():
        layers = [theirs[f"{stem}/transformer/layer{i}/{name}"] for i in range(SIZES["depth"])]
        ours[f"stack/blocks/{path}"] = np.stack(layers)
    out = "stack/blocks/attention/out/kernel"
    ours[out] = np.moveaxis(ours[out], 1, -1)  # N D H K there, N H K D here
    return tree(ours)


def tree(flat):
    root = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = root
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = value
    return root


def inputs(tokens, token_types=None, real=None):
    real = np.ones(tokens.shape, bool) if real is None else real
    types = np.zeros(tokens.shape) if token_types is None else token_types
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    batch = dict(tokens=tokens, token_types=types, segment_ids=real, positions=positions)
    return {name: value.astype(np.int32) for name, value in batch.items()}


def assert_close(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("case", ["test_for_mlm", "test_for_mlm_with_padding"])
def test_bert_masked_lm(cases, case):
    given = cases["bert", case]
    theirs, x, expected = given["params"], given["inputs"], given["outputs"]
    head = {
        "dense/kernel": theirs["head/transform/linear/weight"],
        "dense/bias": theirs["head/transform/linear/bias"],
        "norm/scale": theirs["head/transform/norm/scale"],
        "norm/bias": theirs["head/transform/norm/bias"],
        "bias": theirs["head/output_bias"],
    }
    params = {"network": network(theirs, "encoder", "emb/norm"), "masked_lm": tree(head)}
    real = x["input_ids"] != 0
    batch = inputs(x["input_ids"], x["token_type_ids"], real)
    batch["masked_positions"] = batch["positions"]
    batch["targets"] = np.maximum(x["target_labels"], 0).astype(np.int32)
    batch["weights"] = (x["target_labels"] != -100).astype(np.float32)

    config = {"model": BERT, "objective": {"name": "masked_lm", "sentence_pair": False}}
    objective = objectives.build(ml_collections.ConfigDict(config), "cpu")
    hidden = objective.network.apply({"params": params["network"]}, batch, train=False).hidden
    assert_close(hidden[real], expected["hidden_states_last"][real])
    logits = objective.apply({"params": params}, batch, method=objective.predict)["logits"]
    assert_close(logits[real], expected["logits"][real])
    terms, _ = objective.apply({"params": params}, batch, train=False)
    assert float(terms["masked_lm"].value) == pytest.approx(float(expected["loss"]), rel=1e-5)


def squared_error(logits, labels):
    return jnp.square(logits[:, 0] - labels)


def binary(logits, labels):
    return jax.nn.softplus(logits) - logits * labels


@pytest.mark.parametrize(
    "case, loss",
    [
        ("test_sequence_classification_1", squared_error),
        ("test_sequence_classification_2", losses.cross_entropy),
        ("test_sequence_classification_3", losses.cross_entropy),
        ("test_sequence_binary_classification", binary),
        ("test_multiple_choice_classification", losses.cross_entropy),
    ],
)
def test_bert_classification(cases, case, loss):
    given = cases["bert", case]
    theirs, x, expected = given["params"], given["inputs"], given["outputs"]
    head = {
        "pooler/dense/kernel": theirs["head/pooler/linear/weight"],
        "pooler/dense/bias": theirs["head/pooler/linear/bias"],
        "classifier/dense/kernel": theirs["head/output/weight"],
        "classifier/dense/bias": theirs["head/output/bias"],
    }
    params = {"network": network(theirs, "encoder", "emb/norm"), **tree(head)}
    length = x["input_ids"].shape[-1]
    rows = {name: x[name].reshape(-1, length) for name in x if name != "target_labels"}
    batch = inputs(rows["input_ids"], rows.get("token_type_ids"), rows["padding_mask"])
    model = Classifier(networks.build(BERT, "cpu"), theirs["head/output/bias"].size)
    logits = model.apply({"params": params}, batch).reshape(expected["logits"].shape)
    assert_close(logits, expected["logits"])
    found = float(jnp.mean(loss(logits, x["target_labels"])))
    assert found == pytest.approx(float(expected["loss"]), rel=1e-5)


def test_gpt2(cases):
    given = cases["gpt2", "test_against_hf_gpt2_lm"]
    config = {"model": GPT2, "objective": {"name": "causal_lm", "logit_chunks": 1}}
    objective = objectives.build(ml_collections.ConfigDict(config), "cpu")
    params = {"network": network(given["params"], "decoder", "output_norm")}
    batch = inputs(given["inputs"]["input_ids"])
    predictions = objective.apply({"params": params}, batch, method=objective.predict)
    assert_close(predictions["logits"], given["outputs"]["logits"])


def test_all_cases_are_tried(cases):
    """Of the two files; a new case must get a test here."""
    assert len(cases) == 8
