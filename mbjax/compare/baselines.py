"""Estimators on the same splits: logistic regression, trees, ensembles, and mbjax's own classifier."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from imblearn.ensemble import BalancedRandomForestClassifier, EasyEnsembleClassifier, RUSBoostClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight

from mbjax.estimator import MetaBalanceClassifier
from mbjax.types import Dataset, UserError

OPTIONAL = {"lightgbm": "'mbjax[trees]'", "xgboost": "'mbjax[trees]'", "pytabkit": "pytabkit"}
"""Packages of references that need not be installed, and what installs them."""


def _installed(package: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(package), name)
    except ImportError:
        raise UserError(f"{package} is not installed: {install(package)}") from None


def install(*packages: str) -> str:
    """The command that installs optional packages."""
    return f"pip install {' '.join(dict.fromkeys(OPTIONAL[package] for package in packages))}"


REFERENCES: dict[str, Callable[..., Any]] = {
    "logistic_regression": lambda seed, **settings: LogisticRegression(max_iter=5000, random_state=seed, **settings),
    "hist_gradient_boosting": lambda seed, **settings: HistGradientBoostingClassifier(random_state=seed, **settings),
    "lightgbm": lambda seed, **settings: _installed("lightgbm", "LGBMClassifier")(
        random_state=seed, n_jobs=1, verbosity=-1, **settings
    ),
    "xgboost": lambda seed, **settings: _installed("xgboost", "XGBClassifier")(random_state=seed, n_jobs=1, **settings),
    "balanced_random_forest": lambda seed, **settings: BalancedRandomForestClassifier(
        random_state=seed, n_jobs=1, **settings
    ),
    "rusboost": lambda seed, **settings: RUSBoostClassifier(random_state=seed, **settings),
    "easy_ensemble": lambda seed, **settings: EasyEnsembleClassifier(random_state=seed, n_jobs=1, **settings),
    "realmlp": lambda seed, **settings: _installed("pytabkit", "RealMLP_TD_S_Classifier")(
        random_state=seed, device="cpu", n_threads=1, verbosity=0, **settings
    ),
    "metabalance_classifier": lambda seed, **settings: MetaBalanceClassifier(random_state=seed, **settings),
}
EQUAL_PRIORS = ("balanced_random_forest", "rusboost", "easy_ensemble")
"""Those that draw as many examples of each class."""


def missing_package(name: str) -> str:
    """The package that a reference needs and that is not installed; empty if there is none."""
    package = {"realmlp": "pytabkit"}.get(name, name)
    return package if package in OPTIONAL and importlib.util.find_spec(package) is None else ""


def fit(name: str, dataset: Dataset, *, seed: int, balanced: bool, settings: Mapping[str, Any]) -> Any:
    """Fits a reference to the training part.

    Args:
      name: a key of `REFERENCES`.
      dataset: what to fit to; examples of any shape are flattened.
      seed: the `random_state`.
      balanced: weighs examples by the inverse frequency of their class.
      settings: the estimator's parameters.

    Returns:
      The fitted estimator; see `predict`.

    Raises:
      UserError: the package is not installed.
    """
    estimator = REFERENCES[name](seed, **settings)
    weight = {"sample_weight": compute_sample_weight("balanced", dataset.train.y)} if balanced else {}
    estimator.fit(dataset.train.x.reshape(len(dataset.train), -1), dataset.train.y, **weight)
    return estimator


def predict(estimator: Any, x: np.ndarray) -> np.ndarray:
    """The probabilities that a fitted estimator gives, `[n, classes]`, of examples `[n, ...]`."""
    probabilities = np.asarray(estimator.predict_proba(x.reshape(len(x), -1)), np.float64)
    return probabilities / probabilities.sum(1, keepdims=True)  # they were rounded to the features' dtype
