"""Tables of the KEEL repository, in its own format: `@relation`, `@attribute`, `@data`, then one line per row.

Alcalá-Fdez et al. 2011, "KEEL Data-Mining Software Tool: Data Set Repository".
"""

import csv
import io
import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from mbjax.options import shown
from mbjax.types import UserError

_ATTRIBUTE = re.compile(r"@attribute\s+(?:'([^']*)'|\"([^\"]*)\"|([^\s{]+))\s*(.*)", re.IGNORECASE)
_NUMBERS = ("real", "integer", "numeric")
_MISSING = ("?", "<null>", "")


class Keel(NamedTuple):
    """A table, and the name of its column of labels."""

    frame: pd.DataFrame
    target: str


def read(text: str, source: str) -> Keel:
    """Reads a `.dat` file.

    Args:
      text: of the file.
      source: its name, for messages.

    Returns:
      Numbers as float64, NaN where they are missing; nominal values as strings, None where they are missing. The target
      is what `@outputs` names, else the last attribute.

    Raises:
      UserError: what is no such file; the message names the line.

    Example:
      >>> text = "@relation r\\n@attribute a real [0, 1]\\n@attribute c {x, y}\\n@data\\n0.5, x\\n?, y\\n"
      >>> keel.read(text, "r.dat").target
      'c'
    """
    kinds, target, lines = _read_header(text.lstrip("\ufeff").splitlines(), source)
    values = []
    for number, row in lines:
        if len(row) != len(kinds):
            raise UserError(
                f"{source}, line {number}: {len(row)} values for the {len(kinds)} attributes: mend the line"
            )
        values.append([None if value in _MISSING else value for value in row])
    if not values:
        raise UserError(f"{source}: there is no row after @data")
    columns = {}
    for (name, allowed), column in zip(kinds.items(), zip(*values, strict=True), strict=True):
        columns[name] = _convert(column, allowed, f"{source}: attribute {name!r}", [number for number, _ in lines])
    return Keel(pd.DataFrame(columns), target)


def _read_header(
    lines: list[str], source: str
) -> tuple[dict[str, tuple[str, ...] | None], str, list[tuple[int, list[str]]]]:
    """The attributes, with a nominal one's values; the target; the rows, each with its line's number."""
    kinds: dict[str, tuple[str, ...] | None] = {}
    outputs: list[str] = []
    for number, line in enumerate(lines, 1):
        line = line.strip()
        word = line.split(maxsplit=1)[0].lower() if line else ""
        if word == "@attribute":
            name, allowed = _attribute(line, f"{source}, line {number}")
            if name in kinds:
                raise UserError(f"{source}, line {number}: attribute {name!r} is there twice: rename one")
            kinds[name] = allowed
        elif word in ("@output", "@outputs"):
            outputs = [name.strip() for name in line[len(word) :].split(",")]
        elif word == "@data":
            if not kinds:
                raise UserError(f"{source}: there is no @attribute before @data")
            target = outputs[0] if outputs else [*kinds][-1]
            if len(outputs) > 1 or target not in kinds:
                raise UserError(
                    f"{source}: @outputs {', '.join(outputs)}: one attribute is needed, of {', '.join(kinds)}"
                )
            return kinds, target, _rows(lines[number:], number)
        elif word and word[0] not in "@%":
            raise UserError(f"{source}, line {number}: {shown(line)} is before @data: is this a KEEL file?")
    raise UserError(f"{source}: there is no line @data: is this a KEEL file?")


def _attribute(line: str, where: str) -> tuple[str, tuple[str, ...] | None]:
    match = _ATTRIBUTE.match(line)
    if match is None:
        raise UserError(f"{where}: {shown(line)}: a name and a type are needed, such as @attribute age real")
    name, kind = match[1] or match[2] or match[3], match[4].strip()
    if kind.startswith("{") and kind.endswith("}"):
        return name, tuple(value.strip().strip("'\"") for value in kind[1:-1].split(","))
    word = re.split(r"[\s\[]", kind, maxsplit=1)[0].lower()
    if word not in _NUMBERS:
        raise UserError(
            f"{where}: attribute {name!r} is of type {shown(kind)}: {', '.join(_NUMBERS)} or {{a, b}} is needed"
        )
    return name, None


def _rows(lines: list[str], before: int) -> list[tuple[int, list[str]]]:
    """The values of each row, with its line's number."""
    rows = []
    for number, line in enumerate(lines, before + 1):
        if (line := line.strip()) and not line.startswith("%"):
            (values,) = csv.reader(io.StringIO(line), skipinitialspace=True, quotechar="'")
            rows.append((number, [value.strip() for value in values]))
    return rows


def _convert(values: tuple[str | None, ...], allowed: tuple[str, ...] | None, what: str, lines: list[int]) -> pd.Series:
    """A column as float64, or as strings if it is nominal."""
    if allowed is not None:
        if wrong := next((pair for pair in zip(values, lines, strict=True) if pair[0] not in (None, *allowed)), None):
            raise UserError(f"{what} has {shown(wrong[0])} in line {wrong[1]}, which is none of {', '.join(allowed)}")
        return pd.Series(values, dtype=object)
    numbers = np.asarray(pd.to_numeric(pd.Series(values, dtype=object), errors="coerce"), np.float64)
    missing = np.array([value is None for value in values])
    if (wrong := np.isnan(numbers) & ~missing).any():
        place = int(wrong.argmax())
        raise UserError(f"{what} has {shown(values[place])} in line {lines[place]}, which is no number")
    return pd.Series(numbers)
