"""From documents to a corpus: tokenized, split into train and valid, in shards with a manifest.

A corpus is a folder:

    plan.json       what it is made from; a restart with other text or another vocabulary is refused
    chunks/*.json   one per finished chunk of text: its counts. Written after the chunk's shards
    {train,valid}-NNNNN.array_record    one record per document, see `decode_arrays`
    manifest.json   written last: a folder without it is not a corpus

The text is cut into chunks of `shard_bytes` in the order of the source. Each chunk is one unit of work for
one process, gives at most one shard per split, and is skipped when a restart finds it finished. Every file
gets its name by a rename, so a file that has its name is whole.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import pathlib
import re
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from array_record.python import array_record_module

from data_pipeline import sources, tokenizers
from errors import UserError

VERSION = 1
SPLITS = ("train", "valid")
# Called with a stage ("tokenize"), bytes of text done, and their total where the source knows it, roughly.
Progress = Callable[[str, int, int | None], None]


# Records


def encode_arrays(*arrays: np.ndarray | Sequence[int]) -> bytes:
    """Packs 1-D arrays of integers in [0, 2**31) into one record, 2 bytes a number where they fit."""
    arrays = [np.asarray(a, np.int64) for a in arrays]
    for a in arrays:
        if a.ndim != 1 or (a.size and (a.min() < 0 or a.max() >= 2**31)):
            raise ValueError("encode_arrays takes 1-D arrays of integers in [0, 2**31).")
    dtypes = ["<u2" if not a.size or a.max() < 2**16 else "<u4" for a in arrays]
    header = [
        struct.pack("<cI", d[2].encode(), a.size) for d, a in zip(dtypes, arrays, strict=True)
    ]
    bodies = [a.astype(d).tobytes() for d, a in zip(dtypes, arrays, strict=True)]
    return b"".join([bytes([len(arrays)]), *header, *bodies])


def decode_arrays(record: bytes) -> tuple[np.ndarray, ...]:
    """Returns the arrays of `encode_arrays` as int32."""
    count, item = record[0], struct.calcsize("<cI")
    offset, arrays = 1 + count * item, []
    for i in range(count):
        width, size = struct.unpack_from("<cI", record, 1 + i * item)
        array = np.frombuffer(record, f"<u{width.decode()}", size, offset)
        offset += array.nbytes
        arrays.append(array.astype(np.int32))
    return tuple(arrays)


class Records:
    """Random access over the records of several ArrayRecord files, in order.

    Picklable: readers open in each process when first used. Reads by range, for `reader.read([i])` and
    `grain.sources.ArrayRecordDataSource` cost time in proportion to the records of the file.
    """

    def __init__(self, paths: Iterable[str | os.PathLike]):
        """Counts the records of each file.

        Raises:
          UserError: when a file is missing or damaged.
        """
        self._paths = [str(p) for p in paths]
        self._readers = {}
        counts = []
        for i in range(len(self._paths)):
            counts.append(self._reader(i).num_records())
            self._readers.pop(i).close()
        self._ends = list(itertools.accumulate(counts))

    def __getstate__(self):
        return self.__dict__ | {"_readers": {}}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> bytes:
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"Record {index} of {len(self)}.")
        file = np.searchsorted(self._ends, index, side="right").item()
        start = index - (self._ends[file - 1] if file else 0)
        try:
            return self._reader(file).read(start, start + 1)[0]
        except (RuntimeError, IndexError) as error:
            raise _damaged(self._paths[file]) from error

    def _reader(self, file: int) -> array_record_module.ArrayRecordReader:
        if file not in self._readers:
            path = self._paths[file]
            if not os.path.exists(path):
                raise UserError(f"{path} is missing: delete its folder, and it is prepared again.")
            options = "readahead_buffer_size:0,max_parallelism:0"
            reader = array_record_module.ArrayRecordReader(
                path, options, file_reader_buffer_size=32768
            )
            if not reader.ok():  # it raises nothing for a truncated file: it has 0 records then
                raise _damaged(path)
            self._readers[file] = reader
        return self._readers[file]


def _damaged(path: str) -> UserError:
    return UserError(f"{path} is damaged: delete its folder, and it is prepared again.")


# Files and processes, for the examples too


@contextlib.contextmanager
def exclusive(directory: str | os.PathLike) -> Iterator[None]:
    """Makes a folder and keeps every other process that asks for it waiting until the block ends.

    Raises:
      UserError: when the folder cannot be made or written.
    """
    directory = pathlib.Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{directory} cannot be written ({error}): name another folder.") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the file, so also when the process is killed
        yield


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary name to write to; when the block ends, the file is on the disk as `path`."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}): free some space.") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_records(path: pathlib.Path, records: Iterable[bytes]) -> None:
    """Writes an ArrayRecord file."""
    with replacing(path) as temporary:
        try:
            writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
            for record in records:
                writer.write(record)
            writer.close()
        except RuntimeError as error:  # how the library tells of a full disk
            raise OSError(error) from error


def write_json(path: pathlib.Path, content: dict) -> None:
    """Writes a JSON file."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def content_hash(**parts) -> str:
    """Returns a hash of JSON-able parts, 16 hex digits: the name of a folder in the cache."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def process_pool(workers: int, initializer=None, *arguments) -> concurrent.futures.Executor:
    """Returns a pool of processes that end with this one, even if it is killed."""
    return concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),  # a fork of JAX's threads can deadlock
        initializer=_start_worker,
        initargs=(initializer, arguments),
    )


def _start_worker(initializer, arguments):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism

    def end_with_parent():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    if initializer:
        initializer(*arguments)
