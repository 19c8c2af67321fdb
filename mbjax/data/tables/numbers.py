"""Columns of numbers as features: filled, scaled, clipped, and perhaps encoded piece by piece."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import RobustScaler, StandardScaler

from mbjax.options import COUNT, Option, choice

SCALING = Option(
    "scaling", "standard", choice(("standard", "robust", "robust_smooth_clip")),
    "of numbers: by mean and deviation; by median and quartiles, outliers cut off; or these, outliers pressed together",
)  # fmt: skip
ENCODING = Option(
    "encoding", "none", choice(("none", "piecewise_linear")),
    "of numbers: one feature each, or one for each bin between quantiles of the training part",
)  # fmt: skip
BINS = Option("bins", 48, COUNT, "of piecewise_linear: how many bins at most")
OPTIONS = (SCALING, ENCODING, BINS)  # of config.data

_ROBUST_LIMIT = 10.0  # distances of the quartiles: what is further out would outweigh all else in a gradient
_SMOOTH_LIMIT = 3.0  # as Holzmüller et al. have it


@dataclasses.dataclass(frozen=True)
class Number:
    """A column of numbers: `z = (x - shift) / scale * factor`, a missing `x` replaced by `fill` first.

    What is then beyond `limit` on either side is cut there; nothing where it is 0. With `smooth` above 0 it becomes
    `z / √(1 + (z / smooth)²)`. Without edges that is the one feature. With edges `b_0 < … < b_T` there are T, each the
    share of its bin that `z` has passed, `(z - b_{t-1}) / (b_t - b_{t-1})` from 0 to 1; the first goes on below 0 and
    the last above 1 (Gorishniy et al. 2022, "On Embeddings for Numerical Features in Tabular Deep Learning",
    equation 1).
    """

    name: str
    fill: float
    shift: float = 0.0
    scale: float = 1.0
    factor: float = 1.0
    limit: float = 0.0
    smooth: float = 0.0
    edges: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """How many features it is."""
        return max(len(self.edges) - 1, 1)

    @classmethod
    def from_dict(cls, about: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` gave, perhaps by way of JSON."""
        return cls(**{**about, "edges": tuple(about.get("edges", ()))})


class Coefficients(NamedTuple):
    """Numbers as arrays, for NumPy, XLA and ONNX alike: six `[numbers]`, then five `[features]`.

    Attributes:
      fill, shift, scale, factor: see `Number`.
      limit, smooth: likewise, infinite where there is none.
      column: which number each feature is of.
      start, length: of its bin; 0 and 1 of a number without edges.
      least, most: what it is cut to, infinite where it goes on.
    """

    fill: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    factor: np.ndarray
    limit: np.ndarray
    smooth: np.ndarray
    column: np.ndarray
    start: np.ndarray
    length: np.ndarray
    least: np.ndarray
    most: np.ndarray

    @classmethod
    def of(cls, numbers: Sequence[Number], dtype: str) -> Self:
        """Those of numbers in their order, of a floating-point type."""
        rows = [[n.fill, n.shift, n.scale, n.factor, n.limit or np.inf, n.smooth or np.inf] for n in numbers]
        fill, shift, scale, factor, limit, smooth = np.array(rows, np.float64).reshape(-1, 6).T.astype(dtype)
        bins = [
            (number, start, end - start, 0.0 if place else -np.inf, 1.0 if place < last else np.inf)
            for number, edges in enumerate(n.edges or (0.0, 1.0) for n in numbers) for last in [len(edges) - 2]
            for place, (start, end) in enumerate(itertools.pairwise(edges))
        ]  # fmt: skip
        column, *others = np.array(bins, np.float64).reshape(-1, 5).T
        start, length, least, most = (row.astype(dtype) for row in others)
        column = column.astype(np.int64)
        return cls(fill, shift, scale, factor, limit, smooth, column, start, length, least, most)

    @property
    def is_encoded(self) -> bool:
        """Whether some number is several features."""
        return len(self.column) > len(self.fill)

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Features `[n, features]` of filled values `[n, numbers]`, which are overwritten."""
        x -= self.shift
        if (self.scale != 1).any():
            x /= self.scale
        if (self.factor != 1).any():
            x *= self.factor
        if np.isfinite(self.limit).any():
            np.clip(x, -self.limit, self.limit, out=x)
        if np.isfinite(self.smooth).any():
            x /= np.sqrt(1 + (x / self.smooth) ** 2)
        if not self.is_encoded:
            return x
        return np.clip((x[:, self.column] - self.start) / self.length, self.least, self.most)


def fit(
    names: Sequence[str], values: np.ndarray, *, scaling: str | None, encoding: str = "none", bins: int = BINS.default
) -> list[Number]:
    """Learns medians and scales of columns, and the edges of their bins.

    Args:
      names: of the columns.
      values: `[n, columns]` float64, NaN where missing, a value at least in each column.
      scaling: of `SCALING`; None for none. `robust_smooth_clip` divides by the distance of the quartiles, by half that
        of the extremes where the quartiles are equal, and makes a constant column zero (Holzmüller et al. 2024,
        "Better by Default", section 3).
      encoding: of `ENCODING`. The edges are quantiles of the scaled values, equal ones taken once; a column of one
        value becomes a feature of zeros.
      bins: how many there are at most.
    """
    if not len(names):
        return []
    imputer = SimpleImputer(strategy="median")
    filled = np.asarray(imputer.fit_transform(values))
    fills = np.asarray(imputer.statistics_).tolist()
    learned = zip(names, fills, *_scales(filled, scaling), strict=True)
    limit = _ROBUST_LIMIT if scaling == "robust" else 0.0
    smooth = _SMOOTH_LIMIT if scaling == "robust_smooth_clip" else 0.0
    numbers = [Number(*one, limit=limit, smooth=smooth) for one in learned]
    if encoding == "none":
        return numbers
    scaled = Coefficients.of(numbers, "float64").apply(filled)
    return [_with_edges(number, scaled[:, place], bins) for place, number in enumerate(numbers)]


def _scales(filled: np.ndarray, scaling: str | None) -> tuple[list[float], list[float], list[float]]:
    """The shift, the scale and the factor of each column."""
    columns = filled.shape[1]
    if scaling is None:
        return [0.0] * columns, [1.0] * columns, [1.0] * columns
    if scaling == "robust_smooth_clip":
        low, middle, high = np.quantile(filled, [0.25, 0.5, 0.75], axis=0)
        scale = np.where(high > low, high - low, (filled.max(0) - filled.min(0)) / 2)
        return middle.tolist(), np.where(scale > 0, scale, 1.0).tolist(), (scale > 0).astype(float).tolist()
    scaler = RobustScaler() if scaling == "robust" else StandardScaler()
    scaler.fit(filled)
    shifts = scaler.center_ if isinstance(scaler, RobustScaler) else scaler.mean_
    return np.asarray(shifts).tolist(), np.asarray(scaler.scale_).tolist(), [1.0] * columns


def _with_edges(number: Number, scaled: np.ndarray, bins: int) -> Number:
    edges = np.unique(np.quantile(scaled, np.linspace(0, 1, bins + 1)))
    if len(edges) < 2:
        return dataclasses.replace(number, factor=0.0)
    return dataclasses.replace(number, edges=tuple(edges.tolist()))
