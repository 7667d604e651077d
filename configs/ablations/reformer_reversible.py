"""Reversible layers beside ordinary ones (Reformer, figure 3, right)."""

from configs.ablations import Row, Table
from configs.ablations.reformer_sharing import COLUMNS, SCALES

TABLE = Table(
    title="Reformer: reversible layers",
    source="Kitaev et al., 2020, figure 3, right",
    scales=SCALES,
    rows={
        "reversible": Row({"model.reversible": True}),
        "ordinary": Row({"model.reversible": False}),
    },
    base="reversible",
    columns=COLUMNS,
    paper={},
    notes="The paper draws curves, which nearly coincide, and prints no number. Without "
    "reversibility there is one stream, x + attention(x) and so on, which takes the place of both "
    "in front of the head: the parameters are the same.",
)
