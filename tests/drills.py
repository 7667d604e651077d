"""Counts what a run survives, and writes docs/reliability.md: `make drills`.

One run is killed (SIGKILL) at random moments while text is prepared, while it trains, saves and
evaluates, and is started again each time. Its metrics must be those of a run that nobody touched,
bit for bit. Then the drills that are tests are run and counted.
"""

import argparse
import collections
import datetime
import json
import os
import pathlib
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

import runs

PHASES = ("preparing", "training", "saving", "evaluating")
STEPS = 900
SECONDS = 900  # that one run may take on a busy machine
OVERRIDES = runs.SMALL | {
    "data.valid_fraction": 0.1,
    "total_steps": STEPS,
    "checkpoint.every": 15,
    "evals.every": 20,
    "evals.batches": 4,
    "log.every": 1,
    "model.dropout": 0.1,
}
# Title -> tests, with what else they need.
DRILLS = {
    "A byte of a checkpoint flipped, a file of it cut or missing, a folder unfinished: told, and "
    "the one before it used": [
        "tests/training/test_checkpoint.py",
        "-k",
        "damage or flip or sigkill",
    ],
    "A full disk while saving": [
        "tests/training/test_checkpoint.py",
        "-k",
        "full_disk or too_large",
    ],
    "SIGTERM saves first": ["tests/test_train.py", "-k", "sigterm"],
    "One of two processes killed; a checkpoint of four continued by one, by two, on another mesh": [
        "tests/test_processes.py"
    ],
    "The text changed between two runs; a step with a loss of NaN: stop, skip, roll back": [
        "tests/test_bad_steps.py",
        "tests/training/test_guard.py",
    ],
    "The clock jumps": ["tests/training/test_clock.py"],
    "Fuzzing of config overrides, JSONL, manifests, headers of safetensors": [
        "tests/training/test_fuzz.py"
    ],
    "Nothing that is loaded can run code": ["tests/test_house.py", "-k", "run_code"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fuzz_times", type=int, default=20)
    parser.add_argument("--out", type=pathlib.Path, default=runs.ROOT / "docs" / "reliability.md")
    parser.add_argument("--kills_only", action="store_true", help="print the counts, write no page")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts, rows = kill_often(pathlib.Path(folder), args.kills, random.Random(args.seed))
    killed = ", ".join(f"{count} {phase}" for phase, count in sorted(counts.items()))
    print(f"{sum(counts.values())} kills ({killed}); {rows} rows of metrics equal", flush=True)
    if args.kills_only:
        return
    results = {title: count_tests(tests, args.fuzz_times) for title, tests in DRILLS.items()}
    minutes = (time.monotonic() - started) / 60
    args.out.write_text(page(counts, rows, results, args, minutes))
    if any(failed for _, failed, _ in results.values()):
        sys.exit("A drill failed: see the page.")


def write_text(path, rng):
    words = [
        a + b for a in ("ba", "de", "ki", "lo", "mu", "ne") for b in ("n", "r", "s", "t", "la")
    ]
    sentence = lambda: " ".join(rng.choices(words, k=rng.randrange(4, 14))).capitalize() + "."  # noqa: E731
    documents = ["\n".join(sentence() for _ in range(rng.randrange(3, 30))) for _ in range(2000)]
    path.write_text("\n\n".join(documents))


def phase_of(workdir, cache):
    """What a run that is going on does now, as its files tell."""
    metrics = workdir / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    if not any(cache.glob("examples/*/manifest.json")):
        return ("preparing" if any(cache.glob("corpora/*")) else "starting"), len(lines)
    try:
        last = json.loads(lines[-1]) if lines else {}
    except ValueError:
        last = {}
    due = last and last["step"] % OVERRIDES["evals.every"] == 0 and "train/loss" in last
    if due:
        return "evaluating", len(lines)
    saving = any(workdir.glob("checkpoints/*tmp*"))
    return ("saving" if saving else "training"), len(lines)


def kill_often(folder, kills, rng):
    """Returns kills by phase, and how many rows of metrics were compared."""
    text = folder / "text.txt"
    write_text(text, rng)
    overrides = OVERRIDES | {"data.source": text}
    process = runs.start("bert", folder / "whole", overrides | {"data.cache_dir": folder / "a"})
    runs.finish(process, seconds=SECONDS)
    whole = runs.rows(folder / "whole")
    assert len(whole) == STEPS + STEPS // OVERRIDES["evals.every"]

    workdir, cache = folder / "joined", folder / "b"
    counts, done = collections.Counter(), 0
    while done < kills:
        wanted = PHASES[done % len(PHASES)]
        if wanted == "preparing":
            shutil.rmtree(cache, ignore_errors=True)
        with (folder / "output").open("w") as output:  # a pipe that nobody reads would fill up
            values = overrides | {"data.cache_dir": cache}
            process = runs.start("bert", workdir, values, stdout=output)
        end = time.monotonic() + SECONDS
        before = phase_of(workdir, cache)[1]
        started, least = False, rng.randrange(3, 20)
        while True:
            assert process.poll() is None, (folder / "output").read_text()[-3000:]
            assert time.monotonic() < end, f"never {wanted}"
            phase, rows = phase_of(workdir, cache)
            started |= rows != before  # the file is cut back to the checkpoint when the run starts
            if phase == wanted and (wanted == "preparing" or (started and rows >= before + least)):
                break
            time.sleep(0.001)
        if wanted in ("preparing", "training"):
            time.sleep(rng.random() * (0.5 if wanted == "preparing" else 0.05))
        phase = phase_of(workdir, cache)[0]
        process.send_signal(signal.SIGKILL)
        process.wait()
        counts[phase] += 1
        done += 1
        print(f"kill {done}: {phase}, {phase_of(workdir, cache)[1]} rows", flush=True)
    process = runs.start("bert", workdir, overrides | {"data.cache_dir": cache})
    runs.finish(process, seconds=SECONDS)
    assert runs.rows(workdir) == whole, "the metrics of the killed run differ"
    return counts, len(whole)


def count_tests(tests, fuzz_times):
    """Returns (passed, failed, skipped)."""
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        command = [sys.executable, "-m", "pytest", *tests, f"--junitxml={report.name}"]
        env = os.environ | {"FUZZ_TIMES": str(fuzz_times)}
        subprocess.run(command, cwd=runs.ROOT, env=env, timeout=7200)
        suite = xml.etree.ElementTree.parse(report.name).getroot().find("testsuite")
    total, bad, skipped = (
        int(suite.get("tests")),
        int(suite.get("failures")) + int(suite.get("errors")),
        int(suite.get("skipped")),
    )
    return total - bad - skipped, bad + (not total), skipped  # no test at all: the drill fails


def page(counts, rows, results, args, minutes):
    lines = [
        "# Nothing lost",
        "",
        "Written by `make drills` (tests/drills.py), "
        f"{datetime.date.today()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}, "
        f"{minutes:.0f} minutes.",
        "",
        f"A small BERT of {STEPS} steps, with dropout, that saves every "
        f"{OVERRIDES['checkpoint.every']} and evaluates every {OVERRIDES['evals.every']} steps, "
        f"was killed by SIGKILL {sum(counts.values())} times (seed {args.seed}) and started again:",
        "",
        "| killed while | times |",
        "| --- | --- |",
        *(f"| {phase} | {count} |" for phase, count in sorted(counts.items())),
        "",
        f"Its metrics.jsonl equals that of an untouched run in all {rows} rows, bit for bit.",
        "",
        "| drill | passed | failed | skipped |",
        "| --- | --- | --- | --- |",
        *(f"| {title} | {p} | {f} | {s} |" for title, (p, f, s) in results.items()),
        "",
        f"Fuzzing tried {args.fuzz_times} times the examples of `make test`.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
