"""The parts of KagNet: GCN, pruning, attention over paths, and the graph as a whole."""

from configs.ablations import Column, Row, Scale, Table

TASK = "commonsenseqa-1.0"


def _alone(size):
    return f"configs/finetune.py:model=bert-{size},task={TASK}"


TABLE = Table(
    title="KagNet: what each part adds",
    source="Lin et al., 2019, whose table of ablations we could not read: its numbers are missing",
    scales={
        "tiny": Scale(f"configs/kagnet.py:tiny,task={TASK}"),
        "small": Scale(f"configs/kagnet.py:base,task={TASK}"),
        "paper": Scale(f"configs/kagnet.py:large,task={TASK}"),
    },
    rows={
        "KagNet": Row(),
        "without GCN": Row({"objective.reasoner.gcn": ()}),
        "without path pruning": Row({"data.graphs.threshold": 0.0}),
        "uniform path attention": Row({"objective.reasoner.path_attention": False}),
        "statement encoder alone": Row(
            config={"tiny": _alone("tiny"), "small": _alone("base"), "paper": _alone("large")}
        ),
    },
    base="KagNet",
    columns={"accuracy": Column("valid/accuracy", higher_is_better=True, percent=True)},
    paper={},
    notes="All rows start from the same encoder (--set=init_from=DIR), and those with a graph from "
    "the same vectors (--set=data.graphs.path=DIR). Without pruning the search still ends after "
    "data.graphs.search paths of a pair, and the row has room for data.graphs.paths.",
)
