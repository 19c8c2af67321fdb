"""The paper's Table 3, rank-1 accuracy in all and by group, and a figure of the gap between the two groups."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from mbjax.report import tables
from mbjax.report.plots import PERCENT
from mbjax.report.tables import markdown
from mbjax.types import UserError

Scores = Mapping[str, Any]
"""What `mbjax.evaluation.identification.scores` gives of one run."""

PAPER: dict[str, dict[str, float]] = {
    "naive": {"total": 0.9012, "female": 0.8688, "male": 0.9531},
    "over": {"total": 0.8467, "female": 0.7948, "male": 0.9298},
    "metabalance": {"total": 0.9190, "female": 0.8956, "male": 0.9565},
}
"""Table 3 of the paper, where female images are scarce, as shares; it gives neither errors nor the number of runs."""


def table3(
    rows: Mapping[str, Sequence[Scores]],
    *,
    groups: Sequence[str] = ("female", "male"),
    seeds: Mapping[str, Sequence[int]] | None = None,
    reference: str | None = None,
    overlap: float = 0.0,
    paper: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """A table of Table 3's form: rank-1 accuracy in all and of two groups, and the gap, in per cent.

    Args:
      rows: the scores of the runs, one per seed, by the name of their row.
      groups: the two groups as `identification.scores` was told them, the scarce one first. The gap is the second's
        accuracy less the first's, negative where the first is ahead.
      seeds: those of each row's runs, in their order; 0, 1, … if not given. Where some row shares 3 or more with the
        reference, a column has the paired differences in `total` from it.
      reference: the row that the differences are taken from; the first by default.
      overlap: of the seeds' splits, see `mbjax.report.tables.paired_difference`.
      paper: the paper's figures, `PAPER`, beside rows named as they are (`over`, `Over-sampling` and `oversampling`
        alike); keys `"total"` and the groups.

    Returns:
      A Markdown table and how to read it. Mean ± standard error over seeds; of a single seed the 95% bootstrap interval
      over identities.

    Raises:
      UserError: a row without runs, runs that were not scored for these groups, or a reference that is no row.
    """
    if reference is not None and reference not in rows:
        raise UserError(f"no group is named {reference!r}: choose one of {', '.join(rows)}")
    columns = ["total", *groups, "gap"]
    head = ["run", "seeds", *columns]
    cells = [
        [name, str(len(runs)), *(_cell(name, runs, groups, column) for column in columns)]
        for name, runs in rows.items()
    ]
    reference = reference or next(iter(rows))
    totals = {
        name: pd.Series([100 * _value(scores, groups, "total") for scores in runs],
                        index=pd.Index(seeds[name] if seeds else range(len(runs))))
        for name, runs in rows.items()
    }  # fmt: skip
    differences = {
        name: tables.paired_difference(total, totals[reference], overlap)
        for name, total in totals.items()
        if name != reference
    }
    if any(shared >= 3 for _, _, shared in differences.values()):
        head.append(f"total: Δ vs {reference} (95% CI)")
        for row in cells:
            mean, half, shared = differences.get(row[0], (0.0, 0.0, 0))
            row.append(f"{mean:+.2f} ± {half:.2f}" if shared >= 3 else "")
    if paper is not None:
        head += [f"the paper's {column}" for column in columns]
        cells = [[*row, *_paper_cells(paper.get(_key(row[0])), groups)] for row in cells]
    several = any(len(runs) > 1 for runs in rows.values())
    errors = ["mean ± standard error over seeds"] if several else []
    if any(len(runs) == 1 for runs in rows.values()):
        errors.append("of one seed, in brackets, the 95% bootstrap interval over identities")
    note = f"Rank-1 accuracy in per cent; {'; '.join(errors)}. The gap is {groups[1]} minus {groups[0]}."
    if len(head) > 2 + len(columns) and "Δ" in head[2 + len(columns)]:
        note += f" {tables.interval_note(overlap)}"
    return f"{markdown(head, cells)}\n\n{note}"


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
    for place, (group, color) in enumerate(zip(groups, mpl.colormaps["viridis"]([0.2, 0.8]), strict=True)):
        estimates = [_estimate(name, runs, groups, group) for name, runs in rows.items()]
        means = np.array([mean for mean, _, _ in estimates])
        lows, highs = (np.array([estimate[k] for estimate in estimates]) for k in (1, 2))
        # A percentile interval need not hold the mean, and a bar's error cannot be negative.
        error = np.clip([means - lows, highs - means], 0, None)
        axes.bar(
            np.arange(len(rows)) + 0.38 * (place - 0.5), means, 0.38, yerr=error, label=group, color=color,
            edgecolor="k", linewidth=0.4, error_kw={"elinewidth": 0.8, "capsize": 2},
        )  # fmt: skip
        tops = np.maximum(tops, np.maximum(means, highs))
    for place, (name, runs) in enumerate(rows.items()):
        axes.text(place, tops[place] + 0.03, f"gap {_cell(name, runs, groups, 'gap')}", ha="center", fontsize=7.5)
    axes.set_xticks(range(len(rows)), [*rows], fontsize=8.5)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.set(ylim=(0, max(1.0, tops.max() + 0.1)), ylabel="rank-1 accuracy")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure


def _estimate(name: str, runs: Sequence[Scores], groups: Sequence[str], column: str) -> tuple[float, float, float]:
    """A column's mean over seeds, and from where to where its error reaches."""
    if not runs:
        raise UserError(f"{name!r}: no run of it was scored: run it first, or leave it out")
    for scores in runs:
        if missing := [group for group in groups if f"rank1_accuracy_{group}" not in scores]:
            raise UserError(f"{name!r}: a run of it has no rank1_accuracy_{missing[0]}: it has other groups")
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
    mean, low, high = (100 * value for value in _estimate(name, runs, groups, column))
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]" if len(runs) == 1 else f"{mean:.2f} ± {high - mean:.2f}"


def _key(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_").removesuffix("sampling").strip("_")


def _paper_cells(figures: Mapping[str, float] | None, groups: Sequence[str]) -> list[str]:
    if figures is None:
        return [""] * 4
    values = [figures["total"], *(figures[group] for group in groups), figures[groups[1]] - figures[groups[0]]]
    return [f"{100 * value:.2f}" for value in values]
