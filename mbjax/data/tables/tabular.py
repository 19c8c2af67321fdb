"""`tabular`: any file of a table with a column of labels; and what every table shares on its way to arrays."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types as dtypes

from mbjax.data import splits
from mbjax.data.sources import find_own
from mbjax.data.splits import GROUP, STRATIFY, TEST_SHARE, TIME, VALIDATION_SHARE, encode_labels
from mbjax.data.tables import numbers as numbers_lib
from mbjax.data.tables import suspects, table_options
from mbjax.data.tables import treatments as look
from mbjax.data.tables.columns import MAX_CATEGORIES, TableColumns, as_numbers, numbers_with_blanks
from mbjax.data.tables.csv_dialect import DEFAULTS
from mbjax.data.tables.dates import Dates
from mbjax.data.tables.numbers import BINS
from mbjax.data.tables.reading import read_table
from mbjax.data.tables.steps import Step, apply
from mbjax.data.tables.treatments import Learned
from mbjax.options import listed
from mbjax.types import Dataset, Split, UserError

OPTIONS = (  # of config.data
    *table_options.SHARED, *numbers_lib.OPTIONS, GROUP, TIME, TEST_SHARE, VALIDATION_SHARE, STRATIFY,
)  # fmt: skip


def load(
    *,
    seed: int,
    path: str = "",
    target: str = "",
    dir: str = "",
    drop: Sequence[str] = (),
    csv: Mapping[str, Any] = DEFAULTS,
    columns: str | Mapping[str, str] = "",
    scaling: str = "standard",
    encoding: str = "none",
    bins: int = BINS.default,
    group: str = "",
    time: str = "",
    test_share: float = 0.2,
    validation_share: float = 0.0,
    stratify: bool = True,
) -> Dataset:
    """Loads a table of one's own; `from_frame` says what becomes of its columns.

    How a CSV file is written is found (`mbjax.data.tables.csv_dialect`), and so is what its columns spell
    (`mbjax.data.tables.treatments`); notes say what was found.

    Args:
      seed: of the split.
      path: a file of the forms of `mbjax.data.tables.reading`: absolute, or relative to the working directory, else to
        the data folder.
      target: the column of labels.
      dir: the data folder; see `mbjax.data.sources.data_dir`.
      drop: columns to leave out.
      csv: how a CSV file is written, where that is not to be found: `csv_dialect.DEFAULTS` has the keys.
      columns: what columns are, where that is not to be found: `{"zip": "category"}`, or this as text.
      scaling, encoding, bins: see `mbjax.data.tables.numbers.fit`.
      group: a column whose equal values stay in one part; see `mbjax.data.splits.split_by_group`.
      time: a column of dates or numbers to split by; see `mbjax.data.splits.split_by_time`.
      test_share, validation_share, stratify: see `mbjax.data.splits.split_indices`.

    Raises:
      UserError: a missing or unreadable file, a missing column, or labels or features that cannot be used.
    """
    file = find_own(path, dir, wanted="a CSV or Parquet file")
    given, dropped = table_options.read_treatments(columns, drop)
    raw, learned = look.read_and_learn(
        file, target=target, drop=dropped, csv=csv, treatments=given, named={"group": group, "time": time}
    )
    frame = raw.frame.drop(columns=[name for name in dropped if name != target])
    return from_frame(
        frame, target, source=file.name, seed=seed, dropped=dropped, learned=learned, notes=raw.notes, treatments=given,
        csv={key: value for key, value in dict(csv.items()).items() if value != DEFAULTS[key]}, group=group, time=time,
        scaling=scaling, encoding=encoding, bins=bins, careful=True, origin=raw.origin,
        test_share=test_share, validation_share=validation_share, stratify=stratify,
    )  # fmt: skip


def read_official(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Reads the named columns of a published table, all of them numbers.

    Raises:
      UserError: see `read_table`; or a column that is missing or holds anything but numbers.
    """
    frame = read_table(path)
    if missing := [name for name in columns if name not in frame]:
        raise UserError(f"{path} has no column {listed(missing)}: is it the official file?")
    if other := [name for name in columns if not dtypes.is_numeric_dtype(frame[name])]:
        raise UserError(f"{path} has values that are not numbers in column {listed(other)}: is it the official file?")
    return frame.loc[:, list(columns)]


def from_frame(
    frame: Any,
    target: str,
    *,
    source: str,
    seed: int,
    scale: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    dropped: Sequence[str] = (),
    learned: Learned | None = None,
    treatments: Mapping[str, str] | None = None,
    csv: Mapping[str, Any] | None = None,
    scaling: str = "standard",
    encoding: str = "none",
    bins: int = BINS.default,
    group: str = "",
    time: str = "",
    careful: bool = False,
    origin: np.ndarray | None = None,
    **split: Any,
) -> Dataset:
    """Splits a table and turns its columns into features, learning everything from the training part alone.

    Numbers, also where a file has blanks among them: missing values become the median; then mean 0 and variance 1, or
    as `scaling` and `encoding` have it.
    Bools, strings and categories: missing values become the most frequent one; then a feature for each value, all zero
    where a value is unseen in training. Dates: numbers, as `mbjax.data.tables.dates.Dates` has them.
    Left out, with a note: columns without a value in the training part, strings that name the row (more than
    `MAX_CATEGORIES` values, and more than half as many as rows), and types that are neither.

    Args:
      frame: the table, `[n, columns]`, of pandas, or of polars or another library that has `to_pandas`.
      target: its column of labels.
      source: its name, for messages and results.
      seed: of the split.
      scale: the numeric columns to scale; all if None. The others come first in `x`.
      notes: put before those made here.
      dropped: columns of the file that are not in `frame`: a table to predict on may have them.
      learned: how columns are written; found in the frame if None.
      treatments: what `config.data.columns` says; categories are then some whatever their number of values.
      csv: what was set of how a CSV file is written; kept for new files.
      scaling, encoding, bins: see `mbjax.data.tables.numbers.fit`.
      group, time: see `load`. They are no features, unless `treatments` has them.
      careful: whether to warn of columns that name the row, tell the label or never change.
      origin: where a reader finds each row, `[n]`; its number in `frame`, from 1, if None.
      **split: the other options of `mbjax.data.splits.split_indices`.

    Returns:
      `x` `[n, features]` float32: numbers, then the one-hot features.

    Raises:
      UserError: labels that are missing or continuous, infinite values, no feature left, or a class too small.
    """
    frame = frame if isinstance(frame, pd.DataFrame) else frame.to_pandas()
    if frame[target].dtype == np.float16:  # which pandas can count no values of
        frame = frame.astype({target: np.float32})
    _check_labels(frame.loc[:, target], source)
    y, classes, label_notes = encode_labels(frame.loc[:, target])
    learned = learned or look.learn(frame.drop(columns=[target]), source=source)
    index, split_notes = _split(
        frame, y, learned, source=source, seed=seed, classes=classes, group=group, time=time, **split
    )
    keys = [name for name in (group, time) if name and name not in (treatments or {})]
    frame = frame.drop(columns=list({target, *keys}))
    steps = [_from_first(step, frame, index["train"], source) for step in learned.steps if step.name not in keys]
    codes = [name for name, what in (treatments or {}).items() if what == "category"]
    columns, frame, column_notes = _fit(
        frame, index["train"], source=source, codes=codes, scale=scale, ignored=(target, *dropped, *keys), steps=steps,
        csv=csv, scaling=scaling, encoding=encoding, bins=bins,
    )  # fmt: skip
    x = columns.encode(frame, source=source)

    sources = {made: step.name for step in steps for made in step.makes}
    if careful:
        label_notes = (*label_notes, *suspects.warnings_of_labels(classes))
        used = frame.loc[:, list(columns.made)].iloc[index["train"]]
        column_notes += suspects.warnings_of(used, y[index["train"]], classes, sources)
    column_notes += _imputed(frame.loc[:, columns.made], columns, sources)
    origin = np.arange(1, len(y) + 1) if origin is None else origin
    parts = {name: Split(x[i], y[i], origin=origin[i]) for name, i in index.items()}
    overlap = 0.0 if time else len(index["test"]) / (len(y) - len(index["test"]))
    written = [note for note in learned.notes if not any(f"column {name!r}" in note for name in keys)]
    notes = (*notes, *label_notes, *split_notes, *written, *column_notes)
    return Dataset(parts, classes, source, notes=notes, overlap=overlap, preprocessing=columns)


def _fit(
    frame: pd.DataFrame, train: np.ndarray, *, source: str, codes: Collection[str], steps: Sequence[Step],
    ignored: Sequence[str], **options: Any,
) -> tuple[TableColumns, pd.DataFrame, list[str]]:  # fmt: skip
    """What is learned of raw columns, these after their steps, and notes."""
    raw, frame = list(frame.columns), apply(steps, frame, source)
    spelled = numbers_with_blanks(frame)
    frame = frame.assign(**spelled)
    numbers, categories, notes = kinds(frame.iloc[train], codes)
    if not numbers and not categories:
        raise UserError(f"{source}: no feature is left beside {ignored[0]!r}; {'; '.join(notes)}")
    floats = {name: as_numbers(frame.loc[:, name], f"{source}: column {name!r}") for name in numbers}
    frame = frame.assign(**floats)
    _check_finite(frame.loc[:, numbers], source)
    columns = TableColumns.fit(
        frame.iloc[train], numbers=numbers, categories=categories, columns=raw, steps=steps, ignored=ignored, **options
    )
    return columns, frame, [*(f"column {name!r}: numbers, some of them left blank" for name in spelled), *notes]


def _split(
    frame: pd.DataFrame, y: np.ndarray, learned: Learned, *, source: str, seed: int, classes: tuple[str, ...],
    group: str, time: str, **split: Any,
) -> tuple[dict[str, np.ndarray], list[str]]:  # fmt: skip
    """The rows of each part, and a note where a column decides them."""
    if not group and not time:
        return splits.split_indices(y, seed=seed, classes=classes, **split), []
    if group and time:
        raise UserError(f"config.data.group={group!r} and config.data.time={time!r}: choose one of them")
    name = group or time
    column, key = frame.loc[:, name], "group" if group else "time"
    if column.isna().any():
        row = int(column.isna().to_numpy().argmax()) + 1
        raise UserError(f"config.data.{key}={name!r}: {source} has no value there in data row {row}: drop such rows")
    if group:
        parts = splits.split_by_group(y, column.astype(object).map(str).to_numpy(), seed=seed, **split)
        return parts, [f"split by {group!r}: no value of it is in two parts"]
    step = next((step for step in learned.steps if step.name == name), None)
    what = f"{source}: column {name!r}"
    times = step.days(column, what) if isinstance(step, Dates) else as_numbers(_converted(column, step, what), what)
    if np.isnan(times).any():
        row = int(np.isnan(times).argmax()) + 1
        raise UserError(f"config.data.time={time!r}: {source} has no date or number there in data row {row}")
    shares = {key: value for key, value in split.items() if key != "stratify"}
    return splits.split_by_time(times, **shares), [f"split by {time!r}: the latest rows are the test part"]


def _converted(column: pd.Series, step: Any, what: str) -> pd.Series:
    return column if step is None else pd.Series(next(iter(step.convert(column, what).values())))


def _from_first(step: Step, frame: pd.DataFrame, train: np.ndarray, source: str) -> Step:
    """A step of dates that counts days from the first of the training part; another as it is."""
    if not isinstance(step, Dates):
        return step
    days = step.days(frame.loc[:, step.name].iloc[train], f"{source}: column {step.name!r}")
    known = days[np.isfinite(days)]
    return dataclasses.replace(step, first=float(np.floor(known.min())) if len(known) else 0.0)


def _imputed(frame: pd.DataFrame, columns: TableColumns, sources: Mapping[str, str]) -> list[str]:
    """A note on each column with missing values; columns that were made of one share it."""
    notes, numbers = [], {number.name for number in columns.numbers}
    for name in frame.columns:
        if count := np.count_nonzero(frame[name].isna()):
            by = "median" if name in numbers else "most frequent value"
            notes.append(f"column {sources.get(name, name)!r}: {count} missing values imputed by the {by}")
    return list(dict.fromkeys(notes))


def _is_nested(column: pd.Series) -> bool:
    """Whether it holds lists, structs or maps: values that are no single thing."""
    return column.dtype == object and any(isinstance(value, list | tuple | dict | set | np.ndarray) for value in column)


def _check_labels(labels: pd.Series, source: str) -> None:
    if _is_nested(labels):
        raise UserError(f"{source}: column {labels.name!r} holds lists or structs: texts or whole numbers are needed")
    missing, distinct = labels.isna(), labels.nunique()
    if missing.any():
        raise UserError(
            f"{source}: {missing.sum()} labels in column {labels.name!r} are missing, the first in data row "
            f"{missing.argmax() + 1}: drop these rows or fill them in"
        )
    if not dtypes.is_numeric_dtype(labels) or dtypes.is_bool_dtype(labels) or distinct <= 20:
        return
    if distinct > len(labels) / 2 or (labels % 1 != 0).any():
        raise UserError(
            f"{source}: column {labels.name!r} has {distinct} distinct numbers and looks continuous: mbjax "
            "classifies; choose another --config.data.target or make classes of it"
        )


def _check_finite(numbers: pd.DataFrame, source: str) -> None:
    rows, columns = np.nonzero(np.abs(numbers.to_numpy()) > np.finfo(np.float32).max)
    if len(rows):
        values = "infinite values" if np.isinf(numbers.to_numpy()).any() else "values beyond 3.4e38"
        raise UserError(
            f"{source}: column {numbers.columns[columns[0]]!r} has {(columns == columns[0]).sum()} {values}, "
            f"the first in data row {rows[0] + 1}: replace them, or leave the column out with --config.data.drop"
        )


def kinds(train: pd.DataFrame, codes: Collection[str] = ()) -> tuple[list[str], list[str], list[str]]:
    """Sorts the columns into numbers and categories; notes say which are left out and why.

    Args:
      train: the columns of the training part.
      codes: categories whatever their number of values.
    """
    numbers, categories, notes = [], [], []
    for name in train.columns:
        column = train.loc[:, name]
        if _is_nested(column):
            notes.append(f"column {name!r} left out: lists or structs are neither a number nor a category")
            continue
        boolean = dtypes.is_bool_dtype(column)
        decimal = dtypes.infer_dtype(column, skipna=True) == "decimal"  # Parquet's exact numbers
        text = column.dtype == object or dtypes.is_string_dtype(column) or isinstance(column.dtype, pd.CategoricalDtype)
        if column.isna().all():
            notes.append(f"column {name!r} left out: no value in the training part")
        elif decimal or (dtypes.is_numeric_dtype(column) and not boolean):
            numbers.append(name)
        elif not (boolean or text):
            notes.append(f"column {name!r} left out: {column.dtype} is neither a number nor a category")
        elif (distinct := column.map(str, na_action="ignore").nunique()) > max(MAX_CATEGORIES, len(column) / 2) and (
            name not in codes
        ):
            notes.append(f"column {name!r} left out: {distinct} distinct values in {len(column)} rows name the row")
        else:
            categories.append(name)
            if distinct > MAX_CATEGORIES:
                notes.append(f"column {name!r}: the rarest of its {distinct} values share one feature")
    return numbers, categories, notes
