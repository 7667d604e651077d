"""The encoder-decoder: buckets of positions, who sees whom, packing, rematerialization, cache."""

import batches
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from errors import UserError
from model import losses, networks, positions

ROWS, LENGTH, TARGETS = 3, 16, 12


def make(padding=3, **overrides):
    c = tiny.config("t5", **overrides)
    batch = batches.seq2seq_lm(ROWS, LENGTH, TARGETS, tiny.VOCAB, padding=padding)
    return c, tiny.params(c), batch


def hidden(c, params, batch):
    network = networks.build(c.model, "cpu")
    return network.apply({"params": params["network"]}, batch, train=False).hidden


# The distances at which T5's 32 buckets begin, from its formula.
ENCODER = (*range(8), 8, 12, 16, 23, 32, 46, 64, 91)
DECODER = (*range(16), 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113)


def test_buckets_begin_at_the_published_distances():
    assert positions.first_distances(16, 128) == ENCODER
    assert positions.first_distances(32, 128) == DECODER
    sizes = dict(buckets=32, max_distance=128)
    distance = np.arange(300)
    causal = positions.bucket(-distance, bidirectional=False, **sizes)
    assert [int(np.argmax(causal == b)) for b in range(32)] == list(DECODER)
    assert (positions.bucket(distance, bidirectional=False, **sizes) == 0).all()
    behind, before = (
        positions.bucket(x, bidirectional=True, **sizes) for x in (-distance, distance)
    )
    assert [int(np.argmax(behind == b)) for b in range(16)] == list(ENCODER)
    np.testing.assert_array_equal(before[1:], behind[1:] + 16)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (32, 200), (8, 12), (64, 512)])
def test_buckets_equal_transformers(bidirectional, buckets, distance):
    torch = pytest.importorskip("torch")
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    relative = np.arange(-700, 701)
    theirs = t5.T5Attention._relative_position_bucket(
        torch.tensor(relative), bidirectional, buckets, distance
    )
    ours = positions.bucket(
        relative, bidirectional=bidirectional, buckets=buckets, max_distance=distance
    )
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_shapes_and_types(dtype, tied):
    c, params, batch = make(**{"model.dtype": dtype, "model.tied": tied, "model.gated": not tied})
    objective = tiny.objective(c)
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(params))
    assert not [p for p in jax.tree_util.tree_leaves_with_path(params) if "bias" in str(p[0][-1])]
    output = hidden(c, params, batch)
    assert output.shape == (ROWS, TARGETS, 32) and output.dtype == dtype
    scores = objective.apply({"params": params}, batch, method="predict")["logits"]
    assert scores.shape == (ROWS, TARGETS, tiny.VOCAB) and scores.dtype == jnp.float32


def influence(c, params, batch, token):
    """Which inputs change a decoder token's hidden state: |gradient|, encoder's and decoder's."""
    network = networks.build(c.model, "cpu")

    def probe(noises):
        def add(call, args, kwargs, context):
            y = call(*args, **kwargs)
            if context.module.name != "tokens" or context.method_name != "__call__":
                return y
            return y + next(n for n in noises if n.shape == y.shape)

        with nn.intercept_methods(add):
            out = network.apply({"params": params["network"]}, batch, train=False)
        return (out.hidden[:, token] * jnp.sin(jnp.arange(c.model.width))).sum()

    shapes = [(ROWS, n, c.model.width) for n in (LENGTH, TARGETS)]
    gradients = jax.grad(probe)([jnp.zeros(shape) for shape in shapes])
    return [np.abs(np.asarray(g)).sum(-1) for g in gradients]


def test_decoder_is_causal_and_sees_all_of_the_encoder_but_padding():
    reach, decoder_reach = influence(*make(), token=5)
    assert (decoder_reach[:, 6:] == 0).all() and (decoder_reach[:, :6] > 0).all()
    assert (reach[:, 13:] == 0).all() and (reach[:, :13] > 0).all()


def test_packed_examples_do_not_see_each_other():
    c, params, batch = make(padding=0)
    batch["segment_ids"] = np.repeat([[1] * 7 + [2] * 9], ROWS, axis=0).astype(np.int32)
    batch["decoder_segment_ids"] = np.repeat([[1] * 5 + [2] * 7], ROWS, axis=0).astype(np.int32)
    reach, decoder_reach = influence(c, params, batch, token=8)
    assert (reach[:, :7] == 0).all() and (reach[:, 7:] > 0).all()
    assert (decoder_reach[:, :5] == 0).all() and (decoder_reach[:, 5:9] > 0).all()


def test_packed_equals_unpacked():
    c, params, batch = make(padding=0)
    a, b = ({k: v[i : i + 1] for k, v in batch.items()} for i in (0, 1))
    packed = {k: np.concatenate([a[k], b[k]], 1) for k in a}
    for name, width in (("segment_ids", LENGTH), ("decoder_segment_ids", TARGETS)):
        packed[name] = np.repeat([[1, 2]], width, axis=1).astype(np.int32)
    together = hidden(c, params, packed)
    alone = np.concatenate([hidden(c, params, x) for x in (a, b)], 1)
    np.testing.assert_allclose(together, alone, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_rematerialized_equals_plain(remat):
    def loss_and_gradient(remat):
        dropout = {f"model.{name}": 0.1 for name in ("dropout", "attention_dropout", "mlp_dropout")}
        c, params, batch = make(**{"model.remat": remat, **dropout})
        objective = tiny.objective(c)

        def loss(params):
            rngs = {"dropout": jax.random.key(1)}
            terms, _ = objective.apply({"params": params}, batch, train=True, rngs=rngs)
            return losses.combine({k: t.value for k, t in terms.items()}, objective.weights)

        return jax.jit(jax.value_and_grad(loss))(params)

    for x, y in zip(*map(jax.tree.leaves, map(loss_and_gradient, (remat, "none")))):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sharing", ["none", "all"])
def test_cache_continues_as_if_recomputed(sharing):
    c, params, batch = make(**{"model.sharing": sharing})
    objective = tiny.objective(c)

    def apply(*args, method="predict"):
        return objective.apply({"params": params}, *args, method=method)

    whole = apply(batch)["logits"]
    cache, start, position = apply(batch, 20, method="begin")
    assert (start == batch["decoder_tokens"][:, 0]).all() and (position == 0).all()
    pieces = []
    names = {"tokens": "decoder_tokens", "segment_ids": "decoder_segment_ids"}
    for first, last in ((0, 1), (1, 2), (2, 7), (7, TARGETS)):
        part = {ours: batch[name][:, first:last] for ours, name in names.items()}
        scores = apply(part, cache)
        cache = scores["cache"]
        pieces.append(scores["logits"])
    assert int(cache.length) == TARGETS
    real = batch["weights"] > 0
    np.testing.assert_allclose(np.concatenate(pieces, 1)[real], whole[real], rtol=1e-5, atol=1e-5)


def test_the_second_term_of_the_loss_is_the_square_of_log_z():
    c, params, batch = make()
    objective = tiny.objective(c)
    terms, _ = jax.jit(lambda p: objective.apply({"params": p}, batch, train=False))(params)
    logits = np.asarray(objective.apply({"params": params}, batch, method="predict")["logits"])
    log_z = np.log(np.exp(logits.astype(np.float64)).sum(-1))[batch["weights"] > 0]
    assert float(terms["z_loss"].value) == pytest.approx((log_z**2).mean(), rel=1e-5)
    assert objective.weights["z_loss"] == 1e-4


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        ("token_types", 2, "token_types=2 has no effect on the network encoder_decoder"),
        ("embed_width", 16, "embed_width=16 has no effect"),
        ("relative_buckets", 6, "relative_buckets=6 must be a multiple of 4"),
        ("relative_distance", 16, "must be above half of relative_buckets, 16"),
        ("norm", "rsm", "Did you mean 'rms'"),
        ("mlp_dropout", 1.0, "mlp_dropout must be in"),
        ("tie", True, "Did you mean 'tied'"),
    ],
)
def test_wrong_knobs_are_told(knob, value, message):
    c = tiny.config("t5")
    c.model[knob] = value
    with pytest.raises(UserError, match=message):
        tiny.objective(c)


@pytest.mark.parametrize(("page", "objective"), [("t5", "causal_lm"), ("gpt2", "seq2seq_lm")])
def test_an_objective_for_another_network_is_told(page, objective):
    c = tiny.config(page)
    c.objective.name = objective
    with pytest.raises(UserError, match="belong together"):
        tiny.objective(c)


def test_initial_values_are_those_of_the_released_code():
    c = tiny.config("t5", **{"model.width": 128, "model.heads": 8, "model.head_size": 16})
    network = tiny.params(c)["network"]
    block = network["decoder"]["stack"]["blocks"]
    wide = {
        "query": (128 * 16) ** -0.5,
        "key": 128**-0.5,
        "value": 128**-0.5,
        "out": (8 * 16) ** -0.5,
    }
    for name, std in wide.items():
        for module in ("attention", "cross_attention"):
            assert block[module][name]["kernel"].std() == pytest.approx(std, rel=0.03)
    assert block["mlp"]["up"]["kernel"].std() == pytest.approx(128**-0.5, rel=0.03)
    assert block["mlp"]["down"]["kernel"].std() == pytest.approx(c.model.mlp_width**-0.5, rel=0.03)
    assert network["tokens"]["table"].std() == pytest.approx(1.0, rel=0.03)
