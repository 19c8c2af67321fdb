"""Rows of a table on disk by their index: whole blocks are read, rows are taken from them, and scaled.

What is read is read, not mapped: pages of a mapped file would count as memory of the process.
"""

import hashlib
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbjax.types import UserError, first_line

_BLOCK, _LARGE_BLOCK, _LARGE = 256, 1024, 2**22  # rows of a block, and those where the table has so many, or fewer:
_BLOCK_BYTES = 2**17  # it has at most so many bytes. Reads of 30 KB from a disk take twice the time of reads of 120
_ROOM_BYTES = 2**25  # of blocks that are held at a time
_CACHE_BYTES = 2**17  # of a request that is finished at a time


class Table:
    """An `x.npy`, `[n, features]` float32, open for reading; safe to use from several threads.

    Attributes:
      shape: of the array.
      block: rows that are read together, a power of 2.
      shift: its exponent.
      part: rows of a request that are finished at a time.
    """

    def __init__(self, path: Path):
        self._path = path
        array = header(path)
        if array.ndim != 2 or array.dtype != np.float32 or not array.flags.c_contiguous or not array.dtype.isnative:
            raise UserError(
                f"{path} holds {array.dtype} {list(array.shape)}: an array [rows, features] of float32 in C order is "
                "needed"
            )
        if array.shape[0] >= 2**31 - 2**17:
            raise UserError(f"{path} has {array.shape[0]:,} rows: at most 2,147,352,575 are possible")
        self.shape, self._offset = array.shape, array.offset
        self._row_bytes = 4 * self.shape[1]
        rows = _LARGE_BLOCK if array.shape[0] >= _LARGE else _BLOCK
        self.shift = min(rows, max(_BLOCK_BYTES // self._row_bytes, 1)).bit_length() - 1
        self.block = 1 << self.shift
        self.part = max(_CACHE_BYTES // self._row_bytes, 1)
        self._rooms: list[_Room] = []
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> np.ndarray:
        """The rows `start` … `stop - 1` as they are."""
        x = np.empty((stop - start, self.shape[1]), np.float32)
        self._read_into(x, start)
        return x

    def gather(self, rows: np.ndarray, finish: Callable[[np.ndarray], None]) -> np.ndarray:
        """Rows in any order, `[m, features]`; each of their blocks is read once, or few times where they are very many.

        Args:
          rows: `[m]`, int32.
          finish: what is to be done with each part of the result, in place, while a core still has it in its cache.
        """
        x = np.empty((len(rows), self.shape[1]), np.float32)
        self._gather_into(x, rows, finish)
        return x

    def _gather_into(self, x: np.ndarray, rows: np.ndarray, finish: Callable[[np.ndarray], None]) -> None:
        numbers = rows >> self.shift
        wanted = np.zeros((len(self) >> self.shift) + 1, bool)  # much faster than to sort the rows
        wanted[numbers] = True
        blocks, slots = np.flatnonzero(wanted), max(_ROOM_BYTES // (self.block * self._row_bytes), 1)
        if len(blocks) > slots:
            middle = len(rows) // 2
            self._gather_into(x[:middle], rows[:middle], finish)
            self._gather_into(x[middle:], rows[middle:], finish)
            return
        # Each thread has a room. It is put back only if all went well, for otherwise it has not what it says.
        room = self._rooms.pop() if self._rooms else _Room(slots, self.block, self.shape[1], len(wanted))
        for number, slot in room.let_in(blocks):
            start = number * self.block
            self._read_into(room.x[slot, : len(self) - start], start)
        source = room.x.reshape(-1, self.shape[1])
        where = (room.slot[numbers] << self.shift) + (rows & self.block - 1)
        for start in range(0, len(rows), self.part):
            part = x[start : start + self.part]
            source.take(where[start : start + self.part], axis=0, out=part, mode="clip")  # clip: straight into out
            finish(part)
        self._rooms.append(room)

    def _read_into(self, x: np.ndarray, row: int) -> None:
        view, done = x.data.cast("B"), 0
        while done < len(view):
            got = os.preadv(self._file, [view[done:]], self._offset + row * self._row_bytes + done)
            if not got:
                raise UserError(f"{self._path} ends before its row {row + len(x)}: it was changed or not written whole")
            done += got


class _Room:
    """Room for blocks, and those that are in it: the next request often wants some of them again.

    Attributes:
      x: the blocks, `[slots, block, features]`.
      slot: where each block of the table is, -1 if it is not in, `[blocks]`.
    """

    def __init__(self, slots: int, block: int, features: int, blocks: int):
        self.x, self.slot = np.empty((slots, block, features), np.float32), np.full(blocks, -1, np.int32)
        self._held, self._next = np.full(slots, -1, np.int32), 0

    def let_in(self, blocks: np.ndarray) -> Iterator[tuple[int, int]]:
        """Makes slots for blocks, those of the blocks that came first; returns which of them are to be read, and where.

        Args:
          blocks: `[slots or fewer]`.
        """
        there = self.slot[blocks]
        missing, taken = blocks[there < 0], np.zeros(len(self._held), bool)
        taken[there[there >= 0]] = True
        order = np.roll(np.arange(len(taken)), -self._next)
        free = order[~taken[order]][: len(missing)]
        gone = self._held[free]
        self.slot[gone[gone >= 0]] = -1
        self._held[free], self.slot[missing] = missing, free
        if len(free):
            self._next = int(free[-1]) + 1
        return zip(missing.tolist(), free.tolist(), strict=True)


def header(path: Path) -> np.memmap:
    """An array on disk, of which nothing is read but its shape and type."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.memmap):
            raise ValueError("it is no .npy file")
        return array
    except Exception as error:  # whatever a hostile header makes NumPy raise
        raise UserError(f"{path} cannot be read as an array: {first_line(error)}") from None


class Scaling(NamedTuple):
    """What becomes of raw values, `(x - shift) * factor`, float32 `[features]`, and what was seen on the way."""

    shift: np.ndarray
    factor: np.ndarray
    fill: np.ndarray  # in place of missing values, afterwards
    missing: np.ndarray  # values in all of the table, int64 [features]
    empty: np.ndarray  # whether the training part has no value, bool [features]
    digest: np.ndarray  # of the raw values and of what is plain, a string


class Rows:
    """Some blocks of a table as a `HostArray`: its rows scaled, missing values filled in.

    Args:
      table: the table.
      scaling: what becomes of its values.
      blocks: `[blocks]`, sorted block numbers.
      keep: rows of these blocks, sorted, that are kept in memory.
    """

    def __init__(self, table: Table, scaling: Scaling, blocks: np.ndarray, *, keep: Sequence[int] | np.ndarray = ()):
        self._table, self._scaling, self._blocks, self.block = table, scaling, blocks, table.block
        self._any_missing = bool(scaling.missing.any())
        self._shift, self._factor = (np.tile(row, table.part) for row in (scaling.shift, scaling.factor))
        over = (int(blocks[-1]) + 1) * self.block - len(table)  # what the last block lacks, if it is the table's last
        self.shape, self.dtype = (len(blocks) * self.block - max(over, 0), table.shape[1]), np.dtype(np.float32)
        self.digest = hashlib.sha256(str(scaling.digest).encode() + blocks.astype(np.int64).tobytes()).hexdigest()
        self._kept = _Numbering(np.empty(0, np.int32), len(self))
        kept = np.asarray(keep, np.int32)
        self._kept_x, self._kept = self[kept], _Numbering(kept, len(self))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The rows at `rows` (integers of any shape, or a slice), `[*rows.shape, features]` float32."""
        rows = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        return self._read(rows.astype(np.int32).reshape(-1)).reshape(*rows.shape, self.shape[1])

    def _read(self, rows: np.ndarray) -> np.ndarray:
        kept = self._kept.find(rows)
        if 0 < len(kept) == len(rows):
            return self._kept_x.take(self._kept.number(rows), axis=0)
        shift = self._table.shift
        wanted = (self._blocks[rows >> shift] << shift) + (rows & self.block - 1)
        if not len(kept):
            return self._table.gather(wanted, self._finish)
        # In their place a row that is read anyway: it costs less than to move the others together.
        gap = kept != np.arange(len(kept))
        wanted[kept] = wanted[gap.argmax() if gap.any() else len(kept)]
        x = self._table.gather(wanted, self._finish)
        x[kept] = self._kept_x.take(self._kept.number(rows[kept]), axis=0)
        return x

    def _finish(self, x: np.ndarray) -> None:
        flat = x.reshape(-1)  # one long loop in place of a short one a row
        flat -= self._shift[: x.size]
        flat *= self._factor[: x.size]
        if self._any_missing:
            np.copyto(x, self._scaling.fill, where=np.isnan(x))


class _Numbering:
    """Numbers some of n rows in their order; a bit and half a bit a row, and no search.

    Args:
      rows: `[m]`, int32, sorted.
      n: how many there are.
    """

    def __init__(self, rows: np.ndarray, n: int):
        self._any = len(rows) > 0
        self._bits = np.zeros(-(-n // 64), np.uint64)
        np.bitwise_or.at(self._bits, rows >> 6, np.uint64(1) << (rows & 63).astype(np.uint64))
        ones = np.bitwise_count(self._bits)
        self._before = np.cumsum(ones, dtype=np.int32) - ones  # of the rows, those below each 64

    def find(self, rows: np.ndarray) -> np.ndarray:
        """Where in `rows` there are numbered ones."""
        if not self._any:
            return np.empty(0, np.int64)
        return np.flatnonzero(self._bits[rows >> 6] >> (rows & 63).astype(np.uint64) & np.uint64(1))

    def number(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of `rows`, all of them numbered ones."""
        below = (np.uint64(1) << (rows & 63).astype(np.uint64)) - np.uint64(1)
        return self._before[rows >> 6] + np.bitwise_count(self._bits[rows >> 6] & below)
