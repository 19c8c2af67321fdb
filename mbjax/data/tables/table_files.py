"""Parquet and CSV files of any size become arrays on disk, batch by batch: what `mbjax.data.tables.table` reads."""

import collections
import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
from pyarrow import compute

from mbjax import atomic
from mbjax.data.splits import encode_labels
from mbjax.data.tables import csv_dialect, dates, spelling, table_options
from mbjax.data.tables.columns import MAX_CATEGORIES
from mbjax.data.tables.csv_batches import CsvBatches
from mbjax.data.tables.csv_dialect import DEFAULTS, Dialect
from mbjax.options import shown
from mbjax.types import UserError, first_line

log = logging.getLogger("mbjax")
pc: Any = compute  # whose functions are made when it is imported: no type checker knows them
_ROWS = 65_536  # rows of a batch
_MAX_CLASSES = 1000
_MAX_DISTINCT = 10_000  # values of a column of strings that are counted; with more of them it names the row
_MEND = "delete it to have it made anew, or choose another with --config.data.prepared"


class Labels(NamedTuple):
    """The labels that occur, `[classes]` in any order, the class number of each, the class names, and notes."""

    values: Any
    numbers: np.ndarray
    classes: tuple[str, ...]
    notes: tuple[str, ...]


class _Column(NamedTuple):
    """A column that becomes features.

    Attributes:
      name: of the column.
      features: the names of what it becomes.
      plain: whether these are not to be scaled.
      values: of strings, those that occur; None for numbers.
      places: the feature of each value, and -1 at the end, for missing ones.
    """

    name: str
    features: list[str]
    plain: bool
    values: pa.Array | None = None
    places: np.ndarray | None = None

    def described(self) -> dict[str, Any]:
        """For `columns.json`: a number's places are None, a category's the feature of each value."""
        if self.values is None or self.places is None:
            return {"name": self.name, "width": 1, "places": None}
        places = dict(zip(self.values.to_pylist(), self.places[:-1].tolist(), strict=True))
        return {"name": self.name, "width": len(self.features), "places": places}


def prepare(
    place: Path, folder: Path, *, target: str, drop: Sequence[str], csv: Mapping[str, Any] = DEFAULTS,
    treatments: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Makes the arrays of a table, unless the folder holds them already.

    Numbers stay as they are, missing ones are NaN; bools are 0 and 1. A column of strings becomes a feature for each
    value, all zeros where it is missing; of more than `MAX_CATEGORIES` values the rarest share one. Left out, with a
    note: strings that name the row (more than `MAX_CATEGORIES` values, and more than half as many as rows, or more than
    10,000), and types that are neither (dates).

    The split is not known here, so all rows say which features there are: which values occur, which are the rarest, and
    which columns name the row. `mbjax.data.tables.table.load` makes those that no training row has zero.

    Args:
      place: a Parquet or CSV file, or a folder of Parquet files.
      folder: what to make; it gets its name when all of it is written.
      target: the column of labels.
      drop: columns to leave out.
      csv: how a CSV file is written, where that is not to be found.
      treatments: columns that are categories, whatever they hold.

    Raises:
      UserError: files that cannot be read, numbers or dates that are not written plainly, a missing column, labels that
        are missing or continuous, a folder that was made of other files or cannot be written.
    """
    treatments, csv = dict(treatments or {}), {**DEFAULTS, **csv}
    if other := [name for name, what in treatments.items() if what != "category"]:
        raise UserError(
            f"config.data.columns: {other[0]!r} is {treatments[other[0]]!r}, and the task table, which converts "
            "nothing, takes category and drop alone: use --config.task=tabular"
        )
    files = _files(place)
    digest = _digest(files, target, drop, {k: v for k, v in csv.items() if v != DEFAULTS[k]}, treatments)
    if folder.exists():
        if _digest_of(folder) != digest:
            raise UserError(f"{folder} was not prepared from {place} as it is, with this target and drop: {_MEND}")
        return
    log.info("%s: making arrays of it in %s, once", place, folder)
    try:
        with atomic.making(folder) as part:
            about = _write(part, files, place.name, target=target, drop=drop, csv=csv, codes=list(treatments))
            (part / "columns.json").write_text(json.dumps({**about, "digest": digest}))
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): make room, or choose another --config.data.prepared"
        ) from None
    # A type of column that cannot be counted or converted.
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise _unreadable(place.name, error) from None
    finally:
        pa.default_memory_pool().release_unused()


def encode_counted(values: Any, counts: Sequence[int]) -> Labels:
    """Numbers the classes as `mbjax.data.splits.encode_labels` does, from their counts."""
    ranks = np.unique(counts, return_inverse=True)[1] + 1  # in the order of the counts, and much smaller
    y, classes, notes = encode_labels(pd.Series(np.repeat(pd.Series(values), ranks)))
    return Labels(values, y[np.cumsum(ranks) - 1], classes, notes)


def _files(place: Path) -> list[Path]:
    files = sorted(place.rglob("*.parquet")) if place.is_dir() else [place]
    if not files:
        raise UserError(f"{place} holds neither x.npy and y.npy nor Parquet files")
    if files[0].suffix != ".parquet" and ".csv" not in files[0].suffixes:
        raise UserError(f"{place}: a folder, or a file that ends in .csv, .csv.gz or .parquet, is needed")
    return files


def _digest(files: Sequence[Path], target: str, drop: Sequence[str], *settings: Mapping[str, Any]) -> str:
    """Names the files by their names, sizes and times, and what is made of them."""
    own = tuple(sorted(setting.items()) for setting in settings) if any(settings) else ()
    about = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    return hashlib.sha256(repr((about, target, sorted(drop), MAX_CATEGORIES, _MAX_DISTINCT, *own)).encode()).hexdigest()


def _digest_of(folder: Path) -> str:
    try:
        return str(json.loads((folder / "columns.json").read_text())["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _write(
    part: Path, files: list[Path], name: str, *, target: str, drop: Sequence[str], csv: Mapping[str, Any],
    codes: Collection[str],
) -> dict[str, Any]:  # fmt: skip
    """Writes `x.npy` and `y.npy`; returns what belongs into `columns.json`."""
    dialect = None if files[0].suffix == ".parquet" else csv_dialect.detect(files[0], csv, wanted=[target])
    decimal = csv["decimal"] or ("," if dialect and dialect.text else ".")
    source = _open(files, target, dialect, decimal, codes)
    table_options.check_columns(source.schema.names, target=target, drop=drop, source=name)
    table_options.check_named(source.schema.names, codes, "columns", name)
    blank = (*drop, *(dialect.blank if dialect else ()))
    fields = [field for field in source.schema if field.name != target and field.name not in blank]
    text = [field.name for field in fields if _is_text(field.type) or field.name in codes]
    rows, labels, counted = _count(source, name, target, text, codes, typed=dialect is None)
    columns, notes = _columns(fields, counted, rows, codes)
    notes = [*(dialect.notes if dialect else ()), *notes]
    if not columns:
        raise UserError(f"{name}: no feature is left beside {target!r}; {'; '.join(notes)}")
    names = [feature for column in columns for feature in column.features]
    wanted = list(dict.fromkeys([target, *(column.name for column in columns)]))
    with (part / "x.npy").open("wb") as x, (part / "y.npy").open("wb") as y:
        _header(x, "<f4", (rows, len(names)))
        _header(y, "<i4", (rows,))
        written = 0
        for batch in _batches(source, name, wanted):
            x.write(_features(batch, columns, len(names)).data)
            places = pc.index_in(_decoded(batch.column(target)), value_set=labels.values)
            y.write(labels.numbers[places.to_numpy(zero_copy_only=False)].astype("<i4").data)
            written += batch.num_rows
    if written != rows:
        raise UserError(f"{name} changed while it was read")
    plain = [feature for column in columns if column.plain for feature in column.features]
    return {
        "names": names, "plain": plain, "classes": labels.classes, "notes": [*labels.notes, *notes],
        "columns": [column.described() for column in columns], "ignored": [target, *drop],
        "decimal": [decimal] * (decimal != "."), "codes": list(codes),
    }  # fmt: skip


def _header(stream: Any, dtype: str, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})


def _open(files: list[Path], target: str, dialect: Dialect | None, decimal: str, codes: Collection[str]) -> Any:
    """The files as one table; of a CSV file, as it is written."""
    try:
        if dialect is None:
            # Else whole row groups, which may have a million rows, are read ahead.
            scan = pads.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True)
            form = pads.ParquetFileFormat(default_fragment_scan_options=scan)
            return pads.dataset([str(file) for file in files], format=form)
        return CsvBatches(files[0], dialect, decimal=decimal, target=target, codes=codes)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(files[0].name, error) from None


def _batches(source: Any, name: str, columns: list[str]) -> Iterator[Any]:
    """Record batches in their order, few of them ahead."""
    try:
        yield from source.to_batches(columns=columns, batch_size=_ROWS, batch_readahead=2, fragment_readahead=1)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(name, error) from None


def _unreadable(name: str, error: Exception) -> UserError:
    return UserError(f"{name} cannot be read as a table: {first_line(error)}")


def _count(
    source: Any, name: str, target: str, text: Sequence[str], codes: Collection[str], *, typed: bool
) -> tuple[int, Labels, dict[str, collections.Counter | None]]:
    """Counts rows, labels, and the values of columns of strings: None where there are too many.

    Raises:
      UserError: what are no labels; or strings that spell numbers or dates, of columns that are not in `codes`.
    """
    rows, labels = 0, collections.Counter()
    counted: dict[str, collections.Counter | None] = {column: collections.Counter() for column in text}
    for batch in _batches(source, name, list(dict.fromkeys([target, *text]))):
        _check_labels(batch.column(target), name, target, rows)
        labels.update(_counter(batch.column(target)))
        if len(labels) > _MAX_CLASSES or (len(labels) > 20 and any(isinstance(v, float) and v % 1 for v in labels)):
            raise UserError(
                f"{name}: column {target!r} has {len(labels)} distinct values or more and looks continuous: mbjax "
                "classifies; choose another --config.data.target or make classes of it"
            )
        for column, counter in counted.items():
            if counter is not None:
                counter.update(_counter(batch.column(column), text=True))
                if len(counter) > _MAX_DISTINCT:
                    _check_words(counter, column, name, codes, typed)
                    counted[column] = None
        rows += batch.num_rows
    if not rows:
        raise UserError(f"{name} has no rows")
    for column, counter in counted.items():
        _check_words(counter or {}, column, name, codes, typed)
    if unusable := next((value for value in labels if isinstance(value, list | dict | tuple)), None):
        raise UserError(f"{name}: column {target!r} holds {shown(unusable)}: texts or whole numbers are needed")
    encoded = encode_counted(list(labels), list(labels.values()))
    return (
        rows,
        encoded._replace(values=pa.array(encoded.values, _decoded_type(source.schema.field(target).type))),
        counted,
    )


def _check_labels(column: Any, name: str, target: str, before: int) -> None:
    missing = column.is_null(nan_is_null=True)
    if count := pc.sum(missing).as_py():
        first = before + missing.to_numpy(zero_copy_only=False).argmax() + 1
        raise UserError(
            f"{name}: labels in column {target!r} are missing, the first in data row {first} ({count} in this batch of "
            "rows): drop these rows or fill them in"
        )


def _check_words(
    counter: Mapping[str | None, int], column: str, name: str, codes: Collection[str], typed: bool
) -> None:
    """Raises a UserError if a column's strings spell numbers or dates."""
    counts = {text: count for text, count in counter.items() if text is not None}
    if column in codes or not counts:
        return
    dated = dates.look(column, counts, settle=False)
    if (dated and dated.step) or spelling.look(column, counts, missing=0, typed=typed).marks:
        what = "dates" if dated else "numbers"
        raise UserError(
            f"{name}: column {column!r} has {what} such as {shown(next(iter(counts)))}, and the task table converts "
            f"nothing: use --config.task=tabular, or set --config.data.columns=\"{{{column!r}: 'category'}}\" or 'drop'"
        )


def _counter(column: Any, *, text: bool = False) -> collections.Counter:
    column = _decoded(column)
    counts = pc.value_counts(column.cast(pa.string()) if text else column)
    return collections.Counter(dict(zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)))


def _columns(
    fields: Sequence[Any], counted: dict[str, collections.Counter | None], rows: int, codes: Collection[str]
) -> tuple[list[_Column], list[str]]:
    """What the columns become, numbers first; notes say which are left out and why."""
    numbers, categories, notes = [], [], []
    for field in fields:
        kind, column = field.type, field.name
        if pa.types.is_boolean(kind) and column not in counted:
            numbers.append(_Column(column, [column], plain=True))
        elif column not in counted and (
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        ):
            numbers.append(_Column(column, [column], plain=False))
        elif column not in counted:
            notes.append(f"column {column!r} left out: {kind} is neither a number nor a category")
        else:
            counter = counted[column]
            missing = 0 if counter is None else counter.pop(None, 0)
            if counter is None or (len(counter) > max(MAX_CATEGORIES, rows / 2) and column not in codes):
                many = f"more than {_MAX_DISTINCT:,}" if counter is None else len(counter)
                notes.append(f"column {column!r} left out: {many} distinct values in {rows} rows name the row")
            elif not counter:
                notes.append(f"column {column!r} left out: it has no value")
            else:
                categories.append(_category(column, counter))
                if len(counter) > MAX_CATEGORIES:
                    notes.append(
                        f"column {column!r}: the rarest of its {len(counter)} values, in all rows, share one feature"
                    )
                if missing:
                    notes.append(f"column {column!r}: {missing} missing values have zeros in all of its features")
    return numbers + categories, notes


def _category(column: str, counter: collections.Counter) -> _Column:
    values = sorted(counter)
    own = values
    if len(values) > MAX_CATEGORIES:
        own = sorted(sorted(values, key=lambda value: -counter[value])[: MAX_CATEGORIES - 1])
    place = {value: number for number, value in enumerate(own)}
    places = np.array([*(place.get(value, len(own)) for value in values), -1])
    features = [f"{column}={value}" for value in own] + [f"{column}: others"] * (len(own) < len(values))
    return _Column(column, features, plain=True, values=pa.array(values, pa.string()), places=places)


def _features(batch: Any, columns: Sequence[_Column], width: int) -> np.ndarray:
    """`[rows, width]`, float32."""
    x, start = np.zeros((batch.num_rows, width), "<f4"), 0
    for column in columns:
        array = batch.column(column.name)
        if column.values is None or column.places is None:
            array = array.cast(pa.float64()) if pa.types.is_decimal(array.type) else array
            x[:, start] = array.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
        else:
            found = pc.fill_null(pc.index_in(_decoded(array).cast(pa.string()), value_set=column.values), -1)
            place = column.places[found.to_numpy()]
            rows = np.flatnonzero(place >= 0)
            x[rows, start + place[rows]] = 1
        start += len(column.features)
    return x


def _is_text(kind: Any) -> bool:
    kind = _decoded_type(kind)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _decoded(array: Any) -> Any:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _decoded_type(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
