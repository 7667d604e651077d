"""The width of the embedding tables (ALBERT, table 3)."""

from configs.ablations import Column, Row, Scale, Table


def _row(width, tiny):
    return Row({"model.embed_width": width}, at={"tiny": {"model.embed_width": tiny}})


TABLE = Table(
    title="ALBERT: width of the embedding tables",
    source="Lan et al., 2020, table 3, all parameters shared",
    scales={
        "tiny": Scale("configs/albert.py:tiny", {"total_steps": 1000}),
        "small": Scale("configs/albert.py:base", {"data.length": 128, "batch_size": 256}),
        "paper": Scale("configs/albert.py:base"),
    },
    rows={
        "E = 64": _row(64, 11),
        "E = 128": _row(128, 21),
        "E = 256": _row(256, 43),
        "E = 768": _row(768, 128),
    },
    base="E = 128",
    columns={
        "masked LM loss": Column("valid/masked_lm", like="Avg"),
        "parameters": Column("parameters"),
    },
    paper={
        "E = 64": {"Avg": 79.0, "million parameters": 10},
        "E = 128": {"Avg": 80.1, "million parameters": 12},
        "E = 256": {"Avg": 79.6, "million parameters": 16},
        "E = 768": {"Avg": 79.8, "million parameters": 31},
    },
    notes="At tiny scale the tables have the same shares of the width, 1/12 to 1 of 128.",
)
