"""Rows for tables of numbers that are not part of the paper's comparisons: networks and ensembles of later work."""

from collections.abc import Mapping
from typing import Any

from mbjax.compare.rows import ROWS, Family, Row

_SMOOTH = {"data.scaling": "robust_smooth_clip"}
_ENCODED = {**_SMOOTH, "data.encoding": "piecewise_linear", "data.bins": 16}
_ADAMW = {
    "optimizer.name": "adamw", "optimizer.nesterov": False, "optimizer.lr": 3e-3, "optimizer.weight_decay": 1e-3,
}  # fmt: skip
_TABM = {"model.name": "tabm", "model.members": 16, **_ADAMW}
_META = {**_TABM, **_SMOOTH, "meta.steps": 2}  # more pairs take a study of many tables hours
_REALMLP = {
    **_ADAMW, **_SMOOTH, "model.activation": "selu", "model.parametric": True, "model.scaling_layer": True,
    "loss.smoothing": 0.1,
}  # fmt: skip


def _network(title: str, method: str = "erm", family: Family = "baseline", **changes: Any) -> Row:
    return Row(title, family, {"method": method, **changes})


def _plain(title: str, sampler: str, more: Mapping[str, Any]) -> Row:
    return _network(title, **{"train.sampler": sampler, **more})


TABULAR: dict[str, Row] = {
    "tabm": _plain("TabM", "natural", {**_TABM, **_SMOOTH}),
    "tabm_balanced": _plain("TabM, balanced batches", "class_balanced", {**_TABM, **_SMOOTH}),
    "tabm_encoded": _plain("TabM, piecewise-linear", "natural", {**_TABM, **_ENCODED}),
    "tabm_encoded_balanced": _plain(
        "TabM, piecewise-linear, balanced batches", "class_balanced", {**_TABM, **_ENCODED}
    ),
    "tabm_metabalance": _network("MetaBalance of TabM", "metabalance", "metabalance", **_META),
    "tabm_no_adaptation": _network(
        "MetaBalance of TabM without adaptation (γ = 0)",
        "metabalance",
        "control",
        **{**_META, "meta.inner_lr": 0.0},
    ),
    "realmlp": _plain("RealMLP's parts", "natural", _REALMLP),
    "realmlp_balanced": _plain("RealMLP's parts, balanced batches", "class_balanced", _REALMLP),
    "balanced_random_forest": Row("balanced random forest", "reference", estimator="balanced_random_forest"),
    "rusboost": Row("RUSBoost", "reference", estimator="rusboost"),
    "easy_ensemble": Row("EasyEnsemble", "reference", estimator="easy_ensemble"),
}
"""By name. A comparison has those that `--methods` names; a suite has all of them."""

SUITE: tuple[str, ...] = (
    *(name for name in ROWS if not (name.endswith("_light") or name in ("ms_search", "ms_metabalance"))), *TABULAR,
)  # fmt: skip
"""The names of a suite's rows, where none are chosen: all but those that search, or are there for one table."""
