"""How a column of text spells numbers, truth values and what is missing; and the step from text to them."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api import types as dtypes

from mbjax.options import listed, shown
from mbjax.types import UserError

MISSING = frozenset({
    "", "?", "-", "--", "---", "–", "—", ".", "..", "...", "*", "na", "n/a", "n.a.", "n.a", "nan", "#n/a", "#na",
    "null", "nil", "none", "missing", "unknown", "not available", "not known", "not applicable", "unbekannt", "k.a.",
    "k. a.", "keine angabe", "inconnu", "desconocido", "#value!", "#div/0!", "#ref!", "#num!", "#name?", "(blank)",
    "(empty)", "<na>", "nat",
})  # fmt: skip
"""What stands for a missing value among numbers, dates and truth values; in lower case."""
# Neither "s" nor "o", which with "n" are directions.
TRUE = frozenset({"true", "t", "yes", "y", "1", "on", "ja", "j", "oui", "si", "sí", "sim", "wahr", "vrai"})
FALSE = frozenset({"false", "f", "no", "n", "0", "off", "nein", "non", "não", "nao", "falsch", "faux"})
_FEW = 0.8  # of a column's rows are numbers: the others are too few for a column of text
_UNITS = r"[€$£¥₹]|US\$|EUR|USD|GBP|CHF|JPY|Fr\.|kr\.?"
_NUMBER = re.compile(
    rf"(?:(?P<outer>{_UNITS})\s*(?=\())?(?P<open>\()?\s*(?P<sign>[-+−])?\s*(?P<before>{_UNITS})?\s*(?P<second>[-+−])?\s*"
    r"(?P<body>\d(?:[\d.,'’ \u00a0\u202f]*\d)?[.,]?|[.,]\d+)(?P<power>[eE][-+]?\d+)?"
    rf"\s*(?P<after>{_UNITS})?\s*(?P<percent>%)?\s*(?P<last>[-−])?\s*(?P<close>\))?"
)
_SAME = {"EUR": "€", "USD": "$", "US$": "$", "GBP": "£", "JPY": "¥"}
_GROUPS = {".": ",'’ ", ",": ".'’ "}  # what may stand between groups of three digits, by the decimal mark


class _Read(NamedTuple):
    """A text that may be a number: its digits as written, and what stands around them."""

    body: str
    power: str
    negative: bool
    percent: bool
    unit: str


def _read(text: str) -> _Read | None:
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    signs = [s for s in (match["sign"], match["second"], match["last"]) if s]
    units = [u for u in (match["outer"], match["before"], match["after"]) if u]
    if len(signs) > 1 or len(units) > 1 or bool(match["open"]) != bool(match["close"]) or (match["open"] and signs):
        return None
    body = match["body"].replace("\u00a0", " ").replace("\u202f", " ")
    negative = bool(match["open"]) or bool(signs and signs[0] != "+")
    if not _plain(body, ".") and not _plain(body, ","):
        return None
    unit = _SAME.get(units[0], units[0]) if units else ""
    return _Read(body, match["power"] or "", negative, bool(match["percent"]), unit)


def _plain(body: str, decimal: str, thousands: str = "") -> str:
    """The digits as Python writes them, if they are a number with this decimal mark; else nothing."""
    whole, mark, part = body.rpartition(decimal)
    if not mark:
        whole, part = body, ""
    if part and not part.isdigit():
        return ""
    if whole and not whole.isdigit():
        groups = (thousands if thousands != "none" else "") or _GROUPS[decimal]
        marks = set(re.sub(r"\d", "", whole))
        if thousands == "none" or len(marks) != 1 or not marks <= set(groups):
            return ""
        if not re.fullmatch(r"[1-9]\d{0,2}(?:\D\d{3})+|[1-9]\d?(?:,\d{2})+,\d{3}", whole):  # the latter in India
            return ""
        whole = re.sub(r"\D", "", whole)
    return f"{whole or '0'}.{part or '0'}" if whole or part else ""


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Text that spells numbers, with thousands separators, currencies, percent signs or words for what is missing.

    Attributes:
      name: of the column.
      decimal: the decimal mark.
      thousands: the mark between groups of three digits; any if empty, no mark if `"none"`.
      percent: whether values are per cent: 12% becomes 0.12.
      lenient: whether other text counts as missing.
    """

    name: str
    decimal: str = "."
    thousands: str = ""
    percent: bool = False
    lenient: bool = False
    kind: str = "numbers"

    @property
    def makes(self) -> tuple[str, ...]:
        return (self.name,)

    def convert(self, column: pd.Series, what: str, start: int = 0) -> dict[str, Any]:
        """The column's numbers, float64 with NaN for missing ones.

        Raises:
          UserError: text that is no number; the message names the first.
        """
        if dtypes.is_numeric_dtype(column.dtype):
            return {self.name: column.to_numpy(np.float64, na_value=np.nan)}
        return {self.name: _by_value(column, self._number, "a number", what, start, self.lenient)}

    def reads(self, text: str) -> bool:
        """Whether a text is a number, or stands for a missing one."""
        return self._number(text) is not None

    def _number(self, value: Any) -> float | None:
        if not isinstance(value, str):
            return float(value) if isinstance(value, int | float) else None
        text = value.strip()
        if text.lower() in MISSING:
            return np.nan
        read = _read(text)
        plain = _plain(read.body, self.decimal, self.thousands) if read else ""
        if read is None or not plain or (self.percent != read.percent and float(plain)):
            return None
        number = float(plain + read.power) / (100 if read.percent else 1)
        return -number if read.negative else number


@dataclasses.dataclass(frozen=True)
class Flags:
    """Text that spells truth values in more than one way: `True` and `False`, as a category has them.

    Attributes:
      name: of the column.
      marked: the one value that there is, where all others are missing: it is then true, and missing is false.
    """

    name: str
    marked: str = ""
    kind: str = "flags"

    @property
    def makes(self) -> tuple[str, ...]:
        return (self.name,)

    def convert(self, column: pd.Series, what: str, start: int = 0) -> dict[str, Any]:
        """The column as `"True"`, `"False"` and NaN; a word that is neither stays as it is, an unseen value."""
        values = column.to_numpy(object, na_value=np.nan)
        return {self.name: pd.Series([self._flag(value) for value in values], column.index, dtype=object)}

    def _flag(self, value: Any) -> Any:
        text = "" if value is None or value != value else str(value).strip()
        if self.marked:
            return str(text == self.marked) if text in ("", self.marked) else text
        word = text.lower().removesuffix(".0")
        if word in MISSING:
            return np.nan
        return "True" if word in TRUE else "False" if word in FALSE else text


@dataclasses.dataclass(frozen=True)
class Words:
    """Text without the blanks around it, and whole numbers as text: a category of either."""

    name: str
    kind: str = "words"

    @property
    def makes(self) -> tuple[str, ...]:
        return (self.name,)

    def convert(self, column: pd.Series, what: str, start: int = 0) -> dict[str, Any]:
        """The column as text, NaN where it is missing or blank."""
        return {self.name: column.astype(object).map(_word, na_action="ignore").astype(object)}


def _word(value: Any) -> Any:
    if isinstance(value, float | np.floating) and value % 1 == 0:
        return str(int(value))
    return str(value).strip() or np.nan


def _by_value(column: pd.Series, read: Any, wanted: str, what: str, start: int, lenient: bool) -> np.ndarray:
    """What `read` makes of each distinct value, `[n]` float64; None of it is an error, or missing where lenient."""
    codes, values = pd.factorize(column.astype(object))
    numbers = [read(value) for value in values]
    wrong = [place for place, number in enumerate(numbers) if number is None]
    if wrong and not lenient:
        row = int(np.isin(codes, wrong).argmax())
        raise UserError(
            f"{what} holds {shown(column.iloc[row])} in data row {start + row + 1} where training had {wanted}s: mend "
            "it, or leave the value empty"
        )
    return np.array([*(np.nan if number is None else number for number in numbers), np.nan], np.float64)[codes]


class Found(NamedTuple):
    """What a column of text spells.

    Attributes:
      step: what converts it; None for a category as it is.
      marks: the decimal marks that it may have: `"."`, `","`, or both where that cannot be told.
      sure: whether its values alone tell the mark.
      plain: whether they are as pandas reads numbers, but for blanks.
      notes: what the reader of a result must know.
    """

    step: Any = None
    marks: str = ""
    sure: bool = False
    plain: bool = False
    notes: tuple[str, ...] = ()


def look(
    name: str, counts: Mapping[str, int], *, missing: int, decimal: str = "", thousands: str = "", typed: bool = False
) -> Found:
    """What a column of text spells: numbers, truth values in several spellings, or words.

    Args:
      name: of the column.
      counts: how often each distinct text occurs.
      missing: how many values are missing.
      decimal: the decimal mark, if it is known.
      thousands: the mark between groups of digits, if it is known.
      typed: whether the file says that the column is text: digits alone are then codes.
    """
    texts = {text: text.strip() for text in counts}
    known = {text: word for text, word in texts.items() if word.lower() not in MISSING}
    if not known:
        return Found(Numbers(name), notes=(f"column {name!r} has nothing but {listed(sorted(set(texts.values())))}",))
    read = {text: _read(word) for text, word in known.items()}
    rows = sum(counts[text] for text in known)
    codes = typed and all(word.isdigit() for word in known.values())
    if not codes and sum(counts[text] for text, number in read.items() if number) >= _FEW * rows:
        return _numbers(name, known, read, counts, decimal, thousands)
    return _words(name, texts, known, missing)


def _numbers(
    name: str, known: Mapping[str, str], read: Mapping[str, _Read | None], counts: Mapping[str, int], decimal: str,
    thousands: str,
) -> Found:  # fmt: skip
    numbers = [number for number in read.values() if number]
    other = sorted((text for text, number in read.items() if not number), key=lambda text: -counts[text])
    marks = [mark for mark in (decimal or ".,") if all(_plain(n.body, mark, thousands) for n in numbers)]
    setting = f"--config.data.columns=\"{{{name!r}: 'number'}}\" makes these missing"
    if other:
        few = sum(counts[text] for text in other)
        return Found(notes=(
            f"warning: column {name!r} is a category: it has numbers, but also {few} values that are none, "
            f"{listed(other[:3])}; {setting}",
        ))  # fmt: skip
    if not marks:
        odd = next((n.body for n in numbers if not _plain(n.body, decimal or ".", thousands)), "")
        other_mark = next((n.body for n in numbers if _plain(n.body, decimal or ".", thousands)), "none")
        return Found(notes=(
            f"warning: column {name!r} is a category: its numbers are written in two ways, such as {odd!r} and "
            f"{other_mark!r}; {setting}",
        ))  # fmt: skip
    percent = {n.percent for n in numbers if set(n.body) - set("0.,")}
    units = {n.unit for n in numbers if n.unit}
    if len(percent) > 1 or len(units) > 1:
        mixed = "numbers with and without %" if len(percent) > 1 else f"the units {listed(sorted(units))}"
        return Found(notes=(f"warning: column {name!r} is a category: it mixes {mixed}; {setting}",))
    sure = len(marks) == 1 and not decimal
    if len(marks) == 2 and not any(_differs(n.body) for n in numbers):
        marks = ["."]  # whole numbers
    step = Numbers(name, marks[0], thousands, percent=percent == {True})
    notes = _describe(name, numbers, marks[0], known, counts)
    return Found(step, "".join(marks), sure, not notes and len(known) < len(counts), notes)


def guess(name: str, counts: Mapping[str, int], csv: Mapping[str, Any]) -> Numbers:
    """The step that most of a column's texts are numbers by; it makes the others missing."""
    steps = [
        Numbers(name, mark, csv["thousands"], percent, lenient=True)
        for mark in (csv["decimal"] or ".,") for percent in (False, True)
    ]  # fmt: skip
    read = [sum(n for text, n in counts.items() if not step.reads(text)) for step in steps]
    return steps[read.index(min(read))]


def _differs(body: str) -> bool:
    """Whether a number that is one with either decimal mark is another with each."""
    return float(_plain(body, ".") or 0) != float(_plain(body, ",") or 0)


def _describe(
    name: str, numbers: Sequence[_Read], mark: str, known: Mapping[str, str], counts: Mapping[str, int]
) -> tuple[str, ...]:
    """A note on how a column spells numbers, if that is not as everywhere."""
    groups = {c for n in numbers for c in re.sub(r"\d", "", n.body.rpartition(mark)[0] or n.body)} - {mark}
    words = sorted({text.strip() for text in counts if text not in known and text.strip()})
    said = ["decimal mark ','"] * (mark == ",")
    said += [f"thousands {''.join(sorted(groups))!r}"] * bool(groups)
    said += [f"unit {n.unit}" for n in numbers if n.unit][:1]
    said += ["per cent as shares"] * any(n.percent for n in numbers)
    said += ["negative in parentheses"] * any(word.startswith("(") for word in known.values())
    said += [f"missing where {listed(words)}"] * bool(words)
    return (f"column {name!r}: numbers, {', '.join(said)}",) if said else ()


def _words(name: str, texts: Mapping[str, str], known: Mapping[str, str], missing: int) -> Found:
    words = {word.lower() for word in known.values()}
    spelled = set(known.values())
    sides = [words & TRUE, words & FALSE]
    if words <= TRUE | FALSE and all(sides) and len(spelled) > 2:
        return Found(Flags(name), notes=(f"column {name!r}: true or false, spelled {listed(sorted(spelled))}",))
    blank = missing + sum(not word for word in texts.values())
    if len(spelled) == 1 and blank and set(texts.values()) <= spelled | {""}:
        (mark,) = spelled
        return Found(Flags(name, mark), notes=(f"column {name!r}: true where {mark!r}, false where it is empty",))
    if len(set(texts.values())) < len(texts):
        return Found(Words(name), notes=(f"column {name!r}: blanks around its values are left out",))
    folded = Counter(word.lower() for word in set(known.values()))
    if same := [word for word, count in folded.items() if count > 1]:
        both = sorted(word for word in set(known.values()) if word.lower() == same[0])
        return Found(
            notes=(
                f"warning: column {name!r} has {listed(both)}, which differ in case alone: they are different values",
            )
        )
    return Found()
