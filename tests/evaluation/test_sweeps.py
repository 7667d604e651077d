"""Sweeps: what they expand to, what counts as finished, and that a failure stops nothing else."""

import json
import math
import os
import subprocess
import sys

import pytest
import runs

from configs import ablations
from errors import UserError
from evaluation import jobs as jobs_lib
from evaluation import reports, search, sweeps, together


def fake_run(job, value=2.0, metrics=("loss",)):
    """What train.py leaves behind."""
    config = job.config()
    last = config.total_steps
    (job.workdir / "checkpoints" / str(last)).mkdir(parents=True)
    (job.workdir / "config.json").write_text(config.to_json_best_effort())
    run = {"git_commit": "0123456789abcdef+changes", "packages": {"jax": "0.10.2"}}
    (job.workdir / "run.json").write_text(json.dumps(run))
    rows = [
        {"step": step, **{f"valid/{name}": value + 1 - step // last for name in metrics}}
        for step in (1, last)
    ]
    (job.workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_grid_is_all_combinations():
    points = search.grid(["optim.lr=1e-4,3e-4", "model.name=a,b", "x=True"])
    assert points == [
        {"optim.lr": lr, "model.name": name, "x": True} for lr in (1e-4, 3e-4) for name in "ab"
    ]


def test_random_search_is_seeded_and_in_bounds():
    axes = ["a=log:1e-4:1e-2", "b=uniform:0:0.3", "c=choice:1,2,x"]
    points = search.sample(axes, 400, seed=1)
    assert points == search.sample(axes, 400, seed=1) != search.sample(axes, 400, seed=2)
    assert all(1e-4 <= p["a"] <= 1e-2 and 0 <= p["b"] <= 0.3 for p in points)
    assert {p["c"] for p in points} == {1, 2, "x"}
    assert abs(sum(math.log10(p["a"]) for p in points) / 400 + 3) < 0.1  # even in the logarithm


@pytest.mark.parametrize("axis", ["optim.lr", "=1,2", "a="])
def test_a_wrong_grid_is_told(axis):
    with pytest.raises(UserError, match="KEY=VALUE,VALUE"):
        search.grid([axis])


@pytest.mark.parametrize("axis", ["a=log:0:1", "a=lag:1:2", "a=uniform:1", "a=choice:", "a"])
def test_a_wrong_sample_is_told(axis):
    with pytest.raises(UserError, match="KEY=log:LOW:HIGH"):
        search.sample([axis], 1, seed=0)


@pytest.mark.parametrize(
    ("table", "scale", "seeds", "message"),
    [
        ("albert_sharin", "tiny", 1, "Did you mean 'albert_sharing'"),
        ("albert_sharing", "huge", 1, "Choose one of: paper, small, tiny"),
        ("albert_sharing", "tiny", 0, "at least 1"),
    ],
)
def test_wrong_tables_are_told(table, scale, seeds, message, tmp_path):
    with pytest.raises(UserError, match=message):
        sweeps.from_table(table, scale, seeds, tmp_path, {})


def test_finished_is_what_reached_its_last_step(tmp_path):
    job = sweeps.train_job("run", tmp_path, "configs/bert.py:tiny", {"seed": 0})
    assert not job.is_finished()
    fake_run(job)
    assert job.is_finished()
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    (tmp_path / "run/metrics.jsonl").write_text(lines[0] + "\n" + lines[1][:9])  # killed
    assert not job.is_finished()


@pytest.mark.parametrize(
    ("before", "page", "wanted", "found"),
    [
        ({}, "configs/bert.py:tiny", {"seed": 1}, "config.seed=0, not 1"),
        ({}, "configs/bert.py:tiny", {"optim.lr": 1.0}, "config.optim.lr=0.002, not 1.0"),
        # What the overrides of now say nothing of.
        ({"model.dropout": 0.5}, "configs/bert.py:tiny", {}, "config.model.dropout=0.5, not 0.0"),
        ({}, "configs/bert.py:mini", {}, "holds a run with config"),
    ],
)
def test_a_run_of_another_config_is_refused(before, page, wanted, found, tmp_path):
    fake_run(sweeps.train_job("run", tmp_path, "configs/bert.py:tiny", before))
    job = sweeps.train_job("run", tmp_path, page, wanted)
    with pytest.raises(UserError, match=found):
        job.is_finished()
    with pytest.raises(UserError, match=found):  # and no page shows its number
        sweeps.measure(job, "x", ablations.Column("valid/loss"))


def test_the_sizes_of_a_graph_are_no_other_config(tmp_path):
    job = sweeps.train_job("run", tmp_path, "configs/kagnet.py:tiny", {"data.graphs.path": "graph"})
    fake_run(job)
    path = job.workdir / "config.json"
    config = json.loads(path.read_text())
    config["objective"]["reasoner"].update(entities=7, relations=3, width=9)
    path.write_text(json.dumps(config))
    assert job.is_finished()
    config["objective"]["reasoner"]["lstm"] = 9
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="config.objective.reasoner.lstm=9"):
        job.is_finished()


def test_what_other_runs_give_is_no_other_config(tmp_path):
    """A student's config.json has its teacher's sizes and vocabulary; an old one lacks new keys."""
    wanted = {"seed": 0, "part_from.teacher": "teacher"}
    job = sweeps.train_job("run", tmp_path, "configs/distilbert.py:tiny", wanted)
    fake_run(job)
    path = job.workdir / "config.json"
    config = json.loads(path.read_text())
    config["objective"]["teacher"] = {"depth": 99}
    config["data"]["tokenizer"]["path"] = "teacher/tokenizer"
    del config["log"]
    path.write_text(json.dumps(config))
    assert job.is_finished()
    del config["part_from"]["teacher"]
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="config.part_from.teacher=None"):
        job.is_finished()


def test_points_name_folders_and_seeds(tmp_path):
    def points(config, axes, seeds=1, more=()):
        return sweeps.from_points(config, search.grid(axes), seeds, tmp_path, dict(more))

    tiny, base = (points(f"configs/bert.py:{x}", ["optim.lr=1e-3"])[0] for x in ("tiny", "base"))
    assert tiny.name == base.name and tiny.workdir != base.workdir
    jobs = points("configs/bert.py:tiny", ["optim.lr=1e-3,2e-3,1e-3", "seed=3,4"])
    assert [(job.wanted["optim.lr"], job.wanted["seed"]) for job in jobs] == [
        (1e-3, 3), (1e-3, 4), (2e-3, 3), (2e-3, 4)
    ]  # fmt: skip
    assert len({job.workdir for job in jobs}) == 4
    assert len(points("configs/bert.py:tiny", ["optim.lr=1e-3"], seeds=3)) == 3
    with pytest.raises(UserError, match="given twice"):
        points("configs/bert.py:tiny", ["seed=3,4"], seeds=2)
    with pytest.raises(UserError, match="how many with --seeds"):
        points("configs/bert.py:tiny", ["optim.lr=1e-3"], more={"seed": 1})


def test_prerequisites_come_first_and_are_named(tmp_path):
    jobs = sweeps.from_table("distilbert_losses", "tiny", 2, tmp_path, {})
    teacher = jobs[0]
    assert teacher.name == "teacher" and teacher.flags[0] == "--config=configs/bert.py:tiny"
    students = [job for job in jobs if job.name == job.chain and job is not teacher]
    assert len(students) == 2 * 5 and {job.needs for job in students} == {"teacher"}
    assert all(job.wanted["part_from.teacher"] == str(teacher.workdir) for job in students)
    start = next(job for job in students if job.name == "random-start-seed1")
    assert start.flags[0].endswith("distilbert.py:tiny,start=random")


def test_a_failure_does_not_stop_the_rest(tmp_path, monkeypatch):
    a, b, c = (
        sweeps.train_job(name, tmp_path, "configs/bert.py:tiny", {"seed": 0}, needs=needs)
        for name, needs in (("a", ""), ("b", "a"), ("c", ""))
    )
    started = []

    def start(job, cores):
        assert not cores  # all
        started.append(job.name)
        if job.name != "a":
            fake_run(job)
        return subprocess.Popen(["false" if job.name == "a" else "true"])

    monkeypatch.setattr(jobs_lib.Job, "start", start)
    states = []
    failed = sweeps.run_all([a, b, c], lambda job, state: states.append((job.name, state)))
    assert failed == ["a", "b"] and started == ["a", "c"]
    assert ("b", "not started") in states and ("c", "finished") in states
    states.clear()
    sweeps.run_all([c], lambda job, state: states.append(state))
    assert states == ["skipped"]


def test_two_at_a_time_have_half_the_cores_each(tmp_path, monkeypatch):
    """b needs a, so that c runs beside a; none is started while two run."""
    jobs = [
        sweeps.train_job(name, tmp_path, "configs/bert.py:tiny", {"seed": 0}, needs=needs)
        for name, needs in (("a", ""), ("b", "a"), ("c", ""), ("d", ""))
    ]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)
    running, states = {}, []

    def start(job, cores):
        assert len(running) < 2 and not any(cores & other for other in running.values())
        running[job.name] = cores
        fake_run(job)
        return subprocess.Popen(["sleep", "0.5" if job.name == "a" else "0.1"])

    def report(job, state):
        states.append((job.name, state))
        if state == "finished":
            del running[job.name]

    monkeypatch.setattr(jobs_lib.Job, "start", start)
    assert sweeps.run_all(jobs, report, parallel=2) == []
    assert states[:2] == [("a", "started"), ("c", "started")]
    assert states.index(("b", "started")) > states.index(("a", "finished"))
    assert sum(state == "finished" for _, state in states) == 4
    with pytest.raises(UserError, match="from 1 to the 3"):
        sweeps.run_all(jobs, parallel=4)


def test_what_fails_together_is_left_to_run_alone(tmp_path, monkeypatch):
    jobs = [
        sweeps.train_job(f"run{i}", tmp_path, "configs/bert.py:tiny", {"seed": i, "model.depth": n})
        for i, n in enumerate((1, 1, 2, 2))
    ]

    def train(configs, workdirs):
        if configs[0].model.depth == 1:
            raise UserError("The loss is NaN.")
        for job in jobs[2:]:
            fake_run(job)

    monkeypatch.setattr(together, "train", train)
    states = []
    sweeps.run_together(jobs, lambda job, state: states.append((job.name, state)))
    assert ("run0", "left alone: The loss is NaN.") in states and ("run3", "finished") in states
    assert [job.is_finished() for job in jobs] == [False, False, True, True]


@pytest.mark.slow
def test_a_real_run_and_its_evaluation(tmp_path):
    """The commands are real: one run of a quick model, one evaluation on other rows."""
    wanted = {**runs.SMALL, "data.cache_dir": str(tmp_path / "cache"), "seed": 0}
    wanted |= {"total_steps": 6, "evals.every": 0, "evals.batches": 1, "optim.warmup_steps": 2}
    job = sweeps.train_job("run", tmp_path, "configs/bert.py:tiny,quick=1", wanted)
    follow = jobs_lib.Job(
        name="run.sop",
        workdir=job.workdir,
        script="scripts/evaluate.py",
        flags=(
            f"--checkpoint={job.workdir}",
            f"--json={job.workdir}/sop.json",
            "--override=data.format.negatives=swapped",
            "--batches=1",
        ),
        wanted={},
        result=job.workdir / "sop.json",
        needs="run",
        chain="run",
    )
    assert sweeps.run_all([job, follow]) == [], job.log.read_text()[-2000:]
    assert "sentence_pair" in follow.log.read_text()
    column = ablations.Column("sentence_pair_accuracy", data={"data.format.negatives": "swapped"})
    assert 0 <= sweeps.measure(job, "sop", column) <= 1
    assert sweeps.measure(job, "x", ablations.Column("valid/loss")) > 1
    size = sweeps.measure(job, "n", ablations.Column("parameters"))
    assert size == sweeps.count_parameters(job.workdir) > 10_000
    model = jobs_lib.saved_config(job.workdir)["model"]
    entries = model["vocab_size"] + model["max_positions"] + model["token_types"]
    operations = 6 * (size - entries * model["width"]) * (6 * 8 * 32)  # steps, rows, tokens
    days = sweeps.measure(job, "c", ablations.Column("pf_days"))
    assert days == pytest.approx(operations / 8.64e19, rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "status", "found"),
    [
        (["albert_sharing", "--seeds=2"], 0, "--config.model.sharing=attention --config.seed=1"),
        (
            ["--config=configs/bert.py:tiny", "--grid=optim.lr=1e-3,2e-3", "--set=model.depth=1"],
            0,
            "--config.optim.lr=0.002 --config.model.depth=1 --config.seed=0",
        ),
        (
            ["--config=configs/bert.py:tiny", "--random=3", "--sample=model.depth=choice:1,2"],
            0,
            "--config.model.depth=",
        ),
        (["albert_sharin"], 2, "Did you mean 'albert_sharing'"),
        (["--config=configs/bert.py:tiny"], 2, "Give --grid, or --random with --sample"),
        ([], 2, "Give one table"),
        (["albert_sharing", "--set=data.sorce=x"], 2, "data.sorce"),
        (["albert_sharing", "--set=total_steps"], 2, "must read KEY=VALUE"),
        (["--config=configs/bert.py:tinny", "--grid=seed=0"], 2, "Unknown size 'tinny'"),
        (["--config=configs/bret.py", "--grid=seed=0"], 2, "No module named 'configs.bret'"),
    ],
    ids=str,
)
def test_commands_of_a_sweep(arguments, status, found, tmp_path):
    command = [sys.executable, str(runs.ROOT / "scripts/sweep.py"), "--dry-run", *arguments]
    environment = jobs_lib.environment()
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == status, done.stderr
    assert found in (done.stderr if status else done.stdout)
    assert not status or done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


# Pages


def verdict(ours, paper, row="a", **kwargs):
    samples = {name: reports.Sample(values) for name, values in ours.items()}
    options = dict(ours_higher=False, paper_higher=True) | kwargs
    return reports.verdict(row, "base", samples, paper, **options)


def test_verdicts():
    paper = {"base": 80.0, "a": 82.0, "b": 81.0}
    base, better, best = (3.0, 3.02, 2.98), (2.5, 2.51, 2.49), (2.0, 2.01, 1.99)
    both = {"base": base, "a": best, "b": better}
    assert verdict(both, paper) == "agrees in sign and order"  # a lower loss is better
    assert verdict({**both, "a": better, "b": best}, paper) == "agrees in sign"
    assert verdict({"base": best, "a": base}, paper) == "disagrees"
    assert verdict({"base": base, "a": (3.0, 3.3, 2.6)}, paper) == "budget too small"
    assert verdict({"base": base[:1], "a": best[:1]}, paper) == "budget too small"
    assert verdict({"base": base}, paper) == "not run"
    assert verdict(both, paper, row="base") == ""
    assert verdict({"base": base, "a": best}, paper, ours_higher=True) == "disagrees"
    same = {"base": 80.0, "a": 80.0}
    assert verdict({"base": base, "a": best}, same) == "disagrees"  # the paper sees no difference
    equal = {"base": (3.0, 3.0), "a": (3.0, 3.0)}
    assert verdict(equal, paper) == "budget too small"
    shared = {"base": 80.0, "a": 82.0, "b": 82.0}  # in the paper a and b share two places
    assert {verdict(both, shared, row=row) for row in "ab"} == {"agrees in sign and order"}
    perplexity = {"base": 5.0, "a": 4.0}
    assert verdict({"base": base, "a": best}, perplexity, paper_higher=False).startswith("agrees")


def test_a_page_has_both_tables_and_the_commands(tmp_path, monkeypatch):
    for job in sweeps.from_table("albert_sharing", "tiny", 2, tmp_path / "runs", {}):
        row, _, seed = job.name.rpartition("-seed")
        if row in ("all", "attention"):
            fake_run(job, 3.0 - (row == "attention") + int(seed) / 100, ("loss", "masked_lm"))
    monkeypatch.setattr(sweeps, "count_parameters", lambda workdir: 1000 + len(workdir.name))
    page = reports.collect("albert_sharing", "tiny", 2, tmp_path / "runs", {})
    files = reports.write(page, tmp_path / "pages")
    text = files[0].read_text()
    assert "| all | 80.1 | 12 | 3.0050 ± 0.0071 (n=2) |" in text
    assert "| attention | 81.7 | 64 | 2.0050 ± 0.0071 (n=2) |" in text
    assert "| attention | 2.0000, 2.0100 |" in text  # what each command gives
    assert "Made by commit 0123456789ab+changes, jax 0.10.2." in text
    assert "agrees in sign and order" in text and "not run" in text
    assert "python train.py --config=configs/albert.py:tiny" in text
    html = files[1].read_text()
    assert html.count("data:image/png;base64,") == 2 and "3.0050" in html
    again = reports.write(page, tmp_path / "again")
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in again]


def test_a_power_law_is_fitted_and_printed(tmp_path, monkeypatch):
    days = {"125m": 1e-6, "350m": 4e-6, "760m": 2e-5}
    for job in sweeps.from_table("gpt3_size", "tiny", 1, tmp_path / "runs", {}):
        row = job.name.rpartition("-seed")[0]
        if row in days:
            fake_run(job, 2.5 * days[row] ** -0.05, ("loss", "causal_lm"))
    monkeypatch.setattr(sweeps, "count_parameters", lambda workdir: 1000)
    monkeypatch.setattr(
        sweeps, "pf_days", lambda workdir: days[workdir.name.rpartition("-seed")[0]]
    )
    page = reports.collect("gpt3_size", "tiny", 1, tmp_path / "runs", {})
    text = reports.write(page, tmp_path / "pages")[0].read_text()
    assert (
        "Fitted to our rows: loss = 2.5 x compute^-0.050. The paper's: 2.57 x compute^-0.048."
    ) in text
    assert "![gpt3_size_law](gpt3_size_law.png)" in text


@pytest.mark.parametrize("name", ablations.names())
def test_every_table_has_a_page(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "count_parameters", lambda workdir: len(workdir.name))
    monkeypatch.setattr(sweeps, "pf_days", lambda workdir: 1e-9 * len(workdir.name))
    page = reports.collect(name, "tiny", 2, tmp_path, {})
    text = reports.write(page, tmp_path / "pages")[0].read_text()
    assert "n=2" not in text.split("## Commands")[0].replace(reports.RULE, "")
    assert "![" not in text  # nothing was run
    columns = page.table.columns.values()
    metrics = {"loss", *(column.metric.removeprefix("valid/") for column in columns)}
    for job in page.jobs:
        if job.result is None:
            fake_run(job, 2.0, metrics)
        else:
            job.result.write_text(json.dumps(dict.fromkeys(metrics, 0.5)))
    page = reports.collect(name, "tiny", 2, tmp_path, {})
    assert all(set(values) == set(page.table.columns) for values in page.ours.values())
    text = reports.write(page, tmp_path / "pages")[0].read_text()
    assert f"![{name}_curves]" in text and "(n=2)" in text and "not run" not in text
    assert f"`python scripts/sweep.py {name} --scale=tiny --seeds=2 --runs={tmp_path}`" in text


def test_the_folder_of_a_task_goes_to_the_runs_that_read_it(tmp_path):
    """Runs that are tuned later read text; those of KagNet, and its encoder alone, a task."""
    for name, wanted in (("bert_tasks", False), ("kagnet_parts", True)):
        jobs = sweeps.from_table(name, "tiny", 1, tmp_path, {"data.path": "x"})
        whole = [job for job in jobs if job.name == job.chain]
        assert whole and all(("data.path" in job.wanted) == wanted for job in whole)
