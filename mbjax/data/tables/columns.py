"""What training learned of a table's columns, and the step from raw columns to features that it makes of them."""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from pandas.api import types as dtypes
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from mbjax.data.tables import numbers as numbers_lib
from mbjax.data.tables.numbers import BINS, Coefficients, Number
from mbjax.data.tables.steps import Step, apply, step_from_dict
from mbjax.options import listed, shown
from mbjax.types import UserError

_FEW = 64  # rows
MAX_CATEGORIES = 100  # features that one column of strings may become


@dataclasses.dataclass(frozen=True)
class Category:
    """A column of strings, categories or bools: `width` features, one of them 1.

    Attributes:
      name: of the column.
      width: its features.
      places: the feature of each value, from 0; -1 for none. A value that is not here has none.
      missing: the feature of a missing value; -1 for none.
      boolean: whether the training column held bools, which a CSV file may spell `true`.
    """

    name: str
    width: int
    places: Mapping[str, int]
    missing: int = -1
    boolean: bool = False

    def __post_init__(self):
        if not all(
            isinstance(place, int) and -1 <= place < self.width for place in (*self.places.values(), self.missing)
        ):
            raise ValueError(f"column {self.name!r} has places that are none of its {self.width} features")


@dataclasses.dataclass(frozen=True)
class TableColumns:
    """Turns raw columns into the features that a network was trained on: numbers first, then the categories.

    Columns that are not written as plain numbers or words go through a step first, which may make several of one.

    Attributes:
      columns: the training table's columns in its order, without the target and those dropped by name. Some may have
        been left out since: they are neither numbers nor categories here.
      numbers: in the order of their features.
      categories: likewise.
      ignored: columns that a table may have without a warning: the target and those dropped by name.
      dtype: what numbers are scaled in, `"float64"` or `"float32"`.
      steps: of columns that are not written plainly.
      csv: what was set of `config.data.csv`; new files are read so.
    """

    columns: tuple[str, ...]
    numbers: tuple[Number, ...]
    categories: tuple[Category, ...]
    ignored: tuple[str, ...] = ()
    dtype: str = "float64"
    steps: tuple[Step, ...] = ()
    csv: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        train: pd.DataFrame,
        *,
        numbers: Sequence[str],
        categories: Sequence[str],
        scale: Sequence[str] | None = None,
        ignored: Sequence[str] = (),
        scaling: str = "standard",
        encoding: str = "none",
        bins: int = BINS.default,
        columns: Sequence[str] | None = None,
        steps: Sequence[Step] = (),
        csv: Mapping[str, Any] | None = None,
    ) -> Self:
        """Learns medians, means, deviations, the most frequent values and the categories of a training part.

        Args:
          train: its columns, after the steps, with a value at least in each that is named.
          numbers: the columns of numbers.
          categories: the columns of strings, categories or bools.
          scale: the numbers to scale; all if None. The others come first.
          ignored: see the attribute.
          scaling, encoding, bins: see `mbjax.data.tables.numbers.fit`.
          columns: before the steps; those of `train` if None.
          steps, csv: see the attributes.
        """
        scaled = [name for name in numbers if scale is None or name in scale]
        plain = [name for name in numbers if name not in scaled]
        learned = []
        for some, how in ((plain, None), (scaled, scaling)):
            values = [as_numbers(train.loc[:, name], f"column {name!r}") for name in some]
            learned += numbers_lib.fit(some, np.array(values).T, scaling=how, encoding=encoding, bins=bins)
        places = tuple(_fit_category(train.loc[:, name]) for name in categories)
        raw = tuple(map(str, train.columns if columns is None else columns))
        return cls(raw, tuple(learned), places, tuple(ignored), steps=tuple(steps), csv=csv or {})

    @property
    def features(self) -> int:
        """How many there are."""
        return sum(one.width for one in (*self.numbers, *self.categories))

    @property
    def used(self) -> tuple[str, ...]:
        """The columns that a table must have."""
        return tuple(dict.fromkeys(self._sources.get(name, name) for name in self.made))

    @property
    def made(self) -> tuple[str, ...]:
        """The columns that features are made of, after the steps."""
        return (*(number.name for number in self.numbers), *(category.name for category in self.categories))

    @property
    def text(self) -> tuple[str, ...]:
        """The columns of a CSV file that stay as they are spelled: of codes, a part may hold nothing but digits."""
        return (*(category.name for category in self.categories), *(step.name for step in self.steps))

    @functools.cached_property
    def _sources(self) -> dict[str, str]:
        return {made: step.name for step in self.steps for made in step.makes}

    def check(self, columns: Sequence[str], source: str) -> None:
        """Warns of columns that training did not see.

        Args:
          columns: what a table has, in any order.
          source: its name, for messages.

        Raises:
          UserError: a column that the network needs is missing, or is there twice.
        """
        there = set(columns)
        if missing := [name for name in self.used if name not in there]:
            raise UserError(
                f"{source} has no column {listed(missing)}, which the model was trained on; it has {listed(columns)}"
            )
        if len(there) < len(columns) and (twice := [name for name in self.used if list(columns).count(name) > 1]):
            raise UserError(f"{source} has column {listed(twice)} more than once: keep one")
        if extra := [name for name in columns if name not in self._known]:
            warnings.warn(f"{source}: column {listed(extra)} ignored, the model was trained without it", stacklevel=2)

    @functools.cached_property
    def _known(self) -> set[str]:
        return {*self.columns, *self.ignored}

    def empty_row(self) -> pd.DataFrame:
        """A row of which every value is missing."""
        return pd.DataFrame([[np.nan] * len(self.used)], columns=list(self.used))

    def transform(self, frame: pd.DataFrame, *, source: str = "the table", start: int = 0) -> np.ndarray:
        """The features of a table, `[n, features]` float32.

        Args:
          frame: raw columns, in any order; see `check`.
          source: its name, for messages.
          start: how many rows came before, for messages.

        Raises:
          UserError: a number's column holds something else, or an infinite value.
        """
        return self.encode(apply(self.steps, frame, source, start), source=source, start=start)

    def encode(self, frame: pd.DataFrame, *, source: str = "the table", start: int = 0) -> np.ndarray:
        """`transform` of columns that went through the steps."""
        x = np.zeros((len(frame), self.features), np.float32)
        at, rows = sum(number.width for number in self.numbers), np.arange(len(frame))
        if self.numbers:
            x[:, :at] = self._scaled(frame, source, start)
        for category in self.categories:
            places = _places(category, frame.loc[:, category.name], f"{source}: column {category.name!r}")
            known = places >= 0
            x[rows[known], at + places[known]] = 1
            at += category.width
        return x

    def _scaled(self, frame: pd.DataFrame, source: str, start: int) -> np.ndarray:
        """The numbers' features, `[n, features]`."""
        names = [number.name for number in self.numbers]
        part = frame.loc[:, names]
        if all(map(dtypes.is_numeric_dtype, part.dtypes)):
            x = part.to_numpy(np.float64, na_value=np.nan, copy=True)
        else:
            x = np.column_stack([as_numbers(part.loc[:, n], f"{source}: column {n!r}", start) for n in names])
        with np.errstate(over="ignore", invalid="ignore"):
            x = x.astype(self.dtype, copy=False)
            all_finite = np.isfinite(x.sum())  # one pass, where all is well
        if not all_finite:
            rows, columns = np.nonzero(np.isinf(x))
            if len(rows):
                raise UserError(
                    f"{source}: column {names[columns[0]]!r} has {(columns == columns[0]).sum()} infinite values, the "
                    f"first in data row {start + rows[0] + 1}: replace them, or leave the values empty"
                )
            np.copyto(x, self._coefficients.fill, where=np.isnan(x))
        return self._coefficients.apply(x)

    @functools.cached_property
    def _coefficients(self) -> Coefficients:
        return Coefficients.of(self.numbers, self.dtype)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold, and `from_dict` reads."""
        return {"kind": "table", **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, about: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, perhaps by way of JSON."""
        return cls(
            columns=tuple(map(str, about["columns"])),
            numbers=tuple(map(Number.from_dict, about["numbers"])),
            categories=tuple(Category(**category) for category in about["categories"]),
            ignored=tuple(map(str, about["ignored"])),
            dtype=about["dtype"],
            steps=tuple(map(step_from_dict, about.get("steps", ()))),  # none in format 1
            csv=about.get("csv", {}),
        )


def _fit_category(column: pd.Series) -> Category:
    text = as_text(column).to_numpy(object)[:, None]
    imputer = SimpleImputer(strategy="most_frequent")
    encoder = OneHotEncoder(handle_unknown="ignore", max_categories=MAX_CATEGORIES, sparse_output=False)
    features = encoder.fit_transform(imputer.fit_transform(text))
    values = [str(value) for value in encoder.categories_[0]]
    of_value = np.asarray(encoder.transform(np.array(values, object)[:, None])).argmax(1).tolist()
    places = dict(zip(values, of_value, strict=True))
    boolean = bool(dtypes.is_bool_dtype(column)) or set(values) <= {"True", "False"}
    most_frequent = str(np.asarray(imputer.statistics_)[0])
    return Category(str(column.name), features.shape[1], places, places[most_frequent], boolean)


def as_text(column: pd.Series) -> pd.Series:
    """A column as strings, missing values as NaN whatever the column called them."""
    return column.astype(object).map(str, na_action="ignore").astype(object)


def as_numbers(column: pd.Series, what: str, start: int = 0) -> np.ndarray:
    """A column as float64, `[n]`, missing and blank values as NaN.

    Args:
      column: numbers, bools, or strings that spell numbers.
      what: its name, for messages.
      start: how many rows came before, for messages.

    Raises:
      UserError: a value that is no number; the message names the first.
    """
    if dtypes.is_numeric_dtype(column.dtype):
        return column.to_numpy(np.float64, na_value=np.nan, copy=True)
    if not (column.dtype == object or dtypes.is_string_dtype(column.dtype) or column.isna().all()):
        raise UserError(f"{what} holds {column.dtype} where training had numbers")
    values = column.to_numpy(object, na_value=np.nan)
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError):
        values = pd.Series([_unblank(value) for value in values], dtype=object)
    converted: Any = pd.to_numeric(values, errors="coerce")
    numbers = converted.to_numpy(np.float64, na_value=np.nan)
    wrong = np.isnan(numbers) & values.notna().to_numpy()
    if wrong.any():
        first = int(wrong.argmax())
        raise UserError(
            f"{what} holds {shown(values[first])} in data row {start + first + 1} where training had numbers: mend it, "
            "or leave the value empty"
        )
    return numbers


def _unblank(value: Any) -> Any:
    if isinstance(value, str):
        value = value.strip()
        return np.nan if value.lower() in ("", "nan") else value
    return value


def numbers_with_blanks(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """The columns of strings in which some are blank and all others spell numbers, as float64 with NaN for blanks.

    A CSV file whose missing numbers are written as spaces is read so.
    """
    found = {}
    for name in frame.columns:
        column = frame.loc[:, name]
        if not (column.dtype == object or dtypes.is_string_dtype(column.dtype)):
            continue
        blank = column.map(lambda value: isinstance(value, str) and not value.strip(), na_action="ignore") == True  # noqa: E712
        if blank.any() and not (blank | column.isna()).all():
            with contextlib.suppress(UserError):
                found[str(name)] = as_numbers(column, str(name))
    return found


def _places(category: Category, column: pd.Series, what: str) -> np.ndarray:
    """The feature of each row, -1 for none."""
    if len(column) <= _FEW:  # pandas would take longer to start
        return np.array([_place(category, value) for value in column.tolist()], np.int64)
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, values = column.cat.codes.to_numpy(), list(column.cat.categories)
    else:
        try:
            codes, values = pd.factorize(column)
        except TypeError:
            raise UserError(f"{what} holds values that are no text, such as {column.iloc[0]!r}") from None
    return np.array([*(_place(category, value) for value in values), category.missing])[codes]


def _place(category: Category, value: Any) -> int:
    if value is None or value is pd.NA or value != value:
        return category.missing
    name = str(value)
    return category.places.get(name.capitalize() if category.boolean else name, -1)  # a CSV file may spell bools so
