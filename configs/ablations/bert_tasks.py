"""Pre-training tasks (BERT, table 5)."""

from configs.ablations import Column, Row, Scale, Table

_NO_NSP = {"data.format.negatives": "none", "objective.sentence_pair": False}

TABLE = Table(
    title="BERT: pre-training tasks",
    source="Devlin et al., 2019, table 5, base size",
    scales={
        "tiny": Scale("configs/bert.py:tiny", {"total_steps": 1000}),
        "small": Scale("configs/bert.py:medium"),
        "paper": Scale("configs/bert.py:base"),
    },
    rows={
        "full": Row(),
        "no NSP": Row(_NO_NSP),
        "left-to-right, no NSP": Row({**_NO_NSP, "model.causal": True}),
    },
    base="full",
    columns={
        "masked LM loss": Column("valid/masked_lm"),
        "SST-2": Column(
            "valid/accuracy",
            higher_is_better=True,
            percent=True,
            like="SST-2",
            tune="task=sst-2,epochs=1",
            tune_at={"tiny": {"data.length": 32}},
        ),
        "MRPC": Column(
            "valid/accuracy",
            higher_is_better=True,
            percent=True,
            like="MRPC",
            tune="task=mrpc",
            tune_at={"tiny": {"data.length": 32}},
        ),
    },
    paper={
        "full": {"MNLI-m": 84.4, "QNLI": 88.4, "MRPC": 86.7, "SST-2": 92.7, "SQuAD": 88.5},
        "no NSP": {"MNLI-m": 83.9, "QNLI": 84.9, "MRPC": 86.5, "SST-2": 92.6, "SQuAD": 87.9},
        "left-to-right, no NSP": {
            "MNLI-m": 82.1,
            "QNLI": 84.3,
            "MRPC": 77.5,
            "SST-2": 92.1,
            "SQuAD": 77.8,
        },
    },
    notes="The paper's left-to-right model is trained as a language model; here the encoder sees "
    "to the left and is trained on the same masks.",
)
