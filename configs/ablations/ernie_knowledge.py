"""What entities and their denoising give (ERNIE, table 7)."""

from configs.ablations import Column, Row, Scale, Table

# The same network without what belongs to entities. At "tiny" its training is the same too; at
# "paper" each row has that of its own page.
_BERT = {"data.masking.spans": "", "data.masking.whole_word": False}


def fewrel(like, **overrides):
    """The F1 of a model fine-tuned on FewRel."""
    return Column(
        "valid/macro_f1",
        higher_is_better=True,
        percent=True,
        like=like,
        tune="task=fewrel,recipe=ernie",
        tune_overrides=overrides,
        # FewRel's public relations, 16 of them, are 1600 sentences.
        tune_at={"tiny": {"data.length": 64, "optim.lr": 1e-3, "total_steps": 500}},
    )


TABLE = Table(
    title="ERNIE: entities",
    source="Zhang et al., 2019, table 7: FewRel, test",
    scales={
        "tiny": Scale("configs/ernie.py:tiny", {"data.length": 64}),
        "paper": Scale("configs/ernie.py:base"),
    },
    rows={
        "BERT": Row(
            _BERT,
            config={
                "tiny": "configs/ernie_baidu.py:tiny",
                "paper": "configs/ernie_baidu.py:base",
            },
            at={
                "tiny": {
                    "model.depth": 3,
                    "data.length": 64,
                    "data.format.passes": 1,
                    "optim.schedule": "linear",
                }
            },
        ),
        "ERNIE": Row(),
        "without dEA": Row(arg="variant=without_dea"),
    },
    base="ERNIE",
    columns={
        "masked LM loss": Column("valid/masked_lm"),
        "FewRel": fewrel("F1"),
        "FewRel, text alone": fewrel("F1, text alone", **{"data.entities.marks": "none"}),
    },
    paper={
        "BERT": {"F1": 84.89},
        "ERNIE": {"F1": 88.32, "F1, text alone": 85.79},
        "without dEA": {"F1": 85.62},
    },
    notes="The paper's row without entities is ERNIE fine-tuned on text alone, here a column. BERT "
    "reads the same rows; in the paper it is the released one, from which the others start.",
)
