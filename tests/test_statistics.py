"""The statistics of a suite against their definitions."""

import numpy as np
import pytest
from scipy import stats

from mbjax.compare import statistics


def test_ranks_and_friedman_of_a_case_by_hand():
    scores = np.array([[0.9, 0.8, 0.7], [0.6, 0.6, 0.5], [0.7, 0.8, 0.6], [0.9, 0.5, 0.4]])
    np.testing.assert_allclose(statistics.mean_ranks(scores), [(1 + 1.5 + 2 + 1) / 4, (2 + 1.5 + 1 + 2) / 4, 3])
    ranks = np.array([[1, 2, 3], [1.5, 1.5, 3], [2, 1, 3], [1, 2, 3]])
    n, k = ranks.shape
    chi = (12 / (n * k * (k + 1)) * (ranks.sum(0) ** 2).sum() - 3 * n * (k + 1)) / (1 - 6 / (n * k * (k**2 - 1)))
    assert statistics.friedman(scores) == pytest.approx(stats.chi2.sf(chi, k - 1), rel=1e-9)
    assert statistics.friedman(np.ones((4, 3))) == 1


def test_holm_by_hand():
    np.testing.assert_allclose(statistics.holm([0.04, 0.01, 0.03, 0.9]), [0.09, 0.04, 0.09, 0.9])
    np.testing.assert_allclose(statistics.holm([0.6, 0.5]), [1, 1])


def test_bars_join_rows_that_do_not_differ():
    rng = np.random.default_rng(0)
    base = rng.normal(size=40)
    noise = lambda: rng.normal(0, 0.3, 40)  # noqa: E731
    scores = np.stack([base - 2 + noise(), base + noise(), base + noise(), base - 2 + noise(), base - 5], 1)
    assert sorted(map(sorted, statistics.cliques(scores))) == [[0, 3], [1, 2]]
    assert statistics.wilcoxon(base, base) == 1


def test_wins_ties_and_losses():
    assert statistics.win_tie_loss(np.array([0.9, 0.5, 0.7, 0.2]), np.array([0.8, 0.5, 0.705, 0.9]), 0.01) == (1, 2, 1)


def test_the_bayesian_test_is_its_definition():
    """One draw at a time, as the paper states it."""
    z, rope, samples = np.array([0.03, -0.004, 0.012, 0.02, -0.03]), 0.01, 300
    got = statistics.signed_rank_posterior(z, rope=rope, seed=4, samples=samples)
    with_prior = [0.0, *z]
    rng, counts, means = np.random.default_rng(4), [0, 0, 0], []
    for w in rng.dirichlet([0.5, 1, 1, 1, 1, 1], samples):
        theta = [0.0, 0.0, 0.0]
        for i, a in enumerate(with_prior):
            for j, b in enumerate(with_prior):
                where = 0 if a + b > 2 * rope else 2 if a + b < -2 * rope else 1
                theta[where] += w[i] * w[j]
        counts[theta.index(max(theta))] += 1
        means.append(sum(a * b for a, b in zip(w, with_prior, strict=True)))
    np.testing.assert_allclose(got[:3], np.array(counts) / samples, atol=1e-12)
    np.testing.assert_allclose(got[3:], [np.mean(means), *np.quantile(means, [0.025, 0.975])], rtol=1e-9)
    assert min(counts) > 0


def test_the_bayesian_test_sees_sides_and_the_region():
    same = statistics.signed_rank_posterior(np.linspace(-0.004, 0.004, 30), rope=0.01)
    assert same.same > 0.99
    worse = statistics.signed_rank_posterior(np.full(30, -0.05), rope=0.01)
    assert (worse.worse, worse.better) == (1, 0)
    assert -0.051 < worse.mean < -0.045
