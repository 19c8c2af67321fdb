"""A comparison's runs → the chosen ones and a table."""

import collections
import json
import math
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mbjax.evaluation import metrics
from mbjax.report import tables
from mbjax.report.names import TITLES
from mbjax.report.paper import ROC_AUC
from mbjax.rows import Row

COLUMNS = {  # of a table, beside the score that is compared
    "average_precision": "average precision",
    "balanced_accuracy": "balanced accuracy",
    "threshold_balanced_accuracy": "at the validation threshold",
    "calibration_error": "calibration error",
}
BEST_BASELINE = (
    " The best baseline is the one whose settings, chosen on one half of the validation part, score best on the other "
    "half."
)


def frame_of(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per good run: `row`, `seed`, `key`, `settings` (JSON), `seconds`, `folder`, `validation_*`, `test_*`."""
    rows = [
        {
            **{key: line[key] for key in ("row", "seed", "seconds", "key")},
            "folder": line.get("folder", ""),
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


def score_of(runs: pd.DataFrame) -> str:
    """What rows are chosen and compared by, `mbjax.evaluation.metrics.primary`."""
    return metrics.primary([name.removeprefix("test_") for name in runs if name.startswith("test_")])


def make_table(
    lines: Sequence[Mapping[str, Any]], *, rows: Mapping[str, Row], task: str, select: str, overlap: float
) -> str:
    """The comparison as Markdown.

    Args:
      lines: of `results.jsonl`, in any order.
      rows: the task's, in the order in which they are shown.
      task: for the paper's figures.
      select: what settings were chosen on, `"validation"` or `"test"`.
      overlap: of the seeds' splits, see `mbjax.report.tables.paired_difference`.
    """
    runs = frame_of(lines)
    if runs.empty:
        return "No run has ended well.\n" + failures(lines, (), rows)
    score = score_of(runs)
    chosen = choose(runs, score, select)
    groups = {name: chosen[chosen["row"] == name].set_index("seed") for name in shown(chosen, rows)}
    tuned = f"validation_{score}" in runs
    best = best_baseline(runs, rows) if tuned else "naive"
    rivals = [best, *strongest_references(runs, rows)] if tuned else [best]
    columns = _columns(groups, rows, score=score, best=best, paper=ROC_AUC.get(task, {}), overlap=overlap)
    if tuned:
        columns["settings chosen most often"] = lambda _, group: settings_of(group["settings"])
    # What seeds note of their data differs in counts alone.
    first = min((line for line in lines if line["status"] == "ok"), key=operator.itemgetter("seed"))
    facts = [
        f"Data: {first['data']}.",
        f"{chosen['seed'].nunique()} seeds, each with its own split; mean ± standard error over seeds; Δ are paired by "
        f"seed. {tables.interval_note(overlap)} Settings {how_chosen(tuned, select)}."
        f"{BEST_BASELINE if tuned and select == 'validation' else ''}",
        f"Code: {', '.join(sorted({line['code'] for line in lines}))}.",
    ]
    parts = [
        "\n".join(facts),
        tables.make_table({rows[name].title: group for name, group in groups.items()}, columns),
        _verdict(groups, rows, score, ROC_AUC.get(task, {}), rivals, overlap),
        failures(lines, groups, rows),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def shown(runs: pd.DataFrame, rows: Mapping[str, Row]) -> list[str]:
    """The names of the rows that have runs, in the order of `rows`; not of those that find settings for others."""
    present = set(runs["row"])
    return [name for name, row in rows.items() if name in present and row.family != "search"]


def _columns(
    groups: Mapping[str, pd.DataFrame], rows: Mapping[str, Row], *, score: str, best: str,
    paper: Mapping[str, tuple[float, float | None]], overlap: float,
) -> dict[str, tables.Column]:  # fmt: skip
    names = {rows[name].title: name for name in groups}
    titled = {rows[name].title: group for name, group in groups.items()}
    columns = {TITLES[score]: tables.mean_of(f"test_{score}")}
    for title in (rows[name].title for name in dict.fromkeys(["naive", best]) if name in groups):
        columns[f"Δ vs {title} (95% CI)"] = tables.difference_from(titled, title, f"test_{score}", overlap)
    if paper:
        columns["paper"] = lambda title, _: tables.paper_cell(paper, names[title], decimals=3)
    first = next(iter(groups.values()))
    more = {name: title for name, title in COLUMNS.items() if name != score and f"test_{name}" in first}
    return {**columns, **{title: tables.mean_of(f"test_{name}") for name, title in more.items()}}


def how_chosen(tuned: bool, select: str) -> str:
    """How rows got their settings, the end of a sentence."""
    if not tuned:
        return "are those of the configuration"
    if select == "validation":
        return "were chosen by each seed on its own validation part; the test part chose nothing"
    return (
        "were chosen **on the test part**, one setting for all seeds, as the paper does: these figures flatter every "
        "row, the more so the larger its grid"
    )


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


def best_baseline(runs: pd.DataFrame, rows: Mapping[str, Row]) -> str:
    """The baseline that is best on validation data, whatever the size of its grid; see `judged`.

    Args:
      runs: of `frame_of`.
      rows: the task's.
    """

    def is_candidate(name: str) -> bool:  # rows with a weight decay of their own had one choice more
        return rows[name].family == "baseline" and "optimizer.weight_decay" not in rows[name].changes

    baselines: Any = runs[runs["row"].map(is_candidate)]
    return str(judged(baselines if len(baselines) else runs).idxmax())


def strongest_references(runs: pd.DataFrame, rows: Mapping[str, Row]) -> list[str]:
    """Class-weighted logistic regression, and the trees that are best on validation data, as far as they are there."""
    references: Any = runs[runs["row"].map(lambda name: rows[name].family == "reference")]
    is_linear = references["row"].map(lambda name: rows[name].estimator == "logistic_regression").astype(bool)
    linear = [name for name in ("logistic_regression_balanced",) if (references["row"] == name).any()]
    trees = references[~is_linear]
    return [*linear, *([str(judged(trees).idxmax())] if len(trees) else [])]


def judged(runs: pd.DataFrame) -> pd.Series:
    """How good each row is on validation data, whatever the size of its grid: by row, to be compared alone.

    The maximum of many validation scores is higher than that of few, even where no setting is better. So of each seed
    the settings that are best on one half of the validation part are judged on the other half, both ways, and the mean
    over seeds decides. Where the halves are too small to be scored, the whole part decides.

    Args:
      runs: of `frame_of`, with validation scores.
    """
    halves = np.array([*runs["validation_halves"]], float)
    if not np.isfinite(halves).all():
        halves = np.repeat(np.asarray(runs[f"validation_{score_of(runs)}"])[:, None], 2, axis=1)
    runs = runs.assign(first=halves[:, 0], second=halves[:, 1])
    by_run = runs.groupby(["row", "seed"], sort=False)
    both = [
        runs.loc[by_run[chooser].idxmax()].groupby("row", sort=False)[judge].mean()
        for chooser, judge in (("first", "second"), ("second", "first"))
    ]
    return (both[0] + both[1]) / 2


def settings_of(settings: Any) -> str:
    """The settings, given as JSON for each run, that most runs have chosen, and how many."""
    (most, count), *_ = collections.Counter(settings).most_common()
    values = json.loads(most)
    text = ", ".join(f"{key.removeprefix('optimizer.')} {value}" for key, value in values.items() if value is not None)
    return f"{text} ({count}/{len(settings)})" if text else ""


def _verdict(
    groups: Mapping[str, Any], rows: Mapping[str, Row], score: str, paper: Mapping[str, tuple[float, float | None]],
    rivals: Sequence[str], overlap: float,
) -> str:  # fmt: skip
    """In words, whether MetaBalance is better than naive training, its own controls, and the best of the others."""
    sentences = []
    for name in (name for name in groups if rows[name].family == "metabalance"):
        others = dict.fromkeys(["naive", *rivals, *(o for o in groups if rows[o].family == "control")])
        for other in (other for other in others if other in groups):
            pair = (groups[name][f"test_{score}"], groups[other][f"test_{score}"])
            mean, half, _ = tables.paired_difference(*pair, overlap)
            if not np.isfinite(half):
                continue
            verdict = "not clearly different from zero"
            if abs(mean) > half:
                verdict = "clearly above zero" if mean > 0 else "clearly below zero: it is worse"
            claim = ""
            if other in paper and name in paper:
                claim = f" (the paper's: {paper[name][0] - paper[other][0]:+.3f})"
            titles = f"{rows[name].title} minus {rows[other].title}"
            sentences.append(f"- {titles}: {mean:+.4f} ± {half:.4f}, {verdict}{claim}.")
    return "\n".join(sentences)


def failed(lines: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], set[int]]:
    """The seeds of the runs that failed, by their row and the reason."""
    seeds: dict[tuple[str, str], set[int]] = {}
    for line in lines:
        if line["status"] != "ok":
            seeds.setdefault((line["row"], line["reason"]), set()).add(line["seed"])
    return seeds


def failures(lines: Sequence[Mapping[str, Any]], done: Collection[str], rows: Mapping[str, Row]) -> str:
    """What could not run, and why."""
    order = {name: place for place, name in enumerate(rows)}
    text = [
        f"- {rows[name].title}{'' if name in done else ' has no result'}: {reason} ({len(seeds)} seeds)"
        for (name, reason), seeds in sorted(failed(lines).items(), key=lambda item: (order[item[0][0]], item[0][1]))
    ]
    return "Runs that failed:\n\n" + "\n".join(text) if text else ""
