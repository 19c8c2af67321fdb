"""Figures of runs. They are drawn off screen and read well in print."""

import json
import pathlib
from typing import Any

from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PERCENT = ticker.PercentFormatter(1.0, decimals=0)


def plot_run(folder: pathlib.Path, result: dict[str, Any]) -> None:
    """Draws `training.png` (loss and scores over updates) and `class_accuracy.png` into a run's folder."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    title = f"{result['method']} on {result['task']}, seed {result['seed']}"
    _save(_training(rows, title), folder / "training.png")
    _save(_class_accuracy(result, title), folder / "class_accuracy.png")


def _training(rows: list[dict[str, Any]], title: str) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [row["step"] for row in rows]
    for name in ("support_loss", "query_loss") if "query_loss" in rows[0]["updates"] else ("loss",):
        left.plot(steps, [row["updates"][name] for row in rows], marker=".", label=name.replace("_", " "))
    left.set(xlabel="update", ylabel="training loss (mean since the last point)", title=title)
    left.legend(frameon=False)
    for split, style in (("train", "--"), ("test", ".-")):
        for color, name in (("C0", "majority_accuracy"), ("C1", "minority_accuracy"), ("C2", "roc_auc")):
            if name in rows[0][split]:
                values = [row[split][name] for row in rows]
                label = f"{name.replace('_', ' ').replace('roc auc', 'ROC-AUC')}, {split}"
                right.plot(steps, values, style, color=color, label=label)
    right.set(xlabel="update", ylabel="score", ylim=(-0.02, 1.02), title="majority class and mean of the others")
    right.legend(frameon=False, fontsize=8)
    return figure


def _class_accuracy(result: dict[str, Any], title: str) -> Figure:
    classes, counts = result["data"]["classes"], result["data"]["class_counts"]["train"]
    figure = Figure(figsize=(max(4.5, 0.7 * len(classes) + 1.5), 3.6), layout="constrained")
    axes: Axes = figure.subplots()
    bars = axes.bar(range(len(classes)), result["test"]["class_accuracy"], color="C0")
    axes.bar_label(bars, fmt=lambda v: f"{100 * v:.0f}", fontsize=8)
    axes.axhline(result["test"]["balanced_accuracy"], color="0.4", linestyle=":", label="mean over classes")
    axes.set_xticks(range(len(classes)), [f"{c}\nn={n}" for c, n in zip(classes, counts, strict=True)], fontsize=8)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.set(ylim=(0, 1.08), xlabel="class, and its training images or rows", ylabel="test accuracy", title=title)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _save(figure: Figure, file: pathlib.Path) -> None:
    figure.savefig(file, dpi=150)
