"""Model size and training compute (GPT-3, figure 3.1 and appendix D)."""

from configs.ablations import Column, Law, Row, Scale, Table

# Appendix D: millions of parameters, and PF-days of training on 300 G tokens.
_PAPER = {"125m": (125, 2.60), "350m": (356, 7.42), "760m": (760, 15.8), "1.3b": (1320, 27.5)}
_LAW = Law(x="compute", y="loss", factor=2.57, exponent=-0.048)
# At tiny scale: 25 k to 1.2 M parameters beside the embeddings, all in heads of 16.
_TINY = {"125m": (2, 32, 2), "350m": (2, 64, 4), "760m": (4, 96, 6), "1.3b": (6, 128, 8)}


def _row(name):
    knobs = ("model.depth", "model.width", "model.heads")
    page = f"configs/gpt3.py:{name}"
    return Row(
        config={"small": page, "paper": page},
        at={
            "tiny": dict(zip(knobs, _TINY[name], strict=True))
            | {"model.dtype": "float32", "total_steps": 1500, "optim.decay_steps": 1300},
            "small": {"total_steps": 10_000, "optim.decay_steps": 0, "batch_size": 256}
            | {"microbatches": 16, "batch_ramp.start": 0, "batch_ramp.steps": 0},
        },
    )


TABLE = Table(
    title="GPT-3: model size and compute",
    source="Brown et al., 2020, figure 3.1 and appendix D",
    scales={
        "tiny": Scale("configs/gpt3.py:tiny"),
        "small": Scale("configs/gpt3.py:125m"),
        "paper": Scale("configs/gpt3.py:125m"),
    },
    rows={name: _row(name) for name in _PAPER},
    base="125m",
    columns={
        "loss": Column("valid/causal_lm", like="loss of the law", like_higher_is_better=False),
        "parameters": Column("parameters"),
        "compute": Column("pf_days"),
    },
    paper={
        name: {
            "parameters M": parameters,
            "PF-days": compute,
            "loss of the law": round(_LAW.factor * compute**_LAW.exponent, 3),
        }
        for name, (parameters, compute) in _PAPER.items()
    },
    law=_LAW,
    notes="All sizes see the same tokens. At tiny scale they have one learning rate; the tokens "
    "are of another vocabulary, so that only the exponents compare. Compute is 6 operations for a "
    "parameter and token, in ours without the embeddings as in the figure, in the paper's column "
    "with them as in appendix D. The figure's law is the envelope of runs of all lengths, ours "
    "goes through the ends of runs of one length.",
)
