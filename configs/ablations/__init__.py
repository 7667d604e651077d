"""Tables of papers as data: a base config, rows as overrides, what is measured, what was printed.

A table is a file `<paper>_<table>.py` with a TABLE; scripts/sweep.py runs it and scripts/report.py
sets the paper's numbers beside ours. Reading one needs no JAX.
"""

import dataclasses
import importlib
import pathlib
from collections.abc import Mapping
from typing import Any

Overrides = Mapping[str, Any]  # dotted key of a config -> value

# The smallest scale of the encoders: a table of several rows and seeds takes minutes on two cores.
# With 1500 steps of 32 rows of 32 tokens a masked language model has just begun to use its context.
# It does so sooner the less the positions outweigh the tokens, hence the wider tokens' initial
# values; bfloat16 is slower than float32 where the CPU has no units for it.
TINY = {
    "model.width": 64,
    "model.init_std": 0.125,
    "model.position_init_std": 0.125,
    "model.dtype": "float32",
    "batch_size": 32,
    "total_steps": 1500,
    "optim.lr": 4e-3,
}


@dataclasses.dataclass(frozen=True)
class Scale:
    """A size at which a table can be run."""

    config: str  # FILE:ARG, as behind --config=
    overrides: Overrides = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table: what differs from its scale.

    In values "{NAME}" stands for the workdir of the run NAME in `Table.before`.
    """

    overrides: Overrides = dataclasses.field(default_factory=dict)
    arg: str = ""  # added to the config's ARG, such as "variant=electra_15"
    config: Mapping[str, str] = dataclasses.field(default_factory=dict)  # by scale, another one
    at: Mapping[str, Overrides] = dataclasses.field(default_factory=dict)  # more, by scale


@dataclasses.dataclass(frozen=True)
class Column:
    """A number that each run gives.

    By default `metric` of the run's own last validation. With `data`, that of scripts/evaluate.py
    with these overrides; with `tune`, that of a run of configs/finetune.py that starts from it;
    "parameters" counts those of the model without its teacher, "pf_days" is the training compute.
    """

    metric: str
    higher_is_better: bool = False
    percent: bool = False
    like: str = ""  # the paper's column that it is compared with
    like_higher_is_better: bool = True
    data: Overrides = dataclasses.field(default_factory=dict)
    tune: str = ""  # ARG of configs/finetune.py without the model
    tune_overrides: Overrides = dataclasses.field(default_factory=dict)
    tune_at: Mapping[str, Overrides] = dataclasses.field(default_factory=dict)  # more, by scale


@dataclasses.dataclass(frozen=True)
class Law:
    """A power law between two columns, as printed: y = factor * x ** exponent."""

    x: str
    y: str
    factor: float
    exponent: float


@dataclasses.dataclass(frozen=True)
class Table:
    """One table of a paper."""

    title: str
    source: str  # paper and number of the table
    scales: Mapping[str, Scale]
    rows: Mapping[str, Row]
    base: str  # the row that the others are compared with
    columns: Mapping[str, Column]
    paper: Mapping[str, Mapping[str, float]]  # row -> column as printed -> number
    before: Mapping[str, Row] = dataclasses.field(default_factory=dict)  # runs that rows build on
    law: Law | None = None  # to be fitted to the rows
    notes: str = ""  # how ours differs, for the page


def names() -> list[str]:
    """Returns the names of all tables."""
    return sorted(p.stem for p in pathlib.Path(__file__).parent.glob("[a-z]*_*.py"))


def load(name: str) -> Table:
    """Returns a table; raises KeyError for a name that is not in `names`."""
    if name not in names():
        raise KeyError(name)
    return importlib.import_module(f"configs.ablations.{name}").TABLE
