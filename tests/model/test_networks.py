"""What every network and objective must hold: masks, packing, rematerialization, cache."""

import json

import batches
import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxprs
import numpy as np
import pytest
import tiny

from errors import UserError
from model import attention, networks, transformer


def network_output(c, params, batch, **kwargs):
    network = networks.build(c.model, "cpu")
    return network.apply({"params": params["network"]}, batch, train=False, **kwargs)


def make(page, rows=3, length=16, **overrides):
    if page == "gpt3":  # a band narrower than half of a row
        overrides = {"model.bands": (0, 3)} | overrides
    c = tiny.config(page, **overrides)
    if page in ("albert", "bert", "electra"):
        batch = batches.masked_lm(rows, length, 4, tiny.VOCAB, padding=3)
    elif page == "ernie":
        batch = batches.entity_lm(rows, length, 4, tiny.VOCAB, padding=3)
    elif page == "t5":
        batch = batches.seq2seq_lm(rows, length, 8, tiny.VOCAB, padding=3)
    elif page == "xlnet":
        batch = batches.permutation_lm(rows, length, 4, tiny.VOCAB, padding=3, memory=6)
    else:
        batch = batches.causal_lm(rows, length, tiny.VOCAB)
    return c, tiny.params(c), batch


@pytest.mark.parametrize(
    "page", ["albert", "bert", "ernie", "gpt1", "gpt2", "gpt3", "reformer", "xlnet"]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shapes_and_types(page, dtype):
    c, params, batch = make(page, **{"model.dtype": dtype})
    width = 64 if page == "reformer" else 32  # of both its streams
    if page == "reformer":  # which keeps no layers
        output = network_output(c, params, batch)
    else:
        output = network_output(c, params, batch, return_layers=True)
        assert output.layers.shape == (2, 3, 16, width)
    assert output.hidden.shape == (3, 16, width) and output.hidden.dtype == dtype
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(params))
    scores = tiny.objective(c).apply({"params": params}, batch, method="predict")
    assert scores["logits"].dtype == jnp.float32
    assert scores["logits"].shape == (*batch["targets"].shape, tiny.VOCAB)


def test_heads_need_not_divide_the_width():
    c, params, batch = make("gpt2", **{"model.heads": 3, "model.head_size": 5})
    kernel = params["network"]["stack"]["blocks"]["attention"]["query"]["kernel"]
    assert kernel.shape == (2, 32, 3, 5)
    assert network_output(c, params, batch).hidden.shape == (3, 16, 32)


@pytest.mark.parametrize("page", ["gpt3", "reformer"])
def test_lists_of_a_saved_config_are_knobs_as_well(page):
    """JSON has no tuples, and an argument of compiled functions must be hashable."""
    c = tiny.config(page)
    saved = json.loads(c.to_json_best_effort())
    network = networks.build(saved["model"], "cpu")
    assert network == networks.build(c.model, "cpu")
    assert hash(network) == hash(networks.build(c.model, "cpu"))


def influence(c, params, batch, token):
    """Which inputs change the hidden state of one token: |gradient| by position, [B T]."""
    network = networks.build(c.model, "cpu")

    def probe(noise):
        def add(call, args, kwargs, context):
            y = call(*args, **kwargs)
            ours = isinstance(context.module, transformer.Embedder)
            return y + noise if ours and context.method_name == "__call__" else y

        with nn.intercept_methods(add):
            out = network.apply({"params": params["network"]}, batch, train=False)
        # Not the plain sum, which a norm makes constant.
        return (out.hidden[:, token] * jnp.sin(jnp.arange(c.model.width))).sum()

    rows, length = batch["tokens"].shape
    gradient = jax.grad(probe)(jnp.zeros((rows, length, c.model.width)))
    return np.abs(np.asarray(gradient)).sum(-1)


@pytest.mark.parametrize("page", ["gpt1", "gpt2", "gpt3"])
def test_decoder_is_causal_by_gradient(page):
    c, params, batch = make(page)
    reach = influence(c, params, batch, token=9)
    assert (reach[:, 10:] == 0).all()
    assert (reach[:, :10] > 0).all()


def test_encoder_sees_both_sides_but_no_padding():
    c, params, batch = make("bert")
    reach = influence(c, params, batch, token=5)
    assert (reach[:, 13:] == 0).all()
    assert (reach[:, :13] > 0).all()


def test_packed_segments_do_not_see_each_other():
    for page in ("bert", "gpt2", "gpt3"):
        c, params, batch = make(page)
        batch["segment_ids"] = np.repeat([[1] * 7 + [2] * 6 + [0] * 3], 3, axis=0).astype(np.int32)
        reach = influence(c, params, batch, token=9)
        assert (reach[:, :7] == 0).all() and (reach[:, 13:] == 0).all()
        assert (reach[:, 7:10] > 0).all()


@pytest.mark.parametrize("page", ["albert", "bert", "ernie", "gpt1", "gpt2", "gpt3"])
def test_packed_equals_unpacked(page):
    c, params, batch = make(page, rows=2, length=8)
    a, b = ({k: v[i : i + 1] for k, v in batch.items()} for i in (0, 1))
    fields = ("tokens", "token_types", "positions", "entities")
    packed = {k: np.concatenate([a[k], b[k]], 1) for k in fields if k in a}
    packed["segment_ids"] = np.repeat([[1, 2]], 8, axis=1).reshape(1, 16).astype(np.int32)
    for x in (a, b):
        x["segment_ids"] = np.ones((1, 8), np.int32)
    together = network_output(c, params, packed).hidden
    alone = [network_output(c, params, x).hidden for x in (a, b)]
    np.testing.assert_allclose(together, np.concatenate(alone, 1), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "page",
    [
        *("albert", "bert", "gpt2", "xlnet"),
        *(
            pytest.param(x, marks=pytest.mark.slow)
            for x in ("electra", "ernie", "gpt1", "gpt3", "t5")
        ),
    ],
)
def test_saved_or_not_in_a_loop_or_not_the_numbers_are_equal(page):
    def loss_and_gradient(remat, **knobs):
        c, params, batch = make(page, **{"model.remat": remat, "model.dropout": 0.1}, **knobs)
        objective = tiny.objective(c)

        def loss(params):
            key = {"dropout": jax.random.key(3)}
            terms, _ = objective.apply({"params": params}, batch, train=True, rngs=key)
            return sum(term.value for term in terms.values())

        return jax.jit(jax.value_and_grad(loss))(params)

    value, gradient = loss_and_gradient("none")
    others = [{"remat": "dots"}, {"remat": "full"}]
    if page != "ernie":
        others += [{"remat": remat, "model.scan_layers": False} for remat in ("none", "dots")]
    for knobs in others:
        other, other_gradient = loss_and_gradient(**knobs)
        np.testing.assert_allclose(other, value, rtol=1e-6)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
            other_gradient,
            gradient,
        )


@pytest.mark.parametrize("page", ["bert", "gpt2"])
def test_layers_outside_of_a_loop_are_not_stacked(page):
    """Neither is a loop left in the program, nor are gradients summed in arrays of all layers."""

    def primitives(**knobs):
        c, params, batch = make(page, **{"model.depth": 5, "model.remat": "none"} | knobs)
        objective = tiny.objective(c)

        def loss(params):
            terms, _ = objective.apply({"params": params}, batch, train=True)
            return sum(term.value for term in terms.values())

        equations = jaxprs.equations(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
        return {
            equation.primitive.name
            for equation in equations
            if any(len(x.aval.shape) > 1 and x.aval.shape[0] == 5 for x in equation.outvars)
        }

    assert "scan" in primitives()
    assert primitives(**{"model.scan_layers": False}) <= {"concatenate", "broadcast_in_dim"}


@pytest.mark.parametrize("page", ["bert", "ernie", "gpt2", "xlnet"])
def test_what_is_saved_is_not_computed_again(page):
    """With remat=dots the program has no product of parameters more than without any."""

    def products(remat):
        c, params, batch = make(page, **{"model.remat": remat})
        objective = tiny.objective(c)

        def loss(params):
            terms, _ = objective.apply({"params": params}, batch, train=True)
            return sum(term.value for term in terms.values())

        equations = jaxprs.equations(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
        dots = [e for e in equations if e.primitive.name == "dot_general"]
        return sum(e.params["dimension_numbers"][1] == ((), ()) for e in dots)

    assert products("none") == products("dots") < products("full")


@pytest.mark.parametrize("page", ["gpt1", "gpt2", "gpt3"])
def test_cache_continues_as_if_recomputed(page):
    c, params, batch = make(page, **{"model.init_std": 0.2})  # logits up to 7
    objective = tiny.objective(c)
    fields = {k: batch[k] for k in ("tokens", "positions", "segment_ids")}
    whole = objective.apply({"params": params}, fields, method="predict")["logits"]
    cache = objective.network.empty_cache(3, 20)
    pieces = []
    for start, stop in ((0, 5), (5, 6), (6, 16)):
        part = {k: v[:, start:stop] for k, v in fields.items()}
        scores = objective.apply({"params": params}, part, cache, method="predict")
        cache = scores["cache"]
        pieces.append(scores["logits"])
    assert int(cache.length) == 16
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, rtol=1e-5, atol=1e-5)


def test_attention_without_any_key_is_finite():
    q = jnp.ones((1, 2, 1, 4))
    allowed = jnp.zeros((1, 1, 2, 2), bool)
    types = networks.layers.numerics("float32", "cpu")
    y, _ = attention.attend(q, q, q * 3, allowed, lambda p: p, types)
    np.testing.assert_allclose(y, 3 * q, rtol=1e-6)


def test_initial_values_follow_the_papers():
    params = tiny.params(tiny.config("bert", **{"model.width": 128, "model.heads": 2}))["network"]
    kernel = np.asarray(params["stack"]["blocks"]["mlp"]["up"]["kernel"])
    assert np.abs(kernel).max() <= 0.04  # cut at two sigma
    assert kernel.std() == pytest.approx(0.02 * 0.8796, rel=0.02)  # and not rescaled
    wide = tiny.config("gpt2", **{"model.width": 128, "model.depth": 8})
    blocks = tiny.params(wide)["network"]["stack"]["blocks"]
    assert blocks["mlp"]["up"]["kernel"].std() == pytest.approx(0.02, rel=0.02)
    for kernel in (blocks["mlp"]["down"]["kernel"], blocks["attention"]["out"]["kernel"]):
        assert kernel.std() == pytest.approx(0.02 / 4, rel=0.02)  # 1 / sqrt(2 * 8)
    assert not np.allclose(kernel[0], kernel[1])  # layers differ


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.name", "encodr", "Did you mean 'encoder'"),
        ("model.heads", 5, "must be a multiple of config.model.heads"),
        ("model.head_size", -1, "at least 1, or 0"),
        ("model.activation", "swish", "Choose one of"),
        ("model.remat", "all", "Choose one of"),
        ("model.dtype", "int8", "Choose one of"),
        ("model.dropout", 1.0, r"\[0, 1\)"),
        ("model.depth", 0, "at least 1"),
    ],
)
def test_wrong_knobs_are_told(key, value, message):
    c = tiny.config("bert")
    c.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        tiny.objective(c)
