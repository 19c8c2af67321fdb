"""Columns of dates: how they are written, and the step from them to year, month, weekday and days."""

import dataclasses
import datetime
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types as dtypes

from mbjax.data.tables.spelling import MISSING, Found
from mbjax.options import listed, shown
from mbjax.types import UserError

_FEW = 0.8  # of a column's rows are dates: the others are too few for a column of text
_TIME = r"(?P<time>[ T]\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?: ?[AaPp][Mm])?)?(?P<zone>Z| ?[+-]\d{2}:?\d{2}| UTC)?"
_MONTH = r"[^\W\d_]{3,9}\.?"
_WRITTEN = {  # what a date looks like, and the formats that it may have
    rf"\d{{4}}-\d{{1,2}}-\d{{1,2}}{_TIME}": ("%Y-%m-%d",),
    rf"\d{{4}}/\d{{1,2}}/\d{{1,2}}{_TIME}": ("%Y/%m/%d",),
    rf"\d{{4}}\.\d{{1,2}}\.\d{{1,2}}{_TIME}": ("%Y.%m.%d",),
    rf"\d{{1,2}}\.\d{{1,2}}\.\d{{4}}{_TIME}": ("%d.%m.%Y",),
    rf"\d{{1,2}}\.\d{{1,2}}\.\d{{2}}{_TIME}": ("%d.%m.%y",),
    rf"\d{{1,2}}/\d{{1,2}}/\d{{4}}{_TIME}": ("%d/%m/%Y", "%m/%d/%Y"),
    rf"\d{{1,2}}/\d{{1,2}}/\d{{2}}{_TIME}": ("%d/%m/%y", "%m/%d/%y"),
    rf"\d{{1,2}}-\d{{1,2}}-\d{{4}}{_TIME}": ("%d-%m-%Y", "%m-%d-%Y"),
    rf"\d{{1,2}}[ -]{_MONTH}[ -]\d{{4}}{_TIME}": ("%d %b %Y",),
    rf"\d{{1,2}}\. {_MONTH} \d{{4}}{_TIME}": ("%d. %b %Y",),
    rf"{_MONTH} \d{{1,2}},? \d{{4}}{_TIME}": ("%b %d %Y",),
}  # fmt: skip
_PATTERNS = {re.compile(pattern): formats for pattern, formats in _WRITTEN.items()}
_MONTHS = {name: number + 1 for number, names in enumerate((
    "jan januar january janvier enero", "feb februar february février fév febrero", "mar mär märz march mars marzo",
    "apr april avril abr abril", "may mai mayo", "jun juni june juin junio", "jul juli july juillet julio",
    "aug august août agosto ago", "sep sept september septembre septiembre", "oct okt oktober october octobre octubre",
    "nov november novembre noviembre", "dec dez dezember december décembre déc diciembre dic",
)) for name in names.split()}  # fmt: skip
FEATURES = ("year", "month", "weekday", "days")


@dataclasses.dataclass(frozen=True)
class Dates:
    """A column of dates: its year, month, weekday (Monday is 0), and days since the first date of the training part.

    Attributes:
      name: of the column.
      format: of text, as `datetime.strptime` has it (a time may follow, and `%b` is a month's name, short or long); of
        columns that hold dates, none.
      first: the first date of the training part, in days since 1970.
      lenient: whether other text counts as missing.
    """

    name: str
    format: str = ""
    first: float = 0.0
    lenient: bool = False
    kind: str = "dates"

    @property
    def makes(self) -> tuple[str, ...]:
        return tuple(f"{self.name}: {feature}" for feature in FEATURES)

    def convert(self, column: pd.Series, what: str, start: int = 0) -> dict[str, Any]:
        """The features' columns, float64 `[n]` each, NaN where the date is missing.

        Raises:
          UserError: a value that is no date of this format; the message names the first.
        """
        days = self.days(column, what, start)
        known = np.isfinite(days)
        whole = np.floor(np.where(known, days, 0)).astype(np.int64).astype("datetime64[D]")
        months = whole.astype("datetime64[M]").astype(np.int64)
        parts = (months // 12 + 1970, months % 12 + 1, (whole.astype(np.int64) + 3) % 7, days - self.first)
        return {name: np.where(known, part, np.nan) for name, part in zip(self.makes, parts, strict=True)}

    def days(self, column: pd.Series, what: str, start: int = 0) -> np.ndarray:
        """Days since 1970, times as fractions, `[n]` float64; NaN where the date is missing."""
        if dtypes.is_datetime64_any_dtype(column.dtype):
            return _days(column)
        codes, values = pd.factorize(column.astype(object))
        read = [self._read(value) for value in values]
        wrong = [place for place, day in enumerate(read) if day is None]
        if wrong and not self.lenient:
            row = int(np.isin(codes, wrong).argmax())
            written = f"dates such as {self.format}" if self.format else "dates"
            raise UserError(
                f"{what} holds {shown(column.iloc[row])} in data row {start + row + 1} where training had {written}: "
                "mend it, or leave the value empty"
            )
        return np.array([*(np.nan if day is None else day for day in read), np.nan], np.float64)[codes]

    def _read(self, value: Any) -> float | None:
        if isinstance(value, datetime.date):  # a timestamp is one
            return float(_days(pd.Series([pd.Timestamp(value)]))[0])
        if isinstance(value, np.datetime64):
            return float(_days(pd.Series([value]))[0])
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(int(value)) if value % 1 == 0 else str(value)  # 20240131
        if not isinstance(value, str):
            return None
        text = value.strip()
        return np.nan if text.lower() in MISSING else parse(text, self.format)


def _days(column: pd.Series) -> np.ndarray:
    times = pd.to_datetime(column, utc=True).dt.tz_localize(None).astype("datetime64[us]")
    days = times.to_numpy().astype(np.int64) / 86_400e6
    return np.where(times.isna(), np.nan, days)


def parse(text: str, form: str) -> float | None:
    """Days since 1970 of a date as text, a time perhaps behind it; None if it is none of this format."""
    form = form or "%Y-%m-%d"
    for pattern, formats in _PATTERNS.items():
        if form in formats and (match := pattern.fullmatch(text)):
            return _known(text, match, form)
    try:
        moment = datetime.datetime.strptime(text, form)
    except ValueError:
        return None
    return _since(moment)


def _known(text: str, match: re.Match[str], form: str) -> float | None:
    end = match.start("time") if match["time"] else match.start("zone") if match["zone"] else len(text)
    fields = [field.rstrip(".").lower() for field in re.split(r"[-/. ,]+", text[:end].strip()) if field]
    letters = re.findall(r"%(\w)", form)
    if len(fields) != 3:
        return None
    by_letter = dict(zip(letters, fields, strict=True))
    month = _MONTHS.get(by_letter["b"]) if "b" in by_letter else int(by_letter["m"])
    year = int(by_letter.get("Y", by_letter.get("y", "0")))
    if "y" in by_letter:
        year += 2000 if year < 69 else 1900  # as strptime has it
    try:
        moment = datetime.datetime(year, month or 0, int(by_letter["d"]))
        return _since(moment) + _clock(match["time"] or "") - _offset(match["zone"] or "")
    except ValueError:
        return None


def _since(moment: datetime.datetime) -> float:
    zone = datetime.UTC if moment.tzinfo else None
    return (moment - datetime.datetime(1970, 1, 1, tzinfo=zone)).total_seconds() / 86_400


def _clock(text: str) -> float:
    """A time as a share of the day.

    Raises:
      ValueError: there is no such time.
    """
    if not text:
        return 0.0
    half = text.strip(" T").lower()
    parts = [float(part.replace(",", ".")) for part in half.rstrip("apm ").split(":")]
    hours, minutes, seconds = [*parts, 0.0][:3]
    if half.endswith("m"):
        hours = hours % 12 + 12 * half.endswith("pm")
    if hours > 24 or minutes >= 60 or seconds >= 61:
        raise ValueError(text)
    return hours / 24 + minutes / 1440 + seconds / 86_400


def _offset(zone: str) -> float:
    zone = zone.strip().replace(":", "")
    if zone in ("", "Z", "UTC"):
        return 0.0
    return (1 if zone[0] == "+" else -1) * (int(zone[1:3]) / 24 + int(zone[3:5]) / 1440)


def look(name: str, counts: Mapping[str, int], *, settle: bool = True) -> Found | None:
    """What a column of text is, if most of it looks like dates; else None.

    Args:
      name: of the column.
      counts: how often each distinct text occurs.
      settle: whether day and month must be told apart.

    Raises:
      UserError: day and month cannot be told apart.
    """
    known = {text: text.strip() for text in counts if text.strip().lower() not in MISSING}
    alike = {}
    for text, word in known.items():
        if formats := next((formats for pattern, formats in _PATTERNS.items() if pattern.fullmatch(word)), ()):
            alike.setdefault(formats, []).append(text)
    rows = sum(counts[text] for text in known)
    if not alike or sum(counts[text] for texts in alike.values() for text in texts) < _FEW * rows:
        return None
    formats, texts = max(alike.items(), key=lambda item: len(item[1]))
    valid = [form for form in formats if all(parse(known[text], form) is not None for text in texts)]
    if len(texts) < len(known) or not valid:
        return Found(notes=(_mixed(name, known, texts, formats),))
    if len(valid) > 1 and settle:
        raise UserError(
            f"column {name!r}: in dates such as {next(iter(known.values()))!r} day and month cannot be told apart, for "
            f"no value is above 12: set --config.data.columns=\"{{{name!r}: 'date:{valid[0]}'}}\" or 'date:{valid[1]}'"
        )
    return Found(Dates(name, valid[0]), notes=(describe(name, valid[0]),))


def _mixed(name: str, known: Mapping[str, str], texts: Collection[str], formats: Collection[str]) -> str:
    other = [word for text, word in known.items() if text not in texts]
    other = other or [known[text] for text in texts if all(parse(known[text], form) is None for form in formats)]
    odd = f"not {listed(other[:3])}" if other else "some with the day first and some with the month first"
    form = next(iter(formats))
    shown = next((known[text] for text in texts if known[text] not in other), "")
    return (
        f"warning: column {name!r} is a category: it has dates such as {shown!r}, but {odd}; "
        f"--config.data.columns=\"{{{name!r}: 'date:{form}'}}\" makes what is none missing"
    )


def describe(name: str, form: str = "") -> str:
    """The note on a column of dates."""
    written = f"dates written {form}, as" if form else "dates as"
    return f"column {name!r}: {written} year, month, weekday and days since the first of training"
