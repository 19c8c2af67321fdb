"""What an estimator is given, as frames or images, and the parts that it trains and validates on."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, validate_data

from mbjax.data.arrays import Arrays
from mbjax.data.preprocessing import Preprocessing
from mbjax.data.tables import tabular
from mbjax.data.tables.columns import TableColumns, as_text
from mbjax.options import shown
from mbjax.types import Split, UserError


def read(estimator: Any, X: Any, *, reset: bool) -> pd.DataFrame | np.ndarray:
    """A frame with the columns of training, or an array of images; their number and names are checked.

    Args:
      estimator: its `n_features_in_`, `feature_names_in_` and `_columns` are set or compared, as scikit-learn does it.
      X: what it was given.
      reset: whether to set them.

    Raises:
      UserError: no rows or columns, a shape that is neither a table nor images, or two columns of one name.
    """
    if hasattr(X, "columns"):
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        frame = X if isinstance(X, pd.DataFrame) else X.to_pandas()
        names = list(map(str, frame.columns))
        if not len(frame) or not names:
            raise UserError(f"a table of {len(frame)} rows and {len(names)} columns: one of either at least is needed")
    else:
        array: Any = validate_data(estimator, X, reset=reset, dtype=None, ensure_all_finite=False, allow_nd=True)
        if array.ndim == 4:
            return array if array.dtype == np.uint8 else array.astype(np.float32)
        if array.ndim != 2:
            raise UserError(f"an array of shape {list(array.shape)}: [n, features], or images "
                            "[n, height, width, channels], are needed")  # fmt: skip
        frame, names = _as_frame(array), [f"x{number}" for number in range(array.shape[1])]
    if reset:
        estimator._columns = names
        if len(set(names)) < len(names):
            raise UserError(f"two columns have the same name among {shown(names)}: rename one")
    return frame.set_axis(estimator._columns, axis=1)


def _as_frame(array: np.ndarray) -> pd.DataFrame:
    if array.dtype.kind in "fiub":
        return pd.DataFrame(array.astype(np.float64))
    frame = pd.DataFrame(array.astype(object)).infer_objects()
    return pd.DataFrame({n: as_text(column) if column.dtype == object else column for n, column in frame.items()})


def labels(X: Any, y: Any) -> np.ndarray:
    """The labels, `[n]`, checked as scikit-learn does it.

    Raises:
      UserError, ValueError: no labels, another number than of examples, missing ones, or what are no classes.
    """
    if y is None:
        raise UserError("a classifier requires y to be passed, but the target y is None")
    y = column_or_1d(y, warn=True)
    check_consistent_length(X, y)
    assert_all_finite(y, input_name="y")
    if pd.isna(y).any():
        raise UserError("Input y contains NaN or None: drop these rows, or fill them in")
    check_classification_targets(y)
    return y


def learn(train: pd.DataFrame | np.ndarray, **features: Any) -> Preprocessing:
    """What makes a network's inputs of a table's columns, or of images.

    Args:
      train: the training part.
      **features: `scaling`, `encoding` and `bins` of a table's numbers; see `mbjax.data.tables.numbers.fit`.

    Raises:
      UserError: no column can be used.
    """
    if not isinstance(train, pd.DataFrame):
        return Arrays.like(train)
    frame = train.assign(**tabular.numbers_with_blanks(train))
    numbers, categories, notes = tabular.kinds(frame)
    if not numbers and not categories:
        raise UserError(f"no column can be used: {'; '.join(notes)}")
    return TableColumns.fit(frame, numbers=numbers, categories=categories, **features)


def rows_of(X: pd.DataFrame | np.ndarray, rows: np.ndarray) -> Any:
    """Some rows of a frame or an array."""
    return X.iloc[rows] if isinstance(X, pd.DataFrame) else X[rows]


def split(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> Split:
    """The split of features, class numbers and weights; without these where all are equal."""
    return Split(x, y, weight=None if (weight == weight[0]).all() else weight.astype(np.float32))


def hold_out(
    y: np.ndarray, rows: np.ndarray, fraction: float, *, when: bool | str, few: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows into those to train on and those to validate on, a share of each class that has two or more.

    Args:
      y: class numbers, `[n]`.
      rows: which of them count.
      fraction: the share to hold out; at least one row of a class.
      when: whether to do so at all; `"auto"`: if at least `few` rows of the rarest class are then held out.
      few: see `when`.
      seed: of the draw.

    Returns:
      `(train, validation)`: sorted rows; of the latter perhaps none.
    """
    counts = np.bincount(y[rows])
    held = np.clip(np.round(fraction * counts), 1, np.maximum(counts - 1, 0)).astype(int)
    if when is False or (when == "auto" and round(fraction * counts[counts > 0].min()) < few):
        return rows, rows[:0]
    rng = np.random.default_rng(seed)
    of_class = [rows[y[rows] == number] for number in range(len(counts))]
    kept = np.concatenate([rng.choice(own, count, replace=False) for own, count in zip(of_class, held, strict=True)])
    return np.setdiff1d(rows, kept), np.sort(kept)
