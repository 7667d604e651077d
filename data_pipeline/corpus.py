"""From documents to a corpus: tokenized, split into train and valid, in shards with a manifest.

A corpus is a folder:

    plan.json       what it is made from; a restart with other text or another vocabulary is refused
    chunks/*.json   one per finished chunk of text: its counts. Written after the chunk's shards
    {train,valid}-NNNNN.array_record   one record per document: the ids of all its sentences one
                    after another, and the lengths of the sentences (`records.decode_arrays`);
                    of an annotated corpus two columns more, see annotations.py
    manifest.json   written last: a folder without it is not a corpus

The text is cut into chunks of `shard_bytes` in the order of the source. A chunk is a unit of work
for one process, gives at most one shard per split, and is skipped when a restart finds it finished.
"""

import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import ml_collections

from data_pipeline import (
    annotations,
    files,
    records,
    sentences,
    sources,
    tokenizer_training,
    tokenizers,
)
from errors import UserError

VERSION = 1  # of the rules by which text becomes records
SPLITS = ("train", "valid")
UNITS = ("documents", "sentences", "tokens", "bytes")  # bytes of the text in UTF-8
SHARD_BYTES = 16 << 20
_SHARD = re.compile(r"(train|valid)-\d{5,}\.array_record")  # nothing outside of the folder
TRAINING_BYTES = 256 << 20  # of text are enough for a vocabulary, and SentencePiece keeps all of it
# Called with a stage, bytes of text done and, where the source knows, about how many there are.
Progress = Callable[[str, int, int | None], None]


class Writer(Protocol):
    """Makes the shards of a corpus in its own way (beam.py)."""

    name: str

    def __call__(self, source, tokenizer, directory: pathlib.Path, plan: dict) -> dict:
        """Writes them; returns the counts and the names of the shards of each split."""


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A finished corpus.

    `manifest` holds version, source, source_spec, tokenizer (a fingerprint), kind, vocab_size,
    valid_fraction, shard_bytes, and per split {documents, sentences, tokens, bytes (of UTF-8 text),
    shards (file names)}.
    """

    directory: pathlib.Path
    manifest: dict

    def shards(self, split: str) -> list[str]:
        """Returns the paths of the shards of "train" or "valid", in the order of the source."""
        return [str(self.directory / name) for name in self.manifest["splits"][split]["shards"]]


def open_corpus(directory: str | os.PathLike) -> Corpus:
    """Opens a finished corpus; raises UserError where there is none."""
    path = pathlib.Path(directory) / "manifest.json"
    if not path.exists():
        raise UserError(f"{directory} holds no finished corpus: run scripts/prepare_corpus.py.")
    manifest = files.read_json(path)
    try:
        for split in SPLITS:
            counts = manifest["splits"][split]
            whole = all(isinstance(counts[unit], int) for unit in UNITS)
            if not whole or not all(map(_SHARD.fullmatch, counts["shards"])):
                raise ValueError(split)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no manifest of a corpus: delete its folder, and it is prepared again."
        ) from error
    return Corpus(path.parent, manifest)


def _annotated(annotator: annotations.Annotator | None) -> dict[str, str]:
    """Returns what annotations add to the description of a corpus."""
    return {} if annotator is None else {"annotations": annotator.fingerprint}


def cache_directory(
    cache_dir, source, tokenizer, valid_fraction: float, annotator=None
) -> pathlib.Path:
    """Returns where in the cache the corpus of these belongs."""
    parts = {
        "version": VERSION,
        "source": source.fingerprint(),
        "tokenizer": tokenizer.fingerprint,
        "valid_fraction": valid_fraction,
        **_annotated(annotator),
    }
    return pathlib.Path(cache_dir) / "corpora" / files.content_hash(**parts)


def prepare_corpus(
    source: sources.Source,
    tokenizer: tokenizers.Tokenizer,
    directory: str | os.PathLike,
    *,
    valid_fraction: float,
    workers: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
    annotator: annotations.Annotator | None = None,
    writer: Writer | None = None,
) -> Corpus:
    """Tokenizes a source into `directory`, or goes on where an earlier call stopped.

    The result does not depend on `workers` or on interruptions, byte for byte. Another `writer`
    makes the same records, in other shards.

    Args:
      source: the documents.
      tokenizer: WordPiece and SentencePiece get sentences, byte-level BPE whole documents.
      directory: made if need be; processes that want the same one wait for each other.
      valid_fraction: share of the documents that is held out, chosen by a hash of their text.
      workers: processes; None: one for each core.
      shard_bytes: bytes of text in a chunk, before the split.
      progress: called after each chunk.
      annotator: says what entities and phrases there are; None: they are not kept.
      writer: what makes the shards, of text that is not annotated; None: processes of this machine.

    Raises:
      UserError: for a folder with another corpus, unreadable or too little text, a full disk.
    """
    if not 0 < valid_fraction < 1:
        raise UserError(f"valid_fraction={valid_fraction}: give a number between 0 and 1.")
    directory = pathlib.Path(directory)
    plan = {
        "version": VERSION,
        "source": source.fingerprint(),
        "tokenizer": tokenizer.fingerprint,
        "kind": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "valid_fraction": valid_fraction,
        "shard_bytes": shard_bytes,
        **_annotated(annotator),
    }
    if writer is not None:
        plan["writer"] = writer.name
    with files.exclusive(directory):
        _check_plan(directory, plan)
        if not (directory / "manifest.json").exists():
            files.remove_temporaries(directory)
            if writer is not None:
                splits = writer(source, tokenizer, directory, plan)
            else:
                workers = workers or files.cores()
                splits = _write_all(
                    source, tokenizer, annotator, directory, plan, workers, progress
                )
            _check_splits(splits, source.spec, valid_fraction)
            manifest = plan | {"source_spec": source.spec, "splits": splits}
            files.write_json(directory / "manifest.json", manifest)
    return open_corpus(directory)


def _check_plan(directory: pathlib.Path, plan: dict) -> None:
    path = directory / "plan.json"
    if not path.exists():
        return files.write_json(path, plan)
    old = files.read_json(path)
    keys = {**old, **plan}
    if (directory / "manifest.json").exists():
        keys.pop("writer", None)  # who made what is finished does not matter
    changed = [key for key in keys if plan.get(key) != old.get(key)]
    if changed:
        raise UserError(
            f"{directory} was begun with another {', '.join(changed)}: name another folder, or "
            "delete this one."
        )


def _check_splits(splits: dict, spec: str, valid_fraction: float) -> None:
    total = sum(splits[split]["documents"] for split in SPLITS)
    for split, change in {"train": "lower", "valid": "raise"}.items():
        if not splits[split]["documents"]:
            raise UserError(
                f"{spec} has {total} documents, and none falls into {split} with valid_fraction="
                f"{valid_fraction}: {change} valid_fraction or give more text."
            )


def _chunks(source: sources.Source, size: int) -> Iterator[list[sources.Document]]:
    """Yields the documents in lists of at least `size` bytes of text, but for the last."""
    documents, total = [], 0
    for document in source.documents():
        documents.append(document)
        total += len(document.text.encode())
        if total >= size:
            yield documents
            documents, total = [], 0
    if documents:
        yield documents


def _write_all(source, tokenizer, annotator, directory, plan, workers, progress) -> dict:
    """Writes the shards of all chunks; returns the counts and the shards of each split."""
    (directory / "chunks").mkdir(exist_ok=True)
    chunks = enumerate(_chunks(source, plan["shard_bytes"]))
    first = list(itertools.islice(chunks, 2))
    if len(first) < 2:
        workers = 1
    chunks = itertools.chain(first, chunks)
    write = functools.partial(_write_chunk, directory, tokenizer, annotator, plan["valid_fraction"])
    results, done, total = {}, 0, source.size()
    for index, counts in files.map_in_any_order(write, chunks, workers):
        results[index] = counts
        done += sum(counts[split]["bytes"] for split in SPLITS)
        if progress:
            progress("tokenize", done, total)
    if progress and done != total:  # the total is a guess
        progress("tokenize", done, done)
    return {
        split: {
            **{unit: sum(counts[split][unit] for counts in results.values()) for unit in UNITS},
            "shards": [
                shard_name(split, i) for i in sorted(results) if results[i][split]["documents"]
            ],
        }
        for split in SPLITS
    }


def _write_chunk(
    directory: pathlib.Path,
    tokenizer: tokenizers.Tokenizer,
    annotator: annotations.Annotator | None,
    valid_fraction: float,
    chunk: tuple[int, list[sources.Document]],
) -> tuple[int, dict]:
    """Writes the shards of one chunk, or finds that it is done; returns its number and counts."""
    index, found = chunk
    path = directory / "chunks" / f"{index:05}.json"
    if path.exists():
        return index, files.read_json(path)
    counts = {split: dict.fromkeys(UNITS, 0) for split in SPLITS}
    documents = {split: [] for split in SPLITS}
    for document in encode(tokenizer, annotator, found, valid_fraction):
        documents[document.split].append(document.record)
        for unit, size in zip(UNITS, document.sizes, strict=True):
            counts[document.split][unit] += size
    for split in SPLITS:
        if documents[split]:
            records.write_records(directory / shard_name(split, index), documents[split])
    files.write_json(path, counts)
    return index, counts


def shard_name(split: str, index: int) -> str:
    """Returns the file name of a shard."""
    return f"{split}-{index:05}.array_record"


class Encoded(NamedTuple):
    """A document as it is stored: its split, its record, and its size in each of UNITS."""

    split: str
    record: bytes
    sizes: tuple[int, ...]


def encode(
    tokenizer: tokenizers.Tokenizer,
    annotator: annotations.Annotator | None,
    documents: list[sources.Document],
    valid_fraction: float,
) -> Iterator[Encoded]:
    """Yields each document that has tokens."""
    for text, ids, *columns in _tokenize(tokenizer, annotator, documents):
        split = "valid" if held_out(text, valid_fraction) else "train"
        tokens, lengths = list(itertools.chain(*ids)), list(map(len, ids))
        sizes = (1, len(lengths), len(tokens), len(text.encode()))
        yield Encoded(split, records.encode_arrays(tokens, lengths, *columns), sizes)


def _tokenize(tokenizer, annotator, documents: list[sources.Document]) -> Iterator[tuple]:
    """Yields each text that has tokens, with the ids of its sentences and what is annotated."""
    for start in range(0, len(documents), 256):  # many at a time, for the tokenizer's threads
        batch = documents[start : start + 256]
        if annotator is not None:
            yield from annotator.read(batch)
            continue
        batch = [document.text for document in batch]
        pieces = [_pieces(tokenizer, text) for text in batch]
        ids = iter(tokenizer.encode_batch(list(itertools.chain(*pieces))))
        for text, parts in zip(batch, pieces, strict=True):
            encoded = [sentence for sentence in itertools.islice(ids, len(parts)) if sentence]
            if encoded:
                yield text, encoded


def _pieces(tokenizer: tokenizers.Tokenizer, text: str) -> list[str]:
    """Returns what is tokenized by itself: sentences, or all of a text that must stay lossless.

    Byte-level BPE keeps every byte. A masked LM's (RoBERTa's) is given sentences all the same, each
    with the white space before it; a decoder's the whole text.
    """
    found = [sentence for line in text.split("\n") for sentence in sentences.split(line)]
    if tokenizer.kind != "byte_bpe":
        return found
    if tokenizer.mask_id is None or not found:
        return [text]
    pieces, start, end = [], 0, 0
    for sentence in found:
        end = text.index(sentence, end) + len(sentence)
        pieces.append(text[start:end])
        start = end
    return [*pieces[:-1], pieces[-1] + text[start:]]


def _share(text: str) -> float:
    """Returns a number in [0, 1) that depends on the text alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def held_out(text: str, valid_fraction: float) -> bool:
    """Whether a document belongs to the split "valid"; equal texts fall on the same side."""
    return _share(text) < valid_fraction


# Vocabulary


@dataclasses.dataclass
class Sample:
    """Texts of a source, or an even sample of them where there are more than TRAINING_BYTES."""

    source: sources.Source
    progress: Progress | None

    def __iter__(self) -> Iterator[str]:
        size = self.source.size()
        share = min(1.0, TRAINING_BYTES / size) if size else 1.0
        report = self.progress or (lambda stage, done, total: None)
        done = reported = 0
        for document in self.source.documents():
            done += len(document.text.encode())
            if done - reported >= 1 << 20:
                reported = done
                report("read text for the vocabulary", done, size)
            if _share(document.id + document.text) < share:
                yield document.text
        report("read text for the vocabulary", done, done)


def prepare_tokenizer(
    source: sources.Source,
    config: ml_collections.ConfigDict,
    cache_dir: str | os.PathLike,
    progress: Progress | None = None,
) -> tokenizers.Tokenizer:
    """Loads the vocabulary at `config.path`, or trains one on the source, once per cache.

    Args:
      source: text to train on.
      config: kind, path, vocab_size, lowercase, specials, sentinels: `data.tokenizer` of a config.
      cache_dir: a trained vocabulary is kept below it, by a hash of the text and the settings.
      progress: called while text is read.

    Raises:
      UserError: see `tokenizers.load` and `tokenizer_training.train`.
    """
    settings = (
        config.kind,
        config.vocab_size,
        config.lowercase,
        config.specials,
        config.sentinels,
    )
    if config.path is not None:
        sentinels = config.sentinels or None
        return tokenizers.load(config.path, config.kind, config.lowercase, sentinels)
    name = files.content_hash(version=VERSION, source=source.fingerprint(), settings=settings)
    directory = pathlib.Path(cache_dir) / "tokenizers" / name
    with files.exclusive(directory):
        done = directory / "done.json"
        if not done.exists():
            kind, *others = settings
            tokenizer = tokenizer_training.train(kind, Sample(source, progress), *others)
            tokenizer.save(directory)
            files.write_json(done, {"source": source.spec, "fingerprint": tokenizer.fingerprint})
        tokenizer = tokenizers.load(directory)
        if tokenizer.fingerprint != files.read_json(done).get("fingerprint"):
            raise UserError(f"The vocabulary in {directory} was changed: delete this folder.")
    return tokenizer
