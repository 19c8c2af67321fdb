"""Whatever one predicts on, in chunks: tables, arrays, CSV and Parquet files, images."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tqdm

from mbjax.data.arrays import Arrays
from mbjax.data.images import labelled
from mbjax.data.preprocessing import Preprocessing
from mbjax.data.tables.columns import TableColumns
from mbjax.predict import tables
from mbjax.types import UserError

ROWS = 131_072  # of a chunk
_IMAGES = 512


def chunks(X: Any, preprocessing: Preprocessing, *, progress: bool = False) -> Iterator[tuple[Any, np.ndarray]]:
    """Yields parts of `X`, as they were read, and the network's inputs of their rows.

    Args:
      X: see `mbjax.predict.Predictor.predict_proba`.
      preprocessing: the model's.
      progress: shows a bar.

    Raises:
      UserError: what does not fit the model, or cannot be read.
    """
    if isinstance(X, str | os.PathLike):
        X = Path(X).expanduser()
        if not X.exists():
            raise UserError(f"{X}: there is no such file or folder")
        X = X if X.is_file() else image_files(X)
    if isinstance(X, Path):
        if X.suffix.lower() in labelled.SUFFIXES:
            X = [X]
        elif isinstance(preprocessing, TableColumns) and X.suffix != ".npy":
            yield from _with_bar(tables.read(X, preprocessing, rows=ROWS), tables.count_rows(X), "row", progress)
            return
        else:
            X = _load_array(X)
    is_files = isinstance(X, Sequence) and len(X) > 0 and isinstance(X[0], str | os.PathLike)
    if isinstance(preprocessing, TableColumns):
        if is_files:
            raise UserError(f"{X[0]}: this model takes tables and no images")
        parts = _of_frame(X, preprocessing)
    else:
        X = [Path(file) for file in X] if is_files else _array(X)
        parts = _of_array(X, preprocessing, _IMAGES if is_files else ROWS)
    yield from _with_bar(parts, len(X), "image" if is_files else "row", progress)


def image_files(folder: Path) -> list[Path]:
    """The image files below a folder, sorted; names that begin with a dot are left out."""
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in labelled.SUFFIXES and f.name[0] != ".")
    if not files:
        raise UserError(f"{folder} has no images ({', '.join(labelled.SUFFIXES)})")
    return files


def _of_frame(X: Any, columns: TableColumns) -> Iterator[tuple[Any, np.ndarray]]:
    frame = tables.as_frame(X, columns)
    columns.check(list(frame.columns), "the table")
    for start in range(0, len(frame), ROWS):
        part = frame if len(frame) <= ROWS else frame.iloc[start : start + ROWS]
        yield part, columns.transform(part, start=start)


def _of_array(X: Any, arrays: Arrays, rows: int) -> Iterator[tuple[Any, np.ndarray]]:
    if isinstance(X, np.ndarray) and not len(X):
        arrays.transform(X)  # for the checks
    for start in range(0, len(X), rows):
        part = X[start : start + rows]
        yield part, arrays.transform(part, start=start)


def _array(X: Any) -> np.ndarray:
    return X.to_numpy() if isinstance(X, pd.DataFrame) or hasattr(X, "to_pandas") else np.asarray(X)


def _load_array(path: Path) -> np.ndarray:
    if path.suffix != ".npy":
        raise UserError(f"{path}: this model takes arrays: an .npy file, or images")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read as an array: {str(error).strip().splitlines()[0]}") from None


def _with_bar(
    parts: Iterator[tuple[Any, np.ndarray]], total: int | None, unit: str, progress: bool
) -> Iterator[tuple[Any, np.ndarray]]:
    with tqdm.tqdm(total=total, unit=unit, disable=not (progress and sys.stderr.isatty()), dynamic_ncols=True) as bar:
        for raw, x in parts:
            yield raw, x
            bar.update(len(x))
