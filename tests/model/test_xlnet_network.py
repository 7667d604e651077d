"""XLNet's two streams: who sees whom, by gradient; the memory; the order from left to right."""

import batches
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from errors import UserError
from model import layers, networks, objectives, xlnet
from model.objectives import permutation_lm

LENGTH, PREDICTIONS = 12, 4


@pytest.fixture(scope="module")
def model():
    c = tiny.config("xlnet", **{"model.init_std": 0.2})
    return tiny.objective(c), tiny.params(c)


def apply(model, *args, method, **kwargs):
    objective, params = model
    run = lambda params: objective.apply({"params": params}, *args, method=method, **kwargs)  # noqa: E731
    return jax.jit(run)(params)


def influence(model, batch, run):
    """Which tokens that are looked up change run(objective) [B Q X]: bool [Q B T], by gradient."""
    objective, params = model
    rows, length = batch["tokens"].shape

    def probe(noise):
        def add(call, args, kwargs, context):
            y = call(*args, **kwargs)
            ours = isinstance(context.module, layers.Embed) and context.module.name == "tokens"
            looked_up = ours and context.method_name == "__call__" and y.shape == noise.shape
            return y + noise if looked_up else y

        with nn.intercept_methods(add):
            out = objective.apply({"params": params}, method=run)
        return (out * jnp.sin(jnp.arange(out.shape[-1]))).sum((0, 2))

    width = params["network"]["embedder"]["tokens"]["table"].shape[1]
    return np.asarray(jax.jit(jax.jacrev(probe))(jnp.zeros((rows, length, width))) != 0).any(-1)


def test_a_prediction_sees_lower_ranks_and_never_its_own_token(model):
    batch = batches.permutation_lm(2, LENGTH, PREDICTIONS, tiny.VOCAB, padding=2)
    rank, ids, positions = (batch[k] for k in ("rank", "segment_ids", "masked_positions"))
    reach = influence(model, batch, lambda o: o.predict(batch)["logits"])
    for p, at in enumerate(positions.T):
        seen = (rank < np.take_along_axis(rank, at[:, None], 1)) & (ids > 0)
        np.testing.assert_array_equal(reach[p], seen)
        assert not reach[p, np.arange(2), at].any()


def test_content_sees_itself_and_what_does_not_rank_above(model):
    batch = batches.permutation_lm(2, LENGTH, PREDICTIONS, tiny.VOCAB)
    reach = influence(model, batch, lambda o: o.network(batch, train=False).hidden)
    for at in range(LENGTH):
        np.testing.assert_array_equal(reach[at], batch["rank"] <= batch["rank"][:, at : at + 1])
        assert reach[at, :, at].all()


def test_without_ranks_all_real_tokens_are_seen(model):
    batch = batches.permutation_lm(2, LENGTH, PREDICTIONS, tiny.VOCAB, padding=3)
    del batch["rank"]
    reach = influence(model, batch, lambda o: o.network(batch, train=False).hidden)
    for at in range(LENGTH - 3):
        np.testing.assert_array_equal(reach[at], batch["segment_ids"] > 0)


def test_queries_change_nothing_for_the_content_and_have_no_cost_without(model):
    batch = batches.permutation_lm(2, LENGTH, PREDICTIONS, tiny.VOCAB)
    queries = xlnet.Queries.gather(batch, batch["masked_positions"])

    def layers_of(objective, queries):
        return objective.network(batch, train=False, queries=queries, return_layers=True).layers

    with_queries = apply(model, queries, method=layers_of)
    np.testing.assert_allclose(with_queries, apply(model, None, method=layers_of), atol=1e-5)
    flops = [
        permutation_lm.stack_flops(model[0].network.config, 2, LENGTH, p, 0)
        for p in (0, PREDICTIONS)
    ]
    assert flops[0] < flops[1]


def left_to_right(rows=2, length=LENGTH, seed=0):
    batch = batches.causal_lm(rows, length, tiny.VOCAB, seed=seed)
    return {k: batch[k] for k in ("tokens", "segment_ids", "positions")}


def test_ranks_from_left_to_right_make_a_left_to_right_model(model):
    """The query for token t + 1 in the whole row finds what it does when the row ends at t."""
    batch = left_to_right()
    whole = apply(model, batch, method="predict")["logits"]
    for t in (0, 4, LENGTH - 1):
        part = {k: v[:, : t + 1] for k, v in batch.items()}
        last = apply(model, part, method="predict")["logits"]
        np.testing.assert_allclose(last[:, -1], whole[:, t], rtol=1e-4, atol=1e-5)
    reach = influence(model, batch, lambda o: o.predict(batch)["logits"])
    np.testing.assert_array_equal(reach[:, 0], np.tri(LENGTH, dtype=bool))
    # And training's queries, all positions in that order, are the same predictions.
    places = np.tile(np.arange(LENGTH, dtype=np.int32), (2, 1))
    trained = batch | {"rank": places, "token_types": 0 * places, "masked_positions": places}
    ordered = apply(model, trained, method="predict")["logits"]
    np.testing.assert_allclose(ordered[:, 1:], whole[:, :-1], rtol=1e-4, atol=1e-5)


def test_a_cache_continues_as_if_recomputed(model):
    batch = left_to_right(3, 16)
    whole = apply(model, batch, method="predict")["logits"]
    cache = apply(
        model, 3, 20, method=lambda objective, *size: objective.network.empty_cache(*size)
    )
    pieces = []
    for start, stop in ((0, 5), (5, 6), (6, 7), (7, 16)):
        part = {k: v[:, start:stop] for k, v in batch.items()}
        scores = apply(model, part, cache, method="predict")
        cache = scores["cache"]
        pieces.append(scores["logits"])
    assert int(cache.length) == 16
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, rtol=1e-5, atol=1e-5)

    # As a decoder has it: the prompts to the right of their padding, each continued twice.
    shift = lambda x: np.stack([np.pad(x[i, : 6 - n], (n, 0)) for i, n in ((0, 0), (1, 3))])  # noqa: E731
    padded = {k: shift(v) for k, v in batch.items()}

    def go_on(objective):
        cache, last, position = objective.begin(padded, 4)
        cache = cache.take(jnp.repeat(jnp.arange(2), 2))
        fed = {"tokens": jnp.repeat(last, 2)[:, None], "segment_ids": jnp.ones((4, 1), jnp.int32)}
        return objective.predict(fed, cache)["logits"][:, 0], position

    logits, position = apply(model, method=go_on)
    assert position.tolist() == [5, 2]
    wanted = np.stack([whole[0, 5]] * 2 + [whole[1, 2]] * 2)
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)


def test_packed_equals_unpacked(model):
    batch = batches.permutation_lm(2, 8, 3, tiny.VOCAB)
    names = ("tokens", "token_types", "rank", "masked_positions")
    joined = {k: batch[k].reshape(1, -1) for k in names}
    joined["segment_ids"] = np.repeat([[1, 2]], 8, axis=1).astype(np.int32)
    joined["masked_positions"] = joined["masked_positions"] + np.repeat([[0, 8]], 3, axis=1)
    together = apply(model, joined, method="predict")["logits"]
    alone = apply(model, batch, method="predict")["logits"]
    np.testing.assert_allclose(together[0], alone.reshape(6, -1), rtol=2e-5, atol=2e-5)


def test_a_memory_is_the_text_before_where_the_order_is_left_to_right(model):
    """Then what is remembered did not see the rest, and the two segments equal the whole."""
    batch = left_to_right(2, 14)
    ranked = batch | {"rank": batch["positions"]}
    first, second = ({k: v[:, part] for k, v in ranked.items()} for part in
                     (slice(0, 6), slice(6, None)))  # fmt: skip

    def run(objective):
        network = objective.network
        whole = network(ranked, train=False).hidden
        memory = network.remember(first)
        middle = {k: v[:, :3] for k, v in second.items()}
        longer = network.remember(middle, memory)
        rest = {k: v[:, 3:] for k, v in second.items()}
        return (
            whole[:, 6:],
            network(second, train=False, memory=memory).hidden,
            whole[:, 9:],
            network(rest, train=False, memory=longer).hidden,
        )

    whole, remembered, end, twice = apply(model, method=run)
    np.testing.assert_allclose(remembered, whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(twice, end, rtol=1e-4, atol=1e-5)


def test_no_gradient_enters_the_memory_but_it_is_read(model):
    batch = batches.permutation_lm(2, LENGTH, PREDICTIONS, tiny.VOCAB, memory=7)
    reach = influence(
        model, {"tokens": batch["memory_tokens"]}, lambda o: o.predict(batch)["logits"]
    )
    assert not reach.any()
    logits = apply(model, batch, method="predict")["logits"]
    other = batch | {"memory_tokens": (batch["memory_tokens"] + 1) % tiny.VOCAB}
    assert np.abs(apply(model, other, method="predict")["logits"] - logits).max() > 1e-3
    absent = batch | {"memory_segment_ids": np.zeros((2, 7), np.int32)}
    none = {k: v for k, v in batch.items() if not k.startswith("memory")}
    np.testing.assert_allclose(
        apply(model, absent, method="predict")["logits"],
        apply(model, none, method="predict")["logits"],
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_reversed_row_is_the_row_read_backward(model):
    """Its distances are negated: turned around, it is the same text as before."""
    batch = batches.permutation_lm(2, LENGTH, PREDICTIONS, tiny.VOCAB)
    turned = {k: v[:, ::-1] for k, v in batch.items() if k in ("tokens", "token_types", "rank")}
    turned["masked_positions"] = LENGTH - 1 - batch["masked_positions"]
    turned["segment_ids"] = batch["segment_ids"]
    turned["reversed"] = np.ones(2, np.int32)
    np.testing.assert_allclose(
        apply(model, turned, method="predict")["logits"],
        apply(model, batch, method="predict")["logits"],
        rtol=1e-4,
        atol=1e-5,
    )


def test_dropout_falls_on_both_streams_and_inside(model):
    c = tiny.config("xlnet", **{"model.dropout": 0.5, "model.attention_dropout": 0.5})
    batch = batches.permutation_lm(2, LENGTH, PREDICTIONS, tiny.VOCAB)
    objective = objectives.build(c, "cpu")
    found = set()

    def note(call, args, kwargs, context):
        if isinstance(context.module, layers.Dropout) and context.method_name == "__call__":
            found.add((context.module.name, args[0].shape[1:]))
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        objective.apply(
            {"params": model[1]}, batch, train=True, rngs={"dropout": jax.random.key(0)}
        )
    both, W, F = LENGTH + PREDICTIONS, c.model.width, c.model.mlp_width
    assert found >= {  # besides those of the shapes that parameters are made with
        ("dropout", (both, W)),  # embeddings
        ("dropout", (2 * LENGTH, W)),  # distances
        ("dropout", (PREDICTIONS, W)),  # the end
        ("attention_dropout", (both, W)),
        ("mlp_dropout", (both, W)),
        ("Dropout_0", (both, F)),
        ("Dropout_0", (c.model.heads, both, LENGTH)),
    }


@pytest.mark.parametrize("knob", ["norm_first", "token_types", "causal", "embed_width"])
def test_knobs_without_effect_are_refused(knob):
    c = tiny.config("xlnet")
    with pytest.raises(UserError, match=f"{knob}=.* has no effect on the network xlnet"):
        networks.build({**c.model, knob: 1}, "cpu")
