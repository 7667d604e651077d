"""Integer arrays survive records; damaged files and full disks are told."""

import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from data_pipeline import records
from errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "arrays", [([],), ([1, 2, 3], [65535]), ([65536, 0], [], [2**31 - 1]), (np.arange(5),)]
)
def test_arrays_survive(arrays):
    decoded = records.decode_arrays(records.encode_arrays(*arrays))
    assert len(decoded) == len(arrays)
    for array, again in zip(arrays, decoded, strict=True):
        assert again.dtype == np.int32 and np.array_equal(again, array)


def test_arrays_are_compact():
    assert len(records.encode_arrays(np.full(1000, 50256), [1000])) < 2 * 1001 + 20


@pytest.mark.parametrize("array", [[-1], [2**31], [[1, 2]]])
def test_arrays_that_do_not_fit(array):
    with pytest.raises(ValueError, match="1-D"):
        records.encode_arrays(array)


def test_records_over_several_files(tmp_path):
    wanted = [b"%d" % i * (i % 50) for i in range(3000)]
    paths = [tmp_path / name for name in "abc"]
    for path, part in zip(paths, (wanted[:1], wanted[1:2000], wanted[2000:]), strict=True):
        records.write_records(path, part)
    opened = records.Records(paths)
    assert len(opened) == 3000 and list(opened) == wanted
    again = pickle.loads(pickle.dumps(opened))
    assert [again[i] for i in (2999, 0, 2000, 1)] == [wanted[i] for i in (2999, 0, 2000, 1)]
    for outside in (-1, 3000):
        with pytest.raises(IndexError):
            opened[outside]


def test_damaged_records(tmp_path):
    path = tmp_path / "a"
    records.write_records(path, [os.urandom(1000) for _ in range(200)])
    whole = path.read_bytes()
    for damaged in (b"", whole[:1000], whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="a is damaged: delete its folder"):
            records.Records([path])
    flipped = bytearray(whole)
    flipped[100_000] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(UserError, match="is damaged"):
        list(records.Records([path]))
    with pytest.raises(UserError, match="nowhere is missing"):
        records.Records([tmp_path / "nowhere"])


def test_full_disk(tmp_path):
    """A limit on the size of files stands in for the disk; nothing half-written keeps its name."""
    code = (
        "import os, pathlib, resource, signal, sys\n"
        "from data_pipeline import records\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    records.write_records(pathlib.Path('a'), (os.urandom(1000) for _ in range(500)))\n"
        "except records.UserError as error:\n"
        "    sys.exit(str(error))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1 and "a cannot be written" in run.stderr, run.stderr
    assert list(tmp_path.iterdir()) == []
