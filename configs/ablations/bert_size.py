"""Model size (BERT, table 6)."""

from configs.ablations import Column, Row, Scale, Table

# Layers, width, heads -> perplexity of masked LM, MNLI, MRPC, SST-2.
_PAPER = {
    (3, 768, 12): (5.84, 77.9, 79.8, 88.4),
    (6, 768, 3): (5.24, 80.6, 82.2, 90.7),
    (6, 768, 12): (4.68, 81.9, 84.8, 91.3),
    (12, 768, 12): (3.99, 84.4, 86.7, 92.9),
    (12, 1024, 16): (3.54, 85.7, 86.9, 93.3),
    (24, 1024, 16): (3.23, 86.6, 87.8, 93.7),
}


def _row(depth, width, heads):
    """At tiny scale a sixth of the width, a third of the layers and of the heads."""
    tiny = {
        "model.depth": depth // 3,
        "model.width": {768: 128, 1024: 192}[width],
        "model.heads": {3: 1, 12: 4, 16: 6}[heads],
    }
    return Row(
        {"model.depth": depth, "model.width": width, "model.heads": heads}, at={"tiny": tiny}
    )


TABLE = Table(
    title="BERT: model size",
    source="Devlin et al., 2019, table 6 (layers/width/heads)",
    scales={
        "tiny": Scale("configs/bert.py:tiny", {"total_steps": 1000}),
        "small": Scale("configs/bert.py:base", {"total_steps": 100_000}),
        "paper": Scale("configs/bert.py:base"),
    },
    rows={"/".join(map(str, size)): _row(*size) for size in _PAPER},
    base="12/768/12",
    columns={
        "masked LM loss": Column("valid/masked_lm", like="LM ppl", like_higher_is_better=False),
        "parameters": Column("parameters"),
    },
    paper={
        "/".join(map(str, size)): {"LM ppl": a, "MNLI-m": b, "MRPC": c, "SST-2": d}
        for size, (a, b, c, d) in _PAPER.items()
    },
    notes="At tiny scale: a third of the layers, widths of 128 and 192.",
)
