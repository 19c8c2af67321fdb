"""What many tables say of many rows: ranks, tests, and how probable it is that one helps on the next table."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

PRIOR = 0.5  # the weight of the one table of no difference that the Bayesian test adds, as Benavoli et al. have it
SAMPLES = 20_000


def mean_ranks(scores: np.ndarray) -> np.ndarray:
    """The mean rank of each row, `[rows]`, 1 the best; equal ones share theirs. Of scores `[tables, rows]`."""
    return stats.rankdata(-scores, axis=1).mean(0)


def friedman(scores: np.ndarray) -> float:
    """The p-value of Friedman's test that all rows are alike, of scores `[tables, rows]`, three rows or more."""
    if (scores == scores[:, :1]).all():
        return 1.0
    return float(stats.friedmanchisquare(*scores.T)[1])


def holm(p: Sequence[float]) -> np.ndarray:
    """P-values adjusted for their number (Holm 1979), `[n]`: the k-th smallest times n - k + 1, and never falling."""
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    adjusted = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    out = np.empty(len(values))
    out[order] = np.minimum(adjusted, 1)
    return out


def wilcoxon(a: np.ndarray, b: np.ndarray) -> float:
    """The p-value of Wilcoxon's signed-rank test of two rows' scores `[tables]`; 1 where none differs."""
    if (a == b).all():
        return 1.0
    result: Any = stats.wilcoxon(a, b, zero_method="zsplit", method="asymptotic")
    return float(result.pvalue)


def cliques(scores: np.ndarray, level: float = 0.05) -> list[tuple[int, ...]]:
    """The bars of a critical-difference diagram: rows, neighbours by mean rank, none of which differs from another.

    Args:
      scores: `[tables, rows]`.
      level: of the pairwise Wilcoxon tests, adjusted by `holm` (Benavoli, Corani and Mangili 2016).

    Returns:
      Row numbers of each bar, the best first; bars within others are left out.
    """
    order = np.argsort(mean_ranks(scores), kind="stable")
    pairs = list(itertools.combinations(range(len(order)), 2))
    p = holm([wilcoxon(scores[:, order[i]], scores[:, order[j]]) for i, j in pairs])
    differs = {pair for pair, value in zip(pairs, p, strict=True) if value < level}
    bars: list[tuple[int, int]] = []
    for first in range(len(order)):
        last = first
        while last + 1 < len(order) and not any((i, last + 1) in differs for i in range(first, last + 1)):
            last += 1
        if last > first and not any(last <= end for _, end in bars):
            bars.append((first, last))
    return [tuple(order[first : last + 1].tolist()) for first, last in bars]


def win_tie_loss(a: np.ndarray, b: np.ndarray, rope: float) -> tuple[int, int, int]:
    """Tables on which `a` is better by more than `rope`, on which neither is, and on which `b` is."""
    difference = np.asarray(a) - np.asarray(b)
    won, lost = int((difference > rope).sum()), int((difference < -rope).sum())
    return won, len(difference) - won - lost, lost


class Posterior(NamedTuple):
    """What is to be expected of the next table.

    Attributes:
      better, same, worse: the probabilities that a row is better, practically the same, or worse.
      mean: the expected difference, and `low` and `high`, its interval of 95%.
    """

    better: float
    same: float
    worse: float
    mean: float
    low: float
    high: float


def signed_rank_posterior(differences: np.ndarray, *, rope: float, seed: int = 0, samples: int = SAMPLES) -> Posterior:
    """The Bayesian signed-rank test with a region of practical equivalence.

    Benavoli, Corani, Demšar and Zaffalon 2017, "Time for a Change: a Tutorial for Comparing Multiple Classifiers
    Through Bayesian Analysis", section 4.2: weights `w` of the tables, and of one table of no difference, are drawn
    from a Dirichlet distribution; `θ = Σ_ij w_i w_j [z_i + z_j > 2 rope]` is the probability of "better", and so on.
    Each draw is one for the largest of the three.

    Args:
      differences: of a row's mean score from another's, `[tables]`.
      rope: the region goes from `-rope` to `rope`.
      seed: of the draws.
      samples: how many.

    Example:
      >>> signed_rank_posterior(np.full(30, 0.05), rope=0.01).better > 0.99
      True
    """
    z = np.concatenate([[0.0], np.asarray(differences, float)])
    weights = np.random.default_rng(seed).dirichlet([PRIOR, *np.ones(len(z) - 1)], samples)
    sums = z[:, None] + z[None]
    above, below = (sums > 2 * rope).astype(float), (sums < -2 * rope).astype(float)
    better, worse = (np.einsum("si,ij,sj->s", weights, side, weights, optimize=True) for side in (above, below))
    largest = np.argmax([better, 1 - better - worse, worse], axis=0)
    shares = np.bincount(largest, minlength=3) / samples
    means = weights @ z
    low, high = np.quantile(means, [0.025, 0.975])
    first, second, third = shares.tolist()
    return Posterior(first, second, third, float(means.mean()), float(low), float(high))
