"""Unsupervised objectives (T5, tables 4 and 5)."""

from configs.ablations import Table, t5

TABLE = Table(
    title="T5: unsupervised objectives",
    source="Raffel et al., 2020, tables 4 and 5, base size",
    scales=t5.SCALES,
    rows={
        "replace corrupted spans": t5.row("iid"),
        "prefix LM": t5.row("prefix_lm"),
        "BERT-style": t5.row("bert_style"),
        "deshuffling": t5.row("deshuffling"),
        "MASS-style": t5.row("mass_style"),
        "drop corrupted tokens": t5.row("drop_tokens"),
    },
    base="replace corrupted spans",
    columns=t5.COLUMNS,
    paper=t5.printed(
        **{
            "replace corrupted spans": t5.BASELINE,
            "prefix LM": (80.69, 18.94, 77.99, 65.27, 26.86, 39.73, 27.49),
            "BERT-style": (82.96, 19.17, 80.65, 69.85, 26.78, 40.03, 27.41),
            "deshuffling": (73.17, 18.59, 67.61, 58.47, 26.11, 39.30, 25.62),
            "MASS-style": (82.32, 19.16, 80.10, 69.28, 26.79, 39.89, 27.55),
            "drop corrupted tokens": (84.44, 19.31, 80.52, 68.67, 27.07, 39.76, 27.82),
        }
    ),
    notes=t5.NOTES,
)
