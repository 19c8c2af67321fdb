"""How far a test score may be off: 95% intervals of shares, of means of shares, and of scores of a ranking."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

Interval = list[float]
"""`[low, high]`, which JSON can hold."""
_CELLS = 20_000_000  # rows × draws of a bootstrap
_BLOCK = 2_000_000  # of these at a time


def wilson(hits: int, of: int) -> Interval:
    """Wilson's interval of a share: it holds for small counts, too (Wilson 1927).

    Example:
      >>> [round(end, 3) for end in wilson(0, 8)]
      [0.0, 0.324]
    """
    interval = stats.binomtest(int(hits), int(of)).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def mean_of_shares(hits: Sequence[int] | np.ndarray, of: Sequence[int] | np.ndarray) -> Interval:
    """The interval of the mean of independent shares, such as balanced accuracy, from the Wilson interval of each.

    The distances of the ends from the shares are added up as errors are (Zou and Donner 2008, "Construction of
    confidence limits about effect measures: a general approach").

    Args:
      hits: of each share, `[shares]`.
      of: how many trials each has, `[shares]`, all above 0.
    """
    share = np.asarray(hits) / np.asarray(of)
    low, high = np.transpose([wilson(h, n) for h, n in zip(hits, of, strict=True)])
    middle = float(share.mean())
    below, above = (float(np.sqrt(np.square(share - end).sum())) / len(share) for end in (low, high))
    return [middle - below, middle + above]


def mean(values: np.ndarray) -> Interval:
    """The interval of a mean of many values, `[n]`, by its standard error."""
    half = 1.96 * float(np.std(values)) / np.sqrt(len(values))
    return [float(np.mean(values) - half), float(np.mean(values) + half)]


def ranking(scores: np.ndarray, labels: np.ndarray, *, times: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Percentile intervals of `roc_auc` and `average_precision` over draws of the rows of each class.

    Each class's rows are drawn with replacement, as many as there are: 1,000 times, or fewer (200 at least) of many
    rows.

    Args:
      scores: higher for the positive class, `[n]`.
      labels: 0 or 1, both there, `[n]`.
      times: how many draws at most.
      seed: of the drawing.
    """
    order = np.argsort(-scores, kind="stable")
    positive = np.asarray(labels)[order] == 1
    last = np.append(np.diff(scores[order]) != 0, True)  # equal scores are taken together
    rng = np.random.default_rng(seed)
    left = int(np.clip(_CELLS // len(scores), 200, times))
    found = []
    while left > 0:
        block = min(left, max(_BLOCK // len(scores), 1))
        weights = np.zeros((block, len(scores)))
        for part in (positive, ~positive):
            weights[:, part] = _draw(rng, int(part.sum()), block)
        found.append(_areas(weights, positive, last))
        left -= block
    ends = np.quantile(np.concatenate(found, axis=1), [0.025, 0.975], axis=1).T
    return {"roc_auc": ends[0].tolist(), "average_precision": ends[1].tolist()}


def _draw(rng: np.random.Generator, rows: int, times: int) -> np.ndarray:
    """How often each of `rows` is drawn, `[times, rows]`."""
    cell = rng.integers(rows, size=(times, rows)) + rows * np.arange(times)[:, None]
    return np.bincount(cell.ravel(), minlength=times * rows).reshape(times, rows)


def _areas(weights: np.ndarray, positive: np.ndarray, last: np.ndarray) -> np.ndarray:
    """ROC-AUC and average precision of weighted rows, best first: `[2, draws]`."""
    true = np.cumsum(weights * positive, axis=1)[:, last]
    false = np.cumsum(weights * ~positive, axis=1)[:, last]
    more_true, more_false = (np.diff(counts, axis=1, prepend=0) for counts in (true, false))
    area = (more_false * (true - more_true / 2)).sum(1)
    taken = np.maximum(true + false, 1)
    precision = (more_true * true / taken).sum(1)
    return np.array([area / (true[:, -1] * false[:, -1]), precision / true[:, -1]])
