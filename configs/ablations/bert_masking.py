"""What chosen tokens are replaced by, and how many are chosen (BERT, table 8)."""

from configs.ablations import TINY, Column, Row, Scale, Table

_PAPER = {
    (80, 10, 10): (84.2, 95.4, 94.9),
    (100, 0, 0): (84.3, 94.9, 94.0),
    (80, 0, 20): (84.1, 95.2, 94.6),
    (80, 20, 0): (84.4, 95.2, 94.7),
    (0, 20, 80): (83.7, 94.8, 94.6),
    (0, 0, 100): (83.6, 94.9, 94.6),
}


def _row(mask, same, random):
    del same  # the rest
    return Row({"data.masking.mask": mask / 100, "data.masking.random": random / 100})


# P must hold the predictions of a row of 32, 128 or 512 tokens.
_RATES = {
    f"80/10/10, {percent} % chosen": Row(
        {"data.masking.rate": percent / 100, "data.masking.max_predictions": percent * 128 // 100},
        at={"tiny": {"data.masking.max_predictions": round(percent * 32 / 100)}},
    )
    for percent in (8, 30)
}

TABLE = Table(
    title="BERT: masking procedure and rate",
    source="Devlin et al., 2019, table 8 (shares of [MASK] / same / random in percent)",
    scales={
        "tiny": Scale("configs/bert.py:tiny", TINY),
        "small": Scale("configs/bert.py:medium"),
        "paper": Scale("configs/bert.py:base"),
    },
    rows={"/".join(map(str, shares)): _row(*shares) for shares in _PAPER} | _RATES,
    base="80/10/10",
    columns={
        # All models on the same rows: 80/10/10 of 15 %.
        "masked LM loss, 80/10/10": Column(
            "masked_lm",
            like="MNLI",
            data={
                "data.masking.mask": 0.8,
                "data.masking.random": 0.1,
                "data.masking.rate": 0.15,
            },
        ),
        # Without [MASK], as in fine-tuning: a fifth stays, the rest is random.
        "the same, 0/20/80": Column(
            "masked_lm",
            like="NER feature",
            data={
                "data.masking.mask": 0.0,
                "data.masking.random": 0.8,
                "data.masking.rate": 0.15,
            },
        ),
        "next sentence accuracy": Column(
            "valid/sentence_pair_accuracy", higher_is_better=True, percent=True
        ),
    },
    paper={
        "/".join(map(str, shares)): {"MNLI": a, "NER fine-tune": b, "NER feature": c}
        for shares, (a, b, c) in _PAPER.items()
    },
    notes="The paper scores fine-tuned models. Here all are scored as masked language models on "
    "the same held-out rows, with [MASK] and without. The rates of 8 and 30 % have no row in the "
    "paper.",
)
