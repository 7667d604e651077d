"""Schema graphs: the concepts of a question and of a choice, and the paths between them (KagNet).

They are made once for each set of questions, in parallel, and kept in the cache as ArrayRecord. In
a record the arrays of a choice follow each other. Letters: `N` concepts, `J` pairs of a concept of
the question and one of the choice, `K` paths, `L` hops.
"""

import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from data_pipeline import files
from data_pipeline import records as record_files
from data_pipeline.knowledge import concepts, graph, store
from errors import UserError

VERSION = 2  # of the records; part of the name of their cache folder
SHARD = 256  # questions in a file


class Limits(NamedTuple):
    """How far the search goes, and what has room in a row."""

    hops: int  # L, of a path
    threshold: float  # of a path's score; 0: nothing is pruned
    search: int  # paths of a pair after which its search ends
    concepts: int  # N, with the one that stands for none
    pairs: int  # J
    paths: int  # K, of all pairs of a choice


class SchemaGraph(NamedTuple):
    """What joins a question to one choice; integers.

    Concepts are meant by their place in `concepts`, counted from 1, for 0 stands for none.
    """

    concepts: np.ndarray  # the ids in the graph
    edges: np.ndarray  # i N + j for each two places i < j that an edge joins
    pair_question: np.ndarray  # the places of the pairs
    pair_answer: np.ndarray
    path_pair: np.ndarray  # which pair a path belongs to, from 1
    path_hops: np.ndarray
    path_concepts: np.ndarray  # hops + 1 of each path, one after the other
    path_relations: np.ndarray  # hops of each path: ids from 1
    left_out: np.ndarray  # how many pairs and paths found no room, and paths were pruned


class Question(NamedTuple):
    """A question and its choices, as texts."""

    question: str
    choices: tuple[str, ...]


class Builder:
    """Makes schema graphs of questions; holds the graph of all concepts."""

    def __init__(self, folder: str | os.PathLike, limits: Limits):
        """Reads a folder of store.py."""
        found = store.load(folder)
        self._limits = limits
        self._recognizer = concepts.Recognizer(found.entities)
        self._graph = graph.Graph(found)
        # The paths between two concepts come back in other choices and questions.
        self._paths = functools.lru_cache(maxsize=1 << 16)(self._find)

    def build(self, question: Question) -> list[SchemaGraph]:
        """Returns a graph for each choice; concepts of the choice count as its own alone."""
        asked = self._recognizer.concepts(question.question)
        return [self._of_choice(asked, text) for text in question.choices]

    def _find(self, source, target):
        """Returns the paths that pass, and how many were pruned."""
        found = self._graph.paths(source, target, hops=self._limits.hops, limit=self._limits.search)
        kept = [path for path in found if path.score >= self._limits.threshold]
        return kept, len(found) - len(kept)

    def _of_choice(self, asked, text):
        limits = self._limits
        answers = self._recognizer.concepts(text)
        asked = [i for i in asked if i not in set(answers)]
        pairs = [(q, a) for q in asked for a in answers]
        found = {pair: self._paths(*pair) for pair in pairs}
        pruned = sum(count for _, count in found.values())
        # Where there is no room for all, pairs with paths come first.
        kept = sorted(pairs, key=lambda pair: not found[pair][0])[: limits.pairs]

        places: dict[int, int] = {}

        def place(new):
            """Gives all of these concepts a place, or none where the room does not suffice."""
            new = [i for i in dict.fromkeys(new) if i not in places]
            if len(places) + len(new) > limits.concepts - 1:
                return False
            places.update({i: len(places) + n for n, i in enumerate(new, 1)})
            return True

        kept = [pair for pair in kept if place(pair)]
        # In turn a path of each pair, so that the first pairs do not take all the room.
        rest = [[(n, path) for path in found[pair][0]] for n, pair in enumerate(kept, 1)]
        turns = [x[i] for i in range(max(map(len, rest), default=0)) for x in rest if i < len(x)]
        paths = []
        for pair, path in turns:
            if len(paths) < limits.paths and place(path.concepts):
                paths.append((pair, path))
        total = sum(len(paths) for paths, _ in found.values())

        joined = np.triu(self._graph.joined(list(places)), 1)
        rows, columns = np.nonzero(joined)
        arrays = (
            list(places),
            (rows + 1) * limits.concepts + columns + 1,
            [places[q] for q, _ in kept],
            [places[a] for _, a in kept],
            [pair for pair, _ in paths],
            [len(path.relations) for _, path in paths],
            [places[i] for _, path in paths for i in path.concepts],
            [r + 1 for _, path in paths for r in path.relations],
            [len(pairs) - len(kept), total - len(paths), pruned],
        )
        return SchemaGraph(*(np.asarray(x, np.int32) for x in arrays))


def encode(graphs: Sequence[SchemaGraph]) -> bytes:
    """Returns a record of the graphs of all choices of a question."""
    return record_files.encode_arrays(*(array for found in graphs for array in found))


def decode(record: bytes) -> list[SchemaGraph]:
    """Returns the graphs of `encode`."""
    arrays, width = record_files.decode_arrays(record), len(SchemaGraph._fields)
    return [SchemaGraph(*arrays[i : i + width]) for i in range(0, len(arrays), width)]


def prepare(
    questions: Sequence[Question],
    folder: str | os.PathLike,
    limits: Limits,
    cache: pathlib.Path,
    *,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> record_files.Records:
    """Makes the graphs of questions, unless a run before has done so.

    A file gets its name when it is whole, so that a restart goes on at the first that is not done.

    Args:
      questions: the questions.
      folder: of store.py.
      limits: see there.
      cache: the folder of all sets of graphs; the name of ours is a hash of all that is in it.
      workers: processes; default: one for each core.
      progress: called with ("schema graphs", files done, files in all).

    Returns:
      A record for each question, in order; see `decode`.

    Raises:
      UserError: for limits that leave no room, or a folder that is not there.
    """
    check(limits)
    store.shapes(folder)  # says what is wrong with it
    key = {"version": VERSION, "limits": limits._asdict(), "questions": _digest(questions)}
    directory = cache / files.content_hash(**key, graph=_fingerprint(folder))
    starts = range(0, len(questions), SHARD)
    jobs = [
        _Job(str(folder), limits, questions[i : i + SHARD], directory / f"{i:08}.array_record")
        for i in starts
    ]
    with files.exclusive(directory):
        files.remove_temporaries(directory)
        pending = [job for job in jobs if not job.path.exists()]
        results = files.map_in_any_order(
            _write_shard, pending, max(1, min(workers or files.cores(), len(pending)))
        )
        for done, _ in enumerate(results, len(jobs) - len(pending) + 1):
            if progress:
                progress("schema graphs", done, len(jobs))
    return record_files.Records([job.path for job in jobs])


class _Job(NamedTuple):
    folder: str
    limits: Limits
    questions: Sequence[Question]
    path: pathlib.Path


def _write_shard(job):
    builder = _builder(job.folder, job.limits)
    record_files.write_records(job.path, (encode(builder.build(q)) for q in job.questions))


@functools.lru_cache(maxsize=1)  # for the shards of one process
def _builder(folder, limits):
    return Builder(folder, limits)


def _digest(questions: Sequence[Question]) -> str:
    return files.content_hash(questions=[[q.question, *q.choices] for q in questions])


def _fingerprint(folder: str | os.PathLike) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name in ("entities.txt", "relations.txt", store.VECTORS):
        with (pathlib.Path(folder).expanduser() / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def check(limits: Limits) -> None:
    """Raises a UserError for limits that leave no room."""
    for name, value in limits._asdict().items():
        least = 0 if name == "threshold" else 1
        if value < least:
            raise UserError(f"data.graphs.{name}={value} must be at least {least}.")
    if limits.concepts < limits.hops + 2:
        raise UserError(
            f"data.graphs.concepts={limits.concepts} has no room for a path of {limits.hops} hops: "
            f"make it at least {limits.hops + 2}."
        )


def count(found: Sequence[SchemaGraph]) -> dict[str, int]:
    """Returns how many of the graphs lack what, and what became of the paths."""
    left_out = np.sum([g.left_out for g in found], axis=0) if found else np.zeros(3, int)
    pairs, paths, pruned = left_out.tolist()
    return {
        "choices": len(found),
        "without pairs": sum(not len(g.pair_answer) for g in found),
        "without paths": sum(not len(g.path_pair) for g in found),
        "paths": sum(len(g.path_pair) for g in found),
        "paths pruned": pruned,
        "paths without room": paths,
        "pairs without room": pairs,
    }
