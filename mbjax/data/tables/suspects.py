"""Columns that a careful reader would ask about: those that name the row, tell the label, or never change."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from pandas.api import types as dtypes
from sklearn.metrics import balanced_accuracy_score
from sklearn.tree import DecisionTreeClassifier

from mbjax.options import listed

_ROWS = 20_000  # of the training part that are looked at, evenly spread
_ALONE = 0.98  # balanced accuracy of one column on rows that its rule was not made of
_FEW_VALUES = 20
_PURE_ROWS, _PURE_SHARE = 20, 0.1  # a value with rows of one rare class alone: so many, and so much of the class
_RARE = 0.2
_ID = re.compile(
    r"(?i:(?:^|[\W_])(?:id|ids|uid|udi|uuid|guid|nr|no|number|key|index|row|rowid)$|^unnamed: 0$)|[a-z](?:ID|Id|Nr|No)$"
)


def warnings_of(train: pd.DataFrame, y: np.ndarray, classes: tuple[str, ...], sources: Mapping[str, str]) -> list[str]:
    """Warnings on columns of the training part; no column is left out for one.

    Args:
      train: the columns that features are made of.
      y: class numbers, `[n]`.
      classes: their names.
      sources: the file's column, of columns that were made of one.
    """
    if len(classes) < 2:
        return []
    if len(train) > _ROWS:
        rows = np.linspace(0, len(train) - 1, _ROWS).astype(int)
        part, labels = train.iloc[rows], y[rows]
    else:
        part, labels = train, y
    said: dict[str, str] = {}
    for name in train.columns:
        own = sources.get(str(name), str(name))
        if own == name and _names_rows(own, train.loc[:, name]):
            out = f'--config.data.drop="({own!r},)" leaves it out'
            said[own] = f"warning: column {own!r} has another whole number in each row and looks like an id; {out}"
        elif problem := _problem(part.loc[:, name], labels, classes):
            said.setdefault(own, f"warning: column {own!r} {problem}")
    return list(said.values())


def warnings_of_labels(classes: Sequence[str]) -> list[str]:
    """Warnings on class names that differ in case or in the blanks around them alone."""
    same: dict[str, list[str]] = {}
    for name in classes:
        same.setdefault(name.strip().lower(), []).append(name)
    return [
        f"warning: the labels {listed(sorted(own))} differ in case or blanks alone: they are classes apart"
        for own in same.values() if len(own) > 1
    ]  # fmt: skip


def _problem(column: pd.Series, y: np.ndarray, classes: tuple[str, ...]) -> str:
    """What is odd about a column, after its name; nothing if nothing is."""
    codes = column.to_numpy(np.float64, na_value=np.nan) if dtypes.is_numeric_dtype(column.dtype) else _codes(column)
    distinct = len(np.unique(codes[~np.isnan(codes)]))
    if distinct <= 1 and not np.isnan(codes).any():
        return "has the same value in every training row"
    tail = "if it is known only afterwards, it leaks the label: leave it out"
    if (score := _score(codes, y)) >= _ALONE:
        return f"predicts the label almost alone (balanced accuracy {score:.2f} on training rows): {tail}"
    if distinct <= _FEW_VALUES and (found := _pure(column, y)):
        value, number, rows = found
        return f"is {value!r} in {rows} training rows, and all of them are {classes[number]!r}: {tail}"
    return ""


def _names_rows(name: str, column: pd.Series) -> bool:
    if not dtypes.is_numeric_dtype(column.dtype) or dtypes.is_bool_dtype(column.dtype) or len(column) < 20:
        return False
    values = column.to_numpy(np.float64, na_value=np.nan)
    if np.isnan(values).any() or (values % 1 != 0).any() or len(np.unique(values)) < len(values):
        return False
    # Of rows that are numbered, a part is trained on.
    return bool(_ID.search(name)) or values.max() - values.min() < 2 * len(values)


def _codes(column: pd.Series) -> np.ndarray:
    codes = pd.factorize(column.astype(object).map(str, na_action="ignore"))[0].astype(np.float64)
    return np.where(codes < 0, np.nan, codes)


def _score(codes: np.ndarray, y: np.ndarray) -> float:
    """The balanced accuracy of a small tree of one column, made of every other row of each class, on the other rows."""
    half = np.zeros(len(y), bool)
    for number in np.unique(y):
        half[np.flatnonzero(y == number)[::2]] = True
    classes = len(np.unique(y))
    if np.bincount(y[~half]).astype(bool).sum() < classes or min(np.bincount(y)[np.unique(y)]) < 8:
        return 0.0
    if np.nanmax(np.abs(codes), initial=0) > np.finfo(np.float32).max or np.isnan(codes).all():
        return 0.0
    tree = DecisionTreeClassifier(max_leaf_nodes=max(8, 2 * classes), class_weight="balanced", random_state=0)
    tree.fit(codes[half, None], y[half])
    return float(balanced_accuracy_score(y[~half], tree.predict(codes[~half, None])))


def _pure(column: pd.Series, y: np.ndarray) -> tuple[str, int, int] | None:
    """A value whose rows are all of one rare class: it, the class, and how many rows."""
    counts = np.bincount(y)
    table = pd.crosstab(column.astype(object).map(str, na_action="ignore").to_numpy(object), y)
    for value, row in zip(table.index, table.to_numpy(), strict=True):
        number, rows = int(table.columns[row.argmax()]), int(row.sum())
        rare = counts[number] <= _RARE * len(y)
        if rare and row.max() == rows >= max(_PURE_ROWS, _PURE_SHARE * counts[number]):
            return str(value).removesuffix(".0"), number, rows
    return None
