"""What scores are made of: priors and thresholds (section 6 of the paper), and the draw of the images."""

import functools
import pathlib
from typing import Any

import numpy as np
import pandas as pd

from mbjax.data.images.labelled import read_arrays
from mbjax.data.imbalance import DRAWN
from mbjax.evaluation import metrics
from mbjax.report import tables
from mbjax.report.paper import ACCURACY
from mbjax.types import UserError


def with_priors(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of `load_runs`, and after each group the same with the training priors divided out.

    Raises:
      UserError: a run of a version that did not compute it.
    """
    parts = []
    for name, group in runs.groupby("run", sort=False):
        for folder, result in zip(group["folder"], group["result"], strict=True):
            if "priors_test" not in result:
                raise UserError(f"{folder}: its result.json has no priors_test: run it again in a new folder")
        scores = pd.DataFrame([result["priors_test"] for result in group["result"]], index=group.index)
        shown = [column for column in group if column in scores]
        parts += [group, group.assign(run=f"{name}{tables.PRIORS}", **{column: scores[column] for column in shown})]
    return pd.concat(parts, ignore_index=True)


def variance_components(scores: np.ndarray) -> tuple[float, float]:
    """Splits the variance of a score between the runs of one row: what draws do to all rows alike, and the rest.

    The layout is two-way without replication, `y_rd = μ + row_r + draw_d + own_rd` with random draws. The mean squares
    of its analysis of variance have the expectations `σ²_own + R σ²_draw` (draws) and `σ²_own` (residual).

    Args:
      scores: `[R rows, D draws]`, 2 or more of each.

    Returns:
      Estimates of `(σ²_draw, σ²_own)`; a negative one of `σ²_draw` is 0.
    """
    rows, draws = scores.shape
    draw_means = scores.mean(0, keepdims=True)
    between = rows * float(np.square(draw_means - scores.mean()).sum()) / (draws - 1)
    residuals = scores - scores.mean(1, keepdims=True) - draw_means + scores.mean()
    own = float(np.square(residuals).sum()) / ((rows - 1) * (draws - 1))
    return max((between - own) / rows, 0.0), own


def draw_note(runs: pd.DataFrame, *, score: str | None = None) -> str:
    """How much of the spread between seeds the draw of the images makes, as a sentence.

    Args:
      runs: of `load_runs`. Rows with at least three seeds count, and the seeds that these have in common.
      score: as `mbjax.report.tables.compare_runs` takes it.

    Returns:
      Nothing if there are not three rows and three seeds, or if their images are not drawn by seed.
    """
    notes = [note for result in runs["result"] for note in result["data"].get("notes", ())]
    groups = [group for group in tables.by_group(runs).values() if len(group) >= 3]
    if not any(DRAWN in note for note in notes) or len(groups) < 3:
        return ""
    seeds = functools.reduce(pd.Index.intersection, [group.index for group in groups])
    if len(seeds) < 3:
        return ""
    score = tables.score_of(runs, score)
    draw, own = variance_components(np.array([group.loc[seeds, score] for group in groups], float))
    if not draw + own:
        return ""
    share = draw / (draw + own)
    return (
        f"Of the variance of {score} between runs of one row, {share:.0%} is common to all rows on the same draw "
        f"(which images a class has, and the first weights), {1 - share:.0%} is each run's own ({len(groups)} rows on "
        f"{len(seeds)} draws)."
    )


def match_table(runs: pd.DataFrame, pair: str, *, paper: str | None = None) -> str:
    """The paper's study of thresholds: one group's majority accuracy on test data is set to that of another.

    Args:
      runs: of `load_runs`.
      pair: `NAME:NAME`, the group whose decisions are moved and the one that it shall match, seed by seed.
      paper: adds the paper's accuracies, a key of `mbjax.report.paper.ACCURACY`.

    Returns:
      What the study is, a Markdown table, and the paired difference of the minority accuracies, all as text.

    Raises:
      UserError: a name that is no group, groups without a seed in common, or a folder without predictions.
    """
    moved, _, fixed = pair.partition(":")
    groups = tables.by_group(runs, [moved, fixed])
    seeds = groups[moved].index.intersection(groups[fixed].index)
    if seeds.empty:
        raise UserError(f"--match={pair}: they have no seed in common: name folders of the same seeds")
    before, target = (groups[name].loc[seeds] for name in (moved, fixed))
    matches = zip(before["folder"], before["result"], target["majority_accuracy"], strict=True)
    after = pd.DataFrame([_matched_scores(*match) for match in matches], index=seeds)
    rows = {moved: before, f"{moved}{tables.MATCHED}": after, fixed: target}
    columns = {name: tables.mean_of(name) for name in ("majority_accuracy", "minority_accuracy", "accuracy")}
    if paper:
        columns["the paper's accuracy"] = lambda name, _: tables.paper_cell(ACCURACY[paper], name)
    note = tables.protocol_note(runs)
    overlap = tables.overlap_of(runs)
    difference = tables.difference_cell(target["minority_accuracy"], after["minority_accuracy"], overlap)
    return (
        f"Study of thresholds{f' ({note})' if note else ''}: “{moved}” with the majority class's probability scaled "
        f"until its majority accuracy on the TEST data is that of “{fixed}”, seed by seed. The test labels set the "
        "factor: this is an object of study, no classifier that anyone could deploy.\n\n"
        f"{tables.make_table(rows, columns)}\n\n"
        f"Minority accuracy, {fixed} minus {moved}{tables.MATCHED}: {difference} (95% CI of the paired difference)."
    )


def _matched_scores(folder: pathlib.Path, result: dict[str, Any], majority_accuracy: float) -> metrics.Scores:
    arrays = read_arrays(tables.found(folder, "predictions.npz", "run it again in a new folder"))
    probabilities, labels = arrays["probabilities"], arrays["labels"]
    majority = int(np.argmax(result["data"]["class_counts"]["train"]))
    matched = metrics.match_majority(
        probabilities, labels, majority_class=majority, majority_accuracy=majority_accuracy
    )
    return metrics.scores(matched, labels, majority_class=majority)
