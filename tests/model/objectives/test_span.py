"""The objective of questions whose answer is a span."""

import functools

import jax
import numpy as np
import pytest
import tiny

from errors import UserError
from model import batch as batch_lib
from model import heads, losses, objectives
from training import state

HEADS = {
    "independent": dict(head="independent", answerable=0.0, dropout=0.0, beam=20),
    "roberta": dict(head="independent", answerable=1.0, dropout=0.0, beam=20),
    "xlnet": dict(head="xlnet", answerable=0.5, dropout=0.1, beam=3),
    "electra": dict(head="electra", answerable=0.0, dropout=0.0, beam=4),
}
LENGTH, PASSAGE = 12, slice(5, 9)


def config(head, page="bert", **overrides):
    c = tiny.config(page)
    c.objective = dict(name="span", **HEADS[head])
    c.update_from_flattened_dict(overrides)
    return c


def batch(rows=5, seed=0):
    """[CLS] and four tokens, a passage of four, three of padding; the last row is all padding."""
    rng = np.random.default_rng(seed)
    places = np.arange(LENGTH)
    ids = np.tile((places < PASSAGE.stop).astype(np.int32), (rows, 1))
    passage = (places >= PASSAGE.start) * ids
    ids[-1] = passage[-1] = 0
    start = rng.integers(PASSAGE.start, PASSAGE.stop, rows)
    end = rng.integers(start, PASSAGE.stop)
    start[1] = end[1] = start[-1] = end[-1] = 0
    made = {
        "tokens": rng.integers(5, tiny.VOCAB, (rows, LENGTH)) * ids,
        "token_types": passage,
        "segment_ids": ids,
        "positions": places * ids,
        "pair_positions": np.zeros((rows, 1)),
        "answer_places": np.maximum(passage, places == 0),
        "answer_start": start,
        "answer_end": end,
        "label": start == 0,
    }
    made = {name: value.astype(np.int32) for name, value in made.items()}
    made["example_weights"] = (np.arange(rows) < rows - 1).astype(np.float32)
    batch_lib.check(made)
    return made


@functools.cache
def evaluated(head):
    """What an evaluation of `batch()` gives."""
    return apply(config(head), batch())


def apply(c, given):
    """The terms, metrics and predictions of an evaluation, in one compilation."""
    objective = tiny.objective(c)

    @jax.jit
    def run(params):
        terms, metrics = objective.apply({"params": params}, given, train=False)
        return terms, metrics, objective.apply({"params": params}, given, method="predict")

    return jax.tree.map(np.asarray, run(tiny.params(c)))


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("head", HEADS)
def test_shapes_and_values(head):
    given = batch()
    terms, metrics, predicted = evaluated(head)
    start, end = predicted["start"], predicted["end"]
    assert start.shape == end.shape == (5, LENGTH) and start.dtype == end.dtype == np.float32
    first = given["answer_start"]
    nats = -log_softmax(start)[np.arange(5), first][:4]
    if HEADS[head]["head"] == "independent":
        nats = (nats - log_softmax(end)[np.arange(5), given["answer_end"]][:4]) / 2
        assert float(terms["span"].total) == pytest.approx(nats.sum(), rel=1e-5)
    assert float(terms["span"].weight) == 4
    assert set(terms) == {"span"} | ({"answerable"} if HEADS[head]["answerable"] else set())
    if "answerable" in terms:
        x, y = predicted["no_answer"][:4], given["label"][:4]
        nats = np.log1p(np.exp(x)) - x * y
        assert float(terms["answerable"].value) == pytest.approx(nats.mean(), rel=1e-5)
        assert tiny.objective(config(head)).weights == {"answerable": HEADS[head]["answerable"]}


@pytest.mark.parametrize("head", HEADS)
def test_candidates_are_the_best_tokens_of_each_row(head):
    given = batch()
    _, metrics, predicted = evaluated(head)
    rows = metrics["rows"]
    np.testing.assert_array_equal(rows.weight, given["example_weights"])
    found, beam = rows.prediction, min(HEADS[head]["beam"], LENGTH)
    assert found["start"].shape == (5, beam)
    independent = HEADS[head]["head"] == "independent"
    start = predicted["start"] if independent else log_softmax(predicted["start"])
    order = np.argsort(-start, axis=1, kind="stable")[:, :beam]
    np.testing.assert_array_equal(found["start"][:4], order[:4])
    expected = np.take_along_axis(start, order, axis=1)
    np.testing.assert_allclose(found["start_score"][:4], expected[:4], rtol=1e-5)
    assert found["end"].shape == (5, 1 if independent else beam, beam)
    # Those for the most likely first token.
    end = predicted["end"] if independent else log_softmax(predicted["end"])
    order = np.argsort(-end, axis=1, kind="stable")[:, :beam]
    np.testing.assert_array_equal(found["end"][:4, 0], order[:4])
    np.testing.assert_allclose(
        found["end_score"][:4, 0], np.take_along_axis(end, order, axis=1)[:4], rtol=1e-5
    )
    if HEADS[head]["answerable"]:
        np.testing.assert_array_equal(found["no_answer"][:, 0], predicted["no_answer"])
    else:
        assert found["no_answer"].shape == (5, 2)
        np.testing.assert_allclose(found["no_answer"][:4, 0], start[:4, 0], rtol=1e-5)


def test_the_last_token_depends_on_the_first_and_on_allowed_places_only():
    for head in ("xlnet", "electra"):
        given, found = batch(), evaluated(head)[1]["rows"].prediction
        allowed = given["answer_places"][:4] > 0
        assert np.take_along_axis(allowed, found["start"][:4], axis=1).all()
        flat = found["end"][:4, :, : found["start"].shape[1]].reshape(4, -1)
        assert np.take_along_axis(allowed, flat, axis=1).all()
        scores = found["end_score"][:4]
        assert np.ptp(scores, axis=1).max() > 1e-4  # not the same for each first token


def test_in_training_the_last_token_is_told_the_true_first_one():
    c, given = config("electra"), batch()
    objective, params = tiny.objective(c), tiny.params(c)

    @jax.jit
    def loss(given):
        return objective.apply({"params": params}, given, train=False)[0]["span"].total

    @jax.jit
    def by_hand(given):
        def both(objective):
            hidden = objective.network(given, train=False).hidden
            start = objective.conditioned_span.start(hidden, given["answer_places"])
            first = given["answer_start"][:, None]
            end = objective.conditioned_span.end(hidden, first, given["answer_places"])[:, 0]
            nats = losses.cross_entropy(start, first[:, 0])
            return (nats + losses.cross_entropy(end, given["answer_end"])) / 2

        return (objective.apply({"params": params}, method=both) * given["example_weights"]).sum()

    assert float(loss(given)) == pytest.approx(float(by_hand(given)), rel=1e-6)


@pytest.mark.parametrize("head", ["roberta", "electra"])
def test_gradients_reach_every_parameter_and_no_padding(head):
    c, given = config(head), batch()
    objective = tiny.objective(c)

    @jax.jit
    def loss(params, given):
        terms, _ = objective.apply({"params": params}, given, train=False)
        return losses.combine({n: t.value for n, t in terms.items()}, objective.weights)

    gradients = jax.jit(jax.grad(loss))(tiny.params(c), given)
    for path, g in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        if "bias" in name and any(x in name for x in ("key", "first", "last", "['span']")):
            continue  # shifts all scores of a softmax alike
        assert np.abs(g).max() > 0, name
    other = {name: value.copy() for name, value in given.items()}
    other["tokens"][:, PASSAGE.stop :] = other["tokens"][-1] = 7
    other["answer_start"][-1] = other["answer_end"][-1] = 6
    params = tiny.params(c)
    assert float(loss(params, other)) == float(loss(params, given))


def test_rows_are_collected_only_where_it_does_not_train():
    c = config("xlnet")
    variables, keys = {"params": tiny.params(c)}, {"dropout": jax.random.key(0)}
    apply = functools.partial(tiny.objective(c).apply, batch=batch(), train=True, rngs=keys)
    _, metrics = jax.eval_shape(apply, variables)
    assert set(metrics) == {"span_accuracy"}


def test_only_the_classifier_has_dropout_of_its_own():
    c, given = config("xlnet"), batch()  # the network has none
    objective, variables = tiny.objective(c), {"params": tiny.params(c)}

    @jax.jit
    def terms(key):
        keys = {"dropout": key}
        return objective.apply(variables, given, train=True, rngs=keys)[0]

    a, b = (terms(jax.random.key(seed)) for seed in (0, 1))
    assert float(a["span"].total) == float(b["span"].total)
    assert float(a["answerable"].total) != float(b["answerable"].total)


def test_xlnet_reads_its_class_token_at_the_end():
    c, given = config("xlnet", page="xlnet"), batch()
    moved = {name: value.copy() for name, value in given.items()}
    moved["pair_positions"][:] = PASSAGE.stop - 1
    objective, params = tiny.objective(c), tiny.params(c)
    run = jax.jit(lambda x: objective.apply({"params": params}, x, method="predict")["no_answer"])
    a, b = (np.asarray(run(x)) for x in (given, moved))
    assert (a[:4] != b[:4]).all()


@pytest.mark.parametrize("head", HEADS)
def test_flops_and_parameters(head):
    c = config(head)
    shapes = {name: value.shape for name, value in batch().items()}
    objective, width = tiny.objective(c), c.model.width
    classification = tiny.config("bert")
    classification.objective = dict(name="classification", classes=2, dropout=0.1)
    network = tiny.objective(classification).flops(shapes) - 3 * 2 * 5 * width * (width + 2)
    assert objective.flops(shapes) - network == 3 * heads.span_flops(
        HEADS[head]["head"], c.model, 5 * LENGTH
    )
    network = state.count_parameters(tiny.objective(classification)) - (
        width * (width + 1) + 2 * (width + 1)
    )
    hidden = 512 if head == "electra" else width
    wanted = {
        "independent": 2 * (width + 1),
        "roberta": 2 * (width + 1) + (2 * width + 1) * width + width,
        "xlnet": 2 * (width + 1) + 2 * (2 * width + 1) * width + 2 * width + width,
        "electra": (width + 1) + (2 * width + 1) * hidden + (hidden + 1),
    }[head]
    assert state.count_parameters(objective) - network == wanted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(head="bert"), "Unknown config.objective.head 'bert'"),
        (dict(beam=0), "beam at least 1"),
        (dict(answerable=-1.0), "answerable must be at least 0"),
        (dict(dropout=0.1), "which answerable=0 leaves out: set it to 0"),
        (dict(dropout=1.0), r"dropout must be in \[0, 1\)"),
        (dict(heads=1), "Unknown key in config.objective: 'heads'"),
    ],
)
def test_a_wrong_section_is_told(values, message):
    c = tiny.config("bert")
    c.objective = dict(name="span", **HEADS["independent"] | values)
    with pytest.raises(UserError, match=message):
        objectives.build(c, "cpu")
