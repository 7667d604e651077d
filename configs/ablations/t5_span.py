"""How long corrupted spans are (T5, table 7)."""

from configs.ablations import Table, t5

_PAPER = {
    2: (83.54, 19.39, 82.09, 72.20, 26.76, 39.99, 27.63),
    3: (83.49, 19.62, 81.84, 72.53, 26.86, 39.65, 27.62),
    5: (83.40, 19.24, 82.05, 72.23, 26.88, 39.40, 27.53),
    10: (82.85, 19.33, 81.84, 70.44, 26.79, 39.49, 27.69),
}

TABLE = Table(
    title="T5: mean length of corrupted spans",
    source="Raffel et al., 2020, table 7, base size",
    scales=t5.SCALES,
    rows={
        "i.i.d.": t5.row("iid"),
        **{str(mean): t5.row("spans", mean_span=float(mean)) for mean in _PAPER},
    },
    base="i.i.d.",
    columns=t5.COLUMNS,
    paper=t5.printed(**{"i.i.d.": t5.BASELINE, **{str(k): v for k, v in _PAPER.items()}}),
    notes=t5.NOTES,
)
