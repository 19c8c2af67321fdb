"""The numbers of a suite's page: ranks, differences, probabilities and regimes, from the lines of its runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd

from mbjax.compare import statistics
from mbjax.compare import table as tables_lib
from mbjax.rows import Row
from mbjax.types import Dataset

SCORES = {  # of a page, the first is primary; with the sign that makes higher better
    "roc_auc": 1, "average_precision": 1, "threshold_balanced_accuracy": 1, "corrected_log_loss": -1,
    "corrected_calibration_error": -1,
}  # fmt: skip
TITLES = {
    "roc_auc": "ROC-AUC", "average_precision": "average precision",
    "threshold_balanced_accuracy": "balanced accuracy at the validation threshold",
    "corrected_log_loss": "log loss at the training priors",
    "corrected_calibration_error": "calibration error at the training priors",
}  # fmt: skip
ROPE = 0.01  # differences of a score up to this are no difference in practice
Frame = Any
"""A `pandas.DataFrame`, whose methods' types depend on what they are given."""
REGIMES = {"imbalance": "imbalance ratio", "minority": "minority examples", "features": "features"}
_TREES = (
    "hist_gradient_boosting", "lightgbm", "xgboost", "balanced_random_forest", "rusboost", "easy_ensemble",
)  # fmt: skip
_OPPONENTS = ("naive", "no_adaptation", "large_batch", "logistic_regression_balanced")
DEFAULT = "default"  # the row that is the estimator's default


@dataclasses.dataclass(frozen=True)
class TableFacts:
    """What a table is like: how many rows, features and classes, examples of the rarest class, and the imbalance."""

    rows: int
    features: int
    classes: int
    minority: int
    imbalance: float

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """Those of a data set, all its splits together."""
        counts = np.sum([split.count_classes(len(dataset.classes)) for split in dataset.splits.values()], axis=0)
        least, most = int(counts.min()), int(counts.max())
        return cls(int(counts.sum()), dataset.train.x.shape[1], len(counts), least, most / max(least, 1))


@dataclasses.dataclass(frozen=True)
class Study:
    """What a page is of.

    Attributes:
      suite: its name.
      lines: of `results.jsonl`, each with its `table`, some of them good.
      rows: the task's.
      tables: by name.
      problems: one line for each table that was left out.
      left: how many runs are not done yet.
    """

    suite: str
    lines: Sequence[Mapping[str, Any]]
    rows: Mapping[str, Row]
    tables: Mapping[str, TableFacts]
    problems: Mapping[str, str]
    left: int = 0


def frame_of(study: Study) -> Frame:
    """One row per good run: `table`, `row`, `seed`, `seconds`, and the scores of validation and test part.

    Of a row that chose its settings, each table and seed have the best on validation data.
    """
    good = [line for line in study.lines if line["status"] == "ok" and study.rows[line["row"]].family != "search"]
    runs = tables_lib.frame_of(good).assign(table=[line["table"] for line in good])
    score = f"validation_{next(iter(SCORES))}"
    if score in runs and runs.duplicated(["table", "row", "seed"]).any():
        runs = runs.loc[runs.groupby(["table", "row", "seed"], sort=False)[score].idxmax()]
    return runs.drop(columns=["folder", "validation_halves", "key"])


def matrix_of(runs: Frame, column: str, sign: int = 1) -> Frame:
    """Mean scores over seeds, higher better, `[tables, rows]`; NaN where a row has no run on a table."""
    return sign * runs.pivot_table(index="table", columns="row", values=column, sort=False)


def filled(matrix: Frame) -> np.ndarray:
    """The scores of `matrix_of`; a row without a run on a table shares the last place there."""
    return matrix.to_numpy(float) if not matrix.isna().any(axis=None) else (
        matrix.apply(lambda table: table.fillna(table.min()), axis=1).to_numpy(float)
    )  # fmt: skip


def facts_of(study: Study) -> dict[str, Any]:
    """The numbers of the page, as JSON can hold them."""
    runs = frame_of(study)
    matrices = {name: matrix_of(runs, f"test_{name}", sign) for name, sign in SCORES.items() if f"test_{name}" in runs}
    primary = next(iter(SCORES))
    names = [*matrices[primary].columns]
    tree = best_of(runs, [name for name in names if study.rows[name].estimator in _TREES])
    network = best_of(runs, [name for name in names if study.rows[name].family in ("baseline", "metabalance")])
    ranked = {
        name: dict(zip(names, statistics.mean_ranks(filled(matrix[names])).tolist(), strict=True))
        for name, matrix in matrices.items()
    }
    facts: dict[str, Any] = {
        "suite": study.suite, "tables": len(matrices[primary]), "rows_count": len(names), "runs": len(runs),
        "seeds": int(runs["seed"].nunique()), "left": study.left, "rope": ROPE, "tree": tree, "network": network,
        "seconds": float(runs["seconds"].sum()),
        "code": sorted({line["code"] for line in study.lines if line["status"] == "ok"}),
        "scores": [*matrices], "titles": {name: TITLES[name] for name in matrices},
        "friedman": {name: _friedman(filled(matrix)) for name, matrix in matrices.items()},
        "problems": [{"table": name, "reason": reason} for name, reason in study.problems.items()],
        "failed": _failed(study),
    }  # fmt: skip
    order = sorted(names, key=lambda name: ranked[primary][name])
    facts["rows"] = [_row(name, study, runs, matrices, ranked, tree) for name in order]
    facts["best"] = {
        name: [study.rows[row].title for row in sorted(names, key=own.__getitem__)[:3]] for name, own in ranked.items()
    }
    facts["bars"] = [[order.index(names[place]) for place in bar] for bar in _bars(matrices[primary])]
    facts["default"] = _default(study, ranked)
    facts["pairs"] = _pairs(study, matrices, tree, network)
    facts["regimes"] = _regimes(study, matrices[primary], tree, network)
    facts["about"] = {name: dataclasses.asdict(own) for name, own in study.tables.items()}
    return facts


def _default(study: Study, ranked: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The mean rank of the estimator's default in each score, beside the best of all rows but MetaBalance's."""
    if DEFAULT not in next(iter(ranked.values())):
        return {}
    found = {}
    for score, ranks in ranked.items():
        others = [name for name in ranks if study.rows[name].family not in ("metabalance", "control")]
        best = min(others, key=ranks.__getitem__, default=None)
        if best:
            found[score] = {"rank": ranks[DEFAULT], "other": study.rows[best].title, "other_rank": ranks[best]}
    return found


def best_of(runs: Frame, names: Sequence[str]) -> str | None:
    """The row of these with the best mean rank on the validation parts; None of none. Test parts choose nothing."""
    column = f"validation_{next(iter(SCORES))}"
    if not names or column not in runs:
        return names[0] if names else None
    matrix = matrix_of(runs[runs["row"].isin([*names])], column)
    return str(matrix.columns[statistics.mean_ranks(filled(matrix)).argmin()])


def _friedman(scores: np.ndarray) -> float | None:
    return statistics.friedman(scores) if min(scores.shape) > 2 else None


def _bars(matrix: Frame) -> list[tuple[int, ...]]:
    return statistics.cliques(filled(matrix)) if len(matrix) > 5 else []


def _row(
    name: str, study: Study, runs: Frame, matrices: Mapping[str, Frame],
    ranked: Mapping[str, Mapping[str, float]], tree: str | None,
) -> dict[str, Any]:  # fmt: skip
    """The numbers of one row."""
    own = runs[runs["row"] == name]
    matrix = next(iter(matrices.values()))
    about: dict[str, Any] = {
        "name": name, "title": study.rows[name].title, "family": study.rows[name].family,
        "tables": int(matrix[name].notna().sum()), "seconds": float(own["seconds"].mean()),
        "ranks": {score: ranks[name] for score, ranks in ranked.items()},
        "means": {score: float(SCORES[score] * scores[name].mean()) for score, scores in matrices.items()},
    }  # fmt: skip
    for other, key in (("naive", "from_naive"), (tree, "from_tree")):
        if other in matrix and other != name:
            both = matrix[[name, other]].dropna()
            about[key] = statistics.win_tie_loss(both[name].to_numpy(), both[other].to_numpy(), ROPE)
    return about


def _pairs(study: Study, matrices: Mapping[str, Frame], tree: str | None, network: str | None) -> list[dict[str, Any]]:
    """How probable it is that one row is better than another on the next table, of the pairs that matter."""
    there = [*next(iter(matrices.values())).columns]
    firsts: list[Any] = [name for name in there if study.rows[name].family == "metabalance"]
    firsts += [name for name in (network, tree) if name]
    wanted = [
        (first, other)
        for first in dict.fromkeys(firsts)
        for other in dict.fromkeys(name for name in (*_OPPONENTS, tree, network) if name)
    ]
    wanted.insert(0, (DEFAULT, f"{DEFAULT}_no_adaptation"))
    found = []
    for first, other in dict.fromkeys(wanted):
        if first not in there or other not in there or first == other:
            continue
        for score in list(matrices)[:2]:
            both = matrices[score][[first, other]].dropna()
            difference = (both[first] - both[other]).to_numpy()
            posterior = statistics.signed_rank_posterior(difference, rope=ROPE)
            found.append({
                "first": first, "second": other, "first_title": study.rows[first].title,
                "second_title": study.rows[other].title, "score": score, "tables": len(both), **posterior._asdict(),
                "counts": statistics.win_tie_loss(both[first].to_numpy(), both[other].to_numpy(), ROPE),
            })  # fmt: skip
    return found


def _regimes(study: Study, matrix: Frame, tree: str | None, network: str | None) -> list[dict[str, Any]]:
    """Mean differences from naive training by thirds of the tables: where does what help?"""
    network = DEFAULT if DEFAULT in matrix else network
    chosen = dict.fromkeys((network, "metabalance", tree, "logistic_regression_balanced"))
    shown = [str(name) for name in chosen if name in matrix and name != "naive"]
    if "naive" not in matrix or len(matrix) < 6:
        return []
    found = []
    for key, title in REGIMES.items():
        values = pd.Series({name: getattr(study.tables[name], key) for name in matrix.index}, dtype=float)
        edges = np.unique(np.quantile(values, [0, 1 / 3, 2 / 3, 1]))
        thirds = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
        for number in range(max(len(edges) - 1, 1)):
            inside = matrix[thirds == number]
            span = values[thirds == number]
            for name in shown:
                difference = (inside[name] - inside["naive"]).dropna()
                if len(difference):
                    found.append({
                        "regime": key, "title": title, "low": float(span.min()), "high": float(span.max()),
                        "row": name, "row_title": study.rows[name].title, "tables": len(difference),
                        "mean": float(difference.mean()),
                        "error": float(difference.sem()) if len(difference) > 1 else None,
                    })  # fmt: skip
    return found


def _failed(study: Study) -> list[dict[str, Any]]:
    """What could not run: a row's title, the reason, and on which tables."""
    found: dict[tuple[str, str], set[str]] = {}
    for line in study.lines:
        if line["status"] != "ok":
            found.setdefault((study.rows[line["row"]].title, line["reason"]), set()).add(line["table"])
    return [
        {"title": title, "reason": reason, "tables": sorted(tables), "count": len(tables)}
        for (title, reason), tables in found.items()
    ]
