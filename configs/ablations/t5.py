"""What the tables of T5 have in common: scales, columns and the tasks that the paper scores."""

from configs.ablations import Column, Row, Scale

# Validation scores of the base size (tables 1 and 4 to 7).
TASKS = ("GLUE", "CNN/DM", "SQuAD", "SuperGLUE", "EnDe", "EnFr", "EnRo")
BASELINE = (83.28, 19.24, 80.88, 71.36, 26.98, 39.82, 27.65)

# I.i.d. masking of half a row needs more sentinels than the 100 of the released vocabulary; all
# rows of a table have the same one.
_SENTINELS = {
    "data.tokenizer.sentinels": 257,
    "data.tokenizer.vocab_size": 32257,
    "model.vocab_size": 32384,
}
# Section 3.1: the baseline's batch and steps.
_STUDY = {"batch_size": 128, "total_steps": 2**19, **_SENTINELS}

SCALES = {
    # The models are as small as can tell the rows apart in minutes, hence without dropout.
    "tiny": Scale(
        "configs/t5.py:tiny",
        {
            "model.dropout": 0.0,
            "model.dtype": "float32",
            "batch_size": 32,
            "data.length": 64,
            "total_steps": 1500,
        },
    ),
    "small": Scale("configs/t5.py:small", {**_STUDY, "total_steps": 20_000}),
    "paper": Scale("configs/t5.py:base", _STUDY),
}

# Losses of objectives differ in what there is to guess, so all models are measured alike: at
# filling spans in, and at continuing a text. A model that never saw the form is worse for that.
COLUMNS = {
    "loss, spans of 3": Column(
        "seq2seq_lm",
        like="GLUE",
        data={
            "data.corruption.name": "spans",
            "data.corruption.rate": 0.15,
            "data.corruption.mean_span": 3.0,
        },
    ),
    "loss, single tokens": Column(
        "seq2seq_lm",
        like="SQuAD",
        data={"data.corruption.name": "iid", "data.corruption.rate": 0.15},
    ),
    "loss, second half": Column(
        "seq2seq_lm", like="CNN/DM", data={"data.corruption.name": "prefix_lm"}
    ),
}
NOTES = (
    "The paper scores models fine-tuned on each task. Here pre-trained models are scored on the "
    "same held-out text under three forms of input and target, whatever form they were trained on; "
    "that favors the row that was trained on the form of a column."
)


def row(name: str, **numbers: float) -> Row:
    """Returns the row of an objective with numbers of `data.corruption`."""
    overrides = {f"data.corruption.{key}": value for key, value in numbers.items()}
    return Row({"data.corruption.name": name, **overrides})


def printed(**rows: tuple[float, ...]) -> dict[str, dict[str, float]]:
    """Returns the numbers of the paper by row and task."""
    return {name: dict(zip(TASKS, scores, strict=True)) for name, scores in rows.items()}
