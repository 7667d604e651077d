"""What generator and discriminator share (ELECTRA, section 3.2)."""

from configs.ablations import Row, Scale, Table
from configs.ablations.electra_efficiency import TABLE as _EFFICIENCY

TABLE = Table(
    title="ELECTRA: weights shared by generator and discriminator",
    source="Clark et al., 2020, section 3.2, a generator of equal size, 500k steps; GLUE dev",
    scales={
        name: Scale(config, {"total_steps": steps, "objective.generator_size": 1.0})
        for name, config, steps in (
            ("tiny", "configs/electra.py:tiny", 1000),
            ("small", "configs/electra.py:small", 100_000),
            ("paper", "configs/electra.py:base", 500_000),
        )
    },
    rows={
        "none": Row({"objective.tie": "none"}),
        "token embeddings": Row({"objective.tie": "tokens"}),
        "all embeddings": Row({"objective.tie": "embeddings"}),
        "all weights": Row({"objective.tie": "all"}),
    },
    base="none",
    columns=_EFFICIENCY.columns,
    paper={
        "none": {"GLUE": 83.6},
        "token embeddings": {"GLUE": 84.3},
        "all weights": {"GLUE": 84.4},
    },
)
