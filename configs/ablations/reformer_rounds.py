"""Rounds of hashing in training and in evaluation, on the copy task (Reformer, table 2)."""

from configs.ablations import Column, Row, Scale, Table

_EVALUATED = ("Full", "LSH-8", "LSH-4", "LSH-2", "LSH-1")
_PAPER = {
    "Full": (100, 94.8, 92.5, 76.9, 52.5),
    "LSH-4": (0.8, 100, 99.9, 99.4, 91.9),
    "LSH-2": (0.8, 100, 99.9, 98.1, 86.8),
    "LSH-1": (0.8, 99.9, 99.6, 94.8, 77.9),
}


def _attention(name):
    if name == "Full":
        return {"model.attention": "full_shared"}
    return {"model.attention": "lsh", "model.rounds": int(name.removeprefix("LSH-"))}


TABLE = Table(
    title="Reformer: rounds of hashing",
    source="Kitaev et al., 2020, table 2, accuracy in the second half of 0w0w",
    scales={
        # 31 symbols of 31 kinds: learned in 100 steps with full attention.
        "tiny": Scale(
            "configs/reformer.py:copy",
            {
                "data.length": 64,
                "data.copy.symbols": 31,
                "model.max_positions": 64,
                "model.vocab_size": 32,
                "model.width": 64,
                "model.head_size": 16,
                "model.mlp_width": 64,
                "model.lsh_chunk": 4,
                "batch_size": 16,
                "total_steps": 400,
                "optim.lr": 0.03,
                "optim.warmup_steps": 100,
                "evals.every": 0,
                "evals.batches": 4,
            },
        ),
        "small": Scale(
            "configs/reformer.py:copy",
            {
                "data.length": 256,
                "model.max_positions": 256,
                "model.lsh_chunk": 16,
                "total_steps": 5000,
            },
        ),
        "paper": Scale("configs/reformer.py:copy"),
    },
    rows={name: Row(_attention(name)) for name in _PAPER},
    base="LSH-4",
    columns={
        f"evaluated with {name}": Column(
            "accuracy", higher_is_better=True, percent=True, like=name, data=_attention(name)
        )
        for name in _EVALUATED
    },
    paper={name: dict(zip(_EVALUATED, numbers, strict=True)) for name, numbers in _PAPER.items()},
    notes="The paper's words are 511 symbols of 127 kinds. How long its chunks are is not "
    "printed. Its other figure on rounds, of imagenet64, gives curves only.",
)
