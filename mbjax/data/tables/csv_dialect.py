"""How a CSV file is written: its encoding, its separator, what stands above its header; found in its first 64 KB."""

import codecs
import csv
import dataclasses
import io
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mbjax.data.tables import unpacked
from mbjax.options import TEXT, Kind, Option, shown
from mbjax.types import UserError

SEPARATORS = (",", ";", "\t", "|")
_SAMPLE_BYTES = 2**16
_HEADER_ROWS = 30  # among which the header is looked for
_COMMA_DECIMAL = re.compile(r"[-+]?(\d{1,3}(\.\d{3})+,\d+|\d+,(\d{1,2}|\d{4,})|0,\d+)")
_POINT_DECIMAL = re.compile(r"[-+]?(\d{1,3}(,\d{3})+\.\d+|\d*\.(\d{1,2}|\d{4,})|0?\.\d+|\d{4,}\.\d+)")
_POINT_GROUPS = re.compile(r"[-+]?[1-9]\d{0,2}(\.\d{3})+")
_NUMERIC = re.compile(r"\s*[-+]?[\d.,]*\d[\d.,]*\s*")
_LEADING_ZERO = re.compile(r"0\d+")
_SEP = Kind("one character is needed", lambda x: isinstance(x, str) and (len(x) <= 1 or x == "\\t"), str)
_MARK = Kind("a point or a comma is needed", lambda x: isinstance(x, str) and x in ("", ".", ","), str)
_COUNT = Kind(
    "a whole number of at least 0 is needed, or -1 for what is found",
    lambda x: isinstance(x, int) and not isinstance(x, bool) and x >= -1, int,
)  # fmt: skip
PARTS = (  # of config.data.csv
    Option("sep", "", _SEP, "what stands between fields; found if unset"),
    Option("decimal", "", _MARK, "the decimal mark; found if unset"),
    Option("thousands", "", TEXT, "what stands between groups of three digits, or none; found if unset"),
    Option("encoding", "", TEXT, "such as cp1252; found if unset"),
    Option("skip", -1, _COUNT, "lines above the header; found if -1"),
    Option("footer", -1, _COUNT, "rows at the end to leave out; if -1, one of totals is found"),
)
DEFAULTS: dict[str, Any] = {option.name: option.default for option in PARTS}


def _is_csv(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and set(value) <= set(DEFAULTS)
        and all(option.kind.valid(value[option.name]) for option in PARTS if option.name in value)
    )


CSV_OPTION = Option(
    "csv", DEFAULTS, Kind("sep (one character), decimal (. or ,), thousands, encoding, skip and footer are needed",
                          _is_csv, dict),
    "how a CSV file is written; what is unset is found", parts=PARTS,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How a file is written.

    Attributes:
      sep: between fields.
      encoding: of the text, as Python names it.
      skip: lines above the header.
      names: of the columns, where rows have a field more than the header; pandas would take the first for an index.
      blank: the names among these that stand for nothing: the field after a trailing separator, or the names of rows.
      text: whether columns are read as text, for points may group digits in it.
      point: whether the sample has decimal points for certain.
      notes: what a reader of the result must know.
    """

    sep: str = ","
    encoding: str = "utf-8"
    skip: int = 0
    names: tuple[str, ...] = ()
    blank: tuple[str, ...] = ()
    text: bool = False
    point: bool = False
    notes: tuple[str, ...] = ()

    def options(self) -> dict[str, Any]:
        """For `pandas.read_csv`."""
        options: dict[str, Any] = {"sep": self.sep, "encoding": self.encoding, "low_memory": False}
        if self.text:
            options["dtype"] = str
        if self.skip:
            options["skiprows"] = self.skip
        if self.names:
            options |= {"names": list(self.names), "header": 0}
        return options


def detect(path: Path, given: Mapping[str, Any], *, wanted: Collection[str] = ()) -> Dialect:
    """Finds how a CSV file is written. A plain file (commas, UTF-8, a header in its first line) stays one.

    Args:
      path: the file, perhaps compressed.
      given: `config.data.csv`: what is set is taken as it is.
      wanted: columns that the header has, the target for one.

    Raises:
      UserError: an encoding that there is not, or bytes that are no text in any that is tried.
    """
    given = {**DEFAULTS, **given}
    given["sep"] = given["sep"].replace("\\t", "\t")  # as a command line has it
    sample = _sample(path)
    if sample is None:
        return Dialect(given["sep"] or ",", given["encoding"] or "utf-8", max(given["skip"], 0))
    encoding = given["encoding"] or _encoding(path, sample)
    content = _decode(path, sample, encoding)
    if len(sample) == _SAMPLE_BYTES:
        content = content[: content.rfind("\n") + 1] or content
    separators = [given["sep"]] if given["sep"] else _ranked(content)
    sep, skip, rows = _header(content, separators, given["skip"], wanted)
    names, blank, notes = _extra_field(path, rows, sep)
    names = names or _stripped(rows)
    point = _has(_POINT_DECIMAL, rows)
    unclear = sep != "," and not point and _has(_POINT_GROUPS, rows)
    text = given["decimal"] == "," or (not given["decimal"] and (unclear or _has(_COMMA_DECIMAL, rows)))
    said = [f"separator {sep!r}"] * (sep != ",") + [f"encoding {encoding}"] * (encoding not in ("utf-8", "utf-8-sig"))
    said += [f"{skip} line{'s' * (skip > 1)} above the header left out"] * (skip > 0)
    notes = [f"{path.name}: {', '.join(said)}"] * bool(said) + notes + _header_notes(rows, blank)
    return Dialect(sep, encoding, skip, names, blank, text, point, tuple(notes))


def _sample(path: Path) -> bytes | None:
    """The first bytes of a file, unpacked; None of one that is damaged."""
    try:
        with unpacked.opened(path) as source:
            if isinstance(source, unpacked.Unpacked):
                return source.read(_SAMPLE_BYTES)
            with path.open("rb") as stream:
                return stream.read(_SAMPLE_BYTES)
    except Exception:  # whatever a damaged archive makes its codec raise: pandas will say it
        return None


def _encoding(path: Path, sample: bytes) -> str:
    if sample.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and b"\0" in sample:
        return "utf-16"
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if max(even, odd) > len(sample) / 5 and min(even, odd) < len(sample) / 50:
        return "utf-16-le" if odd > even else "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)  # a character may be cut at the end
        return "utf-8"
    except UnicodeDecodeError as error:
        return western(path, sample, error)


def western(path: Path, content: bytes, error: UnicodeDecodeError) -> str:
    """`cp1252`, if what is no UTF-8 can be text in it.

    Raises:
      UserError: it cannot.
    """
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        text = "\0"
    if any(ord(character) < 32 and character not in "\t\r\n\f" for character in text):
        raise UserError(
            f"{path} cannot be read as a table: it is no text in utf-8 ({error.reason} in byte {error.start}); name "
            "its encoding with --config.data.csv.encoding"
        )
    return "cp1252"


def _decode(path: Path, sample: bytes, encoding: str) -> str:
    try:
        return codecs.getincrementaldecoder(encoding)("replace").decode(sample)
    except (LookupError, UnicodeError, ValueError):
        raise UserError(
            f"config.data.csv.encoding={shown(encoding)}: {path.name} cannot be read in it; utf-8, cp1252 or utf-16, "
            "for example, is needed"
        ) from None


def parse(text: str, sep: str) -> tuple[list[list[str]], list[int]]:
    """The rows of a text, without blank lines, and how many lines come before each."""
    rows, before, reader = [], [], csv.reader(io.StringIO(text, newline=None), delimiter=sep)
    start = 0
    try:
        for row in reader:
            if row:
                rows.append(row)
                before.append(start)
            start = reader.line_num
    except csv.Error:  # pandas will say it
        pass
    return rows, before


def _ranked(text: str) -> list[str]:
    """Separators, the likeliest first: how many rows have as many fields as most, then how many fields; then comma."""
    scores = {}
    for sep in SEPARATORS:
        counts = [len(row) for row in parse(text, sep)[0]]
        width, often = max(Counter(counts).items(), key=lambda item: (item[1], item[0]), default=(1, 0))
        share = often / len(counts) if width > 1 else 0.0
        scores[sep] = (round(share, 2), width if share else 0)
    comma = scores[","]
    if comma[0] >= 0.99 and all(score[0] < 1 or score[1] <= comma[1] for score in scores.values()):
        return sorted(SEPARATORS, key=lambda sep: sep != ",")
    return sorted(SEPARATORS, key=lambda sep: scores[sep], reverse=True)


def _header(
    text: str, separators: Sequence[str], skip: int, wanted: Collection[str]
) -> tuple[str, int, list[list[str]]]:
    """The separator, the lines above the header, and the rows from the header on."""
    parsed = {sep: parse(text, sep) for sep in separators}
    if skip >= 0:
        for sep in separators:
            rows, before = parsed[sep]
            kept = [row for row, lines in zip(rows, before, strict=True) if lines >= skip]
            if set(wanted) <= set(map(str.strip, kept[0] if kept else ())):
                return sep, skip, kept
        rows, before = parsed[separators[0]]
        return separators[0], skip, [row for row, lines in zip(rows, before, strict=True) if lines >= skip]
    for sep in separators if wanted else ():
        rows, before = parsed[sep]
        for place, row in enumerate(rows[:_HEADER_ROWS]):
            if len(row) > 1 and set(wanted) <= set(map(str.strip, row)):
                return sep, before[place] if place else 0, rows[place:]
    sep = separators[0]
    rows, before = parsed[sep]
    width = Counter(map(len, rows)).most_common(1)[0][0] if rows else 1
    for place, row in enumerate(rows[:_HEADER_ROWS]):
        if width > 2 and len(row) >= width - 1 and not row[0].startswith("#"):
            return sep, before[place] if place else 0, rows[place:]
    return sep, 0, rows


def _extra_field(path: Path, rows: list[list[str]], sep: str) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Of rows that have a field more than the header: all names, those that stand for nothing, and a note.

    Raises:
      UserError: what the further field is cannot be told; pandas would take the first for an index.
    """
    if len(rows) < 2 or len(rows[1]) <= len(rows[0]):
        return (), (), []
    header, body = rows[0], rows[1:]
    if all(len(row) in (len(header), len(header) + 1) for row in body):
        if all(not row[-1].strip() for row in body if len(row) > len(header)):
            name = _unused("(after the last separator)", header)
            return (*header, name), (name,), ["every row ends with a separator, which makes no column"]
        first = [row[0] for row in body]
        numbered = first == [str(number + 1) for number in range(len(first))] and sep != ","
        if len(set(first)) == len(first) and (numbered or not any(map(_NUMERIC.fullmatch, first))):
            name = _unused("(row)", header)
            return (
                (name, *header),
                (name,),
                ["the first field of each row, which the header lacks, names the row: left out"],
            )
    comma = " (a decimal comma between commas has to stand in quotes)" if sep == "," else ""
    raise UserError(
        f"{path} cannot be read as a table: its header has {len(header)} fields and its first row "
        f"{len(rows[1])}{comma}: mend it, or set --config.data.csv.sep or --config.data.csv.skip"
    )


def _unused(name: str, names: Collection[str]) -> str:
    while name in names:
        name += "'"
    return name


def _stripped(rows: list[list[str]]) -> tuple[str, ...]:
    """The names without the blanks around them, where there are any."""
    header = [name.strip() for name in rows[0]] if rows else []
    return tuple(header) if header and header != rows[0] and len({*header, ""}) > len(header) else ()


def _has(pattern: re.Pattern[str], rows: list[list[str]]) -> bool:
    return any(pattern.fullmatch(field.strip(" €$£%()\u00a0")) for row in rows[1:] for field in row)


def _header_notes(rows: list[list[str]], blank: Sequence[str]) -> list[str]:
    """Of names that are missing or there twice, as pandas calls their columns, and of numbers that begin with 0."""
    if not rows:
        return []
    header, notes = [name.strip() for name in rows[0]], []
    if any(header):
        notes = [f"column {place + 1} has no name and is called 'Unnamed: {place}'"
                 for place, name in enumerate(header) if not name]  # fmt: skip
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    notes += [f"warning: {Counter(header)[name]} columns are named {name!r}: the second is called {name + '.1'!r}"
              for name in twice]  # fmt: skip
    for place, name in enumerate(header if not blank else ()):
        fields = [row[place].strip() for row in rows[1:] if place < len(row) and row[place].strip()]
        if fields and all(field.isdigit() for field in fields) and any(map(_LEADING_ZERO.fullmatch, fields)):
            first = next(filter(_LEADING_ZERO.fullmatch, fields))
            notes.append(f"warning: column {name!r} has numbers that begin with 0, such as {first}: if they are codes, "
                         f"set --config.data.columns=\"{{{name!r}: 'category'}}\"")  # fmt: skip
    return notes
