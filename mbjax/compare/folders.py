"""The table of a comparison whose runs have folders of their own: images and faces."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mbjax import report
from mbjax.compare.plan import Task
from mbjax.compare.table import choose, failures, frame_of, score_of, settings_of, shown
from mbjax.report.paper import ACCURACY


def make_table(
    lines: Sequence[Mapping[str, Any]], *, task: Task, name: str, kind: str, select: str, out: pathlib.Path
) -> str:
    """The comparison as Markdown, and its figures in `out`: those of `mbjax.report`.

    Args:
      lines: of `results.jsonl`.
      task: what is compared on.
      name: the configuration's, such as `cifar10`; with the task's scenario it names the paper's figures.
      kind: of the data set, `Dataset.kind`.
      select: what settings were chosen on, `"validation"` or `"test"`.
      out: the comparison's folder.
    """
    runs = frame_of(lines)
    if runs.empty:
        return "No run has ended well.\n" + failures(lines, (), task.rows)
    runs = choose(runs, score_of(runs), select).sort_values("seed")
    chosen = {row: runs[runs["row"] == row] for row in shown(runs, task.rows)}
    groups = {row: [out / folder for folder in own["folder"]] for row, own in chosen.items()}
    options: dict[str, Any] = {"reference": "naive"} if "naive" in groups else {}
    if kind == "classification":
        paper = f"{name}_{task.scenario}"
        options |= {"priors": True, "paper": paper if {*ACCURACY.get(paper, ())} & {*groups} else None}
        if {"naive", "metabalance"} <= set(groups):
            options["match"] = "naive:metabalance"
    table = report.compare(groups, figures=out, chosen=[*task.grid], **options)
    facts = [f"Code: {', '.join(sorted({line['code'] for line in lines}))}."]
    if task.grid:
        settings = "; ".join(f"{row} {settings_of(own['settings'])}" for row, own in chosen.items())
        facts.append(f"Each row and seed chose {', '.join(task.grid)} on its {select} part, most often: {settings}.")
    parts = [" ".join(facts), table, failures(lines, groups, task.rows)]
    return "\n\n".join(part for part in parts if part) + "\n"
