"""Multiple choice beside that of `transformers`."""

import batches
import jax
import numpy as np
import parity
import pytest

from training import huggingface

VOCAB = 97
ROWS, CHOICES, LENGTH = 4, 3, 10


def linear(layer, what):
    """The kernel and the bias of a layer of theirs, or their gradients."""
    return {"kernel": what(layer.weight).numpy().T, "bias": what(layer.bias).numpy()}


@pytest.mark.parametrize("family", ["Bert", "Roberta", "Albert"])
def test_equals_transformers(family, tmp_path):
    """Logits, loss and the gradients of both heads are those of its ForMultipleChoice."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    sizes |= dict(intermediate_size=64, max_position_embeddings=16, initializer_range=0.3)
    sizes |= dict(type_vocab_size=1, pad_token_id=1) if family == "Roberta" else {}
    theirs = getattr(transformers, f"{family}ForMultipleChoice")(
        getattr(transformers, f"{family}Config")(**sizes)
    ).eval()
    network = getattr(theirs, family.lower())
    pooler = network.pooler if family == "Albert" else network.pooler.dense
    network.save_pretrained(tmp_path)
    published = huggingface.load(tmp_path)
    section = dict(name="classification", classes=0, dropout=0.1)
    objective = parity.build(published.model, section)
    heads = {"pooler": pooler, "task_classifier": theirs.classifier}
    params = {"network": published.params["network"]}
    for name, layer in heads.items():
        params[name] = {"dense": linear(layer, lambda x: x.detach())}

    # transformers has no choices that are not there; RoBERTa counts positions by its padding.
    given = {name: x[1:-1] for name, x in batches.choices(ROWS, CHOICES, LENGTH, VOCAB).items()}
    if family == "Roberta":
        given["token_types"] = np.zeros_like(given["token_types"])
        given["tokens"] = np.where(given["segment_ids"] > 0, given["tokens"], 1)

    def parts(name):
        return torch.tensor(given[name].reshape(ROWS - 2, CHOICES, LENGTH))

    out = theirs(
        parts("tokens"),
        attention_mask=parts("segment_ids"),
        token_type_ids=parts("token_types"),
        labels=torch.tensor(given["label"].astype(np.int64)),
    )
    predict = jax.jit(lambda p: objective.apply({"params": p}, given, method="predict")["logits"])
    parity.assert_close(np.asarray(predict(params)), out.logits.detach().numpy())

    def loss(params):
        return objective.apply({"params": params}, given, train=False)[0]["classification"].value

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    assert float(value) == pytest.approx(out.loss.item(), rel=1e-5)
    out.loss.backward()
    expected = {name: {"dense": linear(x, lambda y: y.grad)} for name, x in heads.items()}
    found = {name: gradients[name] for name in heads}
    parity.assert_gradients_close(found, expected)
