"""Shards of a corpus by an Apache Beam pipeline, for text that one machine is too slow for.

The pipeline runs wherever Beam's own options say: in this process, on Flink, Spark or Dataflow. Its
workers must have this package installed and see the text and the folder of the corpus under the
same paths. What a shard holds depends on the texts alone, so a worker that is started again, or
another runner, writes the same bytes.
"""

import dataclasses
import hashlib
import importlib.util
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from data_pipeline import corpus, files, records, sources, tokenizers
from errors import UserError


class Writer:
    """A corpus.Writer."""

    name = "beam"

    def __init__(self, options: Sequence[str] = ()):
        """Takes Beam's options, such as --runner=FlinkRunner; none: it runs in this process.

        Raises:
          UserError: without Beam.
        """
        self._options = options
        if importlib.util.find_spec("apache_beam") is None:
            raise UserError(
                "Beam is not installed: pip install 'bert-to-gpt3[beam]', in an environment of its "
                "own, for it asks for older libraries."
            )

    def __call__(
        self,
        source: sources.Source,
        tokenizer: tokenizers.Tokenizer,
        directory: pathlib.Path,
        plan: dict,
    ) -> dict:
        """Writes all shards; returns the counts and the names of the shards of each split.

        Raises:
          UserError: for text that cannot be read, or a source of unknown size.
        """
        import apache_beam
        from apache_beam.options import pipeline_options

        size = source.size()
        if size is None:
            raise UserError(f"{source.spec} does not tell its size: prepare it without Beam.")
        shards = -(-size // plan["shard_bytes"])
        (directory / "chunks").mkdir(exist_ok=True)
        # Its check of types cannot read a Protocol.
        options = pipeline_options.PipelineOptions(list(self._options), pipeline_type_check=False)
        try:
            with apache_beam.Pipeline(options=options) as pipeline:
                _ = (
                    pipeline
                    | apache_beam.Create(_parts(source))
                    | "read" >> apache_beam.FlatMap(lambda part: part.documents())
                    | apache_beam.Reshuffle()
                    | apache_beam.BatchElements(min_batch_size=64, max_batch_size=256)
                    | "tokenize"
                    >> apache_beam.FlatMap(_encode, tokenizer, plan["valid_fraction"], shards)
                    | apache_beam.GroupByKey()
                    | "write" >> apache_beam.Map(_write, str(directory))
                )
        except Exception as error:
            raise _as_user_error(error) from error
        return _collect(directory)


def _parts(source: sources.Source) -> list[sources.Source]:
    """Returns what workers read beside each other: single files, where there are files."""
    if isinstance(source, sources.Files):
        return [dataclasses.replace(source, paths=(path,)) for path in source.paths]
    return [source]


def _encode(
    documents: list[sources.Document],
    tokenizer: tokenizers.Tokenizer,
    valid_fraction: float,
    shards: int,
) -> Iterator[tuple]:
    """Yields ((split, shard), (record, sizes)); which shard, a hash of the record says."""
    for document in corpus.encode(tokenizer, None, documents, valid_fraction):
        digest = hashlib.blake2b(document.record, digest_size=8).digest()
        shard = int.from_bytes(digest, "little") % shards
        yield (document.split, shard), (document.record, document.sizes)


def _write(shard: tuple[tuple[str, int], Iterable], directory: str) -> None:
    """Writes a shard and its counts, its records in an order that does not depend on the runner."""
    (split, index), documents = shard
    documents = sorted(documents)
    path = pathlib.Path(directory)
    name = corpus.shard_name(split, index)
    records.write_records(path / name, (record for record, _ in documents))
    counts = [sum(column) for column in zip(*(sizes for _, sizes in documents), strict=True)]
    content = {"split": split, "shard": name, "counts": dict(zip(corpus.UNITS, counts))}
    files.write_json(path / "chunks" / f"{split}-{index:05}.json", content)


def _collect(directory: pathlib.Path) -> dict:
    """Adds up the counts of all shards."""
    found = [files.read_json(path) for path in sorted((directory / "chunks").iterdir())]
    result = {}
    for split in corpus.SPLITS:
        mine = [part for part in found if part["split"] == split]
        counts = {unit: sum(part["counts"][unit] for part in mine) for unit in corpus.UNITS}
        result[split] = counts | {"shards": [part["shard"] for part in mine]}
    return result


def _as_user_error(error: Exception) -> Exception:
    """Returns what a worker raised: a UserError without what Beam adds; any other is a bug."""
    _, raised, text = f"{type(error).__module__}.{type(error).__name__}: {error}".rpartition(
        "errors.UserError: "  # from another process it comes as a traceback in text
    )
    return UserError(text.splitlines()[0].partition(" [while running")[0]) if raised else error
