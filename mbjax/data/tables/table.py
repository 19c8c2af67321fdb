"""`table`: tables larger than memory, read by index from arrays on disk; Parquet and CSV files become such arrays once.

A folder holds `x.npy`, `[n, features]` float32 with NaN for missing values, and `y.npy`, `[n]` integers or bools.
`columns.json` beside them may name things: `{"names": [features], "plain": [those not to scale], "classes": [names]}`.

Rows that lie together make a block. Blocks are what is split, read and shuffled, so of what grows with the table memory
holds its labels, a byte each, and some numbers a block. `mbjax.data.tables.table_reader` reads them.
"""

import hashlib
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbjax import sealed
from mbjax.data.sources import expand, find_own
from mbjax.data.splits import VALIDATION_SHARE
from mbjax.data.tables import table_files, table_options, table_reader
from mbjax.data.tables.columns import Category, Number, TableColumns
from mbjax.data.tables.csv_dialect import DEFAULTS
from mbjax.data.tables.moments import Moments
from mbjax.data.tables.spelling import Numbers, Words
from mbjax.data.tables.table_reader import Rows, Scaling, Table
from mbjax.options import NUMBER, TEXT, WHOLE, Option, listed
from mbjax.types import Dataset, Split, UserError, count_classes

log = logging.getLogger("mbjax")
_CHUNK_BYTES = 2**23  # read at a time where all of a file is gone through
_SCORED = 1_000_000  # rows of the training part that are scored, and of the test part where no share is given
_SPLIT = 1001  # keeps its random numbers apart from those of the streams, which are counted from 0


OPTIONS = (  # of config.data
    *table_options.SHARED,
    Option("prepared", "", TEXT, "the folder that Parquet and CSV files become arrays in, once"),
    Option("test_share", None, NUMBER, "of the blocks; 0.2 if unset, but a million rows at most"),
    VALIDATION_SHARE,
    Option("kept_mb", 256, WHOLE, "training rows of rare classes are kept in memory up to so many MB"),
)


def load(
    *,
    seed: int,
    path: str = "",
    target: str = "",
    dir: str = "",
    drop: Sequence[str] = (),
    csv: Mapping[str, Any] = DEFAULTS,
    columns: str | Mapping[str, str] = "",
    prepared: str = "",
    test_share: float | None = None,
    validation_share: float = 0.0,
    kept_mb: int = 256,
) -> Dataset:
    """Opens a table, and first makes arrays of it if it is one of Parquet or CSV: see `table_files.prepare`.

    A random subset of the blocks is the test part, so classes have their shares in it by chance. A block has 256 rows,
    1,024 where there are 4 million rows or more, and fewer where these would be more than 128 KiB. Features get mean 0
    and variance 1 over the training part when they are read, but those named plain; a missing value becomes the
    training part's mean. A feature without a value in the training part, or a plain one that is zero in all of it (a
    category that only other rows have), is zero everywhere. For that all of `x.npy` is gone through once; what comes of
    it is kept in its folder, if that can be written to.

    Args:
      seed: of the split.
      path: a folder of arrays, a `.parquet`, `.csv` or `.csv.gz` file, or a folder of Parquet files: absolute, or
        relative to the working directory, else to the data folder.
      target: the column of labels; of arrays none, they have `y.npy`.
      dir: the data folder; see `mbjax.data.sources.data_dir`.
      drop: columns to leave out; of arrays none.
      csv: how a CSV file is written, where that is not to be found: `csv_dialect.DEFAULTS` has the keys.
      columns: what columns are: `{"zip": "category"}` or `{"note": "drop"}`, or this as text.
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
    folder = _arrays_of(path, target=target, dir=dir, drop=drop, prepared=prepared, csv=csv, columns=columns)
    table = Table(folder / "x.npy")
    about = _columns(folder / "columns.json", table.shape[1])
    y, classes, notes = _labels(folder / "y.npy", len(table), about.classes)
    parts = _split(len(table), table.block, seed=seed, test_share=test_share, validation_share=validation_share)
    scaling = _scaling(folder, table, parts["train"], about)

    labels = {name: _rows_of_blocks(y, blocks, table.block) for name, blocks in parts.items()}
    del y
    keep = {"train": _rare_rows(labels["train"], kept_mb * 10**6 // (4 * table.shape[1]))}
    x = {name: Rows(table, scaling, blocks, keep=keep.get(name, ())) for name, blocks in parts.items()}
    splits = {name: Split(x[name], y if name == "train" else y.astype(np.int32)) for name, y in labels.items()}
    notes = [*about.notes, *notes, *_missing_notes(about, scaling), f"split by blocks of {table.block} rows"]
    scored = {}
    if len(splits["train"]) > _SCORED:
        some = _sample(labels["train"], _SCORED // table.block, table.block)
        few = _rows_of_blocks(labels["train"], some, table.block).astype(np.int32)
        scored["train"] = Split(Rows(table, scaling, parts["train"][some]), few)
        notes.append(f"of the training part {len(few):,} rows are scored, in blocks evenly spread")
    overlap = len(splits["test"]) / (len(table) - len(splits["test"]))
    return Dataset(
        splits, classes, folder.name, notes=tuple(notes), scored=scored, overlap=overlap,
        preprocessing=about.learned(scaling),
    )  # fmt: skip


def _arrays_of(path: str, *, target: str, dir: str, drop: Sequence[str], prepared: str, csv: Any, columns: Any) -> Path:
    """The folder of arrays that `path` is, or is made into."""
    treatments, drop = table_options.read_treatments(columns, drop)
    place = find_own(path, dir, wanted="a folder of arrays, or Parquet or CSV,")
    if (place / "x.npy").is_file():
        for key, value in (("target", target), ("drop", drop), ("prepared", prepared), ("columns", columns)):
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
    folder = expand(prepared).absolute()
    table_files.prepare(place, folder, target=target, drop=drop, csv=csv, treatments=treatments)
    return folder


class Columns(NamedTuple):
    """What `columns.json` says."""

    names: tuple[str, ...]
    plain: np.ndarray  # [features], bool
    classes: tuple[str, ...]  # empty if it does not say
    notes: tuple[str, ...]
    raw: tuple[dict[str, Any], ...]  # the columns of the file that the arrays were made of; see `table_files.prepare`
    ignored: tuple[str, ...]  # of its columns: the target and those left out by name
    decimal: tuple[str, ...]  # the mark in a CSV file, if it is no point
    codes: tuple[str, ...]  # of its columns: those set to be categories

    def learned(self, scaling: Scaling) -> TableColumns:
        """What makes features of the file's raw columns, or, where the arrays are the user's own, of these features."""
        number = lambda place, name: Number(  # noqa: E731
            name, float((scaling.fill if self.plain[place] else scaling.shift)[place]), float(scaling.shift[place]),
            1.0, float(scaling.factor[place]),
        )  # fmt: skip
        if not self.raw:
            numbers = tuple(number(place, name) for place, name in enumerate(self.names))
            return TableColumns(self.names, numbers, (), dtype="float32")
        numbers, categories, place = [], [], 0
        for column in self.raw:
            if column["places"] is None:
                numbers.append(number(place, column["name"]))
                place += 1
                continue
            # A feature that no training row has is zero everywhere.
            places = {v: p if p >= 0 and scaling.factor[place + p] else -1 for v, p in column["places"].items()}
            categories.append(Category(column["name"], column["width"], places))
            place += column["width"]
        names = tuple(column["name"] for column in self.raw)
        marked = self.decimal == (",",)
        steps = [Numbers(number.name, ",") for number in numbers if marked] + [Words(name) for name in self.codes]
        return TableColumns(names, tuple(numbers), tuple(categories), self.ignored, dtype="float32", steps=tuple(steps))


def _columns(file: Path, features: int) -> Columns:
    about: dict[str, Any] = {}
    if file.exists():
        try:
            about = {
                key: tuple(value if key == "columns" else map(str, value))
                for key, value in json.loads(file.read_text()).items()
                if key != "digest"
            }
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise UserError(f"{file} cannot be read ({error}): mend it, or remove it if names do not matter") from None
    names = about.get("names", tuple(f"x{number}" for number in range(features)))
    if len(names) != features:
        raise UserError(f"{file} has {len(names)} names for the {features} features of x.npy")
    plain = about.get("plain", ())
    if unknown := [name for name in plain if name not in names]:
        raise UserError(f"{file}: {unknown[0]!r} in plain is none of the names")
    known = [about.get(key, ()) for key in ("classes", "notes", "columns", "ignored", "decimal", "codes")]
    return Columns(names, np.isin(names, plain), *known)


def _labels(file: Path, rows: int, classes: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Class numbers of all rows, of the smallest type that holds them, class names, and notes."""
    array = table_reader.header(file)
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
    made_by = 2  # changes with what `_fit` makes of the same table
    about = (
        made_by, stat.st_size, stat.st_mtime_ns, columns.plain.tolist(), hashlib.sha256(train.tobytes()).hexdigest()
    )  # fmt: skip
    key = hashlib.sha256(repr(about).encode()).hexdigest()
    cache, name = sealed.Cache(folder, "means and variances", private=False), f"scaling-{key[:16]}.kept"
    if (kept := cache.get(name, key)) is not None:
        with np.load(io.BytesIO(kept), allow_pickle=False) as arrays:
            return Scaling(**arrays)
    log.info("%s: going through %d MB for means and variances", folder, stat.st_size // 10**6)
    scaling = _fit(folder.name, table, train, columns)
    content = io.BytesIO()
    np.savez(content, **scaling._asdict())
    cache.put(name, key, content.getvalue())
    return scaling


def _fit(source: str, table: Table, train: np.ndarray, columns: Columns) -> Scaling:
    sha = hashlib.sha256(repr((table.shape, columns.plain.tolist())).encode())
    in_train = np.isin(np.arange(-(-len(table) // table.block)), train)
    moments, missing = Moments(table.shape[1]), np.zeros(table.shape[1], np.int64)
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
    factor[empty | (columns.plain & moments.zero())] = 0  # of what no training row has nothing was learned
    fill = np.where(columns.plain, mean, 0)
    floats = [array.astype(np.float32) for array in (shift, factor, fill)]
    return Scaling(*floats, missing=missing, empty=empty, digest=np.array(sha.hexdigest()))


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
    unseen = (scaling.factor == 0) & ~scaling.empty
    if unseen.any():
        names = [name for name, dead in zip(columns.names, unseen, strict=True) if dead]
        yield f"0 everywhere, for no training row has it: {listed(names)}"
