"""`table`: tables larger than memory, read by index from arrays on disk; Parquet and CSV files become such arrays once.

A folder holds `x.npy`, `[n, features]` float32 with NaN for missing values, and `y.npy`, `[n]` integers or bools.
`columns.json` beside them may name things: `{"names": [features], "plain": [those not to scale], "classes": [names]}`.

Rows that lie together make a block. Blocks are what is split, read and shuffled, so of what grows with the table memory
holds its labels, a byte each, and some numbers a block. What is read is read, not mapped: pages of a mapped file would
count as memory of the process.
"""

import hashlib
import json
import logging
import os
import weakref
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbjax.data import table_files
from mbjax.data.sources import find_own
from mbjax.types import Dataset, Split, UserError, count_classes

log = logging.getLogger("mbjax")
_BLOCK, _LARGE_BLOCK, _LARGE = 256, 1024, 2**22  # rows of a block, and those where the table has so many, or fewer:
_BLOCK_BYTES = 2**17  # it has at most so many bytes. Reads of 30 KB from a disk take twice the time of reads of 120
_ROOM_BYTES = 2**25  # of blocks that are held at a time
_CACHE_BYTES = 2**17  # of a request that is finished at a time
_CHUNK_BYTES = 2**23  # read at a time where all of a file is gone through
_SCORED = 1_000_000  # rows of the training part that are scored, and of the test part where no share is given
_SPLIT = 1001  # keeps its random numbers apart from those of the streams, which are counted from 0


def load(
    *,
    seed: int,
    path: str = "",
    target: str = "",
    dir: str = "",
    drop: Sequence[str] = (),
    prepared: str = "",
    test_share: float | None = None,
    validation_share: float = 0.0,
    kept_mb: int = 256,
) -> Dataset:
    """Opens a table, and first makes arrays of it if it is one of Parquet or CSV: see `mbjax.data.table_files.prepare`.

    A random subset of the blocks is the test part, so classes have their shares in it by chance. A block has 256 rows,
    1,024 where there are 4 million rows or more, and fewer where these would be more than 128 KiB. Features get mean 0
    and variance 1 over the training part when they are read, but those named plain; a missing value becomes the
    training part's mean. For that all of `x.npy` is gone through once; what comes of it is kept in its folder, if that
    can be written to.

    Args:
      seed: of the split.
      path: a folder of arrays, a `.parquet`, `.csv` or `.csv.gz` file, or a folder of Parquet files: absolute, or
        relative to the working directory, else to the data folder.
      target: the column of labels; of arrays none, they have `y.npy`.
      dir: the data folder; see `mbjax.data.sources.data_dir`.
      drop: columns to leave out; of arrays none.
      prepared: the folder that Parquet and CSV files become arrays in, and that is used again while they are the same.
      test_share: of the blocks; if not given 0.2, but a million rows at most, for the memory that scoring takes grows
        with them.
      validation_share: of the training part's blocks; 0 for no validation part.
      kept_mb: training rows of rare classes are kept in memory up to so many MB: they lie scattered, and each would
        cost the reading of a block.

    Returns:
      Splits whose `x` is a `mbjax.types.HostArray`, `[rows, features]` float32; the training labels are uint8 where
      there are at most 256 classes. Of a longer training part a million rows are scored, in blocks evenly spread.

    Raises:
      UserError: files that are missing or hold something else, or labels, features or a share that cannot be used.
    """
    folder = _arrays_of(path, target=target, dir=dir, drop=drop, prepared=prepared)
    table = Table(folder / "x.npy")
    columns = _columns(folder / "columns.json", table.shape[1])
    y, classes, notes = _labels(folder / "y.npy", len(table), columns.classes)
    parts = _split(len(table), table.block, seed=seed, test_share=test_share, validation_share=validation_share)
    scaling = _scaling(folder, table, parts["train"], columns)

    labels = {name: _rows_of_blocks(y, blocks, table.block) for name, blocks in parts.items()}
    del y
    keep = {"train": _rare_rows(labels["train"], kept_mb * 10**6 // (4 * table.shape[1]))}
    x = {name: Rows(table, scaling, blocks, keep=keep.get(name, ())) for name, blocks in parts.items()}
    splits = {name: Split(x[name], y if name == "train" else y.astype(np.int32)) for name, y in labels.items()}
    notes = [*columns.notes, *notes, *_missing_notes(columns, scaling), f"split by blocks of {table.block} rows"]
    scored = {}
    if len(splits["train"]) > _SCORED:
        some = _sample(labels["train"], _SCORED // table.block, table.block)
        few = _rows_of_blocks(labels["train"], some, table.block).astype(np.int32)
        scored["train"] = Split(Rows(table, scaling, parts["train"][some]), few)
        notes.append(f"of the training part {len(few):,} rows are scored, in blocks evenly spread")
    return Dataset(splits, classes, folder.name, notes=tuple(notes), scored=scored)


def _arrays_of(path: str, *, target: str, dir: str, drop: Sequence[str], prepared: str) -> Path:
    """The folder of arrays that `path` is, or is made into."""
    place = find_own(path, dir, wanted="a folder of arrays, or Parquet or CSV,")
    if (place / "x.npy").is_file():
        for key, value in (("target", target), ("drop", drop), ("prepared", prepared)):
            if value:
                raise UserError(f"config.data.{key}={value!r}: {place} holds arrays, x.npy and y.npy, and takes none")
        return place
    if not target:
        raise UserError(f"config.data.target: name the column of labels of {place} with --config.data.target=COLUMN")
    if not prepared:
        raise UserError(
            f"config.data.prepared: {place} is read from arrays that are made of it once, 4 bytes a value: name a "
            "folder for them with --config.data.prepared=FOLDER"
        )
    folder = Path(prepared).expanduser().absolute()
    table_files.prepare(place, folder, target=target, drop=drop)
    return folder


class Columns(NamedTuple):
    """What `columns.json` says."""

    names: tuple[str, ...]
    plain: np.ndarray  # [features], bool
    classes: tuple[str, ...]  # empty if it does not say
    notes: tuple[str, ...]


def _columns(file: Path, features: int) -> Columns:
    about: dict[str, Any] = {}
    if file.exists():
        try:
            about = {
                key: tuple(map(str, value)) for key, value in json.loads(file.read_text()).items() if key != "digest"
            }
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise UserError(f"{file} cannot be read ({error}): mend it, or remove it if names do not matter") from None
    names = about.get("names", tuple(f"x{number}" for number in range(features)))
    if len(names) != features:
        raise UserError(f"{file} has {len(names)} names for the {features} features of x.npy")
    plain = about.get("plain", ())
    if unknown := [name for name in plain if name not in names]:
        raise UserError(f"{file}: {unknown[0]!r} in plain is none of the names")
    return Columns(names, np.isin(names, plain), about.get("classes", ()), about.get("notes", ()))


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
        array = _header(path)
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


def _header(path: Path) -> np.memmap:
    """An array on disk, of which nothing is read but its shape and type."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an array: {str(error).strip().splitlines()[0]}") from None


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


def _labels(file: Path, rows: int, classes: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Class numbers of all rows, of the smallest type that holds them, class names, and notes."""
    array = _header(file)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise UserError(f"{file} holds {array.dtype} {list(array.shape)}: a label for each row, integers or bools")
    if len(array) != rows:
        raise UserError(f"{file} has {len(array):,} labels for the {rows:,} rows of x.npy")
    counts: dict[Any, int] = {}
    for chunk in _chunks(file, array):
        for value, count in zip(*np.unique(chunk, return_counts=True), strict=True):
            counts[value] = counts.get(value, 0) + int(count)
        if len(counts) > 2**16:
            raise UserError(f"{file} has {len(counts):,} distinct values or more: are they labels?")
    values, notes = np.array(sorted(counts)), ()
    if not classes:
        encoded = table_files.encode_counted(values, [counts[value] for value in values])
        numbers, classes, notes = encoded.numbers, encoded.classes, encoded.notes
    elif values[0] < 0 or values[-1] >= len(classes):
        raise UserError(f"{file} has class numbers {values[0]} to {values[-1]} for the {len(classes)} classes named")
    else:
        numbers = values
    y, start = np.empty(rows, np.min_scalar_type(len(classes) - 1)), 0
    for chunk in _chunks(file, array):
        y[start : start + len(chunk)] = numbers[np.searchsorted(values, chunk)]
        start += len(chunk)
    return y, classes, list(notes)


def _chunks(file: Path, array: np.memmap) -> Iterator[np.ndarray]:
    size = max(_CHUNK_BYTES // array.dtype.itemsize, 1)
    with file.open("rb") as stream:
        stream.seek(array.offset)
        for start in range(0, len(array), size):
            yield np.fromfile(stream, array.dtype, min(size, len(array) - start))


def _split(
    rows: int, block: int, *, seed: int, test_share: float | None, validation_share: float
) -> dict[str, np.ndarray]:
    """The sorted blocks of each part; the test part does not depend on `validation_share`."""
    blocks = np.random.default_rng([seed, _SPLIT]).permutation(-(-rows // block)).astype(np.int32)
    if test_share is None:
        test_share = min(0.2, max(_SCORED // block, 1) / len(blocks))
    test, rest = _hold_out(blocks, test_share, "test_share", block)
    parts = {"train": rest, "test": test}
    if validation_share:
        held, rest = _hold_out(rest, validation_share, "validation_share", block)
        parts = {"train": rest, "validation": held, "test": test}
    return {name: np.sort(part) for name, part in parts.items()}


def _hold_out(blocks: np.ndarray, share: float, option: str, block: int) -> tuple[np.ndarray, np.ndarray]:
    if not 0 < share < 1:
        raise UserError(f"config.data.{option}={share}: a number above 0 and below 1 is needed")
    held = max(round(share * len(blocks)), 1)
    if held >= len(blocks):
        raise UserError(
            f"config.data.{option}={share} of {len(blocks)} blocks of {block} rows leaves no other: choose less, or "
            "the task tabular for a table as small as this"
        )
    return blocks[:held], blocks[held:]


def _rows_of_blocks(y: np.ndarray, blocks: np.ndarray, block: int) -> np.ndarray:
    """The labels of these blocks, which are sorted; a copy."""
    whole = len(y) // block
    inside = y[: whole * block].reshape(whole, block)[blocks[blocks < whole]].reshape(-1)
    return np.concatenate([inside, y[whole * block :]]) if blocks[-1] == whole else inside


def _rare_rows(y: np.ndarray, most: int) -> np.ndarray:
    """The rows of the rarest classes, never the largest, as many classes as have at most `most` rows; sorted, int32."""
    counts = count_classes(y)
    numbers = np.argsort(counts, kind="stable")
    rare = np.isin(np.arange(len(counts)), numbers[:-1][np.cumsum(counts[numbers[:-1]]) <= most])
    starts = range(0, len(y), _CHUNK_BYTES)
    return np.concatenate([np.flatnonzero(rare[y[s : s + _CHUNK_BYTES]]).astype(np.int32) + s for s in starts])


def _sample(y: np.ndarray, count: int, block: int) -> np.ndarray:
    """Blocks evenly spread, `count` of them, and one more for each class that has no row in these; sorted."""
    some = np.linspace(0, (len(y) - 1) // block, count).round().astype(np.int32)
    present = count_classes(_rows_of_blocks(y, some, block), int(y.max()) + 1)
    missing = [np.int32((y == number).argmax() // block) for number in np.flatnonzero(present == 0)]
    return np.unique(np.concatenate([some, np.array(missing, np.int32)]))


def _scaling(folder: Path, table: Table, train: np.ndarray, columns: Columns) -> Scaling:
    """What the training part's statistics make of raw values; kept in the folder for the next start."""
    stat = (folder / "x.npy").stat()
    about = (stat.st_size, stat.st_mtime_ns, columns.plain.tolist(), hashlib.sha256(train.tobytes()).hexdigest())
    file = folder / f"scaling-{hashlib.sha256(repr(about).encode()).hexdigest()[:16]}.npz"
    try:
        with np.load(file) as arrays:
            return Scaling(**arrays)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read and is computed again: %s", file, error)
    log.info("%s: going through %d MB for means and variances", folder, stat.st_size // 10**6)
    scaling = _fit(folder.name, table, train, columns)
    part = file.with_name(f".{file.name}.{os.getpid()}.npz")
    try:
        np.savez(part, **scaling._asdict())
        part.replace(file)
    except OSError as error:
        log.info("%s cannot be written (%s); the next start computes it again", file, error.strerror)
    return scaling


def _fit(source: str, table: Table, train: np.ndarray, columns: Columns) -> Scaling:
    sha = hashlib.sha256(repr((table.shape, columns.plain.tolist())).encode())
    in_train = np.isin(np.arange(-(-len(table) // table.block)), train)
    moments, missing = _Moments(table.shape[1]), np.zeros(table.shape[1], np.int64)
    blocks = max(_CHUNK_BYTES // (4 * table.shape[1] * table.block), 1)  # of a chunk
    for first in range(0, len(in_train), blocks):
        start = first * table.block
        x = table.read(start, min(start + blocks * table.block, len(table)))
        sha.update(x.data)
        _check_finite(source, x, start, columns)
        missing += np.isnan(x).sum(0)
        if (rows := np.repeat(in_train[first : first + blocks], table.block)[: len(x)]).any():
            moments.add(x[rows])
    empty, mean = moments.count == 0, moments.mean
    shift, factor = np.where(columns.plain, 0, mean), np.where(columns.plain, 1, 1 / moments.deviation())
    fill = np.where(columns.plain, mean, 0)
    floats = [array.astype(np.float32) for array in (shift, factor, fill)]
    return Scaling(*floats, missing=missing, empty=empty, digest=np.array(sha.hexdigest()))


class _Moments:
    """Means and variances of columns with missing values, chunk by chunk.

    Two parts of a sample are merged as in Chan, Golub and LeVeque, "Algorithms for computing the sample variance"
    (1983). scikit-learn's `StandardScaler.partial_fit` does the same, but of a column whose first chunk has no value it
    gives NaN.
    """

    def __init__(self, columns: int):
        self.count, self.mean, self._squares = np.zeros(columns, np.int64), np.zeros(columns), np.zeros(columns)

    def add(self, x: np.ndarray) -> None:
        """Takes in `x`, `[rows, columns]`."""
        missing = np.isnan(x)
        count = len(x) - missing.sum(0)
        x = np.where(missing, 0, x.astype(np.float64))
        mean = x.sum(0) / np.maximum(count, 1)
        x = np.where(missing, 0, x - mean)
        total, step = np.maximum(self.count + count, 1), mean - self.mean
        self._squares += np.einsum("ij,ij->j", x, x) + step**2 * self.count / total * count
        self.mean += step * count / total
        self.count += count

    def deviation(self) -> np.ndarray:
        """The standard deviation; 1 where there is none but for rounding, as scikit-learn has it."""
        n, eps = np.maximum(self.count, 1), np.finfo(np.float64).eps
        variance = self._squares / n
        constant = variance <= n * eps * variance + (n * self.mean * eps) ** 2
        return np.where(constant, 1, np.sqrt(variance))


def _check_finite(source: str, x: np.ndarray, start: int, columns: Columns) -> None:
    infinite = np.isinf(x)
    if infinite.any():
        column = int(infinite.any(0).argmax())
        raise UserError(
            f"{source}: column {columns.names[column]!r} has infinite values, or values beyond 3.4e38, the first in "
            f"data row {start + int(infinite[:, column].argmax()) + 1}: replace them, or leave the column out"
        )


def _missing_notes(columns: Columns, scaling: Scaling) -> Iterator[str]:
    for name, missing, empty in zip(columns.names, scaling.missing.tolist(), scaling.empty, strict=True):
        if empty:
            yield f"column {name!r}: no value in the training part, 0 everywhere"
        elif missing:
            yield f"column {name!r}: {missing} missing values are the training part's mean"
