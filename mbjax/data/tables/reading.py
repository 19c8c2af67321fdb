"""Files of tables as frames: CSV however it is written, Parquet, Arrow and Feather, Excel, KEEL; whole or in chunks."""

import dataclasses
import importlib.util
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mbjax.data.tables import csv_dialect, keel, unpacked
from mbjax.data.tables.csv_dialect import CSV_OPTION, DEFAULTS, Dialect
from mbjax.options import shown
from mbjax.types import UserError, first_line

FORMS = ".csv, .tsv, .csv.gz, .parquet, .feather, .arrow, .xlsx or .dat (of KEEL)"
warnings.filterwarnings("ignore", category=pd.errors.DtypeWarning, module=__name__)  # see `chunks`
_ARROW = (".feather", ".arrow")
_TOTALS = {
    "total", "totals", "grand total", "sum", "sums", "subtotal", "gesamt", "summe", "gesamtsumme", "somme", "suma",
    "totale", "totaal",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Raw:
    """A table as its file has it.

    Attributes:
      frame: its rows; columns are text where `dialect` says so.
      dialect: how a CSV file is written; None of other files, whose columns have types.
      notes: what the reader of a result must know.
      origin: the data row of the file, counted from 1, of each row: empty ones were left out.
    """

    frame: pd.DataFrame
    dialect: Dialect | None
    notes: tuple[str, ...]
    origin: np.ndarray


def read(
    path: Path,
    csv: Mapping[str, Any] = DEFAULTS,
    *,
    wanted: Collection[str] = (),
    text: Collection[str] = (),
    all_text: bool = False,
) -> Raw:
    """Reads a file of a table, as its name's ending tells.

    Args:
      path: the file.
      csv: `config.data.csv`.
      wanted: columns that a CSV file's header has.
      text: columns that a CSV file's digits are codes in.
      all_text: reads every column of a CSV file as text.

    Raises:
      UserError: another ending, a file that cannot be parsed, or no rows.
    """
    csv, dialect = {**DEFAULTS, **csv}, None
    if not CSV_OPTION.kind.valid(csv):
        raise UserError(f"config.data.csv={shown(csv)}: {CSV_OPTION.kind.describe()}")
    form = form_of(path)
    try:
        if form == "csv":
            dialect, frame = _read_csv(path, csv, wanted, text, all_text)
        elif form == "parquet":
            unpacked.check_parquet(path)
            frame = pd.read_parquet(path)
        elif form == "arrow":
            parts = list(_arrow(path))
            frame = pd.concat(parts[1:], ignore_index=True) if len(parts) > 1 else parts[0]
        else:
            frame = _in_memory(path, form)
    except pd.errors.EmptyDataError:
        frame = pd.DataFrame()
    except UserError:
        raise
    except Exception as error:  # whatever pandas, pyarrow and the decompressors raise of a damaged file
        raise UserError(f"{path} cannot be read as a table: {first_line(error)}") from None
    frame = frame.rename(columns=str)
    if not frame.columns.is_unique:
        raise UserError(f"{path} has two columns named {frame.columns[frame.columns.duplicated()][0]!r}: rename one")
    notes, origin = list(dialect.notes if dialect else ()), np.arange(1, len(frame) + 1)
    if form in ("csv", "excel"):
        empty = _empty_rows(frame)
        if empty.any():
            frame, origin = frame.loc[~empty].reset_index(drop=True), origin[~empty]
            notes.append(f"{empty.sum()} empty rows left out")
        frame, more = _without_totals(frame, csv["footer"])
        notes += more
    if not len(frame):
        raise UserError(f"{path} has no rows")
    return Raw(frame, dialect, tuple(notes), origin[: len(frame)])


def read_table(path: Path) -> pd.DataFrame:
    """`read` with nothing set, the frame alone."""
    return read(path).frame


def form_of(path: Path) -> str:
    """`"csv"`, `"parquet"`, `"arrow"`, `"excel"` or `"keel"`.

    Raises:
      UserError: a file of another ending, or one that takes a package that is not there.
    """
    if path.suffix == ".parquet":
        return "parquet"
    if path.suffix in _ARROW:
        return "arrow"
    if path.suffix == ".dat":
        return "keel"
    if path.suffix == ".xlsx":
        if importlib.util.find_spec("openpyxl") is None:
            raise UserError(
                f"{path}: reading .xlsx files takes openpyxl: pip install openpyxl, or save the sheet as CSV"
            )
        return "excel"
    if ".csv" in path.suffixes or ".tsv" in path.suffixes:
        return "csv"
    raise UserError(f"{path}: a file that ends in {FORMS} is needed")


def chunks(path: Path, csv: Mapping[str, Any], *, rows: int, wanted: Sequence[str], text: Collection[str]
           ) -> Iterator[pd.DataFrame]:  # fmt: skip
    """Yields a file's rows in chunks; the first may have none, but has the columns.

    Args:
      path, csv, wanted: see `read`; how a CSV file is written is found once.
      rows: of a chunk.
      text: columns of a CSV file that stay as they are spelled.

    Raises:
      UserError: another kind of file, or one that cannot be read.
    """
    form = form_of(path)
    try:
        if form == "parquet":
            # Else whole row groups, which may have a million rows, are read ahead.
            file = pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
            yield file.schema_arrow.empty_table().to_pandas()  # the columns, of a file without rows, too
            for batch in file.iter_batches(batch_size=rows):
                yield batch.to_pandas()
        elif form == "arrow":
            for part in _arrow(path):
                yield from (part.iloc[start : start + rows] for start in range(0, max(len(part), 1), rows))
        elif form in ("excel", "keel"):
            frame = _in_memory(path, form).rename(columns=str)
            yield from (frame.iloc[start : start + rows] for start in range(0, max(len(frame), 1), rows))
        else:
            dialect = csv_dialect.detect(path, csv, wanted=wanted)
            # Objects keep text as it is spelled, and are faster than pandas's strings. So is parsing in small parts: a
            # column may then be numbers in some of them and text in others, which `columns.as_numbers` reads.
            options: dict[str, Any] = {**dialect.options(), "dtype": dict.fromkeys(text, object), "low_memory": True}
            read_csv: Any = pd.read_csv
            with unpacked.opened(path) as source, read_csv(source, chunksize=rows, **options) as reader:
                for part in reader:
                    yield part.drop(columns=list(dialect.blank))
                    if isinstance(source, unpacked.Unpacked):
                        source.taken = 0  # memory has to hold a chunk
    except pd.errors.EmptyDataError:
        raise UserError(f"{path} is empty: a line of column names is needed") from None
    except UserError:
        raise
    except Exception as error:  # whatever pandas, pyarrow and the decompressors raise of a damaged file
        raise UserError(f"{path} cannot be read as a table: {first_line(error)}") from None


def _in_memory(path: Path, form: str) -> pd.DataFrame:
    """The table of a file of Excel or KEEL, which have no chunks."""
    return pd.read_excel(path) if form == "excel" else keel.read(path.read_text(), path.name).frame


def _read_csv(
    path: Path, csv: Mapping[str, Any], wanted: Collection[str], text: Collection[str], all_text: bool
) -> tuple[Dialect, pd.DataFrame]:
    dialect = csv_dialect.detect(path, csv, wanted=wanted)
    dialect = dataclasses.replace(dialect, text=dialect.text or all_text)
    options = dialect.options()
    options.setdefault("dtype", dict.fromkeys(text, str) or None)
    try:
        frame = _whole(path, options)
    except UnicodeDecodeError as error:  # its first 64 KB are UTF-8
        if csv["encoding"]:
            raise
        encoding = csv_dialect.western(path, path.read_bytes() if path.suffix in (".csv", ".tsv") else b"\x81", error)
        notes = (f"{path.name}: encoding {encoding}", *dialect.notes)
        dialect = dataclasses.replace(dialect, encoding=encoding, notes=notes)
        frame = _whole(path, {**options, "encoding": encoding})
    return dialect, frame.drop(columns=list(dialect.blank))


def _whole(path: Path, options: Mapping[str, Any]) -> pd.DataFrame:
    with unpacked.opened(path) as source:
        return pd.read_csv(source, **options)


def _arrow(path: Path) -> Iterator[pd.DataFrame]:
    """The batches of an Arrow file, Feather's second version among them, or of an Arrow stream."""
    with pa.memory_map(str(path)) as source:
        try:
            file = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            source.seek(0)
            stream = pa.ipc.open_stream(source)
            yield stream.schema.empty_table().to_pandas()
            yield from (batch.to_pandas() for batch in stream)
            return
        yield file.schema.empty_table().to_pandas()
        yield from (file.get_batch(place).to_pandas() for place in range(file.num_record_batches))


def _empty_rows(frame: pd.DataFrame) -> np.ndarray:
    if not frame.shape[1] or not frame.iloc[:, 0].isna().any():  # the first column tells most tables' quickly
        return np.zeros(len(frame), bool)
    return frame.isna().all(axis=1).to_numpy()


def _without_totals(frame: pd.DataFrame, footer: int) -> tuple[pd.DataFrame, list[str]]:
    """The rows without the totals at the end; a note says what was left out."""
    if footer > 0:
        return frame.iloc[: max(len(frame) - footer, 0)], [f"the last {footer} rows left out"]
    if footer < 0 and len(frame) > 1:
        words = [(name, value) for name, value in frame.iloc[-1].items() if isinstance(value, str)]
        for name, value in words:
            before = frame[name].iloc[:-1]
            if value.strip(" :").lower() in _TOTALS and not (before == value).any():
                kept = "--config.data.csv.footer=0 keeps it"
                return frame.iloc[:-1], [f"the last row, {value.strip()!r} in column {name!r}, left out: {kept}"]
    return frame, []
