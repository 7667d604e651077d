"""Losses of distillation (TinyBERT, table 3)."""

from configs.ablations import Column, Row, Scale, Table

_SMALL = {"batch_size": 256, "total_steps": 50_000}


def row(arg="", **overrides):
    """A student of the run `teacher`."""
    named = {f"objective.weights.{name}": value for name, value in overrides.items()}
    return Row({"part_from.teacher": "{teacher}", **named}, arg=arg)


def scored(task, like, metric="accuracy"):
    """A student fine-tuned on a task."""
    return Column(
        f"valid/{metric}",
        higher_is_better=True,
        percent=True,
        like=like,
        tune=f"task={task}",
        tune_overrides={"optim.lr": 3e-4},
        tune_at={"tiny": {"data.length": 32}},  # as long as the rows of pre-training
    )


TEACHER = {
    "teacher": Row(
        config={
            "tiny": "configs/bert.py:tiny",
            "small": "configs/bert.py:base",
            "paper": "configs/bert.py:base",
        },
        at={"tiny": {"total_steps": 3000}},
    )
}
SCALES = {
    "tiny": Scale("configs/tinybert.py:tiny", {"total_steps": 1000, "optim.lr": 2e-3}),
    "small": Scale("configs/tinybert.py:4", _SMALL),
    "paper": Scale("configs/tinybert.py:4"),
}

TABLE = Table(
    title="TinyBERT: losses of distillation",
    source="Jiao et al., 2020, table 3: dev scores after task distillation",
    scales=SCALES,
    before=TEACHER,
    rows={
        "full": row(),
        "without embedding": row(embedding=0.0),
        "without layers": row(hidden=0.0, attention=0.0),
        "without attention": row(attention=0.0),
        "without hidden": row(hidden=0.0),
    },
    base="full",
    columns={"MRPC": scored("mrpc", "MRPC"), "CoLA": scored("cola", "CoLA", "matthews")},
    paper={
        "full": {"MNLI-m": 82.8, "MRPC": 85.8, "CoLA": 50.8, "Avg": 75.6},
        "without embedding": {"MNLI-m": 82.3, "MRPC": 85.0, "CoLA": 46.7, "Avg": 74.1},
        "without layers": {"MNLI-m": 71.7, "MRPC": 70.1, "CoLA": 11.2, "Avg": 56.3},
        "without attention": {"MNLI-m": 79.9, "MRPC": 82.3, "CoLA": 41.1, "Avg": 71.0},
        "without hidden": {"MNLI-m": 81.7, "MRPC": 84.1, "CoLA": 43.7, "Avg": 72.9},
    },
    notes="The losses of general distillation are left out one by one; the student is then "
    "fine-tuned, not distilled, on the task. The paper's row without the prediction loss belongs "
    "to task distillation.",
)
