"""ERNIE: BERT without entities, and with them the released code's layers."""

import functools
import pathlib
import zlib

import batches
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from errors import UserError
from model import networks

RELEASED = pathlib.Path(__file__).parent / "fixtures/ernie_released.npz"


def config(**overrides):
    return tiny.config("ernie", **{"model.depth": 4, "model.plain_layers": 1} | overrides)


def run(c, params, batch):
    return _run(networks.build(c.model, "cpu"), params["network"], batch)


@functools.partial(jax.jit, static_argnums=0)
def _run(network, params, batch):
    return network.apply({"params": params}, batch, train=False).hidden


def entity_batch(**kwargs):
    return batches.entity_lm(4, 16, 4, tiny.VOCAB, padding=3, **kwargs)


def other_values(params):
    """Parameters of which none is as it was made: biases too."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    return tree.unflatten([x + rng.normal(0, 0.1, x.shape).astype(np.float32) for x in leaves])


def test_without_entities_it_is_bert():
    """Where a batch has none at all, and in a row that has none beside rows that have some."""
    c, bert = config(), tiny.config("bert", **{"model.depth": 4, "model.activation": "gelu"})
    params = other_values(tiny.params(c))
    text = {k: v for k, v in params["network"].items() if k != "knowledge"}
    batch = entity_batch()
    want = run(bert, {"network": text}, batch)
    got = run(c, params, batch)
    np.testing.assert_allclose(got[3], want[3], rtol=1e-5, atol=1e-5)
    assert np.abs(got[:3] - want[:3]).max() > 0.1
    plain = {k: v for k, v in batch.items() if not k.startswith("entit")}
    np.testing.assert_allclose(run(c, params, plain), want, rtol=1e-5, atol=1e-5)


# Our paths -> the released names: of a layer, and of a layer that fuses.
TEXT = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp/up": "intermediate.dense",
    "mlp/down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
MIX = {
    "entity_up": "intermediate.dense_ent",
    "entity_down": "output.dense_ent",
    "entity_norm": "output.LayerNorm_ent",
}
ATTENDING = MIX | {
    "entity_attention/query": "attention.self_ent.query",
    "entity_attention/key": "attention.self_ent.key",
    "entity_attention/value": "attention.self_ent.value",
    "entity_attention/out": "attention.output_ent.dense",
    "entity_attention_norm": "attention.output_ent.LayerNorm",
}
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def released_values(name, shape):
    """The values of a parameter in the fixture: drawn by its name."""
    x = np.random.default_rng(zlib.crc32(name.encode())).normal(0, 0.2, shape)
    ones = name.endswith(("LayerNorm.weight", "LayerNorm_ent.weight"))
    return (x + ones).astype(np.float32)


def released_layers(params, names, layers, values):
    """Fills a tree of stacked parameters, a list of layers of the released code."""

    def fill(path, x):
        *module, leaf = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        found = []
        for layer in layers:
            name = f"encoder.layer.{layer}.{names['/'.join(module)]}.{LEAVES[leaf]}"
            own = x.shape[1:]
            if leaf != "kernel":
                found.append(values(name, (int(np.prod(own)),)).reshape(own))
            else:  # [out, in] there
                out = own[-1] if module[-1] in ("out", "up", "down") else int(np.prod(own[1:]))
                out = own[-1] if module[-1].startswith("entity_") else out
                found.append(values(name, (out, int(np.prod(own)) // out)).T.reshape(own))
        return np.stack(found)

    return jax.tree_util.tree_map_with_path(fill, params)


def released_tree(params, values):
    """The network of the fixture: layers sim, mix, norm, norm."""
    knowledge, network = params["knowledge"], dict(params)
    single = jax.tree.map(lambda x: x[None], knowledge["mix"])
    blocks = released_layers(params["stack"]["blocks"], TEXT, range(4), values)
    mix = released_layers(single, MIX, [1], values)
    table = np.zeros(knowledge["entities"]["table"].shape, np.float32)
    table[1:9] = released_values("entities", (8, 100))
    network["knowledge"] = {
        "entities": {"table": table},
        "mix": jax.tree.map(lambda x: x[0], mix),
        "blocks": released_layers(knowledge["blocks"], ATTENDING, [2, 3], values),
    }
    norm = {"scale": "weight", "bias": "bias"}
    network["embed_norm"] = {
        ours: values(f"embeddings.LayerNorm.{theirs}", (16,)) for ours, theirs in norm.items()
    }
    tables = {"tokens": "word", "positions": "position", "token_types": "token_type"}
    network["embedder"] = {
        ours: {"table": values(f"embeddings.{theirs}_embeddings.weight", old["table"].shape)}
        for (ours, theirs), old in ((pair, params["embedder"][pair[0]]) for pair in tables.items())
    }
    network["stack"] = {"blocks": blocks}
    return network


def test_states_and_gradients_are_those_of_the_released_code():
    """The fixture is made with knowledge_bert/modeling.py of thunlp/ERNIE at 514cbe4 in PyTorch.

    Its parameters are drawn by their names; it holds the states after each layer, and for each
    parameter the norm of the gradient of a probe and its product with another.
    """
    found = np.load(RELEASED)
    c = config(**{"model.vocab_size": 50, "model.max_positions": 12})
    c.model.update(width=16, heads=2, mlp_width=32, entity_width=100, entity_heads=4, entities=8)
    batch = {name: found[name] for name in ("tokens", "token_types", "entities")}
    batch["segment_ids"] = found["mask"]
    batch["positions"] = np.tile(np.arange(12, dtype=np.int32), (3, 1))
    params = released_tree(tiny.params(c)["network"], released_values)
    network, real = networks.build(c.model, "cpu"), found["mask"] > 0
    probe = released_values("probe", (3, 12, 16)) * real[..., None]

    def loss(params):
        output = network.apply({"params": params}, batch, train=False, return_layers=True)
        return (output.hidden * probe).sum(), output.layers

    gradient, after = jax.jit(jax.grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(after[:, real], found["hidden"][:, real], rtol=1e-4, atol=1e-4)
    probes = released_tree(params, lambda name, shape: released_values(f"probe {name}", shape))
    wanted = dict(zip(found["names"].tolist(), found["gradients"], strict=True))
    checked = 0
    for names, place, layers in (
        (TEXT, "stack", range(4)),
        (ATTENDING, "knowledge", [2, 3]),
    ):
        ours, other = gradient[place]["blocks"], probes[place]["blocks"]
        for path, name in names.items():
            for leaf, theirs in LEAVES.items():
                g, p = ours, other
                for key in path.split("/"):
                    g, p = g[key], p[key]
                if leaf not in g or theirs == "weight" and ("scale" in g) != (leaf == "scale"):
                    continue
                for i, layer in enumerate(layers):
                    key = f"encoder.layer.{layer}.{name}.{theirs}"
                    got = [np.linalg.norm(g[leaf][i]), (g[leaf][i] * p[leaf][i]).sum()]
                    if key in wanted:  # what the last layer makes of entities nobody reads
                        np.testing.assert_allclose(got, wanted[key], rtol=2e-3, atol=2e-4)
                        checked += 1
                    else:
                        assert layer == 3 and got[0] == 0
    assert checked == 4 * 16 + 2 * 16 - 4


def test_what_an_entity_reaches_by_gradient():
    """Tokens of its own example; from the layer that fuses on: the mention first, then all."""
    batch = entity_batch()
    batch["segment_ids"] = np.tile([1] * 7 + [2] * 6 + [0] * 3, (4, 1)).astype(np.int32)
    batch["entities"] = np.zeros((4, 16), np.int32)
    batch["entities"][:, [3, 9]] = [5, 6]
    c = config()
    params = other_values(tiny.params(c))

    def state(vectors, token):
        changed = jax.tree.map(lambda x: x, params)
        changed["network"]["knowledge"]["entities"]["table"] = vectors
        return (run(c, changed, batch)[:, token] * jnp.sin(jnp.arange(32))).sum()

    table = params["network"]["knowledge"]["entities"]["table"]
    for token, seen in ((4, 5), (10, 6)):
        reach = np.abs(jax.grad(state)(table, token)).sum(axis=-1)
        assert reach[seen] > 0 and np.count_nonzero(reach) == 1


def test_the_table_has_no_vector_for_no_entity():
    c = config()
    params = tiny.params(c)
    table = params["network"]["knowledge"]["entities"]["table"]
    assert len(table) % 128 == 0 and len(table) > c.model.entities
    batch = entity_batch()
    with_row = jax.tree.map(lambda x: x, params)
    with_row["network"]["knowledge"]["entities"]["table"] = table.at[0].set(7.0)
    np.testing.assert_array_equal(run(c, params, batch), run(c, with_row, batch))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("plain_layers", 3, "must leave two or more"),
        ("plain_layers", -1, "must leave two or more"),
        ("entity_heads", 3, "a multiple of entity_heads=3"),
        ("entities", 0, "at least 1"),
        ("sharing", "all", "has no effect on the network ernie"),
        ("causal", True, "has no effect on the network ernie"),
    ],
)
def test_wrong_knobs_are_told(key, value, message):
    c = config(**{f"model.{key}": value})
    with pytest.raises(UserError, match=message):
        tiny.objective(c).init(jax.random.key(0), entity_batch(), train=False)
