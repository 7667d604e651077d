"""The one step: equal on every mesh and in microbatches, as sharded as declared, golden."""

import re

import batches
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from data_pipeline import loader
from errors import UserError
from training import optimizer, sharding, state, step

MESHES = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)]


def make_batch(page, rows=16, length=16):
    if page == "gpt1 on a task":
        return batches.sequences(rows, 2, length // 2, tiny.VOCAB)
    if page == "t5":
        return batches.seq2seq_lm(rows, length, 12, tiny.VOCAB, padding=2)
    if page == "kagnet":
        return batches.knowledge(rows, 3, length, tiny.VOCAB, 100, 17)
    if page == "xlnet":
        return batches.permutation_lm(rows, length, 4, tiny.VOCAB, memory=8, reversed=True)
    if page == "ernie":
        return batches.entity_lm(rows, length, 4, tiny.VOCAB, padding=2)
    if not page.startswith(("gpt", "reformer")):
        return batches.masked_lm(rows, length, 4, tiny.VOCAB, padding=2)
    return batches.causal_lm(rows, length, tiny.VOCAB)


def make_config(page, dropout=0.1):
    """A page, or an objective of a page that its config does not have by itself."""
    name = page.partition(" ")[0]
    c = tiny.config(name, **{"model.dropout": dropout, "model.attention_dropout": dropout})
    if page == "gpt1 on a task":
        c.objective = dict(
            name="gpt_classification", classes=3, lm_weight=0.5, logit_chunks=2, dropout=dropout
        )
    if name == "tinybert":  # all six losses
        c.objective.teacher = c.model.to_dict()
        c.objective.weights = dict.fromkeys(c.objective.weights, 1.0)
        c.model.depth = 1
    return c


class Run:
    """A sharded state and a compiled step."""

    def __init__(self, c, shape, devices):
        c.mesh.update(dict(zip(sharding.AXES, shape, strict=True)))
        self.mesh = sharding.make_mesh(c.mesh, devices[: int(np.prod(shape))])
        self.rules = sharding.check_rules(c.rules)
        self.objective = tiny.objective(c)
        self.init = state.Init(self.objective, optimizer.build(c.optim, c.total_steps))
        self.schedule = optimizer.schedule(c.optim, c.total_steps)
        self.microbatches = c.microbatches
        with self.inside():
            self.abstract = self.init.abstract(self.mesh, self.rules)
            self.state = self.init.sharded(jax.random.key(0), self.abstract)

    def inside(self):
        return _both(jax.set_mesh(self.mesh), nn.logical_axis_rules(self.rules))

    def compile(self, batch, frozen=lambda path: False):
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract)
        function = step.make_train_step(
            self.objective, self.init.optimizer, self.schedule, self.microbatches, frozen
        )
        batch = jax.device_put(batch, loader.batch_sharding(self.mesh))
        with self.inside():
            jitted = jax.jit(function, out_shardings=(shardings, sharding.replicated(self.mesh)))
            lowered = jitted.lower(self.state, batch, jax.random.key(1))
            return lowered, lowered.compile(), batch

    def losses(self, batch, steps=3):
        _, compiled, batch = self.compile(batch)
        results, current = [], self.state
        for _ in range(steps):
            current, metrics = compiled(current, batch, jax.random.key(1))
            results.append((float(metrics["loss"]), float(metrics["grad_norm"])))
        return np.array(results)


class _both:
    def __init__(self, *contexts):
        self.contexts = contexts

    def __enter__(self):
        for context in self.contexts:
            context.__enter__()

    def __exit__(self, *error):
        for context in reversed(self.contexts):
            context.__exit__(*error)


@pytest.fixture(scope="module")
def reference(devices):
    cache = {}

    def get(page):
        if page not in cache:
            dropout = 0.0 if page == "kagnet" else 0.1
            c = make_config(page, dropout)
            if "embed_width" in c.model:
                c.model.embed_width = 16
            if "bands" in c.model:
                c.model.bands = (0, 3)
            if page == "reformer":
                c.model.update(lsh_chunk=4, local_chunk=4)
            if page == "kagnet":
                c.optim.lr_factors = ()
            cache[page] = Run(c, (1, 1, 1), devices).losses(make_batch(page))
        return cache[page]

    return get


@pytest.mark.parametrize("page", ["bert", "gpt2"])
@pytest.mark.parametrize("shape", MESHES[1:])
def test_every_mesh_gives_the_same_losses(page, shape, devices, reference, capfd):
    c = tiny.config(page, **{"model.dropout": 0.1, "model.attention_dropout": 0.1})
    got = Run(c, shape, devices).losses(make_batch(page))
    np.testing.assert_allclose(got, reference(page), rtol=2e-5)
    assert got[-1, 0] < got[0, 0]  # it learns, too
    assert "rematerialization" not in capfd.readouterr().err.lower()


@pytest.mark.parametrize(
    "page",
    [
        *("bert", "xlnet"),
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("electra", "ernie", "reformer", "t5")),
    ],
)
def test_gradients_are_the_same_where_a_device_has_one_row(page, devices):
    """Adam's first moments after one step; see `placement.leaving`."""
    batch = {name: x[:4] for name, x in make_batch(page, rows=8).items()}
    c = tiny.config(page)

    def moments(shape):
        run = Run(c, shape, devices)
        _, compiled, placed = run.compile(batch)
        new, _ = compiled(run.state, placed, jax.random.key(1))
        leaves = jax.tree_util.tree_leaves_with_path(new.opt_state)
        return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}

    whole, parts = moments((1, 1, 1)), moments((2, 2, 2))
    for name, x in whole.items():
        # A bias of keys has no gradient but of rounding.
        error = np.abs(parts[name] - x).max(initial=0)
        assert error <= 1e-4 * np.abs(x).max(initial=0) + 1e-8, name


def test_banded_layers_are_the_same_on_a_mesh(devices, reference, capfd):
    c = tiny.config("gpt3", **{"model.dropout": 0.1, "model.attention_dropout": 0.1})
    c.model.bands = (0, 3)
    got = Run(c, (2, 2, 2), devices).losses(make_batch("gpt3"))
    np.testing.assert_allclose(got, reference("gpt3"), rtol=2e-5)
    assert "rematerialization" not in capfd.readouterr().err.lower()


@pytest.mark.parametrize(
    "page",
    [
        *("albert", "electra"),
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("ernie", "t5", "tinybert", "xlnet")),
        pytest.param("gpt1 on a task", marks=pytest.mark.slow),
    ],
)
def test_shared_layers_and_samples_are_the_same_on_a_mesh(page, devices, reference, capfd):
    """ELECTRA samples the same tokens wherever its rows lie; T5's layers share a
    bias; XLNet has a memory and queries; ERNIE's candidates are those of the whole batch."""
    c = make_config(page)
    if "embed_width" in c.model:
        c.model.embed_width = 16
    got = Run(c, (2, 2, 2), devices).losses(make_batch(page))
    np.testing.assert_allclose(got, reference(page), rtol=2e-5)
    assert "rematerialization" not in capfd.readouterr().err.lower()


@pytest.mark.parametrize("microbatches", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_graphs_are_the_same_on_a_mesh(microbatches, devices, reference, capfd):
    """Rows of the table of concepts lie on several devices."""
    c = tiny.config("kagnet", microbatches=microbatches, **{"optim.lr_factors": ()})
    run = Run(c, (2, 2, 2), devices)
    table = run.state.params["graph"]["concepts"]["table"]["table"]
    assert tuple(table.sharding.spec) == (("fsdp", "tensor"), None)
    got = run.losses(make_batch("kagnet"))
    np.testing.assert_allclose(got, reference("kagnet"), rtol=5e-5)
    assert "rematerialization" not in capfd.readouterr().err.lower()


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)])
def test_microbatches_of_padding_change_nothing(shape, devices):
    """The first half of the rows alone, and in a batch whose other microbatches are padding."""
    small = make_batch("gpt2", rows=8)
    large = {name: np.zeros((16, *x.shape[1:]), x.dtype) for name, x in small.items()}
    for name, value in small.items():  # microbatches 0 and 1 of 4
        large[name].reshape(4, 4, *value.shape[1:])[:, :2] = value.reshape(4, 2, *value.shape[1:])
    whole = Run(tiny.config("gpt2"), (1, 1, 1), devices).losses(small)
    parts = Run(tiny.config("gpt2", microbatches=4), shape, devices).losses(large)
    np.testing.assert_allclose(parts, whole, rtol=2e-5)


@pytest.mark.parametrize("page", ["bert", "gpt2", "xlnet"])
@pytest.mark.parametrize("shape", [pytest.param((1, 1, 1), marks=pytest.mark.slow), (2, 2, 2)])
def test_microbatches_change_nothing(page, shape, devices):
    """Without dropout, whose masks are drawn by microbatch. Weights differ between the slices."""
    batch = make_batch(page)
    batch["weights"] = np.where(np.arange(16)[:, None] % 2, batch["weights"], 0).astype(np.float32)
    whole = Run(tiny.config(page), (1, 1, 1), devices).losses(batch)
    parts = Run(tiny.config(page, microbatches=2), shape, devices).losses(batch)
    np.testing.assert_allclose(parts, whole, rtol=2e-5)


def test_choices_are_the_same_on_a_mesh(devices, capfd):
    """Questions are spread over the mesh and the microbatches, each with all its choices."""
    c = tiny.config("bert")
    c.objective = dict(name="classification", classes=0, dropout=0.0)
    batch = batches.choices(16, 3, 8, tiny.VOCAB)
    whole = Run(c.copy_and_resolve_references(), (1, 1, 1), devices).losses(batch)
    c.microbatches = 2
    parts = Run(c, (2, 2, 2), devices).losses(batch)
    np.testing.assert_allclose(parts, whole, rtol=5e-5)
    assert "rematerialization" not in capfd.readouterr().err.lower()


def test_buckets_are_the_same_on_a_mesh(devices, reference, capfd):
    c = tiny.config("reformer", **{"model.dropout": 0.1, "model.attention_dropout": 0.1})
    c.model.update(lsh_chunk=4, local_chunk=4)
    got = Run(c, (2, 2, 2), devices).losses(make_batch("reformer"))
    np.testing.assert_allclose(got, reference("reformer"), rtol=2e-5)
    assert "rematerialization" not in capfd.readouterr().err.lower()


def test_no_device_holds_more_than_its_part(devices):
    c = tiny.config("bert", **{"model.vocab_size": 96})
    run = Run(c, (1, 8, 1), devices)
    for tree in (run.state.params, run.state.opt_state):
        total = sum(x.nbytes for x in jax.tree.leaves(tree))
        held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
        assert held < total / 4  # biases and norms are whole, all else is an eighth


def test_tensor_parallel_parameters_are_cut_where_the_rules_say(devices):
    run = Run(tiny.config("bert"), (2, 2, 2), devices)
    blocks = run.state.params["network"]["stack"]["blocks"]

    def spec(x):
        return tuple(x.sharding.spec)

    assert spec(blocks["attention"]["query"]["kernel"]) == (None, "fsdp", "tensor", None)
    assert spec(blocks["mlp"]["down"]["kernel"]) == (None, "tensor", "fsdp")
    # 97 tokens divide by nothing: the table is cut along its width instead.
    table = run.state.params["network"]["embedder"]["tokens"]["table"]
    assert spec(table) == (None, ("fsdp", "tensor"))


def test_factored_moments_are_cut_as_their_parameter_is(devices):
    c = tiny.config("t5", **{"model.width": 128, "model.head_size": 32, "model.vocab_size": 256})
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, devices)
    init = state.Init(tiny.objective(c), optimizer.build(c.optim, c.total_steps))
    moments = init.abstract(mesh, sharding.check_rules(c.rules)).opt_state[0].moments["network"]

    def places(moments):
        return [None if x is None else (x.shape, tuple(x.sharding.spec)) for x in moments]

    blocks = moments["decoder"]["stack"]["blocks"]
    assert places(blocks["cross_attention"]["query"]["kernel"]) == [
        ((2, 128), (None, "fsdp")),
        ((2, 4, 32), (None, "tensor", None)),
        None,
    ]
    assert places(moments["tokens"]["table"]) == [
        ((256,), ("tensor",)),
        ((128,), (("fsdp", "tensor"),)),
        None,
    ]
    assert places(blocks["mlp_norm"]["scale"]) == [None, None, ((2, 128), (None, "tensor"))]


def test_activation_constraints_reach_the_compiler(devices):
    lowered, compiled, _ = Run(tiny.config("bert"), (2, 2, 2), devices).compile(make_batch("bert"))
    text = lowered.as_text()
    constraints = re.findall(r"sdy.sharding_constraint|@Sharding", text)
    assert len(constraints) >= 5, "constraints are dropped silently outside jax.set_mesh"
    assert "all-reduce" in compiled.as_text()


def test_the_weights_of_microbatches_cost_no_second_forward_pass(devices):
    """The pass over the whole batch that finds the terms' weights is dead code but for them."""
    c = tiny.config("bert")
    run = Run(c, (1, 1, 1), devices)
    batch = make_batch("bert")
    _, compiled, _ = run.compile(batch)
    grads = jax.jit(
        jax.grad(
            lambda p: sum(
                t.value
                for t in run.objective.apply(
                    {"params": p}, batch, train=True, rngs={"dropout": jax.random.key(0)}
                )[0].values()
            )
        )
    )
    alone = grads.lower(run.state.params).compile().as_text()

    def loops(text):
        return len(re.findall(r" while\(", text))

    assert loops(compiled.as_text()) <= loops(alone)


GOLDEN = {  # loss and gradient norm of the first three steps, recorded on the CPU in float32
    "bert": [[5.258455, 1.348077], [5.266364, 1.35473], [5.055609, 1.152144]],
    "gpt2": [[4.575576, 0.815593], [4.577269, 0.832594], [4.531439, 0.745584]],
    "gpt1": [[4.577115, 0.543006], [4.579296, 0.535351], [4.558201, 0.543010]],
    "gpt3": [[4.574179, 0.806798], [4.576826, 0.830403], [4.531856, 0.752032]],
    "t5": [[5.169693, 2.089489], [5.19644, 1.992873], [5.123323, 1.994376]],
    "ernie": [[8.732643, 15.049783], [8.712337, 14.527688], [7.485486, 8.97851]],
    "xlnet": [[4.58436, 0.791567], [4.611005, 0.779344], [4.467773, 0.74521]],
    "roberta": [[4.577597, 1.450476], [4.582337, 1.430914], [4.521677, 1.396136]],
    "albert": [[5.264522, 1.223261], [5.260414, 1.210655], [5.24961, 1.184634]],
    "electra": [[39.202843, 14.813725], [39.209938, 15.341395], [38.691765, 15.553136]],
    "tinybert": [[7.56398, 2.814816], [7.569983, 2.893698], [7.045091, 2.133339]],
    "gpt1 on a task": [[3.412004, 4.941723], [3.407626, 4.807887], [3.308589, 4.280004]],
    "kagnet": [[0.210498, 1.848427], [0.210498, 1.848427], [0.086948, 2.039065]],
    "reformer": [[4.598196, 0.507819], [4.591956, 0.518261], [4.583448, 0.504404]],
}


@pytest.mark.parametrize("page", GOLDEN)
def test_golden_steps(page, reference):
    np.testing.assert_allclose(reference(page), GOLDEN[page], rtol=1e-4)


@pytest.mark.parametrize("page", ["bert", "gpt2", "xlnet"])
def test_bfloat16_stays_near_float32(page, devices, reference):
    overrides = {"model.dropout": 0.1, "model.attention_dropout": 0.1, "model.dtype": "bfloat16"}
    got = Run(tiny.config(page, **overrides), (1, 1, 1), devices).losses(make_batch(page))
    np.testing.assert_allclose(got[:, 0], reference(page)[:, 0], rtol=2e-3)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ({"data": 3, "fsdp": 1, "tensor": 1}, "does not fit 8 device"),
        ({"data": -1, "fsdp": -1, "tensor": 1}, "may hold one -1"),
        ({"data": -1, "fsdp": 3, "tensor": 1}, "does not fit 8 device"),
        ({"data": 0, "fsdp": 1, "tensor": 1}, "at least 1"),
    ],
)
def test_wrong_meshes_are_told(mesh, message, devices):
    with pytest.raises(UserError, match=message):
        sharding.make_mesh(mesh, devices)


def test_the_mesh_is_filled_in(devices):
    mesh = sharding.make_mesh({"data": 2, "fsdp": -1, "tensor": 2}, devices)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert sharding.make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, devices).shape["data"] == 8


def test_wrong_batch_and_rules_are_told(devices):
    mesh = sharding.make_mesh({"data": 4, "fsdp": 2, "tensor": 1}, devices)
    with pytest.raises(UserError, match="must be a multiple of"):
        loader.check_batch(24, 2, mesh)
    with pytest.raises(UserError, match="the mesh has data, fsdp, tensor"):
        sharding.check_rules([("embed", "model")])
    run = state.Init(
        tiny.objective(tiny.config("bert")), optimizer.build(tiny.config("bert").optim, 9)
    )
    with pytest.raises(UserError, match="no entry for the parameter axis"):
        run.abstract(mesh, (("embed", "fsdp"),))


def test_lr_and_tokens_are_reported(devices):
    run = Run(tiny.config("bert"), (1, 1, 1), devices)
    batch = make_batch("bert")
    _, compiled, placed = run.compile(batch)
    _, metrics = compiled(run.state, placed, jax.random.key(0))
    assert float(metrics["lr"]) == 0.0  # step 0 of a warm-up
    assert int(metrics["tokens"]) == (batch["segment_ids"] > 0).sum()
    assert jnp.isclose(metrics["loss"], metrics["masked_lm"] + metrics["sentence_pair"])
