"""The size of the generator (ELECTRA, section 3.2 and figure 3, of which no numbers are given)."""

from configs.ablations import Row, Scale, Table
from configs.ablations.electra_efficiency import TABLE as _EFFICIENCY


def _row(size, tiny):
    return Row({"objective.generator_size": size}, at={"tiny": {"objective.generator_size": tiny}})


TABLE = Table(
    title="ELECTRA: size of the generator",
    source="Clark et al., 2020, figure 3 (left): best from 1/4 to 1/2 of the discriminator",
    scales={
        # Four heads, of which a generator has one to four.
        "tiny": Scale("configs/electra.py:tiny", {"total_steps": 1000, "model.heads": 4}),
        "small": Scale("configs/electra.py:small", {"total_steps": 100_000}),
        "paper": Scale("configs/electra.py:base", {"total_steps": 500_000}),
    },
    rows={
        "1/4": _row(0.25, 0.25),
        "1/2": _row(0.5, 0.5),
        "3/4": _row(0.75, 0.75),
        "1": _row(1.0, 1.0),
    },
    base="1/4",
    columns=_EFFICIENCY.columns,
    paper={},
)
