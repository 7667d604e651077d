"""Model size (GPT-2, table 3)."""

from configs.ablations import Column, Row, Scale, Table

# Perplexity on LAMBADA, WikiText-2 and WikiText-103.
_PAPER = {
    "124m": (35.13, 29.41, 37.50),
    "355m": (15.60, 22.76, 26.37),
    "774m": (10.87, 19.93, 22.05),
    "1558m": (8.63, 18.34, 17.48),
}
# At tiny scale: widths 64 to 256, of 2 to 8 layers.
_TINY = {"124m": (2, 64, 2), "355m": (4, 96, 3), "774m": (6, 128, 4), "1558m": (8, 192, 6)}


def _row(name):
    depth, width, heads = _TINY[name]
    tiny = {"model.depth": depth, "model.width": width, "model.heads": heads}
    sizes = dict(zip(("depth", "width", "heads"), _SIZES[name], strict=True))
    return Row({f"model.{k}": v for k, v in sizes.items()}, at={"tiny": tiny})


_SIZES = {
    "124m": (12, 768, 12),
    "355m": (24, 1024, 16),
    "774m": (36, 1280, 20),
    "1558m": (48, 1600, 25),
}

TABLE = Table(
    title="GPT-2: model size",
    source="Radford et al., 2019, table 3, with the corrected names of the sizes",
    scales={
        "tiny": Scale("configs/gpt2.py:tiny", {"total_steps": 700}),
        "small": Scale("configs/gpt2.py:124m", {"total_steps": 10_000}),
        "paper": Scale("configs/gpt2.py:124m"),
    },
    rows={name: _row(name) for name in _PAPER},
    base="124m",
    columns={
        "loss": Column("valid/causal_lm", like="WikiText2 ppl", like_higher_is_better=False),
        "parameters": Column("parameters"),
    },
    paper={
        name: {"LAMBADA ppl": a, "WikiText2 ppl": b, "WikiText103 ppl": c}
        for name, (a, b, c) in _PAPER.items()
    },
    notes="All sizes see the same tokens with the learning rate of the smallest; the paper's are "
    "zero-shot perplexities of models that were trained for as long as they improved.",
)
