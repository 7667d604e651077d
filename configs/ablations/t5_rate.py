"""How much of the text is corrupted (T5, table 6)."""

from configs.ablations import Table, t5

_PAPER = {
    10: (82.82, 19.00, 80.38, 69.55, 26.87, 39.28, 27.44),
    15: t5.BASELINE,
    25: (83.00, 19.54, 80.96, 70.48, 27.04, 39.83, 27.47),
    50: (81.27, 19.32, 79.80, 70.33, 27.01, 39.90, 27.49),
}

TABLE = Table(
    title="T5: corruption rate",
    source="Raffel et al., 2020, table 6, base size",
    scales=t5.SCALES,
    rows={f"{percent} %": t5.row("iid", rate=percent / 100) for percent in _PAPER},
    base="15 %",
    columns=t5.COLUMNS,
    paper=t5.printed(**{f"{percent} %": scores for percent, scores in _PAPER.items()}),
    notes=t5.NOTES,
)
