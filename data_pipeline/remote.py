"""Data sets that a library keeps: TFDS and Hugging Face `datasets`, as tables of rows.

Both libraries retry for minutes where there is no network. So data that is already on this machine
is taken first, and a short look at the host comes before any download.
"""

import hashlib
import os
import pathlib
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, NamedTuple

from errors import UserError

PATIENCE = 3  # seconds for the host to answer
TFDS_HOST = "https://storage.googleapis.com"
HF_HOST = "https://huggingface.co"


class Table(NamedTuple):
    """Rows by index (field -> value), the names of the fields, a hash, and bytes if known."""

    rows: Sequence[dict[str, Any]]
    fields: list[str]
    fingerprint: str
    size: int | None


def tfds_table(name: str, split: str) -> Table:
    """Opens a split of TFDS by name or by the folder of prepared data; downloads if need be.

    Raises:
      UserError: for unknown names and splits, unreadable data, and for want of a network.
    """
    import tensorflow_datasets as tfds  # takes half a second

    folder = pathlib.Path(name).expanduser()
    if folder.is_dir():
        try:
            builder = tfds.builder_from_directory(folder)
        except OSError as error:
            raise UserError(f"{name} holds no TFDS data: give the folder of a version.") from error
    else:
        builder = _tfds_builder(name)
    try:
        info, rows = builder.info.splits[split], builder.as_data_source(split=split)
    except (ValueError, NotImplementedError, RuntimeError, OSError) as error:
        raise UserError(
            f"Split {split!r} of {name} cannot be read: {_without_dot(error)}. Give one of "
            f"{', '.join(builder.info.splits)}, prepared with file_format='array_record'."
        ) from error
    digest = hashlib.blake2b(split.encode(), digest_size=16)
    for path in info.filepaths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return Table(rows, list(builder.info.features), digest.hexdigest(), info.num_bytes or None)


def _tfds_builder(name: str):
    import tensorflow_datasets as tfds

    try:
        return tfds.core.read_only_builder.builder_from_files(name)
    except tfds.core.DatasetNotFoundError:
        pass  # not prepared yet
    try:
        builder = tfds.builder(name)
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f"TFDS has no data set {name!r} that it can make without TensorFlow: prepare it "
            "elsewhere with file_format='array_record' and give its folder as tfds:FOLDER."
        ) from error
    _require_network(TFDS_HOST, f"tfds:{name}", f"prepare it in {builder.data_dir}")
    builder.download_and_prepare(file_format="array_record")
    return builder


def hf_table(name: str, config: str | None, split: str) -> Table:
    """Opens a split of a data set of the hub, or of a folder that `save_to_disk` wrote.

    The fingerprint is the library's own.

    Raises:
      UserError: where the library is missing, for unknown names and splits, for want of a network.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "hf: needs the library datasets: pip install '.[hf]' in the repository."
        ) from error

    folder = pathlib.Path(name).expanduser()
    host = os.environ.get("HF_ENDPOINT", HF_HOST)
    try:
        if folder.is_dir():
            data = datasets.load_from_disk(folder)
            if isinstance(data, datasets.DatasetDict):
                if split not in data:
                    raise ValueError(f"it has the splits {', '.join(data)}")
                data = data[split]
        else:
            if not reachable(host):
                datasets.config.HF_HUB_OFFLINE = True  # look into the cache only, without retries
            data = datasets.load_dataset(name, config, split=split)
    except ConnectionError as error:
        raise _no_network(host, f"hf:{name}", "load it once where there is a network") from error
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"Split {split!r} of hf:{name} cannot be read: {_without_dot(error)}."
        ) from error
    return Table(data, data.column_names, data._fingerprint, data.data.nbytes)


def reachable(url: str) -> bool:
    """Whether a host answers within `PATIENCE` seconds, through a proxy where one is set."""
    answered = threading.Event()

    def ask():
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE)
        except urllib.error.HTTPError:
            answered.set()  # an error is an answer
        except OSError:
            pass  # no answer
        else:
            answered.set()

    # A thread, because looking up the name of a host knows no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answered.is_set()


def _require_network(host: str, what: str, instead: str) -> None:
    if not reachable(host):
        raise _no_network(host, what, instead)


def _no_network(host: str, what: str, instead: str) -> UserError:
    return UserError(
        f"{what} must be downloaded, but {host} cannot be reached: {instead}, or give a "
        "local file or folder instead."
    )


def _without_dot(error: Exception) -> str:
    return str(error).rstrip(".")
