"""The table of fine-tuned models, from what runs leave in their workdirs."""

import json

import pytest

from errors import UserError
from evaluation import tuned


def run(folder, task, seed, curve, *, lr=2e-5, best="max:valid/accuracy", steps=None, name=None):
    """A workdir with the evaluations of `curve`: step -> metrics."""
    workdir = folder / (name or f"{task}-lr{lr}-seed{seed}")
    workdir.mkdir(parents=True)
    config = {
        "seed": seed,
        "total_steps": steps or max(curve),
        "data": {"task": task},
        "optim": {"lr": lr},
        "checkpoint": {"best": best},
    }
    (workdir / "config.json").write_text(json.dumps(config))
    rows = [{"step": 1, "train/loss": 1.0}]
    rows += [
        {"step": s, **{f"valid/{k}": v for k, v in values.items()}} for s, values in curve.items()
    ]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return workdir


def mrpc(f1, accuracy):
    return {"f1": f1, "accuracy": accuracy, "loss": 0.5}


@pytest.fixture
def runs(tmp_path):
    """MRPC with two learning rates and RTE, three seeds each; and what must not count."""
    by_f1 = {"best": "max:valid/f1"}
    for seed, f1 in enumerate((0.80, 0.84, 0.88)):
        curve = {10: mrpc(f1, 0.70), 20: mrpc(f1 - 0.1, 0.75)}
        run(tmp_path / "mrpc", "mrpc", seed, curve, **by_f1)
        run(tmp_path / "mrpc", "mrpc", seed, {20: mrpc(0.82, 0.9)}, lr=5e-5, **by_f1)
    run(tmp_path / "mrpc", "mrpc", 4, {10: mrpc(0.99, 0.99)}, steps=20, **by_f1)  # not finished
    for seed, accuracy in enumerate((0.5, 0.6, 0.9)):
        run(tmp_path / "rte", "rte", seed, {20: {"accuracy": accuracy}})
    pretraining = run(tmp_path / "rte", "", 0, {20: {"loss": 1.0}}, name="pretraining")
    assert pretraining.is_dir()
    return tmp_path


def test_seeds_become_one_number(runs):
    found = tuned.collect("BERT", f"{runs}/*")
    text = tuned.table([found])
    head, _, row, *notes = text.splitlines()
    assert head == "| system | mrpc: f1/accuracy | rte: accuracy |"
    # The best evaluation by F1 of each run; of the two rates the one whose mean is higher.
    assert row == "| BERT | 84.0 ± 4.0 / 70.0 ± 0.0 (n=3) | 66.7 ± 20.8 (n=3) |"
    notes = "\n".join(notes)
    assert "BERT, mrpc: of several settings those of" in notes and "lr2e-05-seed0" in notes
    assert "not finished and left out:" in notes and "seed4" in notes
    assert (
        "The average as GLUE needs also cola, sst-2, sts-b, qqp, mnli, mnli-mm, qnli, wnli" in notes
    )


@pytest.mark.parametrize(
    ("statistic", "last", "row"),
    [
        ("median", False, "| x | 84.0 / 70.0 (n=3) | 60.0 (n=3) |"),
        # The best seed's numbers, both of the same evaluation.
        ("best", False, "| x | 88.0 / 70.0 (n=1) | 90.0 (n=1) |"),
        ("mean", True, "| x | 82.0 ± 0.0 / 90.0 ± 0.0 (n=3) | 66.7 ± 20.8 (n=3) |"),
    ],
)
def test_other_numbers(statistic, last, row, runs):
    found = tuned.collect("x", f"{runs}/**", statistic, last)
    assert tuned.table([found], statistic).splitlines()[2] == row


def test_averages_over_systems(tmp_path):
    """A system with all tasks beside one that lacks some."""
    for task in ("cola", "sst-2", "mrpc", "sts-b", "qqp", "mnli", "qnli", "rte"):
        metrics = {"accuracy": 0.8, "f1": 0.6, "matthews": 0.4, "pearson": 0.9, "spearman": 0.7}
        made = run(tmp_path, task, 0, {5: metrics})
        if task == "mnli":
            (made / "mnli-mm.json").write_text(json.dumps({"accuracy": 0.6}))
    every, one = tuned.collect("all", f"{tmp_path}/*"), tuned.collect("one", f"{tmp_path}/rte*")
    lines = tuned.table([every, one]).splitlines()
    names = lines[0].split(" | ")[-2:]
    assert names == ["average as BERT", "average as ELECTRA |"]
    bert = 100 * (0.8 + 0.6 + 0.6 + 0.8 + 0.8 + 0.4 + 0.7 + 0.6 + 0.8) / 9
    electra = 100 * (0.4 + 6 * 0.8 + 0.7) / 8
    assert lines[2].endswith(f"| {bert:.1f} | {electra:.1f} |")
    assert lines[3].split(" | ")[0] == "| one" and lines[3].endswith("| 80.0 (n=1) |  |  |")


def test_nothing_to_tell_is_told(tmp_path):
    with pytest.raises(UserError, match="names no finished run of a task"):
        tuned.collect("x", f"{tmp_path}/*")
    run(tmp_path, "rte", 0, {5: {"accuracy": 0.5}}, best="max:valid/f1")
    with pytest.raises(UserError, match="has not measured valid/f1"):
        tuned.collect("x", f"{tmp_path}/*")
