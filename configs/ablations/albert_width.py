"""Width with three shared layers (ALBERT, table 12)."""

from configs.ablations import Column, Row, Scale, Table

_PAPER = {1024: 71.2, 2048: 74.6, 4096: 76.3, 6144: 74.0}


def _row(width):
    """Heads are 64 wide in the paper and 32 at tiny scale, whose widths are a sixteenth."""
    tiny = {"model.width": width // 16, "model.heads": width // 16 // 32}
    return Row({"model.width": width, "model.heads": width // 64}, at={"tiny": tiny})


TABLE = Table(
    title="ALBERT: width with three shared layers",
    source="Lan et al., 2020, table 12",
    scales={
        "tiny": Scale("configs/albert.py:tiny", {"model.depth": 3, "total_steps": 1000}),
        "small": Scale(
            "configs/albert.py:base", {"model.depth": 3, "data.length": 128, "batch_size": 256}
        ),
        "paper": Scale("configs/albert.py:large", {"model.depth": 3}),
    },
    rows={f"width {width}": _row(width) for width in _PAPER},
    base="width 1024",
    columns={
        "masked LM loss": Column("valid/masked_lm", like="Avg"),
        "parameters": Column("parameters"),
    },
    paper={f"width {width}": {"Avg": value} for width, value in _PAPER.items()},
    notes="At tiny scale the widths are a sixteenth.",
)
