"""What each column of a table is: found from how it is written, or set by `config.data.columns`."""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api import types as dtypes

from mbjax.data.tables import dates, reading, spelling, table_options
from mbjax.data.tables.csv_dialect import DEFAULTS, Dialect
from mbjax.data.tables.dates import Dates
from mbjax.data.tables.spelling import Found, Numbers, Words
from mbjax.data.tables.steps import Step
from mbjax.options import listed
from mbjax.types import UserError

_SAMPLE = 1000  # distinct values that tell whether it is worth to look at more of them


class Learned(NamedTuple):
    """How the columns of a table are written.

    Attributes:
      steps: of those that are not written plainly.
      notes: what the reader of a result must know.
      comma: whether some column has a decimal comma for certain, so that points group digits in others.
    """

    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    comma: bool


def read_and_learn(
    file: Path,
    *,
    target: str,
    drop: Sequence[str] = (),
    csv: Mapping[str, Any] = DEFAULTS,
    treatments: Mapping[str, str] | None = None,
    named: Mapping[str, str] | None = None,
) -> tuple[reading.Raw, Learned]:
    """Reads a file, and finds how its columns are written.

    Args:
      file: of the forms of `mbjax.data.tables.reading`.
      target, drop, csv: see `mbjax.data.tables.tabular.load`.
      treatments: what `config.data.columns` says.
      named: further columns that keys of `config.data` name, by the key.

    Raises:
      UserError: a file that cannot be read, a missing column, or see `learn`.
    """
    treatments = treatments or {}
    codes = [name for name, what in treatments.items() if what == "category"]
    settings: dict[str, Any] = {"wanted": [target] if target else [], "text": codes}
    raw = reading.read(file, csv, **settings)
    names = list(raw.frame.columns)
    table_options.check_columns(names, target=target, drop=drop, source=file.name)
    for key, name in (*(("columns", name) for name in treatments), *(named or {}).items()):
        table_options.check_named(names, [name] if name else [], key, file.name)

    def learned_of(raw: reading.Raw) -> Learned:
        features = raw.frame.drop(columns=list({*drop, target}))
        return learn(features, source=file.name, treatments=treatments, csv=csv, dialect=raw.dialect)

    learned = learned_of(raw)
    if learned.comma and raw.dialect and not raw.dialect.text:  # points group digits in what was read as numbers
        raw = reading.read(file, csv, **settings, all_text=True)
        learned = learned_of(raw)
    if raw.dialect and raw.dialect.text:
        raw = dataclasses.replace(raw, frame=raw.frame.assign(**{target: _labels_of_text(raw.frame.loc[:, target])}))
    notes = [note for note in raw.notes if not any(f"column {name!r} has numbers that begin" in note for name in codes)]
    return dataclasses.replace(raw, notes=tuple(notes)), learned


def _labels_of_text(labels: pd.Series) -> pd.Series:
    """Labels that were read as text: numbers where all are, as pandas reads them elsewhere."""
    try:
        numbers: Any = pd.to_numeric(labels)
    except ValueError:
        return labels
    return numbers


def learn(
    frame: pd.DataFrame,
    *,
    source: str,
    treatments: Mapping[str, str] | None = None,
    csv: Mapping[str, Any] = DEFAULTS,
    dialect: Dialect | None = None,
) -> Learned:
    """Finds how columns are written. Columns of numbers and bools stay as they are, and plain words.

    Args:
      frame: the table without its labels.
      source: its name, for messages.
      treatments: what `config.data.columns` says of columns.
      csv: `config.data.csv`.
      dialect: of a CSV file; None where columns have types.

    Raises:
      UserError: a decimal mark, or day and month, that cannot be told; a treatment that a column cannot have.
    """
    csv, found = {**DEFAULTS, **csv}, {}
    for name in frame.columns:
        column, treatment = frame.loc[:, name], (treatments or {}).get(name, "")
        try:
            found[name] = _set(column, name, treatment, csv) if treatment else _find(column, name, csv, dialect)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
    sure = {one.marks for one in found.values() if one.sure}
    if dialect and dialect.point and not dialect.text:
        sure.add(".")
    for name, one in found.items():
        if one.marks == ".,":
            found[name] = _settled(name, one, sure, source, dialect)
    comma = "," in sure and not csv["decimal"]
    if dialect and dialect.text and sure == {","}:  # of whole numbers nothing tells
        found = {name: _with_mark(one, ",") for name, one in found.items()}
    notes = [note for one in found.values() for note in one.notes]
    steps = [one.step for one in found.values() if one.step]
    plain = {name for name, one in found.items() if one.plain}  # of these `columns.numbers_with_blanks` says so
    steps = [step for step in steps if not (isinstance(step, Numbers) and step.decimal == "." and step.name in plain)]
    return Learned(tuple(steps), _merged(notes), comma)


def _find(column: pd.Series, name: str, csv: Mapping[str, Any], dialect: Dialect | None) -> Found:
    if _holds_dates(column):
        return Found(Dates(name), notes=(dates.describe(name),))
    if (counts := _texts(column)) is None:
        return Found()
    if len(counts) > _SAMPLE:
        some = dict(list(counts.items())[:: len(counts) // _SAMPLE])
        if dates.look(name, some, settle=False) is None and spelling.look(name, some, missing=0) == Found():
            return Found()
    if (found := dates.look(name, counts)) is not None:
        return found
    return spelling.look(
        name, counts, missing=int(column.isna().sum()), decimal=csv["decimal"], thousands=csv["thousands"],
        typed=dialect is None,
    )  # fmt: skip


def _set(column: pd.Series, name: str, treatment: str, csv: Mapping[str, Any]) -> Found:
    """What a column is that `config.data.columns` names."""
    counts = _texts(column)
    if treatment == "category":
        return Found(Words(name), notes=(f"column {name!r}: a category, as set",))
    if treatment == "number":
        if counts is None:
            return Found(Numbers(name, lenient=True))
        found = spelling.look(name, counts, missing=0, decimal=csv["decimal"], thousands=csv["thousands"])
        return found if isinstance(found.step, Numbers) else _lenient(column, spelling.guess(name, counts, csv))
    form = treatment.partition(":")[2]
    if form:
        return _lenient(column, Dates(name, form, lenient=True))
    if _holds_dates(column):
        return Found(Dates(name), notes=(dates.describe(name),))
    found = dates.look(name, counts) if counts else None
    if found is None or found.step is None:
        raise UserError(f"column {name!r} has no dates that are known: set its format, such as 'date:%d.%m.%Y'")
    return found


def _lenient(column: pd.Series, step: Numbers | Dates) -> Found:
    """A step that makes missing what it cannot read, and how much that is."""
    values = next(iter(step.convert(column, "").values()))
    lost = np.isnan(np.asarray(values, np.float64)) & column.notna().to_numpy()
    if lost.all() or (lost.sum() == column.notna().sum()):
        raise UserError(f"column {step.name!r} has no value that can be read as set in config.data.columns")
    what = "numbers" if isinstance(step, Numbers) else f"dates written {step.format}"
    note = f"column {step.name!r}: {what}, as set"
    if lost.any():
        some = pd.unique(column[lost].astype(object))
        note += f"; {lost.sum()} values that are none are missing, {listed(map(str, some[:3]))}"
    return Found(step, notes=(note,))


def _settled(name: str, found: Found, sure: set[str], source: str, dialect: Dialect | None) -> Found:
    """A column in which every number is one with either decimal mark: that of the others, or of the language."""
    if len(sure) == 1:
        return _with_mark(found, *sure)
    if not sure and (dialect is None or dialect.sep == ","):
        return _with_mark(found, ".")
    raise UserError(
        f"{source}: column {name!r} has numbers in which the only mark may be a decimal mark or group thousands: set "
        "--config.data.csv.decimal=. or --config.data.csv.decimal=,"
    )


def _with_mark(found: Found, mark: str) -> Found:
    if not isinstance(found.step, Numbers) or found.sure:
        return found
    step = dataclasses.replace(found.step, decimal=mark)
    notes = found.notes
    if (found.marks, mark) == (".,", ","):  # the notes are of a decimal point, with which commas group
        written = "decimal mark ','" if notes else "thousands '.'"
        notes = (f"column {step.name!r}: numbers, {written}",)
    return found._replace(step=step, marks=mark, notes=notes)


def _merged(notes: list[str]) -> tuple[str, ...]:
    """The notes, with one in place of those that say the decimal comma alone."""
    end = ": numbers, decimal mark ','"
    names = [note.removesuffix(end).removeprefix("column ") for note in notes if note.endswith(end)]
    rest = [note for note in notes if not note.endswith(end)]
    return (*([f"decimal mark ',' in column {', '.join(names[:20])}"] if names else []), *rest)


def _holds_dates(column: pd.Series) -> bool:
    if dtypes.is_datetime64_any_dtype(column.dtype):
        return True
    if column.dtype != object or dtypes.infer_dtype(column, skipna=True) not in ("date", "datetime"):
        return False
    return all(isinstance(value, datetime.date) for value in column[column.notna()])


def _texts(column: pd.Series) -> dict[str, int] | None:
    """How often each text occurs in a column of text; None of another. Excel has numbers among them."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return None
    if column.dtype == object:
        kinds = set(map(type, column[column.notna()]))
        if not kinds or not kinds <= {str, int, float} or str not in kinds:
            return None
    elif not dtypes.is_string_dtype(column.dtype):
        return None
    counts = column.astype(object).map(str, na_action="ignore").value_counts(sort=False)
    return {str(text): int(count) for text, count in counts.items()} or None
