"""From the shards of a corpus to the example records of a pipeline (see rows.py), in the cache."""

import itertools
import pathlib
import random
from typing import NamedTuple

from data_pipeline import corpus as corpora
from data_pipeline import files, rows
from data_pipeline import records as record_files

VERSION = 2  # of the example records; part of the name of their cache folder


def prepare_examples(
    corpus: corpora.Corpus,
    pipeline: rows.Pipeline,
    cache: pathlib.Path,
    *,
    seed: int,
    workers: int | None = None,
    progress: corpora.Progress | None = None,
) -> dict[str, record_files.Records]:
    """Writes the example records of each corpus shard, unless a run before has done so.

    A file of records gets its name when it is whole, so a restart goes on at the first shard that
    is not done; the manifest is written last.

    Args:
      corpus: finished shards of documents.
      pipeline: what cuts them.
      cache: the folder of all example folders; the name of ours is a hash of all that is in it.
      seed: of the random choices.
      workers: processes; default: one for each core.
      progress: called with ("examples", shards done, shards in all).

    Returns:
      The records of "train" and "valid".
    """
    key = {
        "version": VERSION,
        "pipeline": type(pipeline).__name__,
        "recipe": pipeline.recipe,
        "seed": seed,
        "corpus": corpus.manifest,
    }
    directory = cache / files.content_hash(**key)
    shards = {
        split: [(shard, directory / pathlib.Path(shard).name) for shard in corpus.shards(split)]
        for split in corpora.SPLITS
    }
    with files.exclusive(directory):
        if not (directory / "manifest.json").exists():
            jobs = [
                # Held-out documents are cut once: more passes would measure the same text again.
                _Job(pipeline, shard, path, seed, pipeline.passes if split == "train" else 1)
                for split, pairs in shards.items()
                for shard, path in pairs
            ]
            files.remove_temporaries(directory)
            _run(jobs, min(workers or files.cores(), len(shards["train"])), progress)
            files.write_json(directory / "manifest.json", key)
    return {
        split: record_files.Records([path for _, path in pairs]) for split, pairs in shards.items()
    }


class _Job(NamedTuple):
    pipeline: rows.Pipeline
    shard: str  # of the corpus
    path: pathlib.Path  # of the records
    seed: int
    passes: int


def _run(jobs, workers, progress):
    """Does the jobs whose files are not there yet, in other processes if there is more than one."""
    pending = [job for job in jobs if not job.path.exists()]
    results = files.map_in_any_order(_write_shard, pending, workers)
    for done, _ in enumerate(results, len(jobs) - len(pending) + 1):
        if progress:
            progress("examples", done, len(jobs))


def _write_shard(job):
    """Writes the records of one shard, all passes."""
    documents = [record_files.decode_arrays(record) for record in record_files.Records([job.shard])]
    passes = (
        job.pipeline.write(documents, random.Random(f"{job.seed}/{job.path.name}/{i}"))
        for i in range(job.passes)
    )
    record_files.write_records(job.path, itertools.chain.from_iterable(passes))
