"""Section 6 of the paper: how much of a model's errors priors and thresholds explain."""

import pathlib
from typing import Any

import numpy as np
import pandas as pd

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
    rows = zip(before["folder"], before["result"], target["majority_accuracy"], strict=True)
    after = pd.DataFrame([_matched_scores(*row) for row in rows], index=seeds)
    columns = ["majority_accuracy", "minority_accuracy", "accuracy"]
    lines = {moved: before, f"{moved}{tables.MATCHED}": after, fixed: target}
    head = ["run", "seeds", *columns]
    cells = [
        [name, str(len(seeds)), *(tables.mean_and_error(part[column].to_numpy()) for column in columns)]
        for name, part in lines.items()
    ]
    if paper:
        head.append("the paper's accuracy")
        cells = [[*row, tables.paper_cell(ACCURACY[paper], row[0])] for row in cells]
    note = tables.protocol_note(runs)
    overlap = tables.overlap_of(runs)
    difference = tables.difference_cell(target["minority_accuracy"], after["minority_accuracy"], overlap)
    return (
        f"Study of thresholds{f' ({note})' if note else ''}: “{moved}” with the majority class's probability scaled "
        f"until its majority accuracy on the TEST data is that of “{fixed}”, seed by seed. The test labels set the "
        "factor: this is an object of study, no classifier that anyone could deploy.\n\n"
        f"{tables.markdown(head, cells)}\n\n"
        f"Minority accuracy, {fixed} minus {moved}{tables.MATCHED}: {difference} (95% CI of the paired difference)."
    )


def _matched_scores(folder: pathlib.Path, result: dict[str, Any], majority_accuracy: float) -> metrics.Scores:
    with np.load(tables.found(folder, "predictions.npz", "run it again in a new folder")) as arrays:
        probabilities, labels = arrays["probabilities"], arrays["labels"]
    majority = int(np.argmax(result["data"]["class_counts"]["train"]))
    matched = metrics.match_majority(
        probabilities, labels, majority_class=majority, majority_accuracy=majority_accuracy
    )
    return metrics.scores(matched, labels, majority_class=majority)
