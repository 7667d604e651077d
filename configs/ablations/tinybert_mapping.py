"""Which layers of the teacher teach (TinyBERT, table 4)."""

from configs.ablations import Row, Table
from configs.ablations import tinybert_losses as losses

TABLE = Table(
    title="TinyBERT: which layers of the teacher teach",
    source="Jiao et al., 2020, table 4: dev scores after task distillation",
    scales=losses.SCALES,
    before=losses.TEACHER,
    rows={
        name: Row({"part_from.teacher": "{teacher}", "objective.mapping": name})
        for name in ("uniform", "top", "bottom")
    },
    base="uniform",
    columns=losses.TABLE.columns,
    paper={
        "uniform": {"MNLI-m": 82.8, "MRPC": 85.8, "CoLA": 50.8, "Avg": 75.6},
        "top": {"MNLI-m": 81.7, "MRPC": 83.6, "CoLA": 35.9, "Avg": 70.9},
        "bottom": {"MNLI-m": 80.6, "MRPC": 84.6, "CoLA": 38.5, "Avg": 71.3},
    },
    notes=losses.TABLE.notes,
)
