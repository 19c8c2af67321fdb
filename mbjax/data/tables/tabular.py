"""`tabular`: any CSV or Parquet file with a column of labels; and what every table shares on its way to arrays."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types as dtypes

from mbjax.data.sources import DIR_OPTION, PATH_OPTION, find_own
from mbjax.data.splits import STRATIFY, TEST_SHARE, VALIDATION_SHARE, encode_labels, split_indices
from mbjax.data.tables import unpacked
from mbjax.data.tables.columns import MAX_CATEGORIES, TableColumns, as_numbers, numbers_with_blanks
from mbjax.options import TEXT, TEXTS, Option, listed
from mbjax.types import Dataset, Split, UserError, first_line

TARGET_OPTION = Option("target", "", TEXT, "the column of labels")
DROP_OPTION = Option("drop", (), TEXTS, "columns to leave out")
OPTIONS = (  # of config.data
    PATH_OPTION, TARGET_OPTION, DIR_OPTION, DROP_OPTION, TEST_SHARE, VALIDATION_SHARE, STRATIFY,
)  # fmt: skip


def load(
    *,
    seed: int,
    path: str = "",
    target: str = "",
    dir: str = "",
    drop: Sequence[str] = (),
    test_share: float = 0.2,
    validation_share: float = 0.0,
    stratify: bool = True,
) -> Dataset:
    """Loads a table of one's own; `from_frame` says what becomes of its columns.

    Args:
      seed: of the split.
      path: a `.csv` (also `.csv.gz`) or `.parquet` file: absolute, or relative to the working directory, else to the
        data folder.
      target: the column of labels.
      dir: the data folder; see `mbjax.data.sources.data_dir`.
      drop: columns to leave out.
      test_share, validation_share, stratify: see `mbjax.data.splits.split_indices`.

    Raises:
      UserError: a missing or unreadable file, a missing column, or labels or features that cannot be used.
    """
    file = find_own(path, dir, wanted="a CSV or Parquet file")
    frame = read_table(file)
    check_columns(list(frame.columns), target=target, drop=drop, source=file.name)
    frame = frame.drop(columns=[name for name in drop if name != target])
    shares = {"test_share": test_share, "validation_share": validation_share, "stratify": stratify}
    return from_frame(frame, target, source=file.name, seed=seed, dropped=drop, **shares)


def check_columns(columns: Sequence[str], *, target: str, drop: Sequence[str], source: str) -> None:
    """Raises a UserError if the target or a column to leave out is not there."""
    for key, name in (("target", target), *(("drop", name) for name in drop)):
        if name not in columns:
            near = difflib.get_close_matches(name, columns)
            hint = f"did you mean {listed(near)}?" if near else f"it has {listed(columns)}"
            raise UserError(f"config.data.{key}={name!r}: no such column in {source}; {hint}")


def read_table(path: Path) -> pd.DataFrame:
    """Reads a CSV or Parquet file, as its name's ending tells.

    Raises:
      UserError: another ending, a file that cannot be parsed, one that unpacks to more than memory holds, or no rows.
    """
    if ".csv" not in path.suffixes and path.suffix != ".parquet":
        raise UserError(f"{path}: a file that ends in .csv, .csv.gz or .parquet is needed")
    try:
        frame = _read(path)
    except UserError:
        raise
    except pd.errors.EmptyDataError:
        frame = pd.DataFrame()
    except Exception as error:  # whatever pandas, pyarrow and the decompressors raise of a damaged file
        raise UserError(f"{path} cannot be read as a table: {first_line(error)}") from None
    if not len(frame):
        raise UserError(f"{path} has no rows")
    frame = frame.rename(columns=str)
    if not frame.columns.is_unique:
        raise UserError(f"{path} has two columns named {frame.columns[frame.columns.duplicated()][0]!r}: rename one")
    return frame


def _read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        unpacked.check_parquet(path)
        return pd.read_parquet(path)
    with unpacked.opened(path) as source:
        return pd.read_csv(source, low_memory=False)


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
    frame: pd.DataFrame,
    target: str,
    *,
    source: str,
    seed: int,
    scale: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    dropped: Sequence[str] = (),
    **split: Any,
) -> Dataset:
    """Splits a table and turns its columns into features, learning everything from the training part alone.

    Numbers, also where a file has blanks among them: missing values become the median; then mean 0 and variance 1.
    Bools, strings and categories: missing values become the most frequent one; then a feature for each value, all zero
    where a value is unseen in training.
    Left out, with a note: columns without a value in the training part, strings that name the row (more than
    `MAX_CATEGORIES` values, and more than half as many as rows), and types that are neither (dates).

    Args:
      frame: the table, `[n, columns]`.
      target: its column of labels.
      source: its name, for messages and results.
      seed: of the split.
      scale: the numeric columns to scale; all if None. The others come first in `x`.
      notes: put before those made here.
      dropped: columns of the file that are not in `frame`: a table to predict on may have them.
      **split: the other options of `mbjax.data.splits.split_indices`.

    Returns:
      `x` `[n, features]` float32: numbers, then the one-hot features.

    Raises:
      UserError: labels that are missing or continuous, infinite values, no feature left, or a class too small.
    """
    if frame[target].dtype == np.float16:  # which pandas can count no values of
        frame = frame.astype({target: np.float32})
    _check_labels(frame.loc[:, target], source)
    y, classes, label_notes = encode_labels(frame.loc[:, target])
    index = split_indices(y, seed=seed, classes=classes, **split)
    frame = frame.drop(columns=[target])
    spelled = numbers_with_blanks(frame)
    frame = frame.assign(**spelled)
    numbers, categories, column_notes = kinds(frame.iloc[index["train"]])
    if not numbers and not categories:
        raise UserError(f"{source}: no feature is left beside {target!r}; {'; '.join(column_notes)}")
    floats = {name: as_numbers(frame.loc[:, name], f"{source}: column {name!r}") for name in numbers}
    frame = frame.assign(**floats)
    _check_finite(frame.loc[:, numbers], source)
    columns = TableColumns.fit(
        frame.iloc[index["train"]], numbers=numbers, categories=categories, scale=scale, ignored=(target, *dropped)
    )
    x = columns.transform(frame, source=source)

    for name in columns.used:
        if count := np.count_nonzero(frame[name].isna()):
            by = "median" if name in numbers else "most frequent value"
            column_notes.append(f"column {name!r}: {count} missing values imputed by the {by}")
    splits = {name: Split(x[i], y[i], origin=i + 1) for name, i in index.items()}
    overlap = len(index["test"]) / (len(y) - len(index["test"]))
    blank_notes = [f"column {name!r}: numbers, some of them left blank" for name in spelled]
    notes = (*notes, *label_notes, *blank_notes, *column_notes)
    return Dataset(splits, classes, source, notes=notes, overlap=overlap, preprocessing=columns)


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


def kinds(train: pd.DataFrame) -> tuple[list[str], list[str], list[str]]:
    """Sorts the columns into numbers and categories; notes say which are left out and why."""
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
        elif (distinct := column.map(str, na_action="ignore").nunique()) > max(MAX_CATEGORIES, len(column) / 2):
            notes.append(f"column {name!r} left out: {distinct} distinct values in {len(column)} rows name the row")
        else:
            categories.append(name)
            if distinct > MAX_CATEGORIES:
                notes.append(f"column {name!r}: the rarest of its {distinct} values share one feature")
    return numbers, categories, notes
