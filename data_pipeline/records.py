"""Records of integer arrays in ArrayRecord files."""

import bisect
import contextlib
import itertools
import os
import pathlib
import struct
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from array_record.python import array_record_module

from data_pipeline import files
from errors import UserError


def encode_arrays(*arrays: np.ndarray | Sequence[int]) -> bytes:
    """Packs 1-D arrays of integers in [0, 2**31) into a record, 2 bytes a number where they fit."""
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

    Picklable: readers open in each process when first used. Reads by range, for `reader.read([i])`
    and `grain.sources.ArrayRecordDataSource` take time in proportion to the records of the file.
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
        file = bisect.bisect_right(self._ends, index)
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


def write_records(path: pathlib.Path, records: Iterable[bytes]) -> None:
    """Writes an ArrayRecord file."""
    with files.replacing(path) as temporary:
        with _writing():
            writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
        for record in records:  # made here, so that an error in making one stays what it is
            with _writing():
                writer.write(record)
        with _writing():
            writer.close()


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # how the library tells of a full disk
        raise OSError(error) from error
