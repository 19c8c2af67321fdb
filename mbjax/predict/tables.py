"""Tables to predict on: frames as pandas has them, and files of any size in chunks."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mbjax.data.tables import reading
from mbjax.data.tables.columns import TableColumns
from mbjax.options import listed
from mbjax.sampling.prefetch import prefetch
from mbjax.types import UserError, first_line


def as_frame(X: Any, columns: TableColumns) -> pd.DataFrame:
    """A table of pandas, polars or another library that has `to_pandas`, or an array, as pandas has it.

    Args:
      X: the table. An array has the training table's columns in its order, as many as there were.
      columns: the model's.

    Raises:
      UserError: what is no table, or an array of another width.
    """
    if isinstance(X, pd.DataFrame):
        return X if all(isinstance(name, str) for name in X.columns) else X.rename(columns=str)
    if hasattr(X, "to_pandas"):
        return X.to_pandas().rename(columns=str)
    array = np.asarray(X)
    if array.ndim != 2 or array.shape[1] != len(columns.columns):
        raise UserError(
            f"the array has the shape {list(array.shape)}: [rows, {len(columns.columns)}] is needed, the columns of "
            f"training in their order: {listed(columns.columns)}"
        )
    return pd.DataFrame(array, columns=list(columns.columns))


def count_rows(path: Path) -> int | None:
    """The rows of a Parquet file; None of another, which would have to be read."""
    if path.suffix != ".parquet":
        return None
    try:
        return pq.ParquetFile(path).metadata.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a table: {first_line(error)}") from None


def read(path: Path, columns: TableColumns, *, rows: int) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Yields a file's rows in chunks, and their features.

    Args:
      path: a file of the forms of `mbjax.data.tables.reading`.
      columns: the model's.
      rows: of a chunk.

    Raises:
      UserError: another kind of file, one that cannot be read, or what `TableColumns` raises.
    """
    frames = reading.chunks(path, columns.csv, rows=rows, wanted=columns.used, text=columns.text)
    start = 0
    with contextlib.closing(prefetch(frames)) as ahead:  # a thread reads while this one computes
        for number, frame in enumerate(ahead):
            if not number:  # which may have no rows: whoever writes the chunks learns the columns from it
                columns.check(list(frame.columns), path.name)
            yield frame, columns.transform(frame, source=path.name, start=start)
            start += len(frame)
