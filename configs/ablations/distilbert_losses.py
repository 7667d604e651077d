"""Losses and initial weights (DistilBERT, table 4)."""

from configs.ablations import TINY, Column, Row, Scale, Table

_SMALL = {"data.length": 128, "batch_size": 256, "total_steps": 100_000}


def _without(loss):
    return Row({f"objective.weights.{loss}": 0.0, "part_from.teacher": "{teacher}"})


TABLE = Table(
    title="DistilBERT: losses and initial weights",
    source="Sanh et al., 2019, table 4: change of the GLUE score without a part",
    scales={
        "tiny": Scale("configs/distilbert.py:tiny", TINY),
        "small": Scale("configs/distilbert.py:base", _SMALL),
        "paper": Scale("configs/distilbert.py:base"),
    },
    before={
        "teacher": Row(
            config={
                "tiny": "configs/bert.py:tiny",
                "small": "configs/bert.py:base",
                "paper": "configs/bert.py:base",
            },
            overrides={"objective.sentence_pair": False, "data.format.negatives": "none"},
            at={"tiny": TINY | {"total_steps": 3000}},
        )
    },
    rows={
        "triple loss": Row({"part_from.teacher": "{teacher}"}),
        "no L_ce": _without("soft"),
        "no L_cos": _without("cosine"),
        "no L_mlm": _without("masked_lm"),
        "random start": Row({"part_from.teacher": "{teacher}"}, arg="start=random"),
    },
    base="triple loss",
    columns={
        # Whatever a student was taught, it is scored as a masked language model.
        "masked LM loss": Column(
            "masked_lm", like="change", data={"objective.weights.masked_lm": 2.0}
        ),
        "cosine distance": Column("cosine", data={"objective.weights.cosine": 1.0}),
    },
    paper={
        "triple loss": {"change": 0.0},
        "no L_ce": {"change": -2.96},
        "no L_cos": {"change": -1.46},
        "no L_mlm": {"change": -0.31},
        "random start": {"change": -3.69},
    },
    notes="The student is scored by its held-out masked LM loss, where the paper takes GLUE: the "
    "row without the masked LM loss is judged by a loss it was not taught.",
)
