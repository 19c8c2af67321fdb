"""The figures of a comparison: every row's score, and the search over sampler pairs."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mbjax.compare.table import frame_of, score_of
from mbjax.report.names import TITLES
from mbjax.report.theme import BLUE, GREEN, INK, MUTED, RED
from mbjax.rows import Row

PAPER = "the paper"
FAMILIES = {
    "baseline": "networks", "metabalance": "MetaBalance", "control": "its controls", "reference": "no network",
}  # fmt: skip
COLORS = {"baseline": BLUE, "metabalance": RED, "control": MUTED, "reference": GREEN}
MARKS = {"baseline": "o", "metabalance": "D", "control": "v", "reference": "s"}


def comparison(rows: Sequence[Mapping[str, Any]], *, score: str, use: str) -> Figure:
    """Every row's mean test score, the best on top, and the paper's figure beside it.

    What is recommended has a line down the figure. The interval of any other row is that of its difference from it,
    paired by seed: where it touches the line, the two cannot be told apart. Intervals of the means themselves would be
    wider, for splits differ more than rows do on the same split.

    Args:
      rows: the best first: `name`, `title`, `family`, `mean`, `from_use` (`mean` and `half` of the difference, None of
        one seed), and `paper` where the paper has a figure.
      score: as the axis says it.
      use: the name of the row that is recommended.
    """
    rows = rows[::-1]
    figure = Figure(figsize=(4.8, 0.25 * len(rows) + 1.2))
    axes: Axes = figure.subplots()
    left = _left_limit(rows)
    base = next(row["mean"] for row in rows if row["name"] == use)
    labelled: set[str] = set()
    for place, row in enumerate(rows):
        if left is not None and row["mean"] < left:
            axes.annotate(f"◂ {row['mean']:.3f}", (left, place), fontsize=8, va="center", clip_on=False)
            continue
        family, difference = row["family"], row.get("from_use") or {}
        apart, half = difference.get("mean"), difference.get("half")
        label = None if family in labelled else FAMILIES[family]
        labelled.add(family)
        axes.errorbar(row["mean"] if apart is None else base + apart, place, xerr=half or 0, fmt=MARKS[family],
                      color=COLORS[family], label=label, markersize=8 if row["name"] == use else 5)  # fmt: skip
        if row.get("paper") is not None:
            axes.plot(row["paper"], place, "x", color=INK, label=None if PAPER in labelled else PAPER)
            labelled.add(PAPER)
    intervals = any((row.get("from_use") or {}).get("half") is not None for row in rows)
    axes.axvline(base, color=INK, linewidth=1, linestyle=":")
    axes.set_yticks(range(len(rows)), [shorten_title(row["title"]) for row in rows], fontsize=8)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if row["name"] == use else "normal")
    bars = "; bars: 95% interval of the difference from the dotted line" if intervals else ""
    figure.supxlabel(f"test {score}{bars}", fontsize=8)
    axes.set(ylim=(-0.7, len(rows) - 0.3))
    axes.locator_params(axis="x", nbins=5)  # more of four digits run into one another
    axes.set_xlim(left=left)
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda n: [*FAMILIES.values(), PAPER].index(labels[n]))
    figure.legend([handles[n] for n in order], [labels[n] for n in order], loc="outside upper center", ncols=3)
    axes.grid(visible=False, axis="y")
    return figure


def shorten_title(title: str) -> str:
    """A row's title that fits beside a figure."""
    return title if len(title) <= 34 else f"{title[:32].rstrip(' (,')}…"


def _left_limit(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Where the axis of scores begins, if rows that have failed would press the others together."""
    means = np.array([row["mean"] for row in rows])
    halves = np.array([(row.get("from_use") or {}).get("half") or 0.0 for row in rows])
    low, middle = np.quantile(means, [0.25, 0.5])
    shown = means >= middle - max(8 * (middle - low), 4 * np.median(halves))
    return None if shown.all() else float((means - halves)[shown].min() - 0.05 * np.ptp(means[shown]))


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
