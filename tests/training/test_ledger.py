"""The ledger of plans: its commands, its page, and what it calls worse."""

import copy
import json
import pathlib

import pytest
import runs

from training import ledger

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PAGES = sorted((ROOT / "configs").glob("*.py"))
STORED = json.loads((ROOT / "docs/plans.json").read_text())
SMALL = ("configs/bert.py:base", "configs/electra.py:base", "configs/gpt2.py:124m")


def test_commands_are_those_of_the_docstrings(tmp_path):
    page = tmp_path / "page.py"
    page.write_text(
        'r"""Title.\n\n    python scripts/plan.py --config=a.py:x \\\n        --b=c\n"""\n'
    )
    assert ledger.commands([page]) == ["--config=a.py:x --b=c"]
    assert list(STORED) == ledger.commands(PAGES)


def test_every_large_size_has_a_plan():
    for path in PAGES:
        sizes = getattr(__import__(f"configs.{path.stem}", fromlist=["SIZES"]), "SIZES", {})
        below = {"tiny", "mini", "small", "medium", "copy", "1.1-small", "4"}
        for size in set(sizes) - below:
            assert any(f"configs/{path.name}:{size} " in f"{flags} " for flags in STORED), size


def test_the_page_is_that_of_the_numbers():
    assert (ROOT / "docs/plans.md").read_text() == ledger.page(STORED)


def test_what_is_worse():
    before = next(plan for plan in STORED.values() if plan["communication"])
    now = copy.deepcopy(before)
    assert ledger.worse(before, now) == []
    now["memory"]["needed"] = int(1.04 * before["memory"]["needed"])
    assert ledger.worse(before, now) == []
    now["memory"]["needed"] = int(1.06 * before["memory"]["needed"])
    now["communication"].append({**now["communication"][0], "axes": ["tensor", "data"]})
    now["versions"] = {"jax": "0"}
    grown, new = ledger.worse(before, now)
    assert "6.0% more than" in grown and "(Versions: " in grown
    assert "over tensor x data" in new
    now = copy.deepcopy(before)
    now["communication"][0]["bytes"] *= 1.2
    now["memory"]["fits"] = False
    gone, more = ledger.worse(before, now)
    assert "not fit any more" in gone and "More to send" in more
    assert len(ledger.worse(before | {"refusal": "too large"}, now)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("config", SMALL)
def test_plans_have_not_grown(config):
    pytest.importorskip("libtpu")
    runs.script("plans.py", f"--only={config} ", "--check")
