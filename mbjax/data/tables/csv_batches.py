"""A CSV file of any size, batch by batch, in the form that a pyarrow data set has for Parquet files."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv

from mbjax.data.tables.csv_dialect import Dialect

_BYTES = 2**24  # that are parsed at a time; the first of them tell the types of the columns


class CsvBatches:
    """A CSV file, however it is written. `pyarrow.dataset` reads no file with lines above its header.

    Attributes:
      schema: the columns' names and types. What begins with whole numbers, or with nothing at all, may go on with
        others, so it is float64.

    Args:
      path: the file, perhaps compressed.
      dialect: how it is written.
      decimal: the decimal mark.
      target: the column of labels, whose whole numbers stay what they are.
      codes: columns that are read as text.

    Raises:
      pyarrow.ArrowException, OSError, ValueError: it cannot be read.
    """

    def __init__(self, path: Path, dialect: Dialect, *, decimal: str, target: str, codes: Collection[str]):
        self._path, self._dialect, self._decimal = str(path), dialect, decimal
        with self._open(dict.fromkeys(codes, pa.string()), None) as reader:
            found = reader.schema
        wide = (pa.types.is_integer, pa.types.is_null)
        self.schema = pa.schema([
            field.with_type(pa.float64()) if field.name != target and any(is_(field.type) for is_ in wide) else field
            for field in found
        ])  # fmt: skip

    def to_batches(self, *, columns: Sequence[str], batch_size: int, **_: Any) -> Iterator[Any]:
        """Yields record batches of at most `batch_size` rows, in their order."""
        with self._open({field.name: field.type for field in self.schema}, list(columns)) as reader:
            for batch in reader:
                for start in range(0, batch.num_rows, batch_size):
                    yield batch.slice(start, batch_size)

    def _open(self, types: dict[str, Any], columns: list[str] | None) -> Any:
        names, encoding = list(self._dialect.names) or None, self._dialect.encoding
        return csv.open_csv(
            self._path,
            csv.ReadOptions(
                use_threads=False, block_size=_BYTES, skip_rows=self._dialect.skip + bool(names), column_names=names,
                encoding="utf8" if encoding.startswith("utf-8") else encoding,
            ),
            csv.ParseOptions(delimiter=self._dialect.sep),
            csv.ConvertOptions(
                strings_can_be_null=True, decimal_point=self._decimal, column_types=types, include_columns=columns
            ),
        )  # fmt: skip
