"""The figures of a classifier's page. Each function gives a matplotlib figure; call them within `theme.drawing`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn import metrics as sk

from mbjax.report.theme import BLUE, GREEN, GREY, INK, MUTED, RED

PERCENT = ticker.FuncFormatter(lambda value, _: f"{100 * value:g}%")
SIZE = (4.4, 3.2)  # inches: on a phone's width letters are still read
_POINTS = 400  # of a curve: no eye sees more, and the page stays small


def _new(height: float = SIZE[1]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(SIZE[0], height))
    return figure, figure.subplots()


def roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Receiver operating characteristics.

    Args:
      curves: the score of the class, `[n]`, and whether a row is of it, `[n]`, by the class's name.
    """
    figure, axes = _new()
    for color, (name, (scores, hits)) in zip((BLUE, RED), curves.items(), strict=False):
        false, true, _ = sk.roc_curve(hits, scores)
        keep = _thinned(len(false))
        axes.plot(false[keep], true[keep], color=color, label=name)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="chance")
    axes.set(xlabel="false alarms, share of the others", ylabel="found, share of the class", xlim=(-0.01, 1.01))
    axes.set_ylim(-0.01, 1.02)
    axes.legend(loc="lower right")
    return figure


def precision_recall(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, at: tuple[float, float] | None) -> Figure:
    """Precision over recall.

    Args:
      curves: as `roc` takes them.
      at: recall and precision of the decision, of two classes.
    """
    figure, axes = _new()
    for color, (name, (scores, hits)) in zip((BLUE, RED), curves.items(), strict=False):
        precision, recall, _ = sk.precision_recall_curve(hits, scores)
        keep = _thinned(len(recall))
        axes.step(recall[keep], precision[keep], where="post", color=color, label=name)
        axes.axhline(
            float(np.mean(hits)),
            color=color,
            linestyle=":",
            linewidth=1,
            label=f"chance, {name}" if len(curves) > 1 else "chance",
        )
    if at:
        axes.plot(*at, "o", color=INK, markersize=5, label="the decision")
    axes.set(xlabel="recall: found, share of the class", ylabel="precision", xlim=(-0.01, 1.01), ylim=(-0.01, 1.04))
    axes.legend(loc="best")
    return figure


def reliability(bins: Mapping[str, Sequence[float]], what: str) -> Figure:
    """What came over what was predicted, in bins of equally many rows, with Wilson intervals.

    Args:
      bins: `predicted`, `observed`, `low` and `high`, lists.
      what: what is predicted.
    """
    figure, axes = _new()
    predicted, observed, low, high = (np.array(bins[name]) for name in ("predicted", "observed", "low", "high"))
    top = max(predicted.max(), high.max()) * 1.05
    axes.plot([0, top], [0, top], color=GREY, linestyle=":", label="exact")
    error = np.clip([observed - low, high - observed], 0, None)
    axes.errorbar(predicted, observed, yerr=error, fmt="o-", color=BLUE, markersize=4, linewidth=1, elinewidth=1.2,
                  label="test rows, 95% interval")  # fmt: skip
    if top < 0.5 or predicted.max() > 20 * max(np.median(predicted), 1e-9):  # most bins lie near 0
        for axis in ("x", "y"):
            getattr(axes, f"set_{axis}scale")("function", functions=(_root, np.square))
        ticks = [tick for tick in (0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0) if tick <= top]
        axes.set_xticks(ticks[-6:])
        axes.set_yticks(ticks[-6:])
    axes.xaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.set(xlabel=f"predicted: {what}", ylabel="came", xlim=(0, top), ylim=(0, top))
    axes.legend(loc="upper left")
    return figure


def _root(values: Any) -> Any:
    return np.sqrt(np.maximum(values, 0))


def costs(thresholds: np.ndarray, cost: np.ndarray, *, at: float, never: float, unit: str) -> Figure:
    """The expected cost per test row over the threshold on the positive class's probability.

    Args:
      thresholds: rising, `[n]`.
      cost: at each, `[n]`.
      at: the decision's threshold.
      never: the cost if no row is ever called positive.
      unit: what costs are counted in.
    """
    figure, axes = _new()
    keep = _thinned(len(cost))
    axes.step(thresholds[keep], cost[keep], where="pre", color=BLUE, label="test rows")
    axes.axhline(never, color=GREY, linestyle=":", label="never positive")
    axes.axvline(at, color=RED, linestyle="--", linewidth=1.2, label="the decision")
    if thresholds[-1] > 20 * max(np.median(thresholds), 1e-9):
        axes.set_xscale("function", functions=(_root, np.square))
        axes.set_xticks([tick for tick in (0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0) if tick <= thresholds[-1]])
    axes.xaxis.set_major_formatter(PERCENT)
    axes.set(xlabel="threshold on the probability", ylabel=unit, ylim=(0, None))
    axes.legend(loc="best")
    return figure


def importance(names: Sequence[str], means: Sequence[float], errors: Sequence[float], score: str) -> Figure:
    """What a score loses where a column is shuffled, the largest on top, with the spread over shuffles."""
    figure, axes = _new(0.24 * len(names) + 0.9)
    place = np.arange(len(names))[::-1]
    axes.barh(place, means, xerr=errors, color=BLUE, height=0.7, error_kw={"elinewidth": 1, "ecolor": INK})
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(place, [shorten(name) for name in names])
    axes.set(xlabel=f"{score} lost")
    axes.grid(visible=False, axis="y")
    return figure


def recalls(names: Sequence[str], hits: Sequence[float], ends: np.ndarray, counts: Sequence[int]) -> Figure:
    """Each class's recall with its interval, `ends` `[2, classes]`, beside how many training examples it has."""
    figure, axes = _new(max(0.26 * len(names) + 0.9, 1.6))
    place, share = np.arange(len(names))[::-1], np.array(hits)
    error = np.clip([share - ends[0], ends[1] - share], 0, None)
    axes.barh(place, share, xerr=error, color=BLUE, height=0.7, error_kw={"elinewidth": 1.2, "ecolor": INK})
    labels = [f"{shorten(name)}, n = {count:,.0f}" for name, count in zip(names, counts, strict=True)]
    axes.set_yticks(place, labels)
    axes.axvline(1 / len(names), color=GREY, linestyle=":")
    axes.xaxis.set_major_formatter(PERCENT)
    axes.set(xlabel="found, share of the class's test rows", xlim=(0, 1.02))
    axes.grid(visible=False, axis="y")
    return figure


def training(rows: Sequence[Mapping[str, Any]], scores: Mapping[str, str]) -> Figure:
    """Loss and scores over updates.

    Args:
      rows: of `metrics.jsonl`.
      scores: the names of those that are drawn, and how they are called.
    """
    figure = Figure(figsize=(SIZE[0], 4.2))
    upper, lower = figure.subplots(2, 1, sharex=True)
    steps = [row["step"] for row in rows]
    losses = [name for name in ("support_loss", "query_loss") if name in rows[0]["updates"]] or ["loss"]
    for color, name in zip((BLUE, RED), losses, strict=False):
        values = [row["updates"].get(name, np.nan) for row in rows]
        upper.plot(steps, values, marker=".", color=color, label=name.replace("_", " "))
    upper.set(ylabel="training loss")
    upper.legend()
    for color, (name, title) in zip((BLUE, RED, GREEN), scores.items(), strict=False):
        for part, line in (("train", "--"), ("test", "-")):
            if part in rows[0]:
                values = [row[part].get(name, np.nan) for row in rows]
                lower.plot(steps, values, line, color=color, label=f"{title}, {part}")
    lower.set(xlabel="update", ylabel="score", ylim=(-0.02, 1.02))
    lower.legend()
    return figure


def _thinned(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, _POINTS)).astype(int))


def shorten(name: str) -> str:
    """A name that fits beside a bar."""
    return name if len(name) <= 24 else f"{name[:14]}…{name[-9:]}"
