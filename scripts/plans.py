r"""Makes the ledger of plans, or compares it with what the code gives now.

    python scripts/plans.py                      # docs/plans.json and the page made from it
    python scripts/plans.py --only=bert.py:large --check

Each `scripts/plan.py` command in the docstrings of configs/ is run by itself (extra `tpu`); a plan
takes one to several minutes, and one that fails does not stop the rest. With --check nothing is
written, and a plan that needs over 5 % more memory or has a new kind of collective is an error.
"""

import pathlib
import shlex
import subprocess
import sys
import tempfile

from absl import app, flags

from data_pipeline import files
from errors import UserError, exit_on_user_error, parse_flags
from training import ledger

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_LEDGER = flags.DEFINE_string("ledger", "docs/plans.json", "The ledger; its page lies beside it.")
_ONLY = flags.DEFINE_string("only", "", "Commands that contain this, and no others.")
_CHECK = flags.DEFINE_bool("check", False, "Compare and write nothing.")


@exit_on_user_error
def main(argv):
    """Runs the commands and writes or compares."""
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}: every flag begins with --.")
    path = pathlib.Path(_LEDGER.value)
    stored = files.read_json(path) if path.exists() else {}
    every = ledger.commands(sorted((_ROOT / "configs").glob("*.py")))
    chosen = [command for command in every if _ONLY.value in command]
    if not chosen:
        raise UserError(f"--only={_ONLY.value} is in none of: {', '.join(every)}.")
    wrong = []
    for command in chosen:
        if _CHECK.value and command not in stored:
            wrong.append(f"{path} does not have {command}: make it without --check.")
            continue
        print(f"{command} ...", flush=True)
        try:
            plan = _make(command)
        except UserError as error:
            wrong.append(str(error))
            continue
        if _CHECK.value:
            wrong += [f"{command}: {line}" for line in ledger.worse(stored[command], plan)]
        else:
            stored[command] = plan
            stored = {known: stored[known] for known in every if known in stored}
            files.write_json(path, stored)
            files.write_text(path.with_suffix(".md"), ledger.page(stored))
    if wrong:
        raise UserError("\n".join(wrong))


def _make(command):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "plan.json"
        run = subprocess.run(
            [sys.executable, _ROOT / "scripts/plan.py", *shlex.split(command), f"--json={path}"],
            cwd=_ROOT,
            capture_output=True,
            text=True,
        )
        if run.returncode:
            said = run.stderr.strip().splitlines() or [f"ended with status {run.returncode}."]
            raise UserError(f"scripts/plan.py {command}: {said[-1]}")
        return files.read_json(path)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
