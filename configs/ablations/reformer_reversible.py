"""Reversible layers beside ordinary ones (Reformer, figure 3, right)."""

from configs.ablations import Column, Row, Scale, Table
from configs.ablations.reformer_sharing import PAPER, SMALL

TABLE = Table(
    title="Reformer: reversible layers",
    source="Kitaev et al., 2020, figure 3, right",
    scales={
        "tiny": Scale("configs/reformer.py:tiny"),
        "small": SMALL,
        "paper": PAPER,
    },
    rows={
        "reversible": Row({"model.reversible": True}),
        "ordinary": Row({"model.reversible": False}),
    },
    base="reversible",
    columns={
        "loss, nats per byte": Column("valid/loss"),
        "accuracy": Column("valid/accuracy", higher_is_better=True, percent=True),
        "parameters": Column("parameters"),
    },
    paper={},
    notes="The paper draws curves, which nearly coincide, and prints no number. Without "
    "reversibility there is one stream, x + attention(x) and so on, which takes the place of both "
    "in front of the head: the parameters are the same.",
)
