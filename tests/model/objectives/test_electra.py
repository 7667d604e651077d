"""ELECTRA: what it samples, what it is asked, and who learns from what."""

import batches
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding, PartitionSpec

from errors import UserError
from model import losses
from model.objectives import electra

BATCH = batches.masked_lm(4, 16, 4, tiny.VOCAB, padding=3)
BATCH["weights"][:, -1] = 0  # unused predictions, as in real rows


def electra_config(variant="electra", tie="embeddings", size=0.5, **weights):
    c = tiny.config("bert")
    factors = {"masked_lm": 1.0, "replaced_token": 50.0, "recovery": 1.0} | weights
    c.objective = dict(
        name="electra",
        variant=variant,
        tie=tie,
        generator_size=size,
        logit_chunks=2,
        weights=factors,
    )
    return c


def loss_of(objective, params, key=0):
    terms, metrics = objective.apply(
        {"params": params}, BATCH, train=True, rngs={"dropout": jax.random.key(key)}
    )
    loss = losses.combine({k: v.value for k, v in terms.items()}, objective.weights)
    return loss, (terms, metrics)


def gradients(c):
    objective = tiny.objective(c)
    gradient = jax.jit(jax.grad(lambda p: loss_of(objective, p)[0]))(tiny.params(c))
    return jax.tree.map(lambda x: float(jnp.abs(x).max()), gradient)


def largest(tree):
    return max(jax.tree.leaves(tree))


@pytest.mark.parametrize("tie", ["none", "embeddings"])
def test_no_gradient_from_discriminator_to_generator(tie):
    g = gradients(electra_config(tie=tie, masked_lm=0.0))
    assert largest(g["generator"]) == largest(g["masked_lm"]) == 0.0
    assert largest(g["network"]["stack"]) > 0 and largest(g["replaced_token"]) > 0
    assert largest(g["network"]["embedder"]) > 0


@pytest.mark.parametrize("tie", ["none", "tokens", "embeddings"])
def test_generator_teaches_only_what_is_shared(tie):
    g = gradients(electra_config(tie=tie, replaced_token=0.0))
    assert largest(g["generator"]) > 0 and largest(g["masked_lm"]) > 0
    assert largest(g["replaced_token"]) == largest(g["network"]["stack"]) == 0.0
    shared = {"none": set(), "tokens": {"tokens"}}.get(tie, {"tokens", "positions", "token_types"})
    for name, table in g["network"]["embedder"].items():
        assert (largest(table) > 0) == (name in shared), name
    own = set(g["generator"].get("embedder", {}))
    assert own == {
        "none": {"tokens", "positions", "token_types"},
        "tokens": {"positions", "token_types"},
    }.get(tie, set())


def test_one_network_with_all_weights_shared():
    params = tiny.params(electra_config(tie="all", size=1.0))
    assert set(params) == {"network", "masked_lm", "replaced_token"}
    with pytest.raises(UserError, match="generator_size to 1.0, not 0.5"):
        tiny.params(electra_config(tie="all"))


def test_samples_follow_the_distribution():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    n = 200_000
    drawn = electra.sample(jnp.broadcast_to(logits, (n // 100, 100, 4)), jax.random.key(0))
    for token, p in enumerate((0.5, 0.3, 0.15, 0.05)):
        share = float((drawn == token).mean())
        assert abs(share - p) < 3 * np.sqrt(p * (1 - p) / n)
    other = electra.sample(jnp.broadcast_to(logits, (n // 100, 100, 4)), jax.random.key(1))
    agree = float((drawn == other).mean())
    expected = 0.5**2 + 0.3**2 + 0.15**2 + 0.05**2
    assert abs(agree - expected) < 3 * np.sqrt(expected * (1 - expected) / n)  # independent


def test_samples_are_the_same_on_a_mesh(devices):
    logits = jax.random.normal(jax.random.key(0), (16, 4, 33))
    alone = jax.jit(electra.sample)(logits, jax.random.key(5))
    mesh = jax.make_mesh((8,), ("data",), devices=devices)
    spread = jax.device_put(logits, NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_array_equal(jax.jit(electra.sample)(spread, jax.random.key(5)), alone)


def test_put_leaves_unused_predictions_out():
    tokens = jnp.arange(12, dtype=jnp.int32).reshape(2, 6)
    batch = {
        "masked_positions": jnp.array([[1, 4, 0], [2, 0, 0]]),
        "weights": jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),
    }
    values = jnp.array([[90, 91, 99], [92, 99, 99]])
    expected = [[0, 90, 2, 3, 91, 5], [6, 7, 92, 9, 10, 11]]
    np.testing.assert_array_equal(electra.put(tokens, batch, values), expected)


@pytest.mark.parametrize("variant", ["electra", "electra_15"])
def test_labels(monkeypatch, variant):
    """Samples equal to the original are not replaced; others are; only what counts is asked."""
    c = electra_config(variant)
    objective, params = tiny.objective(c), tiny.params(c)
    masked = int(BATCH["weights"].sum())
    counted = masked if variant == "electra_15" else int((BATCH["segment_ids"] > 0).sum())

    monkeypatch.setattr(electra, "sample", lambda logits, key: jnp.asarray(BATCH["targets"]))
    terms, metrics = loss_of(objective, params)[1]
    assert float(metrics["replaced_recall"].weight) == 0
    assert float(terms["replaced_token"].weight) == counted

    other = (BATCH["targets"] + 1) % tiny.VOCAB
    monkeypatch.setattr(electra, "sample", lambda logits, key: jnp.asarray(other))
    terms, metrics = loss_of(objective, params)[1]
    assert float(metrics["replaced_recall"].weight) == masked


def test_all_tokens_is_a_mixture_of_copying_and_softmax(monkeypatch):
    c = electra_config("all_tokens")
    objective, params = tiny.objective(c), tiny.params(c)
    samples = BATCH["targets"].copy()
    samples[:, 0] = (samples[:, 0] + 1) % tiny.VOCAB
    monkeypatch.setattr(electra, "sample", lambda logits, key: jnp.asarray(samples))
    terms, _ = loss_of(objective, params)[1]

    def by_hand(module):
        original = electra.put(BATCH["tokens"], BATCH, BATCH["targets"])
        filled = electra.put(BATCH["tokens"], BATCH, samples)
        hidden = module.network({**BATCH, "tokens": filled}, train=False).hidden
        gate = jax.nn.sigmoid(module.copy_gate(hidden)[..., 0])
        softmax = jax.nn.softmax(module.recovery(hidden, module.network.embedder.tokens))
        p = jnp.take_along_axis(softmax, original[..., None], -1)[..., 0] * (1 - gate)
        p = p + gate * (original == filled)
        return -jnp.log(p)

    nll = np.asarray(objective.apply({"params": params}, method=by_hand))
    real = BATCH["segment_ids"] > 0
    assert float(terms["recovery"].value) == pytest.approx(nll[real].mean(), rel=1e-5)


def test_replace_mlm_predicts_the_masked_tokens():
    c = electra_config("replace_mlm")
    terms, _ = loss_of(tiny.objective(c), tiny.params(c))[1]
    assert float(terms["recovery"].weight) == BATCH["weights"].sum()


def test_generator_shapes_are_the_papers():
    for heads, width, mlp, size, expected in [
        (4, 256, 1024, 1 / 4, (1, 64, 256)),  # small
        (12, 768, 3072, 1 / 3, (4, 256, 1024)),  # base
        (16, 1024, 4096, 1 / 4, (4, 256, 1024)),  # large
    ]:
        c = tiny.config("bert")
        c.model.update(heads=heads, width=width, mlp_width=mlp)
        small = electra.generator_config(tiny.objective(c).network.config, size)
        assert (small.heads, small.width, small.mlp_width) == expected
        assert small.table_width == width


def test_predict_scores_the_tokens_as_they_are():
    c = electra_config()
    scores = tiny.objective(c).apply({"params": tiny.params(c)}, BATCH, method="predict")
    assert scores["logits"].shape == (4, 4, tiny.VOCAB) and scores["replaced"].shape == (4, 16)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("variant", "electra15", "Did you mean 'electra_15'"),
        ("tie", "token", "Did you mean 'tokens'"),
        ("generator_size", 0.0, "above 0"),
    ],
)
def test_wrong_options_are_told(field, value, message):
    c = electra_config()
    c.objective[field] = value
    with pytest.raises(UserError, match=message):
        tiny.params(c)
