"""Measures our speed beside a peer's in one run, by turns, and writes docs/benchmarks.md.

    python scripts/bench.py decoding
    python scripts/bench.py harness --repeats=9 --output=docs/benchmarks.md

The peers need the extras `parity` and `eval`. Nothing else should run on the machine.
"""

import pathlib

from absl import app, flags

from errors import UserError, exit_on_user_error, one_of, parse_flags
from evaluation import benchmarks
from training import compilation_cache

_REPEATS = flags.DEFINE_integer("repeats", 5, "Calls of each side.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", None, "The page whose section is replaced.")


@exit_on_user_error
def main(argv):
    """Prints the section of a benchmark, and writes it where asked."""
    compilation_cache.enable()
    if len(argv) != 2:
        raise UserError(f"Name one benchmark: {', '.join(benchmarks.BENCHMARKS)}.")
    name = one_of("benchmark", argv[1], benchmarks.BENCHMARKS)
    command = f"python scripts/bench.py {name} --repeats={_REPEATS.value}"
    text = benchmarks.section(name, benchmarks.BENCHMARKS[name](_REPEATS.value), command)
    print(text)
    if _OUTPUT.value:
        benchmarks.write(pathlib.Path(_OUTPUT.value), name, text)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
