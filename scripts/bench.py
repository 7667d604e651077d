"""Measures our speed beside a peer's in one run, by turns, and writes docs/benchmarks.md.

    python scripts/bench.py decoding
    python scripts/bench.py steps --repeats=9 --output=docs/benchmarks.md
    python scripts/bench.py packing --source=WIKI      # text as --config.data.source
    python scripts/bench.py steps --quick              # one layer: does it run?
    python scripts/bench.py --device=gpu               # all that is measured on a GPU

The peers need the extras `parity`, `eval` and `hf`. Nothing else should run on the machine.
"""

import pathlib

from absl import app, flags

from errors import UserError, exit_on_user_error, one_of, parse_flags
from evaluation import benchmarks, gpu_speed, inference_speed, input_speed, training_speed
from training import compilation_cache

BENCHMARKS = {
    "steps": training_speed.steps,
    "memory": training_speed.memory,
    "first_step": training_speed.first_step,
    "compilation": training_speed.compilation,
    "packing": input_speed.packing,
    "masking": input_speed.masking,
    "decoding": inference_speed.greedy_decoding,
    "harness": inference_speed.harness_requests,
    "gpu": gpu_speed.steps,
}

_REPEATS = flags.DEFINE_integer("repeats", 5, "Calls of each side.", lower_bound=1)
_QUICK = flags.DEFINE_bool("quick", False, "Networks of one layer, each measured once.")
_SOURCE = flags.DEFINE_string("source", "embedded", "The text of packing and masking.")
_DEVICE = flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "gpu: the benchmark of that name.")
_OUTPUT = flags.DEFINE_string("output", None, "The page whose section is replaced.")


@exit_on_user_error
def main(argv):
    """Prints the section of a benchmark, and writes it where asked."""
    compilation_cache.enable()
    on_gpu = _DEVICE.value == "gpu"
    names = argv[1:] or ["gpu"] * on_gpu
    if on_gpu and names != ["gpu"]:
        raise UserError("--device=gpu is the benchmark gpu: leave out other names, or the flag.")
    if len(names) != 1:
        raise UserError(f"Name one benchmark: {', '.join(BENCHMARKS)}.")
    name = one_of("benchmark", names[0], BENCHMARKS)
    repeats = 1 if _QUICK.value else _REPEATS.value
    options = benchmarks.Options(repeats, _QUICK.value, _SOURCE.value)
    measure = BENCHMARKS[name]
    results = measure(options)
    command = f"python scripts/bench.py {name}"
    command += " --quick" if options.quick else f" --repeats={repeats}"
    if options.source != _SOURCE.default:
        command += f" --source={options.source}"
    text = benchmarks.section(name, measure, results, command)
    print(text)
    if _OUTPUT.value:
        benchmarks.write(pathlib.Path(_OUTPUT.value), name, text)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
