"""One number for GLUE: the averages that the benchmark and the papers take."""

import statistics
from collections.abc import Mapping

Scores = Mapping[str, Mapping[str, float]]  # task -> metric -> value

_ONE_EACH = (
    ("cola/matthews",),
    ("sst-2/accuracy",),
    ("mrpc/accuracy",),
    ("sts-b/spearman",),
    ("qqp/accuracy",),
    ("mnli/accuracy",),
    ("qnli/accuracy",),
    ("rte/accuracy",),
)
_BOTH = (
    ("cola/matthews",),
    ("sst-2/accuracy",),
    ("mrpc/f1", "mrpc/accuracy"),
    ("sts-b/pearson", "sts-b/spearman"),
    ("qqp/f1", "qqp/accuracy"),
)
_REST = (("qnli/accuracy",), ("rte/accuracy",), ("wnli/accuracy",))
# Each is the mean over its columns, and a column the mean of its numbers.
AVERAGES = {
    # Wang et al., 2019: a task with two metrics, and the two halves of MNLI, count once.
    "GLUE": (*_BOTH, ("mnli/accuracy", "mnli-mm/accuracy"), *_REST),
    # Devlin et al., 2019, table 1, and Jiao et al., 2020, table 1: nine columns, WNLI left out.
    "BERT": (
        ("mnli/accuracy",),
        ("mnli-mm/accuracy",),
        ("qqp/f1",),
        ("qnli/accuracy",),
        ("sst-2/accuracy",),
        ("cola/matthews",),
        ("sts-b/spearman",),
        ("mrpc/f1",),
        ("rte/accuracy",),
    ),
    # Clark et al., 2020, section 3.1: eight tasks, WNLI left out.
    "ELECTRA": _ONE_EACH,
    # Sanh et al., 2019, table 1: nine tasks, of MNLI the matched half.
    "DistilBERT": (*_BOTH, ("mnli/accuracy",), *_REST),
}


def average(name: str, scores: Scores) -> float | None:
    """Returns an average of AVERAGES, or None if `missing` is not empty."""
    if missing(name, scores):
        return None
    number = lambda key: scores[key.partition("/")[0]][key.partition("/")[2]]  # noqa: E731
    return statistics.fmean(
        statistics.fmean(number(key) for key in column) for column in AVERAGES[name]
    )


def missing(name: str, scores: Scores) -> list[str]:
    """Returns the tasks whose numbers an average needs besides those that are given."""
    keys = [key.split("/") for column in AVERAGES[name] for key in column]
    return list(dict.fromkeys(t for t, metric in keys if metric not in scores.get(t, {})))
