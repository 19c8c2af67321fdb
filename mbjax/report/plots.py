"""Figures of runs. They are drawn off screen and read well in print, in grey too."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from mbjax import sealed
from mbjax.evaluation.identification import FALSE_ACCEPTS
from mbjax.report import tables
from mbjax.report.theme import BLUE
from mbjax.types import UserError

PERCENT = ticker.PercentFormatter(1.0, decimals=0)
HATCHES = ("", "////", "", "....", "", "xxxx", "", "\\\\\\\\")
MARKERS = "os^Dv<>P"


def make_folder(folder: pathlib.Path) -> None:
    """Makes a folder for figures, unless it is there.

    Raises:
      UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--figures={folder}: {error.strerror}") from None


def plot_groups(folder: pathlib.Path, runs: pd.DataFrame) -> None:
    """Draws the paper's `figure1.png` (accuracy by class) and `figure2.png` (over training) of groups of runs.

    Args:
      folder: an existing one.
      runs: of `mbjax.report.load_runs`.

    Raises:
      UserError: runs of different classes.
    """
    _save(class_figure(runs), folder / "figure1.png")
    _save(training_figure(runs), folder / "figure2.png")


def class_figure(runs: pd.DataFrame) -> Figure:
    """Figure 1 of the paper: test accuracy on each class, groups side by side, mean over seeds ± standard error."""
    data = [result["data"] for result in runs["result"]]
    counts = np.array([d["class_counts"]["train"] for d in data if d["classes"] == data[0]["classes"]])
    if len(counts) < len(runs) or len(set(counts.argmax(1))) > 1:
        raise UserError(
            "--figures: the runs differ in their classes or in the largest: draw them in figures of their own"
        )
    groups = {name: group["result"] for name, group in runs.groupby("run", sort=False)}
    accuracies = {str(n): np.array([r["test"]["class_accuracy"] for r in group]) for n, group in groups.items()}
    figure = _class_bars(accuracies, data[0]["classes"], counts)
    axes: Axes = figure.axes[0]
    axes.axhline(1 / counts.shape[1], color="0.3", linestyle=":", linewidth=0.8, label="chance")
    axes.set_ylabel("test accuracy, mean ± s.e.", fontsize=9)
    chance, *bars = axes.get_legend_handles_labels()[0]
    _legend(figure, [*bars, chance], tables.protocol_note(runs))
    return figure


def training_figure(runs: pd.DataFrame) -> Figure:
    """Figure 2 of the paper: accuracy over training on the majority class and on the mean of the others.

    Train accuracy is dashed, test accuracy solid; the mean over seeds in a band of ± its standard error.
    """
    same = len(set(runs["updates"])) == 1
    curves = pd.DataFrame(
        [
            {"run": run, "split": split, "x": row["step"] if same else round(row["step"] / updates, 4), **row[split]}
            for run, folder, updates in zip(runs["run"], runs["folder"], runs["updates"], strict=True)
            for row in metrics_rows(folder)
            for split in ("train", "test")
        ]
    )
    names = list(dict.fromkeys(runs["run"]))
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, part in zip(panels, ("majority", "minority"), strict=True):
        over_seeds: Any = curves.groupby(["run", "split", "x"])[f"{part}_accuracy"]
        mean, error = over_seeds.mean(), over_seeds.sem().fillna(0.0)
        for place, (name, color) in enumerate(zip(names, colors(len(names)), strict=True)):
            for split, line in (("train", "--"), ("test", "-")):
                y, e = mean[name, split], error[name, split]
                every = max(1, len(y) // 8)
                marks = {
                    "marker": MARKERS[place % len(MARKERS)],
                    "markersize": 3.5,
                    "markevery": (place % every, every),
                }
                plot_band(axes, y, e, linestyle=line, color=color, **marks)
        title = {"majority": "majority class", "minority": "mean over the other classes"}[part]
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("updates" if same else "share of the run", fontsize=9)
        axes.set_ylim(-0.02, 1.02)
        axes.tick_params(labelsize=8)
        axes.yaxis.set_major_formatter(PERCENT)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy, mean ± s.e.", fontsize=9)
    handles = [
        Line2D([], [], color=color, marker=MARKERS[place % len(MARKERS)], markersize=4, label=name)
        for place, (name, color) in enumerate(zip(names, colors(len(names)), strict=True))
    ]
    handles += [Line2D([], [], color="k", label="test"), Line2D([], [], color="k", linestyle="--", label="train")]
    _legend(figure, handles, tables.protocol_note(runs))
    return figure


def metrics_rows(folder: pathlib.Path) -> list[dict[str, Any]]:
    file = tables.found(folder, "metrics.jsonl")
    try:
        return [sealed.loads(line) for line in file.read_bytes().decode(errors="replace").splitlines()]
    except sealed.Damaged as error:
        raise UserError(f"{file} has a damaged line ({error}): run it again, or leave it out") from None


def plot_band(axes: Axes, mean: pd.Series, error: pd.Series, *, color: Any, **line: Any) -> None:
    """A line through the means by their index, in a band of ± the error."""
    axes.plot(mean.index, mean, color=color, linewidth=1.2, **line)
    axes.fill_between(mean.index, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)


def colors(count: int) -> list[Any]:
    """Colours whose lightness differs, so that a copy in grey tells them apart."""
    return [*mpl.colormaps["viridis"](np.linspace(0.0, 0.9, count))] if count > 1 else [BLUE]


def _legend(figure: Figure, handles: Sequence[Any], title: str) -> None:
    lines = -(-len(handles) // 6)
    figure.legend(
        handles=handles, loc="outside upper center", ncols=-(-len(handles) // lines), frameon=False, fontsize=8,
        title=title or None, title_fontsize=8,
    )  # fmt: skip


def verification_figure(rows: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Receiver operating characteristics of verification: true accepts over false accepts, on a logarithmic axis.

    Args:
      rows: what `mbjax.evaluation.identification.scores` gives of one run each, by name.
    """
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    axes: Axes = figure.subplots()
    for color, (name, scores) in zip(colors(len(rows)), rows.items(), strict=True):
        label = f"{name}: {100 * scores['true_accept_rate']:.1f}% at {FALSE_ACCEPTS:g}"
        axes.plot(scores["roc"]["false_accept_rates"], scores["roc"]["true_accept_rates"], color=color, label=label)
    axes.axvline(FALSE_ACCEPTS, color="0.5", linestyle=":", linewidth=0.8)
    axes.set(xscale="log", xlabel="false accept rate", ylabel="true accept rate", ylim=(0, 1.02), title="verification")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _class_bars(accuracies: Mapping[str, np.ndarray], classes: Sequence[str], counts: np.ndarray) -> Figure:
    """Bars of each class's accuracy, `[runs, classes]` of each group, over its name and `counts`."""
    figure = Figure(figsize=(max(4.5, 0.62 * len(classes) + 1), 3.4), layout="constrained")
    axes: Axes = figure.subplots()
    width = 0.84 / len(accuracies)
    for place, ((name, values), color) in enumerate(zip(accuracies.items(), colors(len(accuracies)), strict=True)):
        left = np.arange(len(classes)) + (place - (len(accuracies) - 1) / 2) * width
        error = stats.sem(values) if len(values) > 1 else None
        edge = "w" if place < len(accuracies) // 2 else "k"  # of the hatch too: seen on dark and on light
        axes.bar(
            left, values.mean(0), width, yerr=error, label=name, color=color, hatch=HATCHES[place % len(HATCHES)],
            edgecolor=edge, linewidth=0.4, error_kw={"elinewidth": 0.7, "capsize": 1.2},
        )  # fmt: skip
    majority = counts[0].argmax()
    labels = [f"{c}\nn={tables.span(n)}" for c, n in zip(classes, counts.T, strict=True)]
    ticks = axes.set_xticks(range(len(classes)), labels, fontsize=7.5)
    ticks[majority].label1.set_fontweight("bold")
    axes.axvspan(majority - 0.5, majority + 0.5, color="0.92", zorder=-1)
    axes.text(majority, 1.07, "majority", ha="center", fontsize=7.5)
    axes.tick_params(axis="y", labelsize=8)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.set(ylim=(0, 1.14), xlim=(-0.6, len(classes) - 0.4))
    return figure


def _save(figure: Figure, file: pathlib.Path) -> None:
    figure.savefig(file, dpi=150)
