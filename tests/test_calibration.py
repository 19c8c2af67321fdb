"""Calibration and decisions against independent statements: Bayes' rule, brute force, worlds whose truth is known."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbjax import class_weights
from mbjax import config as config_lib
from mbjax.evaluation import calibration, decisions
from mbjax.methods import METHODS
from mbjax.types import UserError

CLASSES = ("ok", "odd", "fraud")


def world(n: int, priors: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of three normal classes: densities of each class `[n, 3]`, and labels."""
    rng = np.random.default_rng(seed)
    y = rng.choice(3, n, p=priors)
    x = rng.normal([0.0, 1.5, 3.0], 1.0, (n, 3))[np.arange(n), y]
    return np.exp(-((x[:, None] - np.array([0.0, 1.5, 3.0])) ** 2) / 2), y


class TestCalibration:
    def test_shifted_priors_are_those_of_bayes(self):
        density, _ = world(500, np.full(3, 1 / 3), 0)
        old, new = np.array([0.2, 0.3, 0.5]), np.array([0.9, 0.09, 0.01])
        posterior = lambda priors: density * priors / (density @ priors)[:, None]  # noqa: E731
        np.testing.assert_allclose(calibration.shift_priors(posterior(old), old, new), posterior(new))

    def test_equal_priors_divide_those_of_training_out(self):
        p = np.array([[0.9, 0.1], [0.8, 0.2]])
        expected = [[0.5, 0.5], [0.8 / 0.9 / (0.8 / 0.9 + 2), 2 / (0.8 / 0.9 + 2)]]
        np.testing.assert_allclose(calibration.shift_priors(p, np.array([0.9, 0.1]), np.ones(2)), expected)

    def test_of_two_classes_it_is_elkans_formula(self):
        p, b, b2 = np.linspace(0.01, 0.99, 50), 0.5, 0.03
        expected = b2 * (p - p * b) / (b - p * b + b2 * p - b * b2)
        got = calibration.shift_priors(np.c_[1 - p, p], np.array([1 - b, b]), np.array([1 - b2, b2]))
        np.testing.assert_allclose(got[:, 1], expected)

    def test_temperature_divides_logits(self):
        z = np.random.default_rng(0).normal(size=(20, 4)) * 5
        softmax = lambda z: np.exp(z) / np.exp(z).sum(1, keepdims=True)  # noqa: E731
        np.testing.assert_allclose(calibration.temper(softmax(z), 2.5), softmax(z / 2.5))

    @pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
    def test_a_known_temperature_and_known_priors_are_found(self, true):
        priors, balanced = np.array([0.9, 0.08, 0.02]), np.full(3, 1 / 3)
        density, y = world(60_000, priors, 1)
        said = density**true / (density**true).sum(1, keepdims=True)  # trained on balanced batches, logits times `true`
        found = calibration.fit_temperature(said, y, balanced, priors)
        assert found == pytest.approx(true, rel=0.03)
        p = calibration.shift_priors(calibration.temper(said, found), balanced, priors)
        truth = density * priors / (density @ priors)[:, None]
        assert np.abs(p - truth).max() < 0.02

    def test_certainty_stays_finite(self):
        even = np.array([0.5, 0.5])
        p = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
        assert np.isfinite(calibration.shift_priors(calibration.temper(p, 3), even, np.array([1.0, 0.0]))).all()
        assert 0.01 <= calibration.fit_temperature(p, np.array([1, 1, 0]), even, even) <= 100

    def test_priors_by_name_and_the_rest(self):
        np.testing.assert_allclose(calibration.read_priors({"fraud": 0.1, "odd": 0.2}, CLASSES), [0.7, 0.2, 0.1])
        np.testing.assert_allclose(calibration.read_priors([0.5, 0.25, 0.25], CLASSES), [0.5, 0.25, 0.25])
        for wrong in ({"fraud": 0.1}, {"fraud": 1.2, "odd": 0.1}, {"x": 0.1, "odd": 0.1}, [0.5, 0.5], [0.5, 0.5, 0.5]):
            with pytest.raises(UserError, match="priors"):
                calibration.read_priors(wrong, CLASSES)


SHARES = {
    "train": np.array([0.9, 0.1]), "support": np.array([0.9, 0.1]), "query": np.array([0.5, 0.5]),
    "clean": np.array([0.5, 0.5]),
}  # fmt: skip


class TestSampledPriors:
    counts = np.array([900, 100])

    def of(self, method: str, **changes) -> np.ndarray:
        config = config_lib.base()
        config.update_from_flattened_dict(changes)
        return METHODS[method].sampled_priors(config.to_dict(), SHARES, self.counts)

    @pytest.mark.parametrize(
        ("method", "changes", "expected"),
        [
            ("erm", {}, [0.9, 0.1]),
            ("erm", {"loss.class_weight": "inverse"}, [0.5, 0.5]),
            ("erm", {"loss.name": "logit_adjustment"}, [0.5, 0.5]),
            ("erm", {"loss.name": "logit_adjustment", "loss.tau": 0.5}, [0.75, 0.25]),
            ("metabalance", {}, [0.5, 0.5]),
            ("metabalance", {"meta.beta": 1.0}, [0.7, 0.3]),
            ("l2rw", {}, [0.5, 0.5]),
            ("mw_net", {}, [0.5, 0.5]),
        ],
    )
    def test_known_cases(self, method, changes, expected):
        np.testing.assert_allclose(self.of(method, **changes), expected, atol=1e-6)

    def test_drw_ends_with_its_class_weights(self):
        weights = np.asarray(class_weights.effective_weights(self.counts, 0.999))
        expected = SHARES["train"] * weights
        np.testing.assert_allclose(self.of("drw", **{"loss.beta": 0.999}), expected / expected.sum(), rtol=1e-6)


class TestDecisions:
    def test_a_threshold_is_half_way_between_two_scores(self):
        p, y = np.array([0.1, 0.2, 0.3, 0.35, 0.6, 0.7]), np.array([0, 0, 1, 0, 1, 1])
        threshold = decisions.choose(p, y, metric="balanced_accuracy")
        assert threshold in (pytest.approx(0.475), pytest.approx(0.25))  # both as good, but for rounding

    @settings(deadline=None, max_examples=50)
    @given(st.integers(0, 2**32 - 1), st.integers(5, 40), st.sampled_from([3, 1000]))
    def test_no_threshold_is_better(self, seed, n, grid):
        rng = np.random.default_rng(seed)
        y = np.r_[0, 1, rng.integers(0, 2, n)]
        p = rng.integers(0, grid + 1, len(y)) / grid
        counts = lambda t: ((p >= t) @ y, (p >= t).sum())  # noqa: E731 - true positives, and all that are taken
        balanced = lambda hits, taken: hits / y.sum() + 1 - (taken - hits) / (1 - y).sum()  # noqa: E731
        f = lambda beta: lambda hits, taken: (1 + beta**2) * hits / (beta**2 * y.sum() + taken)  # noqa: E731
        for metric, beta, score in (("balanced_accuracy", 1.0, balanced), ("f_beta", 1.0, f(1)), ("f_beta", 2.0, f(2))):
            t = decisions.choose(p, y, metric=metric, beta=beta)
            assert score(*counts(t)) == pytest.approx(max(score(*counts(other)) for other in np.unique(p)))

    @settings(deadline=None, max_examples=50)
    @given(st.integers(0, 2**32 - 1), st.floats(0.05, 1))
    def test_what_is_to_be_kept_is_kept_with_the_most_of_the_other(self, seed, keep):
        rng = np.random.default_rng(seed)
        y = np.r_[0, 1, rng.integers(0, 2, 30)]
        p = (rng.integers(0, 12, len(y)) + 4 * y) / 16
        both = lambda t: ((p >= t) @ y / (p >= t).sum(), (p >= t) @ y / y.sum())  # noqa: E731 - precision, recall
        for metric, kept, other in (("recall", 1, 0), ("precision", 0, 1)):
            able = [both(t) for t in np.unique(p) if both(t)[kept] >= keep]
            if not able:
                got = both(decisions.choose(p, y, metric=metric, keep=keep))
                assert got[kept] == pytest.approx(max(both(t)[kept] for t in np.unique(p)))
                continue
            got = both(decisions.choose(p, y, metric=metric, keep=keep))
            assert got[kept] >= keep
            assert got[other] == pytest.approx(max(pair[other] for pair in able))

    def test_costs_decide_for_the_least_expected_cost(self):
        costs = decisions.read_costs({("fraud", "ok"): 100, ("ok", "fraud"): 1, ("odd", "ok"): 5}, CLASSES)
        assert costs == ((0, 0, 1), (5, 0, 0), (100, 0, 0))
        p = np.random.default_rng(0).dirichlet([3, 1, 0.3], 200)
        decided = decisions.Decision("costs", costs=costs)(p)
        for row, choice in zip(p, decided, strict=True):
            expected = [sum(row[true] * costs[true][other] for true in range(3)) for other in range(3)]
            assert expected[choice] == min(expected)

    def test_equal_costs_are_arg_max(self):
        p = np.random.default_rng(0).dirichlet([1, 1, 1], 200)
        costs = tuple(tuple(float(i != j) for j in range(3)) for i in range(3))
        assert np.array_equal(decisions.Decision("costs", costs=costs)(p), p.argmax(1))

    def test_no_decisions_are_better_at_the_true_probabilities(self):
        priors = np.array([0.9, 0.08, 0.02])
        density, y = world(20_000, priors, 2)
        p = density * priors / (density @ priors)[:, None]
        costs = decisions.read_costs(
            "{('fraud', 'ok'): 50, ('odd', 'ok'): 10, ('ok', 'odd'): 1, ('ok', 'fraud'): 1}", CLASSES
        )
        mean = lambda decided: decisions.scores(decided, y, classes=3, costs=costs)["mean_cost"]  # noqa: E731
        best = mean(decisions.Decision("costs", costs=costs)(p))
        assert best < 0.9 * mean(p.argmax(1))
        for shift in itertools.product([0.3, 1, 3], repeat=2):
            assert best <= mean((p * np.array([1, *shift])).argmax(1)) + 1e-9

    def test_scores(self):
        y, decided = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 0, 1, 0])
        got = decisions.scores(decided, y, classes=2, costs=((0, 1), (10, 0)))
        assert got == pytest.approx(
            {
                "accuracy": 0.6,
                "balanced_accuracy": 7 / 12,
                "precision": 0.5,
                "recall": 0.5,
                "f1": 0.5,
                "mean_cost": 11 / 5,
            }
        )

    @pytest.mark.parametrize(
        ("changes", "validation", "message"),
        [
            ({"metric": "balanced_accuracy"}, False, r"chosen on validation data; set --config.data.validation_share"),
            ({"metric": "recall"}, True, r"say how much to keep with --config.decision.keep=0.9"),
            ({"metric": "f_beta", "costs": "{('a', 'b'): 1}"}, True, "choose one of them"),
            ({"costs": "{('a', 'x'): 1}"}, True, "there is no class 'x' among a, b"),
            ({"costs": "[[0, 1, 2]]"}, True, "2 true classes by 2 decisions"),
        ],
    )
    def test_options_that_cannot_be(self, changes, validation, message):
        section = {option.name: option.default for option in decisions.OPTIONS} | changes
        held = (np.array([[0.4, 0.6], [0.7, 0.3]]), np.array([1, 0])) if validation else None
        with pytest.raises(UserError, match=message):
            decisions.decide(section, ("a", "b"), held)

    def test_more_classes_than_two_need_costs(self):
        section = {option.name: option.default for option in decisions.OPTIONS} | {"metric": "f_beta"}
        with pytest.raises(UserError, match="for two classes, not 3"):
            decisions.decide(section, CLASSES, None)
