"""A comparison's runs → the chosen ones, a table and figures."""

import collections
import json
import math
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mbjax.compare.rows import ROWS, Row
from mbjax.report.paper import ROC_AUC
from mbjax.report.tables import difference_cell, interval_note, mean_and_error, paired_difference

COLUMNS = {  # of a table, beside the score that is compared
    "average_precision": "average precision",
    "balanced_accuracy": "balanced accuracy",
    "threshold_balanced_accuracy": "at the validation threshold",
    "calibration_error": "calibration error",
}


def frame_of(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per run that ended well: `row`, `seed`, `settings` (JSON), `seconds`, `validation_*`, `test_*`."""
    rows = [
        {
            **{key: line[key] for key in ("row", "seed", "seconds")},
            "validation_halves": line.get("validation_halves", (math.nan, math.nan)),
            "settings": json.dumps(line["settings"]),
            **{
                f"{part}_{name}": value for part in ("validation", "test") for name, value in line.get(part, {}).items()
            },
        }
        for line in lines
        if line["status"] == "ok"
    ]
    return pd.DataFrame(rows)


def choose(runs: pd.DataFrame, score: str, select: str) -> pd.DataFrame:
    """Of each row and seed the run with the best settings.

    By validation, each seed chooses for itself, by its own validation part. By test, as the paper does, each row
    has one setting, the one whose mean test score over seeds is best.
    """
    if f"validation_{score}" not in runs:  # nothing was to choose
        return runs
    if select == "validation":
        best = runs.groupby(["row", "seed"], sort=False)[f"validation_{score}"].idxmax()
        return runs.loc[best]
    means: Any = runs.groupby(["row", "settings"], sort=False)[f"test_{score}"].mean()
    means = means.reset_index()
    winners = means.loc[means.groupby("row", sort=False)[f"test_{score}"].idxmax(), ["row", "settings"]]
    return runs.merge(winners, on=["row", "settings"])


def _is_search(row: str) -> bool:
    """Whether a row only finds settings for another one."""
    return ROWS[row].family == "search"


def score_of(runs: pd.DataFrame) -> str:
    """What rows are chosen and compared by: ROC-AUC of two classes, else balanced accuracy."""
    return "roc_auc" if "test_roc_auc" in runs else "balanced_accuracy"


def make_table(lines: Sequence[Mapping[str, Any]], *, task: str, select: str, overlap: float) -> str:
    """The comparison as Markdown.

    Args:
      lines: of `results.jsonl`, in any order; rows are shown in the order of `ROWS`.
      task: for the paper's figures.
      select: what settings were chosen on, `"validation"` or `"test"`.
      overlap: of the seeds' splits, see `mbjax.report.tables.paired_difference`.
    """
    runs = frame_of(lines)
    if runs.empty:
        return "No run has ended well.\n" + failures(lines, (), ROWS)
    score = score_of(runs)
    chosen = choose(runs, score, select)
    groups: dict[str, Any] = {
        name: chosen[chosen["row"] == name].set_index("seed") for name in ROWS if not _is_search(name)
    }
    groups = {name: group for name, group in groups.items() if len(group)}
    paper = ROC_AUC.get(task, {})
    tuned = f"validation_{score}" in runs
    best = best_baseline(runs) if tuned else "naive"
    others = [name for name in dict.fromkeys(["naive", best]) if name in groups]
    shown = [name for name in COLUMNS if name != score and f"test_{name}" in chosen]
    title = {"roc_auc": "ROC-AUC", "balanced_accuracy": "balanced accuracy"}[score]
    head = ["", "seeds", title, *(f"Δ vs {ROWS[name].title} (95% CI)" for name in others)]
    head += [
        *(["paper"] if paper else []),
        *(COLUMNS[name] for name in shown),
        *(["settings chosen most often"] if tuned else []),
    ]
    rows = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for name, group in groups.items():
        values = group[f"test_{score}"]
        cells = [ROWS[name].title, str(len(group)), mean_and_error(values.to_numpy())]
        cells += [_difference(values, groups, other, score, overlap) if name != other else "" for other in others]
        cells += [_paper(paper.get(name))] if paper else []
        cells += [mean_and_error(group[f"test_{column}"].to_numpy()) for column in shown]
        cells += [_settings(group["settings"])] if tuned else []
        rows.append("| " + " | ".join(cells) + " |")
    seeds = chosen["seed"].nunique()
    if not tuned:
        how = "are those of the configuration"
    elif select == "validation":
        how = (
            "were chosen by each seed on its own validation part; the test part chose nothing, not even the best "
            "baseline, which is the one whose settings, chosen on one half of the validation part, score best on the "
            "other half"
        )
    else:
        how = (
            "were chosen **on the test part**, one setting for all seeds, as the paper does: these figures flatter "
            "every row, the more so the larger its grid"
        )
    facts = [
        f"Data: {'; '.join(sorted({line['data'] for line in lines if line.get('data')}))}.",
        f"{seeds} seeds, each with its own split; mean ± standard error over seeds; Δ are paired by seed. "
        f"{interval_note(overlap)} Settings {how}.",
        f"Code: {', '.join(sorted({line['code'] for line in lines}))}.",
    ]
    parts = [
        "\n".join(facts),
        "\n".join(rows),
        _verdict(groups, score, paper, best, overlap),
        failures(lines, groups, ROWS),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def make_times(lines: Sequence[Mapping[str, Any]], rows: Mapping[str, Row]) -> str:
    """Seconds of training per run, of each row, as Markdown."""
    runs = frame_of(lines)
    if runs.empty:
        return ""
    text = ["| | runs | seconds per run | of these together, as one program |", "| --- | --- | --- | --- |"]
    modes = collections.Counter((line["row"], line.get("mode")) for line in lines if line["status"] == "ok")
    for name, group in runs.groupby("row", sort=False):
        share = modes[str(name), "together"] / len(group)
        text.append(f"| {rows[str(name)].title} | {len(group)} | {group['seconds'].mean():.2f} | {share:.0%} |")
    return "\n".join(text) + "\n"


def best_baseline(runs: pd.DataFrame) -> str:
    """The baseline that is best on validation data, whatever the size of its grid.

    The maximum of many validation scores is higher than that of few, even where no setting is better. So of each seed
    the settings that are best on one half of the validation part are judged on the other half, both ways, and the mean
    over seeds decides. Where the halves are too small to be scored, the whole part decides.

    Args:
      runs: of `frame_of`.
    """
    baselines = runs[runs["row"].map(_is_candidate)]
    baselines = baselines if len(baselines) else runs
    halves = np.array([*baselines["validation_halves"]], float)
    if not np.isfinite(halves).all():
        halves = np.repeat(np.asarray(baselines[f"validation_{score_of(runs)}"])[:, None], 2, axis=1)
    baselines = baselines.assign(first=halves[:, 0], second=halves[:, 1])
    by_run = baselines.groupby(["row", "seed"], sort=False)
    judged = [
        baselines.loc[by_run[chooser].idxmax()].groupby("row", sort=False)[judge].mean()
        for chooser, judge in (("first", "second"), ("second", "first"))
    ]
    return str((judged[0] + judged[1]).idxmax())


def _is_candidate(name: str) -> bool:
    """Whether a row may be the best baseline: those with a weight decay of their own had one choice more."""
    return ROWS[name].family == "baseline" and "optimizer.weight_decay" not in ROWS[name].changes


def _difference(values: pd.Series, groups: Mapping[str, Any], other: str, score: str, overlap: float) -> str:
    if other not in groups:
        return ""
    return difference_cell(values, groups[other][f"test_{score}"], overlap)


def _paper(figure: tuple[float, float | None] | None) -> str:
    if figure is None:
        return ""
    return f"{figure[0]:.3f}" + (f" ± {figure[1]:.3f}" if figure[1] is not None else "")


def _settings(settings: pd.Series) -> str:
    (most, count), *_ = collections.Counter(settings).most_common()
    values = json.loads(most)
    shown = ", ".join(f"{key.removeprefix('optimizer.')} {value}" for key, value in values.items() if value is not None)
    return f"{shown} ({count}/{len(settings)})" if shown else ""


def _verdict(
    groups: Mapping[str, Any], score: str, paper: Mapping[str, tuple[float, float | None]], best: str, overlap: float
) -> str:
    """In words, whether MetaBalance is better than naive training, the best baseline and its own controls."""
    sentences = []
    for name in ("metabalance", "ms_metabalance"):
        if name not in groups:
            continue
        others = dict.fromkeys(["naive", best, *(o for o in groups if ROWS[o].family == "control")])
        for other in others:
            if other not in groups or other == name:
                continue
            mean, half, _ = paired_difference(groups[name][f"test_{score}"], groups[other][f"test_{score}"], overlap)
            if not np.isfinite(half):
                continue
            verdict = "not clearly different from zero"
            if abs(mean) > half:
                verdict = "clearly above zero" if mean > 0 else "clearly below zero: it is worse"
            claim = ""
            if other in paper and name in paper:
                claim = f" (the paper's: {paper[name][0] - paper[other][0]:+.3f})"
            titles = f"{ROWS[name].title} minus {ROWS[other].title}"
            sentences.append(f"- {titles}: {mean:+.4f} ± {half:.4f}, {verdict}{claim}.")
    return "\n".join(sentences)


def failures(lines: Sequence[Mapping[str, Any]], done: Collection[str], rows: Mapping[str, Row]) -> str:
    """What could not run, and why."""
    failed: dict[tuple[str, str], set[int]] = {}
    for line in lines:
        if line["status"] != "ok":
            failed.setdefault((line["row"], line["reason"]), set()).add(line["seed"])
    order = {name: place for place, name in enumerate(rows)}
    text = [
        f"- {rows[name].title}{'' if name in done else ' has no result'}: {reason} ({len(seeds)} seeds)"
        for (name, reason), seeds in sorted(failed.items(), key=lambda item: (order[item[0][0]], item[0][1]))
    ]
    return "Runs that failed:\n\n" + "\n".join(text) if text else ""


def plot_comparison(lines: Sequence[Mapping[str, Any]], file: pathlib.Path, *, task: str, select: str) -> None:
    """Draws every row's mean test score with its standard error, and the paper's figure beside it."""
    runs = frame_of(lines)
    score = score_of(runs)
    chosen = choose(runs, score, select)
    present = {name for name in chosen["row"] if not _is_search(name)}
    names = [name for name in ROWS if name in present][::-1]
    by_name: Any = chosen.groupby("row")[f"test_{score}"]
    paper = ROC_AUC.get(task, {})
    colors = {"baseline": "C0", "metabalance": "C3", "control": "C1", "reference": "0.4"}
    figure = Figure(figsize=(8, 0.27 * len(names) + 1.4), layout="constrained")
    axes: Axes = figure.subplots()
    labelled = set()
    for place, name in enumerate(names):
        family = ROWS[name].family
        label = None if family in labelled else family.replace("metabalance", "MetaBalance")
        labelled.add(family)
        error = np.nan_to_num(by_name.sem()[name])
        axes.errorbar(by_name.mean()[name], place, xerr=error, fmt="o", color=colors[family], label=label)
        if name in paper:
            label = None if "paper" in labelled else "paper"
            labelled.add("paper")
            axes.plot(paper[name][0], place, "x", color="k", label=label)
    if "naive" in present:
        axes.axvline(by_name.mean()["naive"], color="C0", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(names)), [ROWS[name].title for name in names], fontsize=8)
    title = f"{task}; settings chosen on {select}"
    axes.set(xlabel=f"test {score.replace('_', ' ').replace('roc auc', 'ROC-AUC')}, mean ± s.e.", title=title)
    axes.legend(frameon=False, fontsize=8, loc="best")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=150)


def plot_pairs(lines: Sequence[Mapping[str, Any]], file: pathlib.Path, *, task: str) -> bool:
    """Draws the mean validation score of each support × query sampler pair; False if no run has searched them."""
    runs = frame_of([line for line in lines if _is_search(line["row"])])
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
    figure.colorbar(image, ax=axes, label=f"validation {score.replace('_', ' ').replace('roc auc', 'ROC-AUC')}")
    figure.savefig(file, dpi=150)
    return True
