"""Pages, tables and figures of finished runs."""

import pathlib
from collections.abc import Mapping, Sequence

from mbjax.report import faces, plots
from mbjax.report.analysis import draw_note, match_table, with_priors
from mbjax.report.page import leave_page, write_page
from mbjax.report.plots import make_folder, plot_groups
from mbjax.report.tables import compare_runs, describe, load_runs, overlap_of, paired_difference
from mbjax.types import UserError

__all__ = [
    "compare",
    "compare_runs",
    "describe",
    "leave_page",
    "load_runs",
    "match_table",
    "paired_difference",
    "plot_groups",
    "with_priors",
    "write_page",
]


def compare(
    groups: Mapping[str, Sequence[str | pathlib.Path]],
    *,
    score: str | None = None,
    reference: str | None = None,
    priors: bool = False,
    paper: str | None = None,
    match: str | None = None,
    figures: pathlib.Path | None = None,
    chosen: Sequence[str] = (),
) -> str:
    """A Markdown table of groups of runs, and figures: of classes the paper's Table 1, of people its Table 3.

    Below a table of images that each seed draws anew, how much of the spread is the draw's; see `draw_note`.

    Args:
      groups: run folders by the name of their group; the runs of a group differ in nothing but the seed and `chosen`.
      score: the score of the paired differences; see `compare_runs`.
      reference: the group that the differences are taken from; the first by default.
      priors: adds a row of each group with the training priors divided out.
      paper: adds the paper's figures: a key of `mbjax.report.paper.ACCURACY`, or `"celeba"`.
      match: adds the study of thresholds; see `match_table`.
      figures: the folder that figures are drawn into; none if not given.
      chosen: keys of the configuration whose values each run has chosen for itself on validation data.

    Raises:
      UserError: a folder without a finished run, or what does not fit these runs.
    """
    runs = load_runs(groups, chosen=chosen)
    if figures:
        make_folder(figures)
    if "rank1_accuracy" not in runs["result"].iloc[0]["test"]:
        shown = with_priors(runs) if priors else runs
        parts = [compare_runs(shown, score=score, reference=reference, paper=paper)]
        if note := draw_note(runs, score=score):
            parts.append(note)
        if figures:
            plot_groups(figures, runs)
        if match:
            parts.append(match_table(runs, match, paper=paper))
        return "\n\n".join(parts)
    if priors or match or score:
        raise UserError("--priors, --match and --score are of classifiers, and these runs identify people")
    seeds = {str(name): group["seed"].tolist() for name, group in runs.groupby("run", sort=False)}
    rows = {
        str(name): [result["test"] for result in group["result"]] for name, group in runs.groupby("run", sort=False)
    }
    names = runs["result"].iloc[0]["data"]["groups"]
    if figures:
        faces.gap_figure(rows, groups=names).savefig(figures / "gap.png", dpi=150)
        faces.training_figure(runs).savefig(figures / "training.png", dpi=150)
        first = {name: scores[0] for name, scores in rows.items()}
        plots.verification_figure(first).savefig(figures / "verification.png", dpi=150)
    return faces.table3(
        rows, groups=names, seeds=seeds, reference=reference, overlap=overlap_of(runs), paper=paper == "celeba"
    )
