"""What a run or a group of runs scored, as text."""

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

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


def load_runs(folders: Sequence[str | pathlib.Path]) -> pd.DataFrame:
    """One row a finished run: its folder, label, seed and test scores.

    Runs whose configurations differ in nothing but the seed (and where data lies) share a label, which names what
    differs between the groups.

    Raises:
      UserError: a folder without a finished run.
    """
    rows, configs = [], []
    for folder in map(pathlib.Path, folders):
        if not (folder / "result.json").exists():
            raise UserError(f"{folder}: no finished run (result.json is missing): run it first, or leave it out")
        result = json.loads((folder / "result.json").read_text())
        configs.append(_settings(json.loads((folder / "config.json").read_text())))
        scores = {name: result["test"][name] for name in SCORES if name in result["test"]}
        rows.append({"folder": str(folder), "seed": result["seed"], "seconds": result["seconds"], **scores})
    keys = sorted({key for config in configs for key in config})
    differing = [key for key in keys if len({json.dumps(config.get(key)) for config in configs}) > 1]
    short = ["task", "method"] if {"task", "method"} & set(differing) else []
    for row, config in zip(rows, configs, strict=True):
        named = [str(config[key]) for key in short if key in differing]
        named += [f"{key}={config.get(key)}" for key in differing if key not in short]
        row["run"] = ", ".join(named) or config["method"]
    return pd.DataFrame(rows)


def _settings(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + key
        if isinstance(value, dict):
            flat |= _settings(value, name + ".")
        elif name not in ("seed", "data.dir"):
            flat[name] = value
    return flat


def mean_and_error(values: Sequence[float] | np.ndarray) -> str:
    """`mean ± standard error`; the mean alone for one value."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return f"{values.mean():.4f}"
    return f"{values.mean():.4f} ± {stats.sem(values):.4f}"


def paired_difference(a: pd.Series, b: pd.Series) -> tuple[float, float, int]:
    """Mean of `a − b` over the seeds that both have, half the width of its 95% t interval, and how many seeds."""
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
        cells = [label, str(len(group)), *(mean_and_error(group[name]) for name in names), difference]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
