"""Which figures a run's page has, and what each says to who cannot see it."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mbjax.evaluation import metrics
from mbjax.evaluation.decisions import Decision
from mbjax.report import charts, faces, facts, plots, theme
from mbjax.report.examine import calibrated
from mbjax.report.names import TITLES

Add = Callable[[Figure, str, str, str], None]
"""Takes a figure, the name of its file, its title, and what it shows in words."""


def draw(
    folder: pathlib.Path, documents: Mapping[str, Any], predictions: Mapping[str, np.ndarray]
) -> list[theme.Chart]:
    """Draws the figures of a run's page, and writes them as PNG.

    Args:
      folder: where the PNG files go.
      documents: `result`, what `result.json` holds, `report`, what `report.json` will hold, and `rows` of
        `metrics.jsonl`.
      predictions: of the test split.
    """
    figures: list[theme.Chart] = []

    def add(figure: Figure, name: str, title: str, alt: str) -> None:
        figures.append(theme.chart(figure, name, title, alt, folder=folder))

    if "groups" in documents["result"]["data"]:
        _of_people(add, documents)
    else:
        _of_classes(add, documents, predictions)
    return figures


def _of_classes(add: Add, documents: Mapping[str, Any], predictions: Mapping[str, np.ndarray]) -> None:
    result, report = documents["result"], documents["report"]
    names, counts = result["data"]["classes"], result["data"]["class_counts"]["train"]
    p, labels, two = calibrated(predictions["probabilities"], result), predictions["labels"], len(names) == 2
    rarest = 1 if two else int(np.argmin(counts))
    shown = [rarest] if two else [rarest, int(np.argmax(counts))]
    curves = {charts.shorten(names[c]): (p[:, c], labels == c) for c in shown}
    which = f"of {names[1]!r}" if two else f"of the rarest class, {names[rarest]!r}, and the most frequent one"
    at = None
    if two and "precision" in report["decision"]:
        at = result["decision"]["test"]["recall"], result["decision"]["test"]["precision"]
    if not two:
        order = report["classes"]
        ends = np.array([report["recall_interval"][c] for c in order]).T
        figure = charts.recalls(
            [names[c] for c in order], [report["recall"][c] for c in order], ends, [counts[c] for c in order]
        )
        add(figure, "class_accuracy", "What is found of each class", "Bars of each class's recall on test rows, with "
            "95% intervals; the same numbers are in the table of classes.")  # fmt: skip
    add(charts.roc(curves), "roc", "ROC curve", f"Share found over share of false alarms {which}.")
    add(charts.precision_recall(curves, at=at), "precision_recall", "Precision and recall",
        f"Precision over recall {which}; dotted is what chance gives.")  # fmt: skip
    what = names[1] if two else "most probable class"
    add(charts.reliability(report["reliability"], charts.shorten(what)), "reliability", "Reliability",
        "What came over what was predicted, in bins of equally many rows; on the dotted line both agree.")  # fmt: skip
    if two:
        add(_cost_figure(result, report, p, labels), "costs", "Cost over the threshold",
            "Expected cost per test row over the threshold, and the decision's threshold.")  # fmt: skip
    importance = report.get("importance", {})
    if "columns" in importance:
        top = {name: importance[name][:12] for name in ("columns", "mean", "deviation")}
        figure = charts.importance(
            top["columns"], top["mean"], top["deviation"], TITLES[metrics.primary(result["test"])]
        )
        add(figure, "importance", "Which columns matter", "Bars of what the score loses where a column is shuffled; "
            "the largest: " + ", ".join(map(str, top["columns"][:3])) + ".")  # fmt: skip
    scores = ("roc_auc", "balanced_accuracy") if two else ("majority_accuracy", "minority_accuracy")
    _add_training(add, documents["rows"], {name: TITLES[name] for name in scores})


def _add_training(add: Add, rows: list[dict[str, Any]], scores: Mapping[str, str]) -> None:
    if rows:
        alt = "Training loss above, scores on training and test rows below, over updates."
        add(charts.training(rows, scores), "training", "Training", alt)


def _cost_figure(result: Mapping[str, Any], report: Mapping[str, Any], p: np.ndarray, labels: np.ndarray) -> Figure:
    about = report["costs"]
    thresholds, cost = facts.cost_curve(p[:, 1], labels, about["matrix"])
    unit = "mean cost" if about["own"] else "mean cost, 1 / share of the class"
    at = min(Decision.from_dict(result["decision"]).boundary, thresholds[-1])
    return charts.costs(thresholds, cost, at=at, never=about["never"], unit=unit)


def _of_people(add: Add, documents: Mapping[str, Any]) -> None:
    result = documents["result"]
    method, groups = result["method"], result["data"]["groups"]
    two = groups if len(groups) == 2 else result["test"]["rank1_gap_groups"][::-1]
    add(faces.gap_figure({method: [result["test"]]}, groups=two), "gap", "Rank-1 accuracy of two groups",
        f"Bars of the rank-1 accuracy of {two[0]} and {two[1]}, with 95% intervals over people.")  # fmt: skip
    add(plots.verification_figure({method: result["test"]}), "verification", "Verification",
        "True accepts over false accepts of pairs of images, on a logarithmic axis.")  # fmt: skip
    columns = {"rank1_accuracy": "all"} | {f"rank1_accuracy_{group}": group for group in two}
    _add_training(add, documents["rows"], columns)
