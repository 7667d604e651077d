"""Input formats (RoBERTa, table 2)."""

from configs.ablations import Column, Row, Scale, Table

# Without masks of its own, on full sentences: the same held-out rows for all models.
_SAME_ROWS = {
    "data.format.name": "full_sentences",
    "data.format.negatives": "none",
    "objective.sentence_pair": False,
}


def _pairs(name):
    return Row(
        {
            "data.format.name": name,
            "data.format.negatives": "random",
            "data.format.negative_rate": 0.5,
            "objective.sentence_pair": True,
        }
    )


def _rows(name):
    return Row({"data.format.name": name, "data.packing": name == "doc_sentences"})


TABLE = Table(
    title="RoBERTa: input formats",
    source="Liu et al., 2019, table 2, base size, medians of five",
    scales={
        "tiny": Scale("configs/roberta.py:tiny", {"total_steps": 1000}),
        "small": Scale("configs/roberta.py:base", {"data.length": 128, "batch_size": 256}),
        "paper": Scale("configs/roberta.py:base", {"batch_size": 256, "total_steps": 1_000_000}),
    },
    rows={
        "SEGMENT-PAIR + NSP": _pairs("segment_pairs"),
        "SENTENCE-PAIR + NSP": _pairs("sentence_pairs"),
        "FULL-SENTENCES": _rows("full_sentences"),
        "DOC-SENTENCES": _rows("doc_sentences"),
    },
    base="SEGMENT-PAIR + NSP",
    columns={
        "masked LM loss, full sentences": Column("masked_lm", like="MNLI-m", data=_SAME_ROWS),
    },
    paper={
        "SEGMENT-PAIR + NSP": {"SQuAD 2.0": 78.7, "MNLI-m": 84.0, "SST-2": 92.9, "RACE": 64.2},
        "SENTENCE-PAIR + NSP": {"SQuAD 2.0": 76.2, "MNLI-m": 82.9, "SST-2": 92.1, "RACE": 63.0},
        "FULL-SENTENCES": {"SQuAD 2.0": 79.1, "MNLI-m": 84.7, "SST-2": 92.5, "RACE": 64.8},
        "DOC-SENTENCES": {"SQuAD 2.0": 79.7, "MNLI-m": 84.7, "SST-2": 92.7, "RACE": 65.6},
    },
    notes="Document ends are packed into common rows here, where the paper makes batches larger.",
)
