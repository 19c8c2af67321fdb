"""The table of a comparison whose runs have folders of their own: images and faces."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mbjax import report
from mbjax.compare.plan import Task
from mbjax.compare.table import failures
from mbjax.evaluation import metrics
from mbjax.report.paper import ACCURACY
from mbjax.types import Dataset


def make_table(lines: Sequence[Mapping[str, Any]], task: Task, out: pathlib.Path, *, dataset: Dataset) -> str:
    """The comparison as Markdown, and its figures in `out`: those of `mbjax.report`.

    Args:
      lines: of `results.jsonl`.
      task: what is compared on.
      out: the comparison's folder.
      dataset: the task's.
    """
    chosen = _choose(line for line in lines if line["status"] == "ok")
    groups: dict[str, list[pathlib.Path]] = {}
    for name in task.rows:
        own = [line for (row, _), line in sorted(chosen.items()) if row == name]
        if own:
            groups[name] = [out / line["folder"] for line in own]
    if not groups:
        return "No run has ended well.\n" + failures(lines, set(), task.rows)
    options: dict[str, Any] = {"reference": "naive"} if "naive" in groups else {}
    paper = f"{dataset_name(dataset)}_{task.scenario}"
    if dataset.kind == "classification":
        options |= {"priors": True, "paper": paper if paper in ACCURACY else None}
        if {"naive", "metabalance"} <= set(groups):
            options["match"] = "naive:metabalance"
    table = report.compare(groups, figures=out, chosen=[*task.grid], **options)
    facts = [f"Code: {', '.join(sorted({line['code'] for line in lines}))}."]
    if task.grid:
        facts.append(f"Each row and seed chose {', '.join(task.grid)} on its validation part: {_settings(chosen)}.")
    parts = [" ".join(facts), table, failures(lines, set(groups), task.rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def dataset_name(dataset: Dataset) -> str:
    return "cifar10" if "cifar" in dataset.source.lower() else dataset.source


def _choose(lines: Any) -> dict[tuple[str, int], Mapping[str, Any]]:
    """Of each row and seed the line of the best validation score."""
    best: dict[tuple[str, int], Mapping[str, Any]] = {}
    for line in lines:
        place = (line["row"], line["seed"])
        if place not in best or _score(line) > _score(best[place]):
            best[place] = line
    return best


def _score(line: Mapping[str, Any]) -> float:
    scores = line.get("validation")
    return scores[metrics.primary(scores)] if scores else 0.0


def _settings(chosen: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    rows: dict[str, list[str]] = {}
    for (row, _), line in sorted(chosen.items()):
        rows.setdefault(row, []).append("/".join(str(value) for value in line["settings"].values()))
    return "; ".join(f"{row} {', '.join(values)}" for row, values in rows.items())
