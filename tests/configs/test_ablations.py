"""Every table of configs/ablations names real configs and keys, and numbers to compare."""

import importlib
import pathlib

import pytest

from configs import ablations
from evaluation import scoring, search, sweeps

TABLES = ablations.names()


def config_of(flag):
    """The locked config of a --config= flag."""
    path, _, arg = flag.removeprefix("--config=").partition(":")
    page = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    return page.get_config(arg).lock()


@pytest.mark.parametrize("name", TABLES)
def test_every_run_of_every_scale_has_a_config(name, tmp_path):
    table = ablations.load(name)
    for scale in table.scales:
        jobs = sweeps.from_table(name, scale, 2, tmp_path, {"data.source": "x", "data.path": "y"})
        names = [job.name for job in jobs]
        assert len(set(names)) == len(names)
        for job in jobs:
            assert job.needs in ("", *names)
            if job.result is None:
                config = config_of(job.flags[0])
                config.update_from_flattened_dict(job.wanted)
                # A sharing model of the table must be buildable: sizes fit each other.
                assert config.model.width % config.model.heads == 0
                assert config.model.depth % config.model.get("groups", 1) == 0
                assert config.data.masking.max_predictions <= config.data.length
            else:
                run = next(j for j in jobs if j.name == job.needs)
                config = config_of(run.flags[0])
                for flag in job.flags[2:]:
                    config.update_from_flattened_dict(
                        search.parse_assignments("override", [flag.removeprefix("--override=")])
                    )


@pytest.mark.parametrize("name", TABLES)
def test_numbers_of_the_paper_belong_to_rows(name):
    table = ablations.load(name)
    assert table.base in table.rows and set(table.paper) <= set(table.rows)
    printed = {column for row in table.paper.values() for column in row}
    for column in table.columns.values():
        assert not (column.data and column.tune)
        assert not column.like or not table.paper or column.like in printed
        if column.tune:  # by what the leaderboard shows, as the papers do
            task = column.tune.removeprefix("task=").partition(",")[0]
            assert column.metric.removeprefix("valid/") in scoring.TASK_METRICS[task]


def test_the_tables_that_were_promised():
    assert set(TABLES) >= {
        *("bert_tasks", "bert_size", "bert_masking", "roberta_masking", "roberta_inputs"),
        *("albert_embedding", "albert_sharing", "albert_sentence", "albert_depth", "albert_width"),
        *("electra_efficiency", "electra_generator", "electra_tying", "distilbert_losses"),
        *("tinybert_losses", "tinybert_mapping", "gpt2_size", "gpt3_size", "xlnet_parts"),
        *("t5_objectives", "t5_rate", "t5_span", "kagnet_parts", "ernie_knowledge"),
        *("reformer_rounds", "reformer_reversible", "reformer_sharing"),
    }


def test_tables_need_no_jax():
    import subprocess
    import sys

    root = pathlib.Path(ablations.__file__).parents[2]
    code = (
        "import sys; from configs import ablations; [ablations.load(n) for n in ablations.names()];"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
