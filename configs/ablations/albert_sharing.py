"""What the layers share (ALBERT, table 4)."""

from configs.ablations import TINY, Column, Row, Scale, Table

TABLE = Table(
    title="ALBERT: sharing parameters between layers",
    source="Lan et al., 2020, table 4, base size with E = 128; its averages are of five tasks",
    scales={
        # Four layers, for there must be something to share.
        "tiny": Scale("configs/albert.py:tiny", TINY | {"model.depth": 4, "model.embed_width": 32}),
        "small": Scale("configs/albert.py:base", {"data.length": 128, "batch_size": 256}),
        "paper": Scale("configs/albert.py:base"),
    },
    rows={
        "all": Row({"model.sharing": "all"}),
        "attention": Row({"model.sharing": "attention"}),
        "feed-forward": Row({"model.sharing": "mlp"}),
        "none": Row({"model.sharing": "none"}),
    },
    base="all",
    columns={
        "masked LM loss": Column("valid/masked_lm", like="Avg"),
        "order accuracy": Column(
            "valid/sentence_pair_accuracy", higher_is_better=True, percent=True
        ),
        "parameters": Column("parameters"),
    },
    paper={
        "all": {"Avg": 80.1, "million parameters": 12},
        "attention": {"Avg": 81.7, "million parameters": 64},
        "feed-forward": {"Avg": 80.2, "million parameters": 38},
        "none": {"Avg": 81.6, "million parameters": 89},
    },
    notes="The paper's average of downstream tasks is set against the held-out masked LM loss.",
)
