"""What every stage of data preparation does with files and processes.

A file gets its name when it is whole, a folder is worked on by one process at a time, and workers
end with the process that started them.
"""

import concurrent.futures.process
import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import os
import pathlib
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from errors import UserError

TEMPORARY = ".tmp"


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
    """Gives a temporary name to write to; when the block ends, it is on the disk as `path`.

    Raises:
      UserError: when the disk is full.
    """
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


def make_writable(folder: str | os.PathLike) -> None:
    """Makes a folder that a user names for results, before what goes there is computed.

    Raises:
      UserError: if it cannot be made or written.
    """
    folder = pathlib.Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error}): name another folder.") from error


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file that a user asked for, and its folder where that is missing.

    Raises:
      UserError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}): name another place.") from error


def write_json(path: pathlib.Path, content: dict) -> None:
    """Writes a JSON file."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def read_json(path: pathlib.Path, kind: type = dict) -> Any:
    """Reads a JSON file that a run before has written.

    Raises:
      UserError: if it is damaged, or holds no `kind`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, kind):
            raise ValueError(f"no {kind.__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({error}): delete its folder, or restore it from a backup."
        ) from error
    return content


def content_hash(**parts) -> str:
    """Returns a hash of JSON-able parts, 16 hex digits: the name of a folder in the cache."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def remove_temporaries(directory: pathlib.Path) -> None:
    """Removes what killed processes left half-written."""
    for path in directory.rglob(f"*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def map_in_any_order(function: Callable, items: Iterable, workers: int) -> Iterator:
    """Yields the results in any order, with few items in memory at a time.

    With more than one worker the function runs in other processes, which end with this one even if
    it is killed.

    Raises:
      UserError: when such a process dies.
    """
    if workers == 1:
        yield from map(function, items)
        return
    try:
        with process_pool(workers) as pool:
            running = set()
            for item in items:
                running.add(pool.submit(function, item))
                if len(running) > workers:
                    first = concurrent.futures.FIRST_COMPLETED
                    ready, running = concurrent.futures.wait(running, return_when=first)
                    yield from (future.result() for future in ready)
            yield from (future.result() for future in concurrent.futures.as_completed(running))
    except concurrent.futures.process.BrokenProcessPool as error:
        raise UserError(
            "A process died while preparing text, perhaps for want of memory: start again with "
            "fewer workers; the finished shards are kept."
        ) from error


def process_pool(workers: int) -> concurrent.futures.Executor:
    """Returns a pool of processes that end with this one, even if it is killed."""
    spawn = multiprocessing.get_context("spawn")  # a fork of JAX's threads can deadlock
    return concurrent.futures.ProcessPoolExecutor(workers, spawn, initializer=_start_worker)


def end_with_parent(*_) -> None:
    """Makes a worker process end when its parent is killed; by itself it would wait forever."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start_worker():
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    end_with_parent()
