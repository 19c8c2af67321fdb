"""What a run or a group of runs scored, as text."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mbjax import config
from mbjax.types import UserError

SCORES = ("roc_auc", "average_precision", "accuracy", "balanced_accuracy", "g_mean", "log_loss", "calibration_error")


def describe(result: dict[str, Any]) -> str:
    """The scores of one run on its test split, and what it was trained on."""
    data = result["data"]
    lines = [
        f"{result['method']} on {result['task']} ({data['source']}), seed {result['seed']}: "
        f"{result['updates']} updates in {result['seconds']:.1f} s on {result['device']}",
        *(f"note: {note}" for note in data["notes"]),
        "training examples: " + _by_class(data["classes"], data["class_counts"]["train"]),
    ]
    lines += [f"test {name:<18} {result['test'][name]:.4f}" for name in SCORES if name in result["test"]]
    lines.append(
        "test class_accuracy: " + _by_class(data["classes"], [f"{a:.3f}" for a in result["test"]["class_accuracy"]])
    )
    return "\n".join(lines)


def _by_class(classes: Sequence[str], values: Sequence[Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(classes, values, strict=True))


def load_runs(groups: Mapping[str, Sequence[str | pathlib.Path]]) -> pd.DataFrame:
    """One row a finished run: its group's name (`run`), its seed and its test scores.

    Args:
      groups: run folders by the name of their group. The runs of a group differ in nothing but the seed.

    Raises:
      UserError: a folder without a finished run, or a group of runs that differ in more than the seed.
    """
    rows = []
    for name, folders in groups.items():
        first: dict[str, Any] = {}
        for folder in map(pathlib.Path, folders):
            if not (folder / "result.json").exists():
                raise UserError(f"{folder}: no finished run (result.json is missing): run it first, or leave it out")
            result = json.loads((folder / "result.json").read_text())
            settings = config.flatten(json.loads((folder / "config.json").read_text()))
            settings = {key: value for key, value in settings.items() if key not in ("seed", "data.dir")}
            first = first or settings
            if changed := [key for key in sorted(first | settings) if first.get(key) != settings.get(key)]:
                raise UserError(f"{folder}: {changed[0]} differs from that of {folders[0]}: give it another group")
            scores = {score: result["test"][score] for score in SCORES if score in result["test"]}
            rows.append({"run": name, "seed": result["seed"], "seconds": result["seconds"], **scores})
    return pd.DataFrame(rows)


def mean_and_error(values: Sequence[float] | np.ndarray) -> str:
    """`mean ± standard error`; the mean alone for one value."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return f"{values.mean():.4f}"
    return f"{values.mean():.4f} ± {stats.sem(values):.4f}"


def paired_difference(a: Any, b: Any) -> tuple[float, float, int]:
    """The mean of `a − b`, half the width of its 95% t interval, and how many seeds it is over.

    Args:
      a, b: pandas Series by seed; seeds that only one of them has are left out.
    """
    difference = (a - b).dropna().to_numpy(float)
    if len(difference) < 2:
        return float(difference.mean()) if len(difference) else math.nan, math.nan, len(difference)
    half = stats.t.ppf(0.975, len(difference) - 1) * stats.sem(difference)
    return float(difference.mean()), float(half), len(difference)


def compare_runs(runs: pd.DataFrame, *, score: str | None = None, reference: str | None = None) -> str:
    """A Markdown table: each group's mean ± standard error over seeds, and its paired difference from a reference.

    Args:
      runs: of `load_runs`.
      score: the score of the differences; ROC-AUC of two classes, else balanced accuracy.
      reference: a label of `runs`; the first by default.
    """
    score = score or ("roc_auc" if "roc_auc" in runs else "balanced_accuracy")
    names = [name for name in SCORES if name in runs]
    labels = list(dict.fromkeys(runs["run"]))
    reference = reference or labels[0]
    by_seed = {label: group.set_index("seed") for label, group in runs.groupby("run", sort=False)}
    head = ["run", "seeds", *names, f"{score}: paired difference from “{reference}” (95% interval)"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for label in labels:
        group = by_seed[label]
        mean, half, _ = paired_difference(group[score], by_seed[reference][score])
        difference = "" if label == reference else f"{mean:+.4f} ± {half:.4f}"
        cells = [label, str(len(group)), *(mean_and_error(group[name].to_numpy()) for name in names), difference]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
