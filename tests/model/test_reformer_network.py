"""LSH attention against its definition, and layers that are recomputed instead of stored."""

import batches
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from errors import UserError
from model import layers, lsh, objectives, reformer, reversible
from training import state

TYPES = layers.numerics("float32", "cpu")


def build(**knobs):
    model = dict(
        name="reformer",
        vocab_size=37,
        width=16,
        depth=2,
        heads=2,
        mlp_width=32,
        max_positions=64,
        attention="local,lsh",
        rounds=2,
        lsh_chunk=8,
        local_chunk=8,
        buckets=(4, 2),
        axial_shape=(8, 8),
        dropout=0.0,
        attention_dropout=0.0,
        dtype="float32",
    )
    objective = dict(name="causal_lm", logit_chunks=1)
    return objectives.build(
        ml_collections.ConfigDict(dict(model=model | knobs, objective=objective)), "cpu"
    )


def init(objective):
    return state.unbox(state.Init(objective, optax.identity())(jax.random.key(0)).params)


def loss_and_gradient(objective, params, batch, train=True):
    def loss(params):
        rngs = {"dropout": jax.random.key(3)}
        terms, _ = objective.apply({"params": params}, batch, train=train, rngs=rngs)
        return terms["causal_lm"].value

    return jax.jit(jax.value_and_grad(loss))(params)


def assert_gradients_equal(ours, theirs, rtol):
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, atol=rtol * np.abs(y).max())


# Attention


def attend(qk, v, rounds, buckets, chunk, ids=None, causal=True, **masks):
    rotations = lsh.draw_rotations(jax.random.key(0), *qk.shape[2:], rounds, buckets)
    return lsh.attend(
        qk,
        v,
        jnp.ones(qk.shape[:2], jnp.int32) if ids is None else jnp.asarray(ids),
        rotations,
        buckets=buckets,
        chunk=chunk,
        masks=lsh.Masks(causal, **masks),
        drop=lambda p: p,
        types=TYPES,
    )


def random_inputs(length, count=2, rows=2, heads=2, width=5):
    keys = jax.random.split(jax.random.key(1), count)
    return [2 * jax.random.normal(key, (rows, length, heads, width)) for key in keys]


def softmax_over(seen, q, k, v, itself=None):
    """Softmax attention over the pairs that `seen` [... T T] has, in float64."""
    q, k, v = (np.moveaxis(np.asarray(x, np.float64), 2, 1) for x in (q, k, v))
    scores = q @ np.swapaxes(k, -1, -2)
    if itself is not None:
        scores = np.where(np.eye(scores.shape[-1], dtype=bool), itself, scores)
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.moveaxis(weights / weights.sum(-1, keepdims=True) @ v, 1, 2)


def shared_softmax_over(seen, qk, v):
    norm = np.linalg.norm(np.asarray(qk, np.float64), axis=-1, keepdims=True)
    return softmax_over(seen, qk, qk / norm, v, itself=-1e5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("chunk", [8, 4])
def test_one_round_in_which_all_chunks_meet_is_full_attention(causal, chunk):
    qk, v = random_inputs(8)
    seen = np.tril(np.ones((8, 8), bool)) | (not causal)
    full = shared_softmax_over(seen, qk, v)
    np.testing.assert_allclose(attend(qk, v, 1, (4,), chunk, causal=causal), full, atol=1e-4)


@pytest.mark.parametrize("other_buckets", [True, False])
@pytest.mark.parametrize(("rounds", "buckets"), [(1, (4,)), (3, (4,)), (2, (2, 4))])
def test_the_papers_masks_give_a_softmax_over_the_union_of_the_rounds(
    rounds, buckets, other_buckets
):
    """Section 2 and appendix A, pair by pair."""
    length, chunk = 24, 4
    qk, v = random_inputs(length)
    rotations = lsh.draw_rotations(jax.random.key(0), *qk.shape[2:], rounds, buckets)
    hashed = np.asarray(lsh.hash_buckets(jnp.moveaxis(qk, 2, 1), rotations, buckets))
    place = np.argsort(np.argsort(hashed, axis=-1, kind="stable"), axis=-1) // chunk
    back = place[..., :, None] - place[..., None, :]
    near = (back == 0) | (back == 1)
    if other_buckets:
        near &= hashed[..., :, None] == hashed[..., None, :]
    seen = near.any(2) & np.tril(np.ones((length, length), bool))
    assert not seen[..., np.tril_indices(length)[0], np.tril_indices(length)[1]].all()
    y = attend(qk, v, rounds, buckets, chunk, other_buckets=other_buckets, duplicates=True)
    np.testing.assert_allclose(y, shared_softmax_over(seen, qk, v), atol=1e-4)


def test_local_attention_sees_its_chunk_and_the_one_before():
    q, k, v = random_inputs(10, count=3)  # not a multiple of the chunk
    ids = jnp.ones((2, 10), jnp.int32)
    y = lsh.attend_locally(q, k, v, ids, chunk=4, causal=True, drop=lambda p: p, types=TYPES)
    chunks = np.arange(10) // 4
    back = chunks[:, None] - chunks
    seen = (back >= 0) & (back <= 1) & np.tril(np.ones((10, 10), bool))
    np.testing.assert_allclose(y, softmax_over(seen, q, k / np.sqrt(5), v), atol=1e-5)


@pytest.mark.parametrize("buckets", [(2,), (8,), (4, 6)])
def test_parallel_vectors_share_a_bucket_and_opposite_ones_do_not(buckets):
    x = jax.random.normal(jax.random.key(0), (1, 1, 50, 6))
    rotations = lsh.draw_rotations(jax.random.key(1), 1, 6, 3, buckets)
    hashed = lsh.hash_buckets(x, rotations, buckets)
    assert hashed.min() >= 0 and hashed.max() < np.prod(buckets) and len(np.unique(hashed)) > 1
    assert (lsh.hash_buckets(3 * x, rotations, buckets) == hashed).all()
    assert (lsh.hash_buckets(-x, rotations, buckets) != hashed).all()


@pytest.mark.parametrize("paper", [True, False])
def test_a_token_sees_itself_where_there_is_nothing_else(paper):
    qk, v = random_inputs(16)
    masks = dict(other_buckets=paper, duplicates=paper)
    y = attend(qk, v, 3, (4,), 4, **masks)
    np.testing.assert_allclose(y[:, 0], v[:, 0], rtol=1e-6)
    y = attend(qk, v, 3, (4,), 4, ids=np.arange(1, 17)[None].repeat(2, 0), **masks)
    np.testing.assert_allclose(y, v, rtol=1e-6)


@pytest.mark.parametrize("paper", [True, False])
def test_no_gradient_from_later_tokens_padding_or_other_segments(paper):
    qk, v = random_inputs(18)
    ids = np.array([[0] * 2 + [1] * 5 + [2] * 8 + [0] * 3] * 2)

    def probe(qk, v):
        y = attend(qk, v, 4, (4,), 4, ids, other_buckets=paper, duplicates=paper)
        return (y[:, 12] * jnp.sin(jnp.arange(5))).sum()

    by_token = [np.abs(g).sum((0, 2, 3)) for g in jax.grad(probe, (0, 1))(qk, v)]
    for reach in by_token:
        assert (reach[:7] == 0).all() and (reach[13:] == 0).all()
        assert (reach[7:13] > 0).any()


def test_padding_does_not_move_the_others():
    """A row padded on either side: the tokens are in the same chunks of each round."""
    qk, v = random_inputs(16)
    masks = dict(other_buckets=True, duplicates=True)
    alone = attend(qk, v, 2, (4,), 4, **masks)
    for before, after in ((0, 8), (5, 0)):
        pad = ((0, 0), (before, after), (0, 0), (0, 0))
        ids = np.pad(np.ones((2, 16), np.int32), pad[:2])
        y = attend(jnp.pad(qk, pad, constant_values=3), jnp.pad(v, pad), 2, (4,), 4, ids, **masks)
        np.testing.assert_allclose(y[:, before : before + 16], alone, atol=1e-6)


def test_buckets_follow_the_length():
    assert lsh.choose_buckets(4, 8) == (2,)
    assert lsh.choose_buckets(1024, 64) == (32,)
    assert lsh.choose_buckets(65536, 256) == (32, 16)


# Layers


@pytest.mark.parametrize(
    "knobs",
    [
        dict(attention="local,lsh", depth=4),
        dict(attention="lsh", bucket_mask=False, duplicate_mask=False),
        dict(attention="full,full_shared", mlp_chunks=4),
    ],
    ids=lambda knobs: knobs["attention"],
)
def test_gradients_equal_those_of_stored_layers(knobs, monkeypatch):
    """With dropout: the masks of the recomputation must be those of the forward pass."""
    objective = build(dropout=0.2, attention_dropout=0.2, **knobs)
    params, batch = init(objective), batches.causal_lm(2, 32, 37)
    loss, gradient = loss_and_gradient(objective, params, batch)
    monkeypatch.setattr(reversible, "streams", reversible.forward)
    stored_loss, stored_gradient = loss_and_gradient(objective, params, batch)
    assert loss == stored_loss
    assert_gradients_equal(gradient, stored_gradient, 3e-6)


def temporary_bytes(depth, **knobs):
    objective = build(depth=depth, **knobs)
    params = jax.eval_shape(lambda: init(objective))
    batch = batches.causal_lm(4, 64, 37)

    def gradient(params):
        return loss_and_gradient(objective, params, batch)[1]

    return jax.jit(gradient).lower(params).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_does_not_grow_with_depth():
    """Temporary bytes of the compiled gradient, which itself is an output."""
    shallow, *deep = (temporary_bytes(depth) for depth in (2, 6, 12))
    assert max(deep) <= shallow
    stored = [temporary_bytes(depth, reversible=False, remat="none") for depth in (2, 12)]
    assert stored[1] > 3 * stored[0] and stored[1] > 3 * shallow


def test_the_feed_forward_network_in_slices_is_the_same():
    batch = batches.causal_lm(2, 24, 37)
    whole = build(mlp_chunks=1)
    params = init(whole)
    loss, gradient = loss_and_gradient(whole, params, batch)
    for slices in (4, 7):  # 7 does not divide 24: 6 do
        other, other_gradient = loss_and_gradient(build(mlp_chunks=slices), params, batch)
        np.testing.assert_allclose(other, loss, rtol=1e-6)
        assert_gradients_equal(other_gradient, gradient, 1e-5)


def test_rotations_are_new_in_each_step_and_fixed_outside_of_training():
    """Without any dropout, so that only the buckets can differ."""
    batch = batches.causal_lm(2, 32, 37)
    objective = build(attention="lsh", init_std=1.0)
    params = init(objective)

    def hidden(objective, train, key=0):
        network, rngs = objective.network, {"dropout": jax.random.key(key)}
        apply = jax.jit(lambda p: network.apply({"params": p}, batch, train=train, rngs=rngs))
        return np.asarray(apply(params["network"]).hidden)

    np.testing.assert_array_equal(hidden(objective, True), hidden(objective, True))
    assert not np.allclose(hidden(objective, True), hidden(objective, True, key=1), atol=1e-3)
    np.testing.assert_array_equal(hidden(objective, False), hidden(objective, False, key=1))
    other = build(attention="lsh", init_std=1.0, hash_seed=1)
    assert not np.allclose(hidden(objective, False), hidden(other, False), atol=1e-3)


def test_a_position_is_one_vector_for_each_axis():
    objective = build(axial_shape=(4, 16), axial_widths=(10, 6))
    params = init(objective)["network"]["embedder"]
    positions = np.array([[0, 15, 16, 63]], np.int32)
    embedder = reformer.Embedder(objective.network.config, TYPES)
    x = embedder.apply({"params": params}, dict(tokens=positions * 0, positions=positions))
    first, second = (params[f"positions_{axis}"]["table"] for axis in (0, 1))
    for place, (row, column) in enumerate([(0, 0), (0, 15), (1, 0), (3, 15)]):
        vector = np.concatenate([first[row], second[column]]) + params["tokens"]["table"][0]
        np.testing.assert_allclose(x[0, place], vector, rtol=1e-6)


@pytest.mark.parametrize("kinds", ["local,full_shared", "local,lsh"])
def test_a_cache_continues_as_if_recomputed(kinds):
    """With LSH the chunks of a token depend on later ones too: the last logits must be equal."""
    objective = build(attention=kinds)
    params, batch = init(objective), batches.causal_lm(2, 24, 37)
    fields = {k: batch[k] for k in ("tokens", "positions", "segment_ids")}
    predict = jax.jit(lambda b, c: objective.apply({"params": params}, b, c, method="predict"))
    whole = predict(fields, None)["logits"]
    cache = objective.network.empty_cache(2, 24)
    pieces = []
    for start, stop in ((0, 16), (16, 24)):
        scores = predict({k: v[:, start:stop] for k, v in fields.items()}, cache)
        cache = scores["cache"]
        pieces.append(scores["logits"])
    assert int(cache.length) == 24
    pieces = np.concatenate(pieces, 1)
    first = 16 if "lsh" in kinds else 0
    np.testing.assert_allclose(pieces[:, first:], whole[:, first:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (dict(attention="local,lhs"), "Did you mean 'lsh'"),
        (dict(depth=3), "multiple of the 2 kinds"),
        (dict(buckets=(3,)), "must be even"),
        (dict(rounds=0), "rounds must be at least 1"),
        (dict(axial_shape=(8, 9)), "must multiply to"),
        (dict(axial_widths=(8, 9)), "adding up to"),
        (dict(axial_shape=(), axial_widths=(16,)), "needs config.model.axial_shape"),
        (dict(token_types=2), "has no effect on the network reformer"),
    ],
)
def test_wrong_knobs_are_told(knobs, message):
    with pytest.raises(UserError, match=message):
        build(**knobs)
