"""Scores against figures worked out by hand."""

import numpy as np
import pytest

from mbjax.evaluation import metrics


def test_binary_scores_by_hand():
    p = np.array([0.1, 0.4, 0.35, 0.8])
    labels = np.array([0, 0, 1, 1])
    scores = metrics.scores(np.stack([1 - p, p], 1), labels, majority_class=0)
    assert scores["roc_auc"] == pytest.approx(0.75)  # 3 of 4 pairs in order
    assert scores["average_precision"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert scores["accuracy"] == 0.75
    assert scores["class_accuracy"] == [1.0, 0.5]
    assert scores["majority_accuracy"] == 1.0
    assert scores["minority_accuracy"] == 0.5
    assert scores["g_mean"] == pytest.approx(np.sqrt(0.5))
    assert scores["log_loss"] == pytest.approx(-np.log([0.9, 0.6, 0.35, 0.8]).mean())


def test_multiclass_scores_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    predicted = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    scores = metrics.scores(np.eye(3)[predicted] * 0.97 + 0.01, labels, majority_class=2)
    assert scores["class_accuracy"] == [0.75, 0.5, 1.0]
    assert scores["balanced_accuracy"] == pytest.approx(0.75)
    assert scores["majority_accuracy"] == 1.0
    assert scores["minority_accuracy"] == pytest.approx(0.625)
    assert scores["g_mean"] == pytest.approx((0.75 * 0.5) ** (1 / 3))
    assert "roc_auc" not in scores


def test_a_class_never_predicted_has_g_mean_zero():
    assert metrics.scores(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]), majority_class=0)["g_mean"] == 0


def test_calibration_error_by_hand():
    # Two bins in use: confidence 0.95 with accuracy 1/2, confidence 0.65 with accuracy 1.
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.35, 0.65]])
    labels = np.array([0, 1, 1])
    assert metrics.calibration_error(probabilities, labels) == pytest.approx((2 * 0.45 + 0.35) / 3)


def test_a_perfectly_calibrated_coin_has_no_calibration_error():
    assert metrics.calibration_error(np.full((10, 2), 0.5), np.array([0, 1] * 5)) == 0
