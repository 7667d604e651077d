"""Plans: the very step of train.py, and numbers that add up to the compiler's."""

import dataclasses
import io
import json
import math

import jax
import pytest
import rich.console
import runs
import tiny

import train
from configs import bert, distilbert, gpt2, gpt3, reformer
from data_pipeline import shapes
from errors import UserError
from training import (
    interconnect,
    plan,
    plan_report,
    plan_search,
    setup,
    sharding,
    state,
    topologies,
)

GIB = 2**30


def small(**overrides):
    shrunk = {"batch_size": 8, "data.length": 16, "model.remat": "full"}
    shrunk["data.masking.max_predictions"] = 4
    c = tiny.config("bert", **(shrunk | overrides))
    c.mesh.update(data=2, fsdp=2, tensor=2)
    return c


def lower(config):
    built = setup.prepare(config)
    return plan.lower(built, *plan.inputs(built, config))


@pytest.fixture(scope="module")
def planned(devices):
    """A plan for eight CPU devices of two layers."""
    return plan.make(small())


def test_memory_adds_up_to_the_compilers(planned):
    c = small()
    compiled = lower(c).compile()
    memory, stats = planned.memory, compiled.memory_analysis()
    rows = sum(x.nbytes for x in shapes.example(c).values()) * 8 // 4  # over data and fsdp
    assert memory.batch == rows  # nothing is random: XLA drops the key
    assert memory.parameters + memory.optimizer + rows == stats.argument_size_in_bytes
    assert memory.gradients + memory.activations == stats.temp_size_in_bytes
    # The new state takes the place of the old one.
    assert stats.alias_size_in_bytes == memory.parameters + memory.optimizer
    assert memory.outputs == stats.output_size_in_bytes - stats.alias_size_in_bytes
    parts = dataclasses.asdict(memory)
    others = ("needed", "temporaries_reported", "limit", "fits")
    assert memory.needed == sum(v for k, v in parts.items() if k not in others)
    assert memory.temporaries_reported == stats.temp_size_in_bytes


def test_the_work_of_a_step(planned):
    c = small()
    batch = {name: (8, *x.shape) for name, x in shapes.example(c).items()}
    assert planned.flops == setup.prepare(c).objective.flops(batch)
    assert planned.mesh == {"data": 2, "fsdp": 2, "tensor": 2}
    assert planned.tokens == 8 * 16
    assert planned.parameters == state.count_parameters(tiny.objective(c))
    assert planned.traffic > planned.traffic_counted_once > 0
    gathers = [x for x in planned.communication if (x.kind, x.axes) == ("all-gather", ("fsdp",))]
    assert gathers[0].runs > gathers[0].instructions  # in the loop over layers
    assert planned.times is None  # of a CPU no peak is known
    assert planned.memory.fits is None


def test_the_line_through_two_and_four_layers(planned):
    """Loops are counted as often as they run: each layer more costs as much as the one before."""
    four, six = (plan.make(small(**{"model.depth": n})) for n in (4, 6))
    for total in (
        lambda made: made.traffic,
        lambda made: sum(c.bytes for c in made.communication),
        lambda made: sum(c.runs for c in made.communication),
    ):
        assert total(six) == pytest.approx(2 * total(four) - total(planned), rel=0.02)
        assert total(six) > 1.5 * total(planned)
    # XLA's own count is far from that line: it sees little more than the state grow.
    once = six.traffic_counted_once - planned.traffic_counted_once
    assert once < 0.3 * (six.traffic - planned.traffic)


class _Captured(Exception):
    pass


def test_it_is_the_step_of_train(devices, tmp_path, monkeypatch):
    """Both lower to the same text, to the last character."""
    page = reformer.get_config("copy,quick=1")  # needs no text; its hashes are random
    page.mesh.update(data=2, fsdp=2, tensor=2)
    page.microbatches = 2
    texts = []
    make = setup.Setup.train_step

    def train_step(self, abstract):
        jitted = make(self, abstract)

        def call(*arguments):
            texts.append(jitted.lower(*arguments).as_text())
            raise _Captured

        return call

    with monkeypatch.context() as patched:
        patched.setattr(setup.Setup, "train_step", train_step)
        with pytest.raises(_Captured):
            train.train(page, tmp_path / "run")
    assert lower(page).as_text() == texts[0]


def on_chips(mesh, *, needed=GIB, rows=64, microbatches=1, kind="TPU v5 lite", **fields):
    """A plan of round numbers on v5e."""
    quarter = needed // 4
    memory = plan.Memory(
        **dict.fromkeys(("parameters", "optimizer", "gradients", "activations"), quarter),
        **dict.fromkeys(("batch", "outputs", "code"), 0),
        needed=needed,
        temporaries_reported=None,
        limit=16 * GIB,
        fits=needed <= 16 * GIB,
    )
    return plan.Plan(
        device=kind,
        mesh=dict(zip(sharding.AXES, mesh, strict=True)),
        parameters=10**6,
        batch_size=rows,
        microbatches=microbatches,
        steps=1000,
        tokens=10**5,
        flops=1e15,
        memory=dataclasses.replace(memory, **fields),
        communication=[],
        traffic=1e9,
        traffic_counted_once=1e8,
        times=plan.Times(compute=0.5, recompute=0.1, memory=0.3, interconnect=0.2),
        refusal="",
        program="",
        versions={},
    )


def test_times():
    made = on_chips((4, 1, 1))
    assert (made.times.least, made.times.most) == (0.5, pytest.approx(1.1))
    assert made.times.bottleneck == "compute"
    assert made.utilization(1.0) == 0.5
    written = json.loads(json.dumps(made.to_dict()))
    assert written["days"][0] == pytest.approx(500 / 86400)
    assert written["chip_hours"][1] == pytest.approx(4 * 1100 / 3600)
    assert written["mfu"] == pytest.approx([0.5 / 1.1, 1.0])
    assert written["memory"]["fits"] and written["advice"] == []


def test_advice():
    whole = on_chips((8, 1, 1), needed=40 * GIB)
    assert "--config.mesh.data=1 --config.mesh.fsdp=8" in plan.advice(whole)[0]
    many_rows = on_chips((1, 4, 1), needed=20 * GIB, activations=18 * GIB, parameters=GIB // 2)
    many_rows = dataclasses.replace(
        many_rows, memory=dataclasses.replace(many_rows.memory, optimizer=GIB, gradients=GIB // 2)
    )
    assert "16 rows at a time: --config.microbatches=2" in plan.advice(many_rows)[0]
    assert "remat=full" in plan.advice(many_rows)[1]
    too_few = on_chips((1, 4, 1), needed=100 * GIB)
    assert "more chips than 4" in plan.advice(too_few)[-1]


@pytest.mark.parametrize(
    ("refusal", "sizes"),
    [
        ("required for HLO temporaries (27.68G) exceeds available HBM (15.75G).", (27.68, 15.75)),
        ("in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded", (20.5, 15.75)),
    ],
)
def test_what_a_refusal_says(refusal, sizes):
    assert plan.refused_bytes(refusal) == tuple(int(size * GIB) for size in sizes)
    assert plan.refused_bytes("something else") is None


def test_report():
    console = rich.console.Console(record=True, width=120, file=io.StringIO())
    made = on_chips((2, 2, 1), needed=20 * GIB, kind="TPU v5 lite")
    found = interconnect.Communication("all-gather", ("data", "fsdp"), 2, 24.0, 3e9, 0.25)
    plan_report.show(dataclasses.replace(made, communication=[found]), console)
    text = " ".join(console.export_text().split())
    assert "1,000,000 parameters on 4 x TPU v5 lite (data=2 x fsdp=2)" in text
    assert "parameters 5.00 GiB" in text
    assert "20.00 GiB of 16.00 GiB: DOES NOT FIT" in text
    assert "all-gather data x fsdp 2 24 3.000 250.00" in text
    assert "bound by compute" in text and "0.5 to 1.1 s a step (MFU 100% to 45%)" in text
    assert "* Parameters, optimizer and gradients take 15.0 GiB" in text


def test_a_student_is_planned_without_its_teacher():
    page = distilbert.get_config("tiny,quick=1")
    with pytest.raises(UserError, match="part_from.teacher is not set"):
        plan.make(page)
    teacher = bert.get_config("tiny,quick=1").model.to_dict()
    page.objective.teacher = teacher | {"depth": 4, "vocab_size": page.model.vocab_size}
    made = plan.make(page, without_weights=True)
    assert page.objective.teacher.depth == 4
    # The teacher stands still: it has no gradients and no optimizer state.
    assert made.memory.gradients == pytest.approx(made.memory.optimizer / 2, rel=0.01)
    assert made.memory.gradients < made.memory.parameters / 2


def test_search(monkeypatch):
    """Each knob is turned with those before it at their best."""
    seconds = {"none": 1.0, "dots": 1.1, "full": 1.3}
    gibs = {"none": 40, "dots": 20, "full": 9}
    tried = []

    def make(config, devices, without_weights=False):
        m, rows = config.mesh, config.batch_size // config.microbatches
        tried.append((m.data, m.fsdp, m.tensor, config.model.remat, config.microbatches))
        if rows % (m.data * m.fsdp):
            raise UserError("does not divide")
        needed = gibs[config.model.remat] * rows / 64 * (1 if m.fsdp == 4 else 1.5)
        time = seconds[config.model.remat] * (1 + m.tensor / 10) + config.microbatches / 20
        result = on_chips((m.data, m.fsdp, m.tensor), needed=int(needed * GIB))
        return dataclasses.replace(result, times=plan.Times(time, 0.0, 0.0, 0.0))

    monkeypatch.setattr(plan, "make", make)
    c = bert.get_config("base")
    c.batch_size = 64
    c.lock()
    c.mesh.update(data=-1, fsdp=1, tensor=1)
    start = c.copy_and_resolve_references()
    start.mesh.data = 4
    trials = list(plan_search.search(c, make(start, None), None))
    del tried[0]
    # Four devices: 30 GiB as it is; then cut over all of them 20, still too much; then remat.
    assert len(tried) == len(set(tried))
    assert {t[:3] for t in tried[:5]} == {(1, 4, 1), (2, 1, 2), (1, 2, 2), (1, 1, 4)}
    assert (1, 4, 1, "full", 1) in tried and (1, 4, 1, "full", 4) in tried
    best = min(trials, key=lambda t: t.cost)
    assert best.flags == (
        "--config.mesh.data=1 --config.mesh.fsdp=4 --config.mesh.tensor=1 --config.model.remat=full"
    )
    assert [t.to_dict()["needed"] for t in trials][0] == 30 * GIB
    front = plan_search.frontier(trials)
    points = [(t.plan.memory.needed, t.plan.times.most) for t in front]
    assert best in front and points == sorted(points)
    assert [time for _, time in points] == sorted((time for _, time in points), reverse=True)

    console = rich.console.Console(record=True, width=200, file=io.StringIO())
    for trial in [*trials, plan_search.Trial({"microbatches": 3}, None, "refused")]:
        plan_report.show_trial(trial, console)
    plan_report.show_frontier(trials, console)
    text = console.export_text()
    assert "as it is: 30.00 GiB, 1.26 to 1.26 s, DOES NOT FIT" in text
    assert "--config.microbatches=3: refused" in text
    assert f"Best: {best.flags}" in text


def test_the_script(tmp_path):
    path = tmp_path / "plan.json"
    page = ["--config=configs/bert.py:tiny,quick=1", "--config.model.vocab_size=600"]
    text = runs.script("plan.py", *page, "--config.mesh.fsdp=2", f"--json={path}")
    written = json.loads(path.read_text())
    assert written["mesh"] == {"data": 4, "fsdp": 2, "tensor": 1}
    assert f"{written['parameters']:,} parameters on 8 x cpu" in text
    assert written["memory"]["fits"] is None and written["times"] is None
    wrong = runs.script("plan.py", *page, "--topology=v5e:2x2x2", status=2)
    assert wrong.splitlines()[-1].startswith("error: --topology=v5e:2x2x2: a v5e slice has 2")


@pytest.fixture
def no_cache():
    """What is compiled for chips that are not here cannot be read from the cache again."""
    pytest.importorskip("libtpu")
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", True)


TPU_PLANS = {
    "v5e:2x2": (bert, {}, {"fsdp": 2}),
    "v5p:2x2x1": (gpt3, {"model.bands": (0, 8), "model.depth": 4}, {"fsdp": 2, "tensor": 2}),
}


@pytest.mark.parametrize("slice", TPU_PLANS)
def test_a_slice_that_is_not_here(slice, no_cache):
    page, overrides, mesh = TPU_PLANS[slice]
    c = page.get_config("tiny,quick=1")
    c.update_from_flattened_dict(overrides)
    c.mesh.update(mesh)
    made = plan.make(c, topologies.devices(topologies.parse(slice)))
    assert made.device.startswith("TPU v5") and math.prod(made.mesh.values()) == 4
    memory = made.memory
    assert memory.fits and memory.needed > memory.parameters
    # Of the temporaries that XLA reports not all are alive at a time.
    assert 0 < memory.gradients + memory.activations <= memory.temporaries_reported
    assert made.times.most > made.times.least > 0
    assert any(c.runs > c.instructions for c in made.communication)
    assert {axis for c in made.communication for axis in c.axes} >= set(mesh)


def test_what_the_compiler_refuses(no_cache):
    c = gpt2.get_config("1558m")
    c.update(batch_size=16, microbatches=1)
    made = plan.make(c, topologies.devices(topologies.parse("v5e:2x2")))
    assert made.memory.fits is False and made.memory.needed > made.memory.limit
    assert made.refusal and made.times is None
    assert "--config.mesh.fsdp=4" in plan.advice(made)[0]
    console = rich.console.Console(record=True, width=120, file=io.StringIO())
    plan_report.show(made, console)
    assert "The compiler refused it" in console.export_text()
