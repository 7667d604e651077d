"""KagNet's reasoner against its formulas, one choice at a time, and PyTorch's LSTM."""

import batches
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from configs import kagnet as page
from model import batch as batch_lib
from model import heads, kagnet, layers
from training import state

ROWS, CHOICES, LENGTH, ENTITIES = 4, 3, 8, 20
FLOAT32 = layers.numerics("float32", "cpu")


def config(form, **overrides):
    c = tiny.config("kagnet", **{"model.depth": 1, "model.width": 16})
    section = page.get_config(f"base,form={form},quick=1").objective
    c.objective = section
    c.objective.reasoner.update(entities=ENTITIES, width=6, gcn=(5, 4), lstm=7, pair_widths=(9, 8))
    c.update_from_flattened_dict(overrides)
    return c


@pytest.fixture(scope="module")
def given():
    made = batches.knowledge(ROWS, CHOICES, LENGTH, tiny.VOCAB, ENTITIES, 17)
    batch_lib.check(made)
    return made


def predict(c, given, params=None):
    objective = tiny.objective(c)
    params = tiny.params(c) if params is None else params
    run = jax.jit(lambda p, b: objective.apply({"params": p}, b, method="predict"))
    return {name: np.asarray(x) for name, x in run(params, given).items()}


def dense(p, x):
    return x @ np.asarray(p["kernel"]) + np.asarray(p.get("bias", 0.0))


def leaky(x):
    return np.where(x > 0, x, 0.01 * x)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def by_formula(form, p, s, graph):
    """The score of one choice, as section 3 of the paper or models.py of the code has it."""
    paper = form == "paper"
    table = np.asarray(p["concepts"]["table"]["table"])
    vectors = table[graph["concepts"]] * (graph["concepts"] > 0)[:, None]
    edges, hidden = graph["concept_edges"].astype(float), vectors
    for i in range(2):
        near = edges @ hidden
        if paper:
            near /= np.maximum(edges.sum(1, keepdims=True), 1)
            own = dense(p["concepts"][f"self_{i}"], hidden)
            hidden = np.maximum(own + dense(p["concepts"][f"gcn_{i}"], near), 0)
        else:
            hidden = np.maximum(dense(p["concepts"][f"gcn_{i}"], near), 0)
    concept = hidden if paper else np.concatenate([vectors, hidden], axis=1)
    concept[0] = 0
    relation = np.asarray(p["paths"]["relations"]["table"]).copy()
    relation[0] = 0

    def lstm(steps):
        torch = pytest.importorskip("torch")
        inputs, recur = p["paths"]["lstm"]["inputs"], p["paths"]["lstm"]["recur"]
        cell = torch.nn.LSTM(len(steps[0]), 7, batch_first=True)
        with torch.no_grad():
            for name, x in (
                ("weight_ih_l0", inputs["kernel"].T),
                ("bias_ih_l0", inputs["bias"]),
                ("weight_hh_l0", recur["kernel"].T),
                ("bias_hh_l0", recur["bias"]),
            ):
                getattr(cell, name).copy_(torch.tensor(np.asarray(x)))
            x = torch.tensor(np.array(steps), dtype=torch.float32)
            return cell(x[None])[0][0, -1].numpy()

    def path(k):
        r = graph["path_relations"][k]
        h, t = graph["path_heads"][k], graph["path_tails"][k]
        n = int((r > 0).sum())
        if paper:
            return lstm(
                [np.concatenate([concept[h[i]], relation[r[i]], concept[t[i]]]) for i in range(n)]
            )
        nodes, rs = [*h[:1], *t[:n], *[0] * len(r)], [*r[:n], *[0] * (len(r) + 1)]
        return lstm(
            [np.concatenate([concept[nodes[i]], relation[rs[i]]]) for i in range(len(r) + 1)]
        )

    pairs = max(1, int((graph["pair_answer"] > 0).sum()))
    found, T = [], []
    for j in range(pairs):
        q, a = concept[graph["pair_question"][j]], concept[graph["pair_answer"][j]]
        x = np.concatenate([q, a, s])
        for i in range(2):
            x = leaky(dense(p[f"pair_{i}"], x))
        paths = [path(k) for k in np.flatnonzero(graph["path_pair"] == j + 1)]
        R = np.zeros(7)
        if paths:
            R = softmax(np.array(paths) @ dense(p["path_query"], x)) @ np.array(paths)
        found.append(np.concatenate([R, x]))
        T.append(x)
    beta = softmax(np.array(T) @ dense(p["pair_query"], s))
    g = beta @ np.array(found)
    if paper:
        return dense(p["score"], leaky(dense(p["hidden"], g)))[0]
    return dense(p["score"], np.concatenate([g, s]))[0]


@pytest.mark.parametrize("form", kagnet.FORMS)
def test_scores_are_those_of_the_formulas(form, given):
    c = config(form)
    params = tiny.params(c)
    objective = tiny.objective(c)

    def statements(module):
        hidden = heads.read_parts(module.network, given, train=False)
        return heads.gather(hidden, given["pair_positions"])

    s = np.asarray(jax.jit(lambda p: objective.apply({"params": p}, method=statements))(params))
    found = predict(c, given)
    assert found["logits"].shape == (ROWS, CHOICES) and found["logits"].dtype == np.float32
    for row in range(ROWS):
        for column in range(CHOICES):
            graph = {name: given[name][row, column] for name in given if given[name].ndim > 2}
            wanted = by_formula(form, params["graph"], s[row, column], graph)
            if given["segment_ids"].reshape(ROWS, CHOICES, -1)[row, column].any():
                assert found["logits"][row, column] == pytest.approx(wanted, rel=1e-4, abs=1e-5)
            else:
                assert found["logits"][row, column] == -1e9


def test_attention_is_a_share(given):
    found = predict(config("paper"), given)
    np.testing.assert_allclose(found["pairs"].sum(-1), 1, rtol=1e-5)
    assert (found["pairs"][given["pair_answer"] == 0].reshape(-1) == 0).mean() > 0.8
    for j in range(4):
        member = given["path_pair"] == j + 1
        share = (found["paths"] * member).sum(-1)
        np.testing.assert_allclose(share, member.any(-1), rtol=1e-5)
    assert (found["paths"][given["path_pair"] == 0] == 0).all()
    even = predict(config("paper", **{"objective.reasoner.path_attention": False}), given)
    first = given["path_pair"] == 1
    wanted = first / np.maximum(first.sum(-1, keepdims=True), 1)
    np.testing.assert_allclose(even["paths"] * first, wanted, rtol=1e-6)


@pytest.mark.parametrize("form", kagnet.FORMS)
def test_what_is_not_there_changes_nothing_and_gets_no_gradient(form, given):
    """Entities that no graph has, empty places, the order of paths and rows without weight."""
    c = config(form)
    objective, params = tiny.objective(c), tiny.params(c)

    @jax.jit
    def loss(params, given):
        return objective.apply({"params": params}, given, train=False)[0]["margin"].value

    gradient = jax.jit(jax.grad(loss))(params, given)
    table = np.abs(gradient["graph"]["concepts"]["table"]["table"]).max(1)
    used = np.unique(given["concepts"][:-1])
    assert table[0] == 0 and not table[np.setdiff1d(np.arange(len(table)), used)].any()
    assert (table > 0).sum() > len(used) // 2
    if form == "code":
        assert not any(np.abs(x).max() for x in jax.tree.leaves(gradient["network"]))
    for name, g in jax.tree_util.tree_leaves_with_path(gradient["graph"]):
        assert np.abs(g).max() > 0, name

    # The paths of a choice in another order, and other values where there is no path.
    order = np.random.default_rng(1).permutation(6)
    names = ("path_pair", "path_heads", "path_relations", "path_tails")
    turned = given | {name: given[name][:, :, order] for name in names}
    empty = turned["path_pair"] == 0
    for name in names[1:]:
        turned[name] = np.where(empty[..., None], 1, turned[name])
    turned["label"] = turned["label"].copy()
    turned["label"][-1] = 2
    assert float(loss(params, turned)) == pytest.approx(float(loss(params, given)), rel=1e-5)


def test_losses(given):
    """The margin on sigmoids, each wrong choice counting once; or over the choices that are."""
    c = config("code")
    logits, label = predict(c, given)["logits"], given["label"]
    p, hinges = 1 / (1 + np.exp(-np.maximum(logits, -99))), []
    for row in range(ROWS - 1):
        for column in range(CHOICES):
            if column != label[row] and logits[row, column] > -1e8:
                hinges.append(max(0, 0.2 - (p[row, label[row]] - p[row, column])))
    terms, metrics = tiny.objective(c).apply({"params": tiny.params(c)}, given, train=False)
    assert set(terms) == {"margin"} and float(terms["margin"].weight) == len(hinges) == 5
    assert float(terms["margin"].value) == pytest.approx(np.mean(hinges), rel=1e-4)
    assert float(metrics["grounded"].value) == pytest.approx(7 / 8)  # of choices that are there
    other = config("code", **{"objective.loss": "cross_entropy"})
    terms, _ = tiny.objective(other).apply({"params": tiny.params(c)}, given, train=False)
    assert set(terms) == {"classification"}


def test_ablated_parts_have_no_parameters():
    whole = tiny.params(config("paper"))["graph"]
    plain = tiny.params(config("paper", **{"objective.reasoner.gcn": ()}))["graph"]
    assert set(plain["concepts"]) == {"table"} < set(whole["concepts"])
    even = tiny.params(config("paper", **{"objective.reasoner.path_attention": False}))["graph"]
    assert set(whole) - set(even) == {"path_query"}


@pytest.mark.parametrize("form", kagnet.FORMS)
def test_flops_are_those_of_the_compiler(form, given):
    c = config(form)
    reasoner = kagnet.Reasoner(kagnet.Config(**c.objective.reasoner), FLOAT32)
    fields = {k: x.reshape(-1, *x.shape[2:]) for k, x in given.items() if x.ndim > 2}
    statement = jnp.zeros((ROWS * CHOICES, 16))
    params = reasoner.init(jax.random.key(0), statement, fields)
    lowered = jax.jit(reasoner.apply).lower(params, statement, fields)
    counted = lowered.cost_analysis()["flops"]
    shapes = {name: x.shape for name, x in given.items()}
    told = kagnet.flops(reasoner.config, shapes, 16)
    assert told <= counted < 1.6 * told  # the compiler counts what is no product, too


def test_parameters_are_as_many_as_the_codes():
    """Those that are no table, with the 1024 features of BERT-large and code's shapes."""
    objective = tiny.objective(page.get_config("large,form=code"))
    shapes = jax.eval_shape(
        lambda: state.unbox(
            objective.init(jax.random.key(0), batch_lib.smallest(), train=False)["params"]
        )
    )
    leaves = jax.tree_util.tree_leaves_with_path(shapes["graph"])
    count = sum(x.size for path, x in leaves if "table" not in jax.tree_util.keystr(path))
    assert count == 696_374
