"""Means and variances of columns, chunk by chunk."""

import numpy as np


class Moments:
    """Means and variances of columns with missing values, chunk by chunk.

    Two parts of a sample are merged as in Chan, Golub and LeVeque, "Algorithms for computing the sample variance"
    (1983). scikit-learn's `StandardScaler.partial_fit` does the same, but of a column whose first chunk has no value it
    gives NaN.
    """

    def __init__(self, columns: int):
        self.count, self.mean, self._squares = np.zeros(columns, np.int64), np.zeros(columns), np.zeros(columns)

    def add(self, x: np.ndarray) -> None:
        """Takes in `x`, `[rows, columns]`."""
        missing = np.isnan(x)
        count = len(x) - missing.sum(0)
        x = np.where(missing, 0, x.astype(np.float64))
        mean = x.sum(0) / np.maximum(count, 1)
        x = np.where(missing, 0, x - mean)
        total, step = np.maximum(self.count + count, 1), mean - self.mean
        self._squares += np.einsum("ij,ij->j", x, x) + step**2 * self.count / total * count
        self.mean += step * count / total
        self.count += count

    def zero(self) -> np.ndarray:
        """Whether every value is zero."""
        return (self.mean == 0) & (self._squares == 0)

    def deviation(self) -> np.ndarray:
        """The standard deviation; 1 where there is none but for rounding, as scikit-learn has it."""
        n, eps = np.maximum(self.count, 1), np.finfo(np.float64).eps
        variance = self._squares / n
        constant = variance <= n * eps * variance + (n * self.mean * eps) ** 2
        return np.where(constant, 1, np.sqrt(variance))
