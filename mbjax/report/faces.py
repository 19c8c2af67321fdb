"""The paper's Table 3, rank-1 accuracy in all and by group, and a figure of the gap between the two groups."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from mbjax.report import plots, tables
from mbjax.report.paper import RANK1
from mbjax.report.plots import MARKERS, PERCENT
from mbjax.report.theme import BLUE, GREY, INK
from mbjax.types import UserError

Scores = Mapping[str, Any]
"""What `mbjax.evaluation.identification.scores` gives of one run."""


def table3(
    rows: Mapping[str, Sequence[Scores]],
    *,
    groups: Sequence[str] = ("female", "male"),
    seeds: Mapping[str, Sequence[int]] | None = None,
    reference: str | None = None,
    overlap: float = 0.0,
    paper: bool = False,
) -> str:
    """A table of Table 3's form: rank-1 accuracy in all and of two groups, and the gap.

    Args:
      rows: the scores of the runs, one per seed, by the name of their row.
      groups: the two groups as `identification.scores` was told them, the scarce one first. The gap is the second's
        accuracy less the first's, negative where the first is ahead.
      seeds: those of each row's runs, in their order; 0, 1, … if not given.
      reference: the row that paired differences in `total` are taken from; the first by default.
      overlap: of the seeds' splits, see `mbjax.report.tables.paired_difference`.
      paper: whether the paper's figures stand beside rows named as they are, `mbjax.report.paper.RANK1`.

    Returns:
      A Markdown table and how to read it. Mean ± standard error over seeds; of a single seed the 95% bootstrap interval
      over identities.

    Raises:
      UserError: a row without runs, runs that were not scored for these groups, or a reference that is no row.
    """
    if reference is not None and reference not in rows:
        raise UserError(f"no group is named {reference!r}: choose one of {', '.join(rows)}")
    shown = ["total", *groups, "gap"]
    runs = {}
    for name, scores in rows.items():
        _check(name, scores, groups)
        values = {column: [_value(s, groups, column) for s in scores] for column in shown}
        runs[name] = pd.DataFrame(values, index=pd.Index(seeds[name] if seeds else range(len(scores))))
    columns: dict[str, tables.Column] = {
        column: lambda name, _, column=column: _cell(name, rows[name], groups, column) for column in shown
    }
    if len(rows) > 1:
        reference = reference or next(iter(rows))
        columns[f"total: Δ vs {reference} (95% CI)"] = tables.difference_from(runs, reference, "total", overlap)
    if paper:
        for column in shown:
            figures = RANK1.get(column, {})
            columns[f"the paper's {column}"] = lambda name, _, figures=figures: tables.paper_cell(figures, name)
    counts = {len(scores) for scores in rows.values()}
    errors = ["mean ± standard error over seeds"] if max(counts) > 1 else []
    if 1 in counts:
        errors.append("of one seed, in brackets, the 95% bootstrap interval over identities")
    note = f"Rank-1 accuracy; {'; '.join(errors)}. The gap is {groups[1]} minus {groups[0]}."
    if len(rows) > 1 and max(counts) > 1:
        note += f" {tables.interval_note(overlap)}"
    return f"{tables.make_table(runs, columns)}\n\n{note}"


def gap_figure(rows: Mapping[str, Sequence[Scores]], *, groups: Sequence[str] = ("female", "male")) -> Figure:
    """Bars of the two groups' rank-1 accuracy, and the gap above them.

    Args:
      rows: as `table3` takes them.
      groups: as `table3` takes them.

    Returns:
      A figure. Bars have the standard error over seeds; of a single seed the bootstrap interval.

    Raises:
      UserError: as `table3` has it.
    """
    figure = Figure(figsize=(max(4.5, 1.5 * len(rows) + 1), 3.4), layout="constrained")
    axes: Axes = figure.subplots()
    tops = np.zeros(len(rows))
    for place, (group, color) in enumerate(zip(groups, (BLUE, GREY), strict=True)):
        estimates = [_estimate(name, runs, groups, group) for name, runs in rows.items()]
        means = np.array([mean for mean, _, _ in estimates])
        lows, highs = (np.array([estimate[k] for estimate in estimates]) for k in (1, 2))
        # A percentile interval need not hold the mean, and a bar's error cannot be negative.
        error = np.clip([means - lows, highs - means], 0, None)
        axes.bar(
            np.arange(len(rows)) + 0.38 * (place - 0.5), means, 0.38, yerr=error, label=group, color=color,
            hatch="////"[: 4 * place], edgecolor=INK, linewidth=0.4,
            error_kw={"elinewidth": 1, "capsize": 2, "ecolor": INK},
        )  # fmt: skip
        tops = np.maximum(tops, np.maximum(means, highs))
    for place, (name, runs) in enumerate(rows.items()):
        axes.text(place, tops[place] + 0.03, f"gap {_cell(name, runs, groups, 'gap')}", ha="center", fontsize=7.5)
    axes.set_xticks(range(len(rows)), [*rows], fontsize=8.5)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.set(ylim=(0, max(1.0, tops.max() + 0.1)), ylabel="rank-1 accuracy")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure


def training_figure(runs: pd.DataFrame) -> Figure:
    """The training loss and the rank-1 accuracy over updates, the mean over seeds in a band of ± its standard error.

    The loss is what the method minimises, of MetaBalance that of the adapted weights on query batches, since the last
    evaluation. Rank-1 accuracy is that of the validation people where a run has some, else of the test people.

    Args:
      runs: of `mbjax.report.load_runs`.
    """
    points = pd.DataFrame(
        {"run": run, "step": row["step"], "loss": row["updates"]["loss"], "rank-1 accuracy": scores["rank1_accuracy"]}
        for run, folder in zip(runs["run"], runs["folder"], strict=True)
        for row in plots.metrics_rows(folder)
        for scores in [row.get("validation") or row["test"]]
    )
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    names = list(dict.fromkeys(runs["run"]))
    for axes, column in zip(panels, ("loss", "rank-1 accuracy"), strict=True):
        over_seeds: Any = points.groupby(["run", "step"])[column]
        mean, error = over_seeds.mean(), over_seeds.sem().fillna(0.0)
        for place, (name, color) in enumerate(zip(names, plots.colors(len(names)), strict=True)):
            marks = {"marker": MARKERS[place % len(MARKERS)], "markersize": 3.5, "label": name}
            plots.plot_band(axes, mean[name], error[name], color=color, **marks)
        axes.set(xlabel="updates", ylabel=f"{column}, mean ± s.e.", ylim=(0, None))
        axes.grid(alpha=0.3)
    panels[1].yaxis.set_major_formatter(PERCENT)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False, fontsize=8
    )
    return figure


def _check(name: str, runs: Sequence[Scores], groups: Sequence[str]) -> None:
    """Raises a UserError if there are no runs, or if they were not scored for these groups."""
    if not runs:
        raise UserError(f"{name!r}: no run of it was scored: run it first, or leave it out")
    for scores in runs:
        if missing := [group for group in groups if f"rank1_accuracy_{group}" not in scores]:
            raise UserError(f"{name!r}: a run of it has no rank1_accuracy_{missing[0]}: it has other groups")


def _estimate(name: str, runs: Sequence[Scores], groups: Sequence[str], column: str) -> tuple[float, float, float]:
    """A column's mean over seeds, and from where to where its error reaches."""
    _check(name, runs, groups)
    values = [_value(scores, groups, column) for scores in runs]
    mean = float(np.mean(values))
    if len(runs) == 1:
        return mean, *_bootstrapped(runs[0], groups, column)
    error = float(stats.sem(values))
    return mean, mean - error, mean + error


def _value(scores: Scores, groups: Sequence[str], column: str) -> float:
    if column == "gap":
        return scores[f"rank1_accuracy_{groups[1]}"] - scores[f"rank1_accuracy_{groups[0]}"]
    return scores[_name(column)]


def _bootstrapped(scores: Scores, groups: Sequence[str], column: str) -> tuple[float, float]:
    if column != "gap":
        return tuple(scores[f"{_name(column)}_interval"])
    low, high = scores["rank1_gap_interval"]  # of the higher group less the lower
    return (low, high) if scores["rank1_gap_groups"][0] == groups[1] else (-high, -low)


def _name(column: str) -> str:
    return "rank1_accuracy" if column == "total" else f"rank1_accuracy_{column}"


def _cell(name: str, runs: Sequence[Scores], groups: Sequence[str], column: str) -> str:
    mean, low, high = _estimate(name, runs, groups, column)
    return f"{mean:.4f} [{low:.4f}, {high:.4f}]" if len(runs) == 1 else f"{mean:.4f} ± {high - mean:.4f}"
