"""Whitening: what is learned of a frozen stem's features before a network is trained on them."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.utils.extmath import randomized_svd

SHRINKAGE = 15 / 3888  # 15 times the mean variance of the 3,888 features that 32×32 pixels have
LENGTH = 4.0
_ROWS = 2048  # that the covariance is estimated of, at most


@dataclasses.dataclass(frozen=True, eq=False)
class Whitening:
    """Standardises features and shrinks the directions in which those of one class differ much.

    With `Σ` the covariance of standardised features within classes, a feature vector becomes a multiple of
    `(Σ / c + I)^(−1/2) x`, `c = SHRINKAGE · trace(Σ)`; of `Σ` only the largest directions count. A linear
    classifier of these, decayed towards 0, is a regularised linear discriminant. One large class is enough to tell how
    images of a class differ.

    Attributes:
      mean, scale: of each channel, `[channels]`.
      directions: orthonormal, `[rank, features]`.
      gains: what is added along each direction, of what is there, `[rank]`; from −1 to 0.
      factor: of all, `[1]`, so that the root of the mean squared length is `LENGTH`.
      known: what the stem before learned, which is kept beside it.
    """

    mean: np.ndarray
    scale: np.ndarray
    directions: np.ndarray
    gains: np.ndarray
    factor: np.ndarray
    known: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def arrays(self) -> dict[str, np.ndarray]:
        """The attributes by name, without directions and gains where there are none: no file keeps empty arrays."""
        names = ("mean", "scale", "directions", "gains", "factor")
        arrays = {name: getattr(self, name) for name in names}
        return {name: array for name, array in arrays.items() if array.size}

    def __repr__(self) -> str:  # programs that hold these constants are told apart by it
        content = b"".join(np.ascontiguousarray(array).tobytes() for array in {**self.arrays(), **self.known}.values())
        return f"Whitening({hashlib.sha256(content).hexdigest()[:16]})"


def identity(channels: int, features: int, rank: int) -> Whitening:
    """What changes nothing."""
    zeros, ones = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    directions, gains = np.zeros((rank, features), np.float32), np.zeros(rank, np.float32)
    return Whitening(zeros, ones, directions, gains, np.ones(1, np.float32))


def learn(
    features: np.ndarray, labels: np.ndarray, *, rank: int, last: int = 0, known: Mapping[str, np.ndarray] | None = None
) -> Whitening:
    """Learns it of a training part, or of 2,048 rows of it.

    Args:
      features: `[n, rows, columns, channels]`.
      labels: class numbers, `[n]`.
      rank: directions, at most; 0 for none.
      last: how many of the last channels are of another kind than those before; the two kinds then weigh the same.
      known: see `Whitening`.
    """
    rows = np.unique(np.linspace(0, len(features) - 1, min(len(features), _ROWS)).astype(int))
    x, y = features[rows].astype(np.float32), labels[rows]
    mean = x.mean((0, 1, 2), dtype=np.float64).astype(np.float32)
    scale = np.maximum(x.std((0, 1, 2), dtype=np.float64), 1e-6).astype(np.float32)
    if last:
        first = len(scale) - last
        scale *= np.sqrt(2 * np.r_[np.full(first, first), np.full(last, last)] / len(scale)).astype(np.float32)
    x = ((x - mean) / scale).reshape(len(x), -1)
    within = x - np.stack([x[y == number].mean(0) if (y == number).any() else x[0] for number in range(y.max() + 1)])[y]
    rank = min(rank, len(x) - 1, x.shape[1])
    directions, gains = np.zeros((0, x.shape[1]), np.float32), np.zeros(0, np.float32)
    if rank:
        passes: Any = 2
        _, sizes, directions = randomized_svd(within, rank, n_iter=passes, random_state=0)
        floor = SHRINKAGE * max(float((within**2).sum()) / len(x), 1e-12)
        gains = (np.sqrt(floor / (sizes**2 / len(x) + floor)) - 1).astype(np.float32)
    white = x + (x @ directions.T * gains) @ directions
    factor = np.array([LENGTH / np.sqrt(max(float((white**2).sum(1).mean()), 1e-12))], np.float32)
    return Whitening(mean, scale, np.ascontiguousarray(directions, np.float32), gains, factor, known or {})
