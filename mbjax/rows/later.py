"""Rows for tables of numbers that are not part of the paper's comparisons: networks and ensembles of later work."""

from collections.abc import Mapping
from typing import Any

from mbjax.rows.paper import ROWS, Family, Row

CHOSEN: Mapping[str, Any] = {
    "model.name": "tabm", "model.members": 32, "model.hidden": (64, 64), "optimizer.name": "adamw",
    "optimizer.nesterov": False, "optimizer.lr": 0.01, "optimizer.weight_decay": 1.0, "meta.steps": 2,
}  # fmt: skip
"""What `mbjax.MetaBalanceClassifier` changes for a table: chosen on every third of the 69 tables of KEEL, then frozen.

`benchmarks/default.py` has what it was chosen from, docs/results.md what came of it.
"""
SCALING = "robust_smooth_clip"
"""How it scales numbers."""

_TABM = {**{key: value for key, value in CHOSEN.items() if key != "meta.steps"}, "data.scaling": SCALING}
_REALMLP = {
    "optimizer.name": "adamw", "optimizer.nesterov": False, "optimizer.lr": 3e-3, "optimizer.weight_decay": 1e-3,
    "data.scaling": SCALING, "model.activation": "selu", "model.parametric": True, "model.scaling_layer": True,
    "loss.smoothing": 0.1,
}  # fmt: skip


def _network(title: str, method: str = "erm", family: Family = "baseline", **changes: Any) -> Row:
    return Row(title, family, {"method": method, **changes})


def _plain(title: str, sampler: str, more: Mapping[str, Any]) -> Row:
    return _network(title, **{"train.sampler": sampler, **more})


TABULAR: dict[str, Row] = {
    "default": Row("MetaBalanceClassifier", "metabalance", estimator="metabalance_classifier"),
    "default_no_adaptation": _network(
        "MetaBalanceClassifier without adaptation (γ = 0)",
        "metabalance",
        "control",
        **{**_TABM, "meta.steps": 2, "meta.inner_lr": 0.0},
    ),
    "tabm": _plain("TabM", "natural", _TABM),
    "tabm_balanced": _plain("TabM, balanced batches", "class_balanced", _TABM),
    "tabm_encoded": _plain(
        "TabM, piecewise-linear", "natural", {**_TABM, "data.encoding": "piecewise_linear", "data.bins": 16}
    ),
    "realmlp": _plain("RealMLP's parts", "natural", _REALMLP),
    "realmlp_balanced": _plain("RealMLP's parts, balanced batches", "class_balanced", _REALMLP),
    "realmlp_td": Row("RealMLP (pytabkit)", "baseline", estimator="realmlp"),
    "balanced_random_forest": Row("balanced random forest", "reference", estimator="balanced_random_forest"),
    "rusboost": Row("RUSBoost", "reference", estimator="rusboost"),
    "easy_ensemble": Row("EasyEnsemble", "reference", estimator="easy_ensemble"),
}
"""By name. A comparison has those that `--methods` names; a suite has all of them."""

SUITE: tuple[str, ...] = (
    *(name for name in ROWS if not (name.endswith("_light") or name in ("ms_search", "ms_metabalance"))), *TABULAR,
)  # fmt: skip
"""The names of a suite's rows, where none are chosen: all but those that search, or are there for one table."""
