"""The figures of a comparison of tables of numbers: every row's score, and the search over sampler pairs."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mbjax.compare.rows import Row
from mbjax.compare.table import TITLES, choose, frame_of, score_of, shown
from mbjax.report.paper import ROC_AUC


def plot_comparison(
    lines: Sequence[Mapping[str, Any]], file: pathlib.Path, *, rows: Mapping[str, Row], task: str, select: str
) -> None:
    """Draws every row's mean test score with its standard error, and the paper's figure beside it."""
    runs = frame_of(lines)
    score = score_of(runs)
    chosen = choose(runs, score, select)
    names = shown(chosen, rows)[::-1]
    by_name: Any = chosen.groupby("row")[f"test_{score}"]
    paper = ROC_AUC.get(task, {})
    colors = {"baseline": "C0", "metabalance": "C3", "control": "C1", "reference": "0.4"}
    figure = Figure(figsize=(8, 0.27 * len(names) + 1.4), layout="constrained")
    axes: Axes = figure.subplots()
    labelled = set()
    left = _left_limit(by_name.mean()[names].to_numpy())
    for place, name in enumerate(names):
        if left is not None and by_name.mean()[name] < left:
            axes.annotate(f"◂ {by_name.mean()[name]:.3f}", (left, place), fontsize=8, va="center", clip_on=False)
            continue
        family = rows[name].family
        label = None if family in labelled else family.replace("metabalance", "MetaBalance")
        labelled.add(family)
        error = np.nan_to_num(by_name.sem()[name])
        axes.errorbar(by_name.mean()[name], place, xerr=error, fmt="o", color=colors[family], label=label)
        if name in paper:
            label = None if "paper" in labelled else "paper"
            labelled.add("paper")
            axes.plot(paper[name][0], place, "x", color="k", label=label)
    if "naive" in names:
        axes.axvline(by_name.mean()["naive"], color="C0", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(names)), [rows[name].title for name in names], fontsize=8)
    title = f"{task}; settings chosen on {select}"
    axes.set(xlabel=f"test {TITLES[score]}, mean ± s.e.", title=title)
    axes.set_xlim(left=left)
    axes.legend(frameon=False, fontsize=8, loc="best")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=150)


def _left_limit(means: np.ndarray) -> float | None:
    """Where the axis of scores begins, if rows that have failed would press the others together."""
    low, middle = np.quantile(means, [0.25, 0.5])
    limit = middle - 8 * (middle - low)
    return float(limit) if means.min() < limit else None


def plot_pairs(lines: Sequence[Mapping[str, Any]], file: pathlib.Path, *, rows: Mapping[str, Row], task: str) -> bool:
    """Draws the mean validation score of each support × query sampler pair; False if no run has searched them."""
    runs = frame_of([line for line in lines if rows[line["row"]].family == "search"])
    if runs.empty:
        return False
    score = score_of(runs)
    settings = pd.DataFrame([json.loads(text) for text in runs["settings"]])
    runs = runs.assign(support=settings["support.sampler"], query=settings["query.sampler"])
    means = runs.pivot_table(index="support", columns="query", values=f"validation_{score}", sort=False)
    figure = Figure(figsize=(0.62 * means.shape[1] + 3, 0.45 * means.shape[0] + 2), layout="constrained")
    axes: Axes = figure.subplots()
    image = axes.imshow(means.to_numpy(), cmap="viridis", aspect="auto")
    axes.set_xticks(range(means.shape[1]), [*means.columns], rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(means.shape[0]), [*means.index], fontsize=8)
    middle = (np.nanmin(means.to_numpy()) + np.nanmax(means.to_numpy())) / 2
    for (row, column), value in np.ndenumerate(means.to_numpy()):
        if np.isfinite(value):
            color = "k" if value > middle else "w"
            axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=color, fontsize=7)
    seeds = runs["seed"].nunique()
    axes.set(xlabel="query sampler", ylabel="support sampler", title=f"{task}: mean over {seeds} seeds")
    figure.colorbar(image, ax=axes, label=f"validation {TITLES[score]}")
    figure.savefig(file, dpi=150)
    return True
