"""TransE: its loss and gradients are PyTorch's, entities have length 1, corruption is fair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import layers, transe
from training import state

CONFIG = transe.Config(entities=11, relations=3, width=6, margin=1.0, norm="l2", negatives=4)


def module(**changes):
    config = transe.Config(**{**CONFIG.__dict__, **changes})
    return transe.TransE(config, layers.numerics("float32", "cpu"))


def batch(rows=5):
    rng = np.random.default_rng(0)
    highest = {"head": 11, "relation": 3, "tail": 11}
    return {k: rng.integers(0, n, rows).astype(np.int32) for k, n in highest.items()}


def parameters(m):
    made = m.init(
        {"params": jax.random.key(0), "negatives": jax.random.key(1)}, batch(), train=True
    )
    return state.unbox(made["params"])


@pytest.mark.parametrize("norm", transe.NORMS)
def test_loss_and_gradients_are_pytorchs(norm):
    torch = pytest.importorskip("torch")
    m = module(norm=norm)
    params, given = parameters(m), batch()
    keys = {"negatives": jax.random.key(2)}

    def loss(params):
        return m.apply({"params": params}, given, train=True, rngs=keys)[0]["margin"].value

    value, gradients = jax.value_and_grad(loss)(params)

    def corrupted(m):
        c = m.config
        key = m.make_rng("negatives")
        return transe.corrupt(key, given["head"], given["tail"], c.entities, c.negatives)

    pairs = m.apply({"params": params}, method=corrupted, rngs=keys)
    heads, tails = (torch.tensor(np.asarray(x), dtype=torch.long) for x in pairs)
    tables = {
        k: torch.tensor(np.asarray(params[k]["table"]), requires_grad=True)
        for k in ("entities", "relations")
    }
    e, r = tables["entities"], tables["relations"][torch.tensor(given["relation"]).long()]
    p = 1 if norm == "l1" else 2
    true = (e[given["head"]] + r - e[given["tail"]]).norm(p, dim=-1)[:, None].expand(-1, 4)
    other = (e[heads] + r[:, None] - e[tails]).norm(p, dim=-1)
    wanted = torch.nn.functional.margin_ranking_loss(other, true, torch.ones_like(true), margin=1.0)
    wanted.backward()
    assert float(value) == pytest.approx(wanted.item(), rel=1e-5)
    for k, table in tables.items():
        np.testing.assert_allclose(gradients[k]["table"], table.grad.numpy(), atol=1e-5)


@pytest.mark.parametrize("norm", transe.NORMS)
def test_distances_to_all_are_those_one_by_one(norm):
    m = module(norm=norm)
    params, given = {"params": parameters(m)}, batch()
    h, r, t = given["head"], given["relation"], given["tail"]
    for is_head in (0, 1):
        known = h if is_head else t
        found = m.apply(params, known, r, np.full(5, is_head), method="distances")
        assert found.shape == (5, 11)
        everyone = jnp.broadcast_to(jnp.arange(11), (5, 11))
        other, rs = (jnp.broadcast_to(x[:, None], (5, 11)) for x in (known, r))
        one_by_one = (other, rs, everyone) if is_head else (everyone, rs, other)
        wanted = m.apply(params, *one_by_one, method="distance")
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_entities_have_length_one_at_first_and_after_a_projection():
    params = parameters(module())
    for given in (params, transe.project(jax.tree.map(lambda x: 3 * x + 1, params))):
        lengths = np.linalg.norm(given["entities"]["table"], axis=1)
        np.testing.assert_allclose(lengths, 1, rtol=1e-5)
    grown = jax.tree.map(lambda x: 3 * x, params)
    np.testing.assert_array_equal(
        transe.project(grown)["relations"]["table"], grown["relations"]["table"]
    )


def test_one_side_is_corrupted_and_all_entities_are_drawn():
    h, t = np.full(400, 3), np.full(400, 7)
    heads, tails = map(np.asarray, transe.corrupt(jax.random.key(0), h, t, 11, 5))
    assert ((heads == 3) | (tails == 7)).all()
    assert 0.4 < (tails == 7).mean() < 0.62  # half of them, and where the draw repeats the tail
    assert set(heads[tails == 7]) == set(tails[heads == 3]) == set(range(11))


def test_the_table_divides_over_a_mesh():
    assert parameters(module())["entities"]["table"].shape == (transe.ROWS, 6)
    assert parameters(module(entities=129))["entities"]["table"].shape == (256, 6)
