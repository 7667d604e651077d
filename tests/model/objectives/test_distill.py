"""Distillation: losses by hand, a teacher that stays as it is, which layer learns from which."""

import batches
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from errors import UserError
from model import losses
from model.objectives import distill
from training import optimizer, state, step

BATCH = batches.masked_lm(4, 12, 4, tiny.VOCAB, padding=3)


def distill_config(
    depth=1, width=32, mapping="uniform", shared=False, classes=0, temperature=2.0, **weights
):
    """A student of a teacher with two layers of width 32."""
    c = tiny.config("bert")
    teacher = c.model.to_dict()
    c.model.update(depth=depth, width=width, mlp_width=4 * width, token_types=0)
    c.objective = dict(
        name="distill",
        classes=classes,
        teacher=teacher,
        weights=dict.fromkeys(distill.TERMS, 0.0) | weights,
        temperature=temperature,
        mapping=mapping,
        shared_projection=shared,
        logit_chunks=2,
    )
    c.optim.frozen = ("^teacher/",)
    return c


ALL = dict.fromkeys(distill.TERMS, 1.0)


def terms_of(c, params):
    terms, _ = tiny.objective(c).apply({"params": params}, BATCH, train=False)
    return {name: float(term.value) for name, term in terms.items()}


def test_no_gradient_into_the_teacher():
    c = distill_config(**ALL)
    objective = tiny.objective(c)

    def loss(params):
        rngs = {"dropout": jax.random.key(0)}
        terms, _ = objective.apply({"params": params}, BATCH, train=True, rngs=rngs)
        return losses.combine({k: v.value for k, v in terms.items()}, objective.weights)

    gradient = jax.jit(jax.grad(loss))(tiny.params(c))
    assert all((x == 0).all() for x in jax.tree.leaves(gradient["teacher"]))
    for group in ("network", "masked_lm", "project_hidden", "project_embedding"):
        assert all(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(gradient[group])), group


def test_the_teacher_costs_no_optimizer_state_and_does_not_move():
    c = distill_config(soft=1.0)
    c.optim.warmup_steps = 0  # the first step has a learning rate
    objective, optim = tiny.objective(c), optimizer.build(c.optim, c.total_steps)
    params = tiny.params(c)
    opt_state = optim.init(params)
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    student = size({k: v for k, v in params.items() if k != "teacher"})
    assert 2 * student <= size(opt_state) < 2 * student + 10  # two moments, and counters
    train_step = step.make_train_step(
        objective, optim, optimizer.schedule(c.optim, c.total_steps), microbatches=2
    )
    before = state.TrainState(jnp.int32(1), params, opt_state)
    after, _ = jax.jit(train_step)(before, BATCH, jax.random.key(0))
    same = lambda a, b: bool((a == b).all())  # noqa: E731
    assert all(jax.tree.leaves(jax.tree.map(same, after.params["teacher"], params["teacher"])))
    moved = jax.tree.map(same, after.params["network"]["stack"], params["network"]["stack"])
    assert not any(jax.tree.leaves(moved))


def test_the_teachers_zero_gradients_cost_no_memory():
    """They are in the tree of gradients, summed over microbatches; XLA makes none of them."""
    c = distill_config(soft=1.0)
    c.objective.teacher.update(width=512, mlp_width=2048)
    objective, optim = tiny.objective(c), optimizer.build(c.optim, c.total_steps)
    train_step = step.make_train_step(objective, optim, lambda step: step, microbatches=2)
    whole = jax.eval_shape(
        lambda key: state.unbox(state.Init(objective, optim)(key)), jax.random.key(0)
    )
    compiled = jax.jit(train_step, donate_argnums=0).lower(whole, BATCH, jax.random.key(0))
    teacher = sum(4 * x.size for x in jax.tree.leaves(whole.params["teacher"]))
    assert compiled.compile().memory_analysis().temp_size_in_bytes < 0.7 * teacher


def test_a_copy_of_the_teacher_has_nothing_to_learn():
    c = distill_config(depth=2, **ALL)
    c.model.token_types = 2
    params = dict(tiny.params(c))
    params |= {k: params["teacher"][k] for k in ("network", "masked_lm")}
    params["project_hidden"] = params["project_embedding"] = {"kernel": jnp.eye(32)}
    terms = terms_of(c, params)
    for name in ("soft", "cosine", "embedding", "hidden", "attention"):
        assert terms[name] == pytest.approx(0.0, abs=1e-5), name
    plain = tiny.config("bert")
    plain.objective.sentence_pair = False
    teacher = {k: params["teacher"][k] for k in ("network", "masked_lm")}
    assert terms["masked_lm"] == pytest.approx(terms_of(plain, teacher)["masked_lm"], rel=1e-5)


def test_mappings_are_the_papers():
    layers = lambda name, M, N: [distill.MAPPINGS[name](m, M, N) for m in range(1, M + 1)]  # noqa: E731
    assert layers("uniform", 4, 12) == [3, 6, 9, 12]
    assert layers("uniform", 6, 12) == [2, 4, 6, 8, 10, 12]
    assert layers("top", 4, 12) == [9, 10, 11, 12]
    assert layers("bottom", 4, 12) == [1, 2, 3, 4]


@pytest.mark.parametrize(("mapping", "layer"), [("uniform", 1), ("top", 1), ("bottom", 0)])
def test_losses_by_hand(mapping, layer):
    """One layer of width 16 against `layer` of two layers of width 32."""
    terms = dict.fromkeys(("soft", "embedding", "hidden", "attention", "masked_lm"), 1.0)
    c = distill_config(width=16, mapping=mapping, **terms)
    objective, params = tiny.objective(c), tiny.params(c)
    got = terms_of(c, params)

    def everything(module):
        student, teacher = module.network, module.teacher.network
        x, y = (net.embed(BATCH, train=False) for net in (student, teacher))
        wanted = dict(train=False, return_layers=True, return_scores=True)
        a, b = student.encode(x, BATCH, **wanted), teacher.encode(y, BATCH, **wanted)
        logits = module.masked_lm(a.hidden, student.embedder.tokens)
        return x, y, a, b, logits, module.teacher.masked_lm(b.hidden, teacher.embedder.tokens)

    x, y, a, b, logits, targets = objective.apply({"params": params}, method=everything)
    real = BATCH["segment_ids"] > 0
    p = optax.losses.safe_softmax_cross_entropy  # an implementation of its own
    soft = jax.nn.softmax(targets / 2)
    kl = p(logits / 2, soft) - p(targets / 2, soft)
    assert got["soft"] == pytest.approx(4 * float(kl[real].mean()), rel=1e-4)
    embedding = np.square(x @ params["project_embedding"]["kernel"] - y).mean(-1)
    assert got["embedding"] == pytest.approx(embedding[real].mean(), rel=1e-4)
    hidden = np.square(a.layers[0] @ params["project_hidden"]["kernel"] - b.layers[layer]).mean(-1)
    assert got["hidden"] == pytest.approx(hidden[real].mean(), rel=1e-4)
    seen = real[:, :, None] & real[:, None, :]
    error = np.square(a.scores[0] - b.scores[layer]).mean(1)
    assert got["attention"] == pytest.approx(error[seen].mean(), rel=1e-4)


def test_shared_projection_has_a_bias():
    params = tiny.params(distill_config(width=16, shared=True, embedding=1.0, hidden=1.0))
    assert set(params["project_hidden"]) == {"kernel", "bias"}
    assert "project_embedding" not in params and "masked_lm" not in params


def test_cosine_distance_ignores_length():
    x = jax.random.normal(jax.random.key(0), (3, 8))
    np.testing.assert_allclose(losses.cosine_distance(x, 5 * x), 0.0, atol=1e-6)
    np.testing.assert_allclose(losses.cosine_distance(x, -x), 2.0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(cosine=1.0, width=16), "config.model.width=16 must be the teacher's 32"),
        (dict(hidden=1.0, depth=3), "must divide the teacher's 2"),
        (dict(mapping="middle"), "Choose one of: bottom, top, uniform"),
        (dict(soft=-1.0), "at least 0"),
        (dict(sof=1.0), "at least 0 for each of soft"),
        (dict(masked_lm=1.0, classes=2), "masked_lm is for text"),
    ],
)
def test_wrong_options_are_told(change, message):
    with pytest.raises(UserError, match=message):
        tiny.params(distill_config(**change))


def test_a_student_without_head_says_so():
    c = distill_config(hidden=1.0)
    with pytest.raises(UserError, match="has no head"):
        tiny.objective(c).apply({"params": tiny.params(c)}, BATCH, method="predict")


# Of a task (TinyBERT, section 3.2)

TASK = {k: BATCH[k] for k in ("tokens", "token_types", "segment_ids", "positions")} | {
    "pair_positions": np.zeros((4, 1), np.int32),
    "label": np.array([0, 2, 1, 2], np.int32),
    "score": np.array([0.5, 1.0, 2.0, 4.0], np.float32),
    "example_weights": np.array([1, 1, 1, 0], np.float32),
}


def test_prediction_loss_is_soft_cross_entropy_but_for_a_constant():
    c = distill_config(classes=3, temperature=1.0, soft=1.0)
    objective, params = tiny.objective(c), tiny.params(c)

    def logits(module):
        teacher = module.teacher.predict(TASK)["logits"]
        return module.predict(TASK)["logits"], teacher

    student, teacher = objective.apply({"params": params}, method=logits)
    terms, metrics = objective.apply({"params": params}, TASK, train=False)
    p = jax.nn.softmax(teacher)
    cross = optax.losses.safe_softmax_cross_entropy(student, p)
    entropy = optax.losses.safe_softmax_cross_entropy(teacher, p)
    assert float(terms["soft"].value) == pytest.approx(
        float((cross - entropy)[:3].mean()), abs=1e-6
    )
    right = np.argmax(student, -1) == TASK["label"]
    assert float(metrics["accuracy"].value) == pytest.approx(right[:3].mean())
    np.testing.assert_array_equal(metrics["rows"].weight, TASK["example_weights"])


def test_a_regression_learns_the_teachers_scores():
    c = distill_config(classes=1, soft=1.0)
    objective, params = tiny.objective(c), tiny.params(c)
    terms, metrics = objective.apply({"params": params}, TASK, train=False)
    teacher = objective.apply(
        {"params": params}, method=lambda module: module.teacher.predict(TASK)["logits"]
    )
    error = np.square(metrics["rows"].prediction - teacher[:, 0])
    assert float(terms["soft"].value) == pytest.approx(float(error[:3].mean()), rel=1e-4)
