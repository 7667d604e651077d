"""The parts of XLNet (XLNet, table 6)."""

from configs.ablations import TINY, Column, Row, Scale, Table

# RACE, SQuAD 2.0 (F1), MNLI, SST-2.
_PAPER = {
    "DAE + Transformer-XL": (65.03, 79.56, 84.88, 92.60),
    "XLNet, K=7": (66.05, 81.33, 85.84, 92.66),
    "XLNet, K=6": (66.66, 80.98, 85.63, 93.35),
    "- memory": (65.55, 80.15, 85.32, 92.78),
    "- span prediction": (65.95, 80.61, 85.49, 93.12),
    "- bidirectional data": (66.34, 80.65, 85.31, 92.66),
}
# The same rows and targets for all models: single tokens of text that runs forward.
_SAME_TARGETS = {
    "data.permutation.k": 6,
    "data.permutation.span": 1,
    "data.permutation.bidirectional": False,
}
# Nothing is learned for a position; the products that add to the residual stream as all others.
_TINY = {k: v for k, v in TINY.items() if k != "model.position_init_std"}
_TINY["model.residual_init_std"] = TINY["model.init_std"]
_SMALL = {"data.length": 128, "total_steps": 100_000}
_SMALL |= {"data.permutation.reuse": 64, "data.permutation.block": 64}

TABLE = Table(
    title="XLNet: objective, memory, spans and two directions",
    source="Yang et al., 2019, table 6, base size, medians of five",
    scales={
        "tiny": Scale("configs/xlnet.py:tiny", _TINY),
        "small": Scale("configs/xlnet.py:base", _SMALL),
        "paper": Scale("configs/xlnet.py:base"),
    },
    rows={
        "DAE + Transformer-XL": Row(arg="objective=masked_lm"),
        "XLNet, K=7": Row({"data.permutation.k": 7}),
        "XLNet, K=6": Row(),
        "- memory": Row({"data.permutation.memory": 0}),
        "- span prediction": Row({"data.permutation.span": 1}),
        "- bidirectional data": Row({"data.permutation.bidirectional": False}),
    },
    base="XLNet, K=6",
    columns={
        "permutation LM loss, single targets": Column(
            "permutation_lm", like="MNLI", data=_SAME_TARGETS
        ),
        "SST-2": Column(
            "valid/accuracy",
            higher_is_better=True,
            percent=True,
            like="SST-2",
            tune="task=sst-2,epochs=1",
            tune_at={"tiny": {"data.length": 32}},
        ),
    },
    paper={
        name: dict(zip(("RACE", "SQuAD 2.0", "MNLI", "SST-2"), numbers, strict=True))
        for name, numbers in _PAPER.items()
    },
    notes="The first row is trained by BERT's objective on full sentences with XLNet's network, "
    "here without a memory; it has no permutation LM loss. The others predict the same tokens of "
    "the same held-out rows, each with the memory it was trained with.",
)
