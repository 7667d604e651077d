"""The distillation losses and their gradients against PyTorch: DistilBERT's three, TinyBERT's."""

import jax
import numpy as np
import parity
import pytest
from test_bert import make_batch
from test_encoders import BERT, DISTILBERT, build, inputs

from model import losses
from model.objectives import distill

TEMPERATURE = 2.0


def both(tmp_path, student, teacher):
    """Two models of `transformers` with random weights, each with ours."""
    return (
        parity.Oracle(build(*student), tmp_path / "student"),
        parity.Oracle(build(*teacher), tmp_path / "teacher"),
    )


def ours(student, teacher, batch, weights, more=None):
    """Our losses by name, and the gradients of their sum by weights without the teacher's."""
    section = dict(
        name="distill",
        classes=0,
        teacher=teacher.published.model | {"dtype": "float32"},
        weights=dict.fromkeys(distill.TERMS, 0.0) | weights,
        temperature=TEMPERATURE,
        mapping="uniform",
        shared_projection=True,
        logit_chunks=2,
    )
    objective = parity.build(student.published.model, section)
    params = {**student.published.params, **(more or {})}
    params["teacher"] = teacher.published.params

    def loss(params):
        terms, _ = objective.apply({"params": params}, batch, train=False)
        means = {name: term.value for name, term in terms.items()}
        return losses.combine(means, objective.weights), means

    gradients, means = jax.jit(jax.grad(loss, has_aux=True))(params)
    del gradients["teacher"]
    return means, jax.tree.map(np.asarray, gradients)


def assert_means_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert float(ours[name]) == pytest.approx(value.item(), rel=1e-4), name


def test_the_triple_loss_equals_pytorch(tmp_path):
    """Kullback-Leibler and cosine over the tokens that are there, cross-entropy over the masked."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    student, teacher = both(
        tmp_path, ("DistilBertForMaskedLM", DISTILBERT), ("BertForMaskedLM", BERT)
    )
    batch, real, given = inputs(student, (3, 9))
    weights = dict(soft=5.0, masked_lm=2.0, cosine=1.0)
    labels = np.where(batch["weights"] > 0, batch["targets"], -100)
    given["output_hidden_states"] = True
    out = student.torch_model(**given, labels=torch.tensor(labels, dtype=torch.long))
    with torch.no_grad():
        taught = teacher.torch_model(**given)
    theirs = {
        "soft": TEMPERATURE**2
        * F.kl_div(
            F.log_softmax(out.logits[real] / TEMPERATURE, dim=-1),
            F.softmax(taught.logits[real] / TEMPERATURE, dim=-1),
            reduction="batchmean",
        ),
        "masked_lm": out.loss,
        "cosine": F.cosine_embedding_loss(
            out.hidden_states[-1][real], taught.hidden_states[-1][real], torch.ones(int(real.sum()))
        ),
    }
    means, gradients = ours(student, teacher, batch, weights)
    assert_means_close(means, theirs)
    total = sum(weights[name] * loss for name, loss in theirs.items())
    parity.assert_gradients_close(gradients, student.torch_gradients(total))


def recorded_scores(model):
    """Fills a list with the attention scores [B H T S] of each layer as the model runs."""
    import torch

    found, queries = [], []
    for layer in model.bert.encoder.layer:
        attention = layer.attention.self
        shape = (attention.num_attention_heads, attention.attention_head_size)
        heads = lambda x, shape=shape: x.unflatten(-1, shape).transpose(1, 2)  # noqa: E731
        attention.query.register_forward_hook(
            lambda _, __, x, heads=heads: queries.append(heads(x))
        )
        attention.key.register_forward_hook(
            lambda _, __, x, heads=heads: found.append(
                torch.matmul(queries.pop(), heads(x).transpose(2, 3)) / heads(x).shape[-1] ** 0.5
            )
        )
    return found


def test_tinyberts_losses_equal_pytorch(tmp_path):
    """Squared errors of embeddings, hidden states and scores; every second layer of the teacher.

    Without padding, where its code and ours count the same scores.
    """
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    wide = BERT | dict(hidden_size=24, num_hidden_layers=4)
    student, teacher = both(tmp_path, ("BertForMaskedLM", BERT), ("BertForMaskedLM", wide))
    batch = make_batch(50, 2, 3, 9)
    batch["tokens"] = np.maximum(batch["tokens"], 1)  # 0 is padding: PyTorch does not train it
    batch["segment_ids"] = np.ones_like(batch["segment_ids"])
    batch["positions"] = np.tile(np.arange(9, dtype=np.int32), (3, 1))
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(0, 0.3, (12, 24)), rng.normal(0, 0.3, 24)
    more = {"project_hidden": {"kernel": np.float32(kernel), "bias": np.float32(bias)}}
    project = torch.nn.Linear(12, 24)
    project.weight.data, project.bias.data = (
        torch.tensor(x, dtype=torch.float) for x in (kernel.T, bias)
    )

    given = {
        "input_ids": torch.tensor(batch["tokens"], dtype=torch.long),
        "token_type_ids": torch.tensor(batch["token_types"], dtype=torch.long),
        "output_hidden_states": True,
    }
    scores, taught_scores = (
        recorded_scores(student.torch_model),
        recorded_scores(teacher.torch_model),
    )
    out = student.torch_model(**given)
    with torch.no_grad():
        taught = teacher.torch_model(**given)
    pairs = [(1, 2), (2, 4)]  # layers from 1
    theirs = {
        "embedding": F.mse_loss(project(out.hidden_states[0]), taught.hidden_states[0]),
        "hidden": sum(
            F.mse_loss(project(out.hidden_states[m]), taught.hidden_states[n]) for m, n in pairs
        ),
        "attention": sum(F.mse_loss(scores[m - 1], taught_scores[n - 1]) for m, n in pairs),
    }
    # Without a loss that needs it, the student has no head.
    params = student.published.params
    student.published = student.published._replace(params={"network": params["network"]})
    means, gradients = ours(student, teacher, batch, dict.fromkeys(theirs, 1.0), more)
    assert_means_close(means, theirs)
    of_head = [p for n, p in student.torch_model.named_parameters() if n.startswith("cls.")]
    total = sum(theirs.values()) + sum(0 * p.sum() for p in of_head)
    published = student.torch_gradients(total)
    projection = {"kernel": project.weight.grad.numpy().T, "bias": project.bias.grad.numpy()}
    expected = {"network": published["network"], "project_hidden": projection}
    parity.assert_gradients_close(gradients, expected)
