"""Sweeps: what they expand to, what counts as finished, and that a failure stops nothing else."""

import json
import math
import subprocess
import sys

import pytest
import runs

from configs import ablations
from errors import UserError
from evaluation import reports, search, sweeps


def fake_run(workdir, total=20, value=2.0, **config):
    """What train.py leaves behind."""
    (workdir / "checkpoints" / str(total)).mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps({"total_steps": total, "seed": 0, **config}))
    rows = [{"step": 10, "valid/loss": value + 1}, {"step": total, "valid/loss": value}]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


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
    fake_run(tmp_path / "run")
    assert job.is_finished()
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    (tmp_path / "run/metrics.jsonl").write_text(lines[0] + "\n" + lines[1][:9])  # killed
    assert not job.is_finished()
    other = sweeps.train_job("run", tmp_path, "configs/bert.py:tiny", {"seed": 1})
    with pytest.raises(UserError, match="config.seed=0, not 1"):
        other.is_finished()


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

    def run(job):
        started.append(job.name)
        if job.name == "a":
            return 1
        fake_run(job.workdir)
        return 0

    monkeypatch.setattr(sweeps.Job, "run", run)
    states = []
    failed = sweeps.run_all([a, b, c], lambda job, state: states.append((job.name, state)))
    assert failed == ["a", "b"] and started == ["a", "c"]
    assert ("b", "not started") in states and ("c", "finished") in states
    states.clear()
    sweeps.run_all([c], lambda job, state: states.append(state))
    assert states == ["skipped"]


def test_a_real_run_and_its_evaluation(tmp_path):
    """The commands are real: one run of a quick model, one evaluation on other rows."""
    wanted = {**runs.SMALL, "data.cache_dir": str(tmp_path / "cache"), "seed": 0}
    wanted |= {"total_steps": 6, "evals.every": 0, "evals.batches": 1, "optim.warmup_steps": 2}
    job = sweeps.train_job("run", tmp_path, "configs/bert.py:tiny,quick=1", wanted)
    follow = sweeps.Job(
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
    assert sweeps.run_all([job, follow]) == [], (tmp_path / "run.log").read_text()[-2000:]
    column = ablations.Column("sentence_pair_accuracy", data={"data.format.negatives": "swapped"})
    assert 0 <= sweeps.measure(job, "sop", column) <= 1
    assert sweeps.measure(job, "x", ablations.Column("valid/loss")) > 1
    size = sweeps.measure(job, "n", ablations.Column("parameters"))
    assert size == sweeps.count_parameters(job.workdir) > 10_000


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
    ],
    ids=str,
)
def test_commands_of_a_sweep(arguments, status, found, tmp_path):
    command = [sys.executable, str(runs.ROOT / "scripts/sweep.py"), "--dry_run", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert found in (done.stderr if status else done.stdout)
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
    perplexity = {"base": 5.0, "a": 4.0}
    assert verdict({"base": base, "a": best}, perplexity, paper_higher=False).startswith("agrees")


def test_a_page_has_both_tables_and_the_commands(tmp_path, monkeypatch):
    for seed in range(2):
        for i, row in enumerate(("all", "attention")):
            workdir = tmp_path / "runs/albert_sharing/tiny" / f"{row}-seed{seed}"
            sharing = row
            model = {"sharing": sharing, "depth": 4}
            fake_run(workdir, 1000, 3.0 - i + seed / 100, model=model)
            config = json.loads((workdir / "config.json").read_text()) | {"seed": seed}
            (workdir / "config.json").write_text(json.dumps(config))
            text = (workdir / "metrics.jsonl").read_text().replace("valid/loss", "valid/masked_lm")
            text = text.replace("}", ', "valid/loss": 1.0}')
            (workdir / "metrics.jsonl").write_text(text)
    monkeypatch.setattr(sweeps, "count_parameters", lambda workdir: 1000 + len(workdir.name))
    page = reports.collect("albert_sharing", "tiny", 2, tmp_path / "runs", {})
    files = reports.write(page, tmp_path / "pages")
    text = files[0].read_text()
    assert "| all | 80.1 | 12 | 3.0050 ± 0.0071 (n=2) |" in text
    assert "| attention | 81.7 | 64 | 2.0050 ± 0.0071 (n=2) |" in text
    assert "agrees in sign and order" in text and "not run" in text
    assert "python train.py --config=configs/albert.py:tiny" in text
    html = files[1].read_text()
    assert html.count("data:image/png;base64,") == 2 and "3.0050" in html
    again = reports.write(page, tmp_path / "again")
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in again]
