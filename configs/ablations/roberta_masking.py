"""Static and dynamic masks (RoBERTa, table 1)."""

from configs.ablations import Column, Row, Scale, Table

TABLE = Table(
    title="RoBERTa: static and dynamic masks",
    source="Liu et al., 2019, table 1, base size, medians of five",
    scales={
        "tiny": Scale("configs/bert.py:tiny", {"total_steps": 1000}),
        "small": Scale("configs/bert.py:medium"),
        "paper": Scale("configs/bert.py:base"),
    },
    # Ten maskings of the corpus, each seen again in every epoch (section 4.1).
    rows={
        "static": Row({"data.masking.static": True, "data.format.passes": 10}),
        "dynamic": Row({"data.masking.static": False, "data.format.passes": 10}),
    },
    base="static",
    columns={
        "masked LM loss": Column("valid/masked_lm", like="SQuAD 2.0"),
        "SST-2": Column(
            "valid/accuracy",
            higher_is_better=True,
            percent=True,
            like="SST-2",
            tune="task=sst-2,epochs=1",
            tune_at={"tiny": {"data.length": 32}},
        ),
    },
    paper={
        "static": {"SQuAD 2.0": 78.3, "MNLI-m": 84.3, "SST-2": 92.5},
        "dynamic": {"SQuAD 2.0": 78.7, "MNLI-m": 84.0, "SST-2": 92.9},
    },
    notes="The difference shows only when the same masks come back, after ten epochs.",
)
