"""The sentence task (ALBERT, table 5)."""

from configs.ablations import TINY, Column, Row, Scale, Table

_NONE = {"data.format.negatives": "none", "objective.sentence_pair": False}


def _scored_on(negatives):
    """The accuracy of the head as it is, on the pairs of one of the two tasks."""
    return Column(
        "sentence_pair_accuracy",
        higher_is_better=True,
        percent=True,
        like={"random": "NSP", "swapped": "SOP"}[negatives],
        data={"data.format.negatives": negatives},
    )


TABLE = Table(
    title="ALBERT: no sentence task, next sentence, sentence order",
    source="Lan et al., 2020, table 5: accuracy on each task (intrinsic), average of five tasks",
    scales={
        "tiny": Scale("configs/albert.py:tiny", TINY | {"model.embed_width": 32}),
        "small": Scale("configs/albert.py:base", {"data.length": 128, "batch_size": 256}),
        "paper": Scale("configs/albert.py:base"),
    },
    rows={
        "none": Row(_NONE),
        "next sentence": Row({"data.format.negatives": "random"}),
        "sentence order": Row({"data.format.negatives": "swapped"}),
    },
    base="next sentence",
    columns={
        "NSP accuracy": _scored_on("random"),
        "SOP accuracy": _scored_on("swapped"),
        "masked LM accuracy": Column(
            "accuracy",
            higher_is_better=True,
            percent=True,
            like="MLM",
            data={"data.format.negatives": "swapped"},
        ),
    },
    paper={
        "none": {"MLM": 54.9, "NSP": 52.4, "SOP": 53.3, "Avg": 79.0},
        "next sentence": {"MLM": 54.5, "NSP": 90.5, "SOP": 52.0, "Avg": 79.2},
        "sentence order": {"MLM": 54.0, "NSP": 78.9, "SOP": 86.5, "Avg": 80.1},
    },
    notes="Each model is scored on both tasks with the head it was trained with; the row without a "
    "task has none. Pairs of one sentence get a random second one in both tasks, as in the code. "
    "Masked LM is scored on the rows of the order task, for all models.",
)
