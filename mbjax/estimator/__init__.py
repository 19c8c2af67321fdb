"""Classifiers for scikit-learn: mbjax's methods with `fit`, `predict` and `predict_proba`, all in memory."""

from mbjax.estimator.classifiers import ImbalancedClassifier, MetaBalanceClassifier
from mbjax.estimator.settings import DEFAULTS, METHODS, PAPER, FitError

__all__ = ["DEFAULTS", "METHODS", "PAPER", "FitError", "ImbalancedClassifier", "MetaBalanceClassifier"]
