"""A comparison's page: what to use, in words first; then a figure, a table of few columns, and all else folded."""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mbjax import atomic, sealed, versions
from mbjax.compare import figures
from mbjax.compare import table as tables_lib
from mbjax.report import page, tables, theme
from mbjax.report.names import TITLES
from mbjax.report.numbers import Numbers
from mbjax.rows import Row
from mbjax.types import first_line

log = logging.getLogger("mbjax")
MORE = {  # columns of the folded table, where the runs have them
    "average_precision": "average precision", "balanced_accuracy": "balanced accuracy", "accuracy": "accuracy",
    "threshold_balanced_accuracy": "balanced accuracy at the validation threshold", "g_mean": "G-mean",
    "minority_accuracy": "minority-class accuracy", "log_loss": "log loss", "calibration_error": "calibration error",
    "rank1_gap": "gap between groups", "verification_auc": "verification AUC",
}  # fmt: skip
SECOND = ("average_precision", "minority_accuracy", "rank1_gap")  # of the first table: the first that the runs have


@dataclasses.dataclass(frozen=True)
class Compared:
    """What a page is of.

    Attributes:
      lines: of `results.jsonl`, some of them good.
      rows: the task's.
      task: the data's name, for the title.
      select: what settings were chosen on, `"validation"` or `"test"`.
      overlap: of the seeds' splits, see `mbjax.report.tables.paired_difference`.
      paper: the paper's scores and their errors by row, where it has any.
      left: the titles of rows that are not done yet.
      notes: of the data; warnings among them are shown before all else.
    """

    lines: Sequence[Mapping[str, Any]]
    rows: Mapping[str, Row]
    task: str
    select: str
    overlap: float
    paper: Mapping[str, tuple[float, float | None]]
    left: Sequence[str] = ()
    notes: Sequence[str] = ()


def leave(out: pathlib.Path, compared: Compared) -> dict[str, Any]:
    """`write`, whose failure is one line of the log: the runs are done. Nothing where no run has ended well."""
    if not any(line["status"] == "ok" for line in compared.lines):
        return {}
    try:
        return write(out, compared)
    except Exception as error:
        log.warning("%s was not made: %s", out / page.PAGE, first_line(error))
        return {}


def write(out: pathlib.Path, compared: Compared) -> dict[str, Any]:
    """Writes `report.html`, `report.json` with its numbers, and `comparison.png`; returns the numbers."""
    facts, templates = json.loads(json.dumps(facts_of(compared))), page.environment()
    shown = {"numbers": Numbers({"report": facts}), "report": facts}
    words: Any = templates.get_template("answer.html").make_module(shown)
    facts["answer"] = " ".join(words.answer().striptags().split())
    with theme.drawing():
        figure = figures.comparison(facts["rows"], score=facts["title"], use=facts["use"])
        chart = theme.chart(figure, "comparison", "Every row", _alt(facts), folder=out)
    atomic.write_text(out / page.FACTS, sealed.dumps(facts, indent=2) + "\n")
    text = templates.get_template("comparison.html").render(
        **shown, chart=chart, more=MORE, versions=versions.packages(), title=f"Comparison on {compared.task}"
    )
    atomic.write_text(out / page.PAGE, text)
    return facts


def _alt(facts: Mapping[str, Any]) -> str:
    """What the figure shows, in words."""
    text = f"Mean test {facts['title']} of every row, the best on top."
    if not facts["decided"]:
        return f"{text} The dotted line is the row that is recommended."
    return (
        f"{text} The dotted line is the row that is recommended, bars are 95% intervals of the difference from it, "
        "paired by seed: a row whose bar touches the line cannot be told from it."
    )


def facts_of(compared: Compared) -> dict[str, Any]:
    """The numbers of the page, as JSON can hold them."""
    rows, lines = compared.rows, compared.lines
    runs: Any = tables_lib.frame_of(lines)
    score, trained = tables_lib.score_of(runs), runs.drop_duplicates("key")  # some rows share theirs
    tuned = f"validation_{score}" in runs
    chosen: Any = tables_lib.choose(runs, score, compared.select)
    groups = {name: chosen[chosen["row"] == name].set_index("seed") for name in tables_lib.shown(chosen, rows)}
    means: Any = pd.Series({name: group[f"test_{score}"].mean() for name, group in groups.items()})
    by_validation = tuned and compared.select == "validation"
    merit: Any = tables_lib.judged(runs)[[*groups]] if by_validation else means
    facts = {
        "score": score, "title": TITLES[score], "task": compared.task,
        "by": "validation" if by_validation else "test",
        "how": tables_lib.how_chosen(tuned, compared.select).replace("**", ""),
        "seeds": int(chosen["seed"].nunique()), "runs": len(trained),
        "interval": tables.interval_note(compared.overlap), "seconds": float(trained["seconds"].sum()),
        "code": sorted({line["code"] for line in lines}),
        "failed": _failures(lines, groups, rows), "left": list(compared.left),
        "warnings": [note for note in compared.notes if note.startswith("warning")],
        "notes": [note for note in compared.notes if not note.startswith("warning")],
    }  # fmt: skip
    facts |= advise(groups, rows, merit, f"test_{score}", compared.overlap)
    total = runs.groupby("row")["seconds"].sum()
    facts["rows"] = [
        _row(name, groups, compared, facts, tuned, float(total.get(name, 0.0)))
        for name in means.sort_values(ascending=False, kind="stable").index
    ]
    place = {row["name"]: number for number, row in enumerate(facts["rows"])}
    facts["places"] = {key: place[facts[key]] for key in ("use", "rival") if facts[key] is not None}
    facts["second"] = next((name for name in SECOND if f"test_{name}" in runs), None)
    facts["controls"] = _controls(groups, rows, f"test_{score}", compared)
    return facts


def advise(
    groups: Mapping[str, Any], rows: Mapping[str, Row], merit: Any, column: str, overlap: float
) -> dict[str, Any]:
    """What to use: the simplest row that none is better than beyond its error.

    What is no network is simpler than a network, and naive training simpler than other networks. Of the simple rows
    and of the others the one of most merit is taken, and one paired difference decides between the two.

    Args:
      groups: the chosen runs of each row, by seed.
      rows: the task's.
      merit: how good each row is, by its name: on validation data, where there is any.
      column: of the score that is compared.
      overlap: of the seeds' splits.

    Returns:
      `use` and `rival`, names of rows (no rival if there is one row alone); `simple`, the simple row of the two; `kind`
      of the others, `"network"` or `"method"`; `difference`, `half`: of the rival from the simple row, `decided`:
      whether the seeds give the difference an error; `above`: the rows that are above what is used beyond their own
      error; `near`: those that cannot be told from it, and `spread`, how far the means of these lie apart.
    """
    references = [name for name in groups if rows[name].family == "reference"]
    simple = references or [name for name in groups if name == "naive"]
    others = [name for name in groups if name not in simple] if simple else [*groups]
    first, second = (str(merit[names].idxmax()) if names else None for names in (simple, others))
    base, rival = first or second, second if first else None

    def difference(name: str, other: str) -> tuple[float, float, int]:
        return tables.paired_difference(groups[name][column], groups[other][column], overlap)

    mean, half, _ = difference(str(rival), str(base)) if rival else (0.0, np.nan, 0)
    decided = bool(np.isfinite(half))
    use = str(rival) if rival and (mean > half if decided else mean > 0) else str(base)
    differences = {name: difference(name, use)[:2] for name in groups if name != use}
    near = [name for name, (d, h) in differences.items() if abs(d) <= h]
    level = [groups[name][column].mean() for name in (use, *near)]
    return {
        "use": use, "rival": (base if use == rival else rival), "simple": base, "network": rival,
        "kind": "network" if references else "method", "decided": decided, "difference": float(mean),
        "half": _finite(half), "above": [name for name, (d, h) in differences.items() if d > h],
        "near": near, "near_count": len(near), "others": len(differences), "spread": float(max(level) - min(level)),
    }  # fmt: skip


def _row(
    name: str,
    groups: Mapping[str, Any],
    compared: Compared,
    facts: Mapping[str, Any],
    tuned: bool,
    total: float,
) -> dict[str, Any]:
    """The numbers of one row."""
    group, score, row = groups[name], f"test_{facts['score']}", compared.rows[name]
    about: dict[str, Any] = {
        "name": name, "title": row.title, "family": row.family, "seeds": len(group),
        **_mean(group[score], compared.overlap),
        "seconds": float(group["seconds"].mean()), "total_seconds": total,
        "settings": tables_lib.settings_of(group["settings"]) if tuned else "",
    }  # fmt: skip
    for other in ("use", "naive"):
        base = facts["use"] if other == "use" else "naive"
        if base in groups and base != name:
            mean, half, seeds = tables.paired_difference(group[score], groups[base][score], compared.overlap)
            about[f"from_{other}"] = {"mean": _finite(mean), "half": _finite(half), "seeds": seeds}
    for more in MORE:
        if f"test_{more}" in group and group[f"test_{more}"].notna().any():
            about[more] = _mean(group[f"test_{more}"], compared.overlap)
    if name in compared.paper:
        about["paper"] = compared.paper[name][0]
    return about


def _mean(values: Any, overlap: float) -> dict[str, float | None]:
    """The mean over seeds and half of its 95% interval, as of a difference from nothing."""
    mean, half, _ = tables.paired_difference(values, 0 * values, overlap)
    return {"mean": float(mean), "half": _finite(half)}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _controls(
    groups: Mapping[str, Any], rows: Mapping[str, Row], column: str, compared: Compared
) -> list[dict[str, Any]]:
    """MetaBalance minus naive training and each of its controls: where its gain, if any, comes from."""
    found = []
    for name in (name for name in groups if rows[name].family == "metabalance"):
        for other in (other for other in groups if other == "naive" or rows[other].family == "control"):
            pair = groups[name][column], groups[other][column]
            mean, half, _ = tables.paired_difference(*pair, compared.overlap)
            if np.isfinite(half):
                found.append({"row": rows[name].title, "other": rows[other].title, "mean": mean, "half": half,
                              "clear": bool(abs(mean) > half)})  # fmt: skip
    return found


def _failures(
    lines: Sequence[Mapping[str, Any]], groups: Mapping[str, Any], rows: Mapping[str, Row]
) -> list[dict[str, Any]]:
    """What could not run, and why: a row's title, the reason, and how many seeds."""
    return [
        {"title": rows[name].title, "reason": reason, "seeds": len(seeds), "none": name not in groups}
        for (name, reason), seeds in tables_lib.failed(lines).items()
    ]
