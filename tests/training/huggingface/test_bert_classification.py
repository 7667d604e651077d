"""A fine-tuned BERT beside that of `transformers`."""

import jax
import numpy as np
import parity
import pytest

from model import batch as batch_lib
from training import huggingface
from training.huggingface import mapping

VOCAB = 97


def batch(classes, rows=5, length=12, padding=4):
    rng = np.random.default_rng(0)
    ids = np.ones((rows, length), np.int32)
    ids[:, length - padding :] = 0
    types = np.zeros((rows, length), np.int32)
    types[:, length // 2 : length - padding] = 1
    made = {
        "tokens": rng.integers(5, VOCAB, (rows, length)).astype(np.int32) * ids,
        "token_types": types,
        "segment_ids": ids,
        "positions": np.arange(length, dtype=np.int32) * ids,
        "pair_positions": np.zeros((rows, 1), np.int32),
        "label": rng.integers(0, classes, rows).astype(np.int32),
        "score": rng.uniform(0, 5, rows).astype(np.float32),
        "example_weights": np.ones(rows, np.float32),
    }
    batch_lib.check(made)
    return made


@pytest.mark.parametrize("classes", [1, 3])
def test_equals_transformers(classes, tmp_path):
    """Logits, loss and gradients are those of BertForSequenceClassification."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=16,
            num_labels=classes,
            initializer_range=0.3,
        )
    ).eval()
    theirs.bert.save_pretrained(tmp_path)
    published = huggingface.load(tmp_path)
    section = dict(name="classification", classes=classes, dropout=0.1)
    objective = parity.build(published.model, section)
    head = theirs.classifier
    params = {name: published.params[name] for name in ("network", "pooler")}
    params["task_classifier"] = {
        "dense": {"kernel": head.weight.detach().numpy().T, "bias": head.bias.detach().numpy()}
    }
    given = batch(classes)

    labels = torch.tensor(given["score"] if classes == 1 else given["label"].astype(np.int64))
    out = theirs(
        torch.tensor(given["tokens"]),
        attention_mask=torch.tensor(given["segment_ids"]),
        token_type_ids=torch.tensor(given["token_types"]),
        labels=labels,
    )

    def loss(params):
        terms, _ = objective.apply({"params": params}, given, train=False)
        return sum(term.value for term in terms.values())

    predict = jax.jit(lambda p: objective.apply({"params": p}, given, method="predict")["logits"])
    parity.assert_close(np.asarray(predict(params)), out.logits.detach().numpy())
    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    assert float(value) == pytest.approx(out.loss.item(), rel=1e-5)
    out.loss.backward()
    grads = {n: p.grad.numpy() for n, p in theirs.named_parameters()}
    head = {"kernel": grads.pop("classifier.weight").T, "bias": grads.pop("classifier.bias")}
    table = huggingface.FAMILIES["bert"].TABLE
    expected = mapping.from_published(table, mapping.sizes(published.model), grads, "it").params
    expected["task_classifier"] = {"dense": head}
    parity.assert_gradients_close(gradients, expected)
