"""Shared and separate projections for queries and keys (Reformer, figure 3, left)."""

from configs.ablations import Column, Row, Scale, Table

# Section 5: three layers, so that full attention fits; total batch 8. The optimizer is the one of
# the released settings, where the paper's is Adafactor.
_WIDE = {
    "model.depth": 3,
    "model.width": 1024,
    "model.mlp_width": 4096,
    "model.axial_widths": (512, 512),
    "model.attention": "full_shared",
}
SCALES = {
    "tiny": Scale("configs/reformer.py:tiny"),
    "small": Scale(
        "configs/reformer.py:enwik8",
        {
            **_WIDE,
            "model.width": 256,
            "model.mlp_width": 1024,
            "model.axial_widths": (128, 128),
            "model.axial_shape": (32, 64),
            "model.max_positions": 2048,
            "data.length": 2048,
            "total_steps": 20_000,
        },
    ),
    "paper": Scale("configs/reformer.py:enwik8", _WIDE),
}
COLUMNS = {
    "loss, nats per byte": Column("valid/loss"),
    "accuracy": Column("valid/accuracy", higher_is_better=True, percent=True),
    "parameters": Column("parameters"),
}

TABLE = Table(
    title="Reformer: shared queries and keys",
    source="Kitaev et al., 2020, figure 3, left",
    scales=SCALES,
    rows={
        "shared": Row({"model.attention": "full_shared"}),
        "separate": Row({"model.attention": "full"}),
    },
    base="shared",
    columns=COLUMNS,
    paper={},
    notes="The paper draws curves, which nearly coincide, and prints no number. Shared keys are "
    "scaled to length 1 and a token does not see itself.",
)
