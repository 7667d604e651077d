r"""Trains TransE on a file of triples, ranks those held out, and saves the vectors.

    python scripts/train_transe.py --config=configs/transe.py --output=runs/transe \
        --config.data.train=train.txt.gz --config.data.test=test.txt --config.data.layout=rht

The folder gets entities.txt, relations.txt, vectors.safetensors (data_pipeline/knowledge/store.py),
results.json and checkpoints/: the same command again continues a run that was stopped.
"""

import json
import pathlib
import time

import jax
import rich.console
import rich.table
from absl import app, flags
from ml_collections import config_flags

from data_pipeline import files
from data_pipeline.knowledge import store, triples
from errors import UserError, exit_on_user_error, parse_flags
from evaluation import link_prediction
from training import compilation_cache, transe

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_OUTPUT = flags.DEFINE_string("output", None, "The folder for the vectors.", required=True)


@exit_on_user_error
def main(argv):
    """Trains, saves and prints the ranks."""
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}: every flag begins with --.")
    if _CONFIG.value is None or not _CONFIG.value.data.train:
        raise UserError("Say what to learn: --config=configs/transe.py --config.data.train=FILE")
    config, output = _CONFIG.value, pathlib.Path(_OUTPUT.value).expanduser().absolute()
    files.make_writable(output)
    compilation_cache.enable()
    console = rich.console.Console(highlight=False, soft_wrap=True)

    c = config.data
    held_out = {name: c[name] for name in ("valid", "test") if c[name]}
    graph = triples.read(c.train, held_out, c.layout, merge=c.merge)
    console.print(
        f"{len(graph.train):,} triples, {len(graph.entities):,} entities, "
        f"{len(graph.relations)} relations; {graph.dropped:,} lines left out."
    )
    setup, start = transe.prepare(config, graph), time.monotonic()

    def report(step, metrics):
        values = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        console.print(f"step {step:,}, {time.monotonic() - start:.0f} s: {values}")

    with setup.placed():
        params = transe.train(config, setup, graph.train, output, report)
        entities, relations = transe.vectors(setup, params)
        if jax.process_index() == 0:
            made = store.Store(graph.entities, graph.relations, graph.train, entities, relations)
            store.save(output, made)
        if "test" in graph.held_out:
            results = _rank(graph, setup, params)
            if jax.process_index() == 0:
                _show(results, graph, console)
                files.write_text(output / "results.json", json.dumps(results, indent=1) + "\n")


def _rank(graph, setup, params):
    test = graph.held_out["test"]
    asked = link_prediction.queries(test, [graph.train, *graph.held_out.values()])
    count = len(graph.entities)
    by_frequency = link_prediction.frequency_ranks(graph.train, count, asked)
    ranked = link_prediction.ranks(setup.objective, params, asked)
    return {
        "random": link_prediction.random_scores(count, asked),
        "frequency": link_prediction.scores(by_frequency),
        "TransE": link_prediction.scores(ranked),
    }


def _show(results, graph, console):
    table = rich.table.Table("", "mean rank", "hits@10")
    for name, values in results.items():
        table.add_row(name, f"{values['mean_rank']:,.1f}", f"{values['hits@10']:.2%}")
    console.print(table)
    console.print(
        f"Heads and tails of {len(graph.held_out['test']):,} triples, filtered; "
        f"{graph.unseen['test']} of them have an entity that training has not."
    )


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
