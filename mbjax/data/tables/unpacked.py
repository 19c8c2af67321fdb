"""Compressed tables that are read into memory: of no more than it holds, for a small file may unpack to any size."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pandas.io.common import get_handle, infer_compression  # what `pandas.read_csv` itself unpacks with

from mbjax.types import UserError

_BYTE, _FIELD = 2, 32  # bytes of memory for each byte of text and each field: pandas' tokens, then its columns
_VALUE = 8  # bytes of memory for each value of a Parquet file
_PART = 2**20  # bytes that are read at a time where all are asked for


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """What `pandas.read_csv` is to read: the path of a plain CSV file, or the `Unpacked` content of a compressed one.

    Raises:
      Exception: whatever a damaged file makes the decompressors raise.
    """
    if infer_compression(path, "infer") is None:
        yield path  # which pandas reads with several threads
        return
    with get_handle(path, "rb", compression="infer", is_text=False) as handles:
        yield Unpacked(handles.handle, path)


class Unpacked(io.BufferedIOBase):
    """The content of a compressed CSV file.

    Attributes:
      taken: bytes of memory that what was read since the start, or since somebody set this to 0, becomes.
    """

    def __init__(self, stream: Any, path: Path):
        self.taken = 0
        self._stream, self._path, self._free = stream, path, free_memory()

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Raises a UserError when memory would not hold what was read."""
        parts = []
        while size is None or size < 0 or not parts:
            part = self._stream.read(_PART if size is None or size < 0 else size)
            if not part:
                break
            self.taken += _BYTE * len(part) + _FIELD * (part.count(b",") + part.count(b"\n"))
            if self.taken > self._free:
                raise _too_large(self._path, self.taken, self._free)
            parts.append(part)
        return b"".join(parts)

    read1 = read


def check_parquet(path: Path) -> None:
    """Raises a UserError if memory does not hold the values that a Parquet file says it has."""
    about = pq.ParquetFile(path).metadata
    needed, free = _VALUE * about.num_rows * about.num_columns, free_memory()
    if needed > free:
        raise _too_large(path, needed, free)


def free_memory() -> int:
    """Bytes that this machine has for new data; all of its memory where the system does not say."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        text = Path("/proc/meminfo").read_text()
        return 1024 * int(text.partition("MemAvailable:")[2].split()[0])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _too_large(path: Path, needed: int, free: int) -> UserError:
    return UserError(
        f"{path} unpacks to a table that takes {needed / 2**30:.1f} GiB of memory or more, {free / 2**30:.1f} GiB are "
        "free: see what it holds; configs/table.py reads tables that are larger than memory"
    )
