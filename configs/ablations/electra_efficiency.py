"""Where ELECTRA's gain comes from (ELECTRA, table 5)."""

from configs.ablations import TINY, Column, Row, Scale, Table


def _tuned(task, metric="accuracy", like=""):
    return Column(
        f"valid/{metric}",
        higher_is_better=True,
        percent=True,
        like=like,
        tune=f"task={task},epochs=1,recipe=bert",  # one for all rows
        # The rate of ELECTRA-small (table 7); these models are smaller still.
        tune_overrides={"optim.lr": 3e-4, "evals.every": 1000, "checkpoint.every": 1000},
        # As long as the rows of pre-training. Half an epoch of SST-2, four of CoLA.
        tune_at={"tiny": {"data.length": 32, "total_steps": 1000}},
    )


TABLE = Table(
    title="ELECTRA: efficiency of its parts",
    source="Clark et al., 2020, table 5, base size, the same number of steps; GLUE dev",
    scales={
        "tiny": Scale("configs/electra.py:tiny", TINY),
        "small": Scale("configs/electra.py:small", {"total_steps": 100_000}),
        "paper": Scale("configs/electra.py:base"),
    },
    rows={
        "BERT": Row(arg="variant=masked_lm"),
        "BERT, equal FLOPs": Row(
            arg="variant=masked_lm",
            # By the products of a step ELECTRA costs 1.27 (tiny), 1.08 (small), 1.14 (base) times
            # as much as BERT.
            at={
                "tiny": {"total_steps": 1905},
                "small": {"total_steps": 108_000},
                "paper": {"total_steps": 870_000},
            },
        ),
        "ELECTRA": Row(arg="variant=electra"),
        "Replace MLM": Row(arg="variant=replace_mlm"),
        "ELECTRA 15%": Row(arg="variant=electra_15"),
        "All-Tokens MLM": Row(arg="variant=all_tokens"),
    },
    base="BERT",
    columns={"SST-2": _tuned("sst-2", like="GLUE"), "CoLA": _tuned("cola", "matthews")},
    paper={
        "BERT": {"GLUE": 82.2},
        "Replace MLM": {"GLUE": 82.4},
        "ELECTRA 15%": {"GLUE": 82.4},
        "All-Tokens MLM": {"GLUE": 84.3},
        "ELECTRA": {"GLUE": 85.0},
    },
    notes="Models of different losses can be compared only on a task: each is fine-tuned for one "
    "epoch (at tiny scale for 1000 steps of 32). The row with equal FLOPs has no number in the "
    "paper's table.",
)
