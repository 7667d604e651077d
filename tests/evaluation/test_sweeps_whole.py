"""Whole sweeps of a quick model: killed and continued, submitted, and from runs to a page."""

import shlex
import signal
import subprocess
import sys
import time

import pytest
import runs

from configs import ablations
from errors import UserError
from evaluation import jobs as jobs_lib
from evaluation import reports, sweeps

pytestmark = pytest.mark.slow
QUICK = "--config=configs/bert.py:tiny,quick=1"


def sweep(folder, *arguments):
    """Starts scripts/sweep.py as a user would."""
    wanted = {**runs.SMALL, "data.cache_dir": str(folder / "cache"), "evals.batches": 1}
    command = [sys.executable, str(runs.ROOT / "scripts/sweep.py"), f"--runs={folder}/runs"]
    return subprocess.Popen(
        [*command, *(f"--set={key}={value}" for key, value in wanted.items()), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=jobs_lib.environment(),
    )


def finish(process, status=0):
    output, _ = process.communicate(timeout=400)
    assert process.returncode == status, output
    return output


def test_a_sweep_that_is_told_to_stop_goes_on(tmp_path):
    last = 200
    arguments = (
        *(QUICK, "--grid=optim.lr=1e-3,2e-3", f"--set=total_steps={last}"),
        *("--set=log.every=1", "--set=evals.every=0"),
    )
    first = sweep(tmp_path, *arguments)
    workdir = tmp_path / "runs/bert-tiny-quick=1/optim.lr=0.001-seed0"
    deadline = time.monotonic() + 200
    while len(jobs_lib.rows(workdir)) < 5:
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    finish(first, 128 + signal.SIGTERM)
    saved = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert saved < last  # the run was told to stop as well, and saved its step
    assert not (workdir.parent / "optim.lr=0.002-seed0").exists()

    assert finish(sweep(tmp_path, *arguments)).count("finished ") == 2
    assert f"step {saved} of {last}" in (workdir / "train.log").read_text()
    steps = [row["step"] for row in runs.rows(workdir) if "train/loss" in row]
    assert steps == list(range(1, last + 1))
    assert finish(sweep(tmp_path, *arguments)).count("skipped ") == 2


def test_submitted_runs(tmp_path):
    """One run that ends, and one whose text does not exist; each a job of submitit."""
    grid = f"--grid=data.source={tmp_path}/none.txt,embedded"
    output = finish(sweep(tmp_path, "--launcher=local", QUICK, grid), 1)
    assert "1 of 2 failed" in output
    good = tmp_path / "runs/bert-tiny-quick=1/data.source=embedded-seed0"
    assert jobs_lib.last_validation(good, 20)["valid/loss"] > 0
    (bad,) = set(good.parent.iterdir()) - {good}
    assert "none.txt" in (bad / "train.log").read_text()
    output = finish(sweep(tmp_path, QUICK, grid), 1)
    assert output.count("skipped ") == 1 and "1 of 2 failed" in output


def test_two_rows_with_two_seeds_and_their_page(tmp_path, monkeypatch):
    """A table from its runs to its page; a page's number is that of its command."""
    table = ablations.Table(
        title="Two rates",
        source="nowhere",
        scales={"tiny": ablations.Scale("configs/bert.py:tiny,quick=1", runs.SMALL)},
        rows={
            "still": ablations.Row({"optim.lr": 0.0}),
            "learning": ablations.Row({"optim.lr": 3e-3}),
        },
        base="still",
        columns={
            "loss": ablations.Column("valid/masked_lm", like="score"),
            "order": ablations.Column(
                "sentence_pair_accuracy",
                higher_is_better=True,
                data={"data.format.negatives": "swapped"},
            ),
            "parameters": ablations.Column("parameters"),
        },
        paper={"still": {"score": 1.0}, "learning": {"score": 2.0}},
    )
    monkeypatch.setattr(ablations, "names", lambda: ["two_rates"])
    monkeypatch.setattr(ablations, "load", lambda name: table)
    more = {"data.cache_dir": str(tmp_path / "cache"), "total_steps": 60, "evals.batches": 2}
    jobs = sweeps.from_table("two_rates", "tiny", 2, tmp_path / "runs", more)
    assert len(jobs) == 2 * 2 * 2
    assert sweeps.run_all(jobs) == []
    page = reports.collect("two_rates", "tiny", 2, tmp_path / "runs", more)
    text = reports.write(page, tmp_path / "pages")[0].read_text()
    assert text.count("(n=2)") == 4 and "agrees in sign and order" in text, text
    values = page.ours["learning"]["loss"].values
    assert values[0] != values[1] and max(values) < min(page.ours["still"]["loss"].values)

    # Again by the page's own command, in another folder.
    line = next(x for x in text.splitlines() if "lr=0.003" in x and "seed=0" in x)
    command = shlex.split(line.replace("learning-seed0", "again"))
    command[:2] = [sys.executable, str(runs.ROOT / "train.py")]
    command[2] = command[2].replace("configs/", f"{runs.ROOT}/configs/")
    subprocess.run(command, check=True, capture_output=True, env=jobs_lib.environment())
    again = runs.rows(jobs[0].workdir.parent / "again")[-1]["valid/masked_lm"]
    assert f"{again:.4f}" == f"{values[0]:.4f}"
    with pytest.raises(UserError, match="total_steps=60, not 20"):  # without the sweep's --set
        reports.collect("two_rates", "tiny", 2, tmp_path / "runs", {**more, "total_steps": 20})
