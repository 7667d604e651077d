"""Depth with shared layers (ALBERT, table 11)."""

from configs.ablations import Column, Row, Scale, Table

_PAPER = {1: 52.9, 3: 71.2, 6: 77.2, 12: 81.5, 24: 82.1, 48: 81.8}

TABLE = Table(
    title="ALBERT: depth with shared layers",
    source="Lan et al., 2020, table 11, width 1024",
    scales={
        "tiny": Scale("configs/albert.py:tiny", {"total_steps": 1000}),
        "small": Scale("configs/albert.py:base", {"data.length": 128, "batch_size": 256}),
        "paper": Scale("configs/albert.py:large"),
    },
    rows={f"{depth} layers": Row({"model.depth": depth}) for depth in _PAPER},
    base="12 layers",
    columns={
        "masked LM loss": Column("valid/masked_lm", like="Avg"),
        "parameters": Column("parameters"),
    },
    paper={f"{depth} layers": {"Avg": value} for depth, value in _PAPER.items()},
    notes="The paper starts networks of 3 and more layers from the next shallower one; here all "
    "start anew.",
)
