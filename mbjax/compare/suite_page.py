"""A suite's page: what it shows in five lines, then ranks, probabilities and regimes; and its files."""

import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mbjax import atomic, sealed, versions
from mbjax.compare import figures
from mbjax.compare.suite_facts import REGIMES, Study, TableFacts, facts_of, frame_of
from mbjax.report import page, theme
from mbjax.report.numbers import Numbers
from mbjax.report.theme import BLUE, GREEN, GREY, INK, RED
from mbjax.types import first_line

__all__ = ["RESULTS", "Study", "TableFacts", "leave", "write"]
log = logging.getLogger("mbjax")
RESULTS, TABLE = "results.parquet", "table.md"


def leave(out: pathlib.Path, study: Study) -> str:
    """`write`, whose failure is one line of the log: the runs are done. Empty where no run has ended well."""
    if not any(line["status"] == "ok" for line in study.lines):
        return ""
    try:
        return write(out, study)
    except Exception as error:
        log.warning("%s was not made: %s", out / page.PAGE, first_line(error))
        return ""


def write(out: pathlib.Path, study: Study) -> str:
    """Writes `results.parquet`, `report.html`, `report.json` and the figures; returns what the study shows."""
    with atomic.writing(out / RESULTS) as stream:
        frame_of(study).to_parquet(stream)
    facts, templates = json.loads(json.dumps(facts_of(study))), page.environment()
    shown = {"numbers": Numbers({"report": facts}), "report": facts}
    words: Any = templates.get_template("suite_answer.html").make_module(shown)
    lines = _plain(words.answer())
    facts["answer"] = lines
    with theme.drawing():
        charts = {"ranks": _ranks_chart(facts, out)}
        if facts["regimes"]:
            charts["regimes"] = _regimes_chart(facts, out)
    atomic.write_text(out / page.FACTS, sealed.dumps(facts, indent=2) + "\n")
    text = templates.get_template("suite.html").render(
        **shown, charts=charts, versions=versions.packages(), title=f"{facts['tables']} tables of {study.suite}"
    )
    atomic.write_text(out / page.PAGE, text)
    atomic.write_text(out / TABLE, markdown(facts))
    return "\n".join(lines)


def markdown(facts: Mapping[str, Any]) -> str:
    """What the study shows and the table of its rows, in Markdown."""
    titles = [f"rank, {facts['titles'][score]}" for score in facts["scores"]]
    heads = [
        "row",
        *titles,
        f"mean {facts['titles'][facts['scores'][0]]}",
        "better / same / worse than naive",
        "s per fit",
    ]
    lines = [*(f"- {line}" for line in facts["answer"]), "", f"Code: {', '.join(facts['code'])}.", ""]
    lines += ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    for row in facts["rows"]:
        counts = " / ".join(map(str, row.get("from_naive", ())))
        cells = [row["title"], *(f"{rank:.1f}" for rank in row["ranks"].values())]
        cells += [f"{row['means'][facts['scores'][0]]:.3f}", counts, f"{row['seconds']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _plain(answer: Any) -> list[str]:
    """The items of the answer as plain text."""
    items = str(answer).split("<li>")[1:]
    return [" ".join(type(answer)(item).striptags().split()) for item in items]


def _ranks_chart(facts: Mapping[str, Any], out: pathlib.Path) -> theme.Chart:
    title = f"Mean ranks in {facts['titles'][facts['scores'][0]]}"
    alt = "Mean rank of every row, the best on top; a bar joins rows that do not differ. The table has the ranks."
    return theme.chart(ranks(facts), "ranks", title, alt, folder=out)


def ranks(facts: Mapping[str, Any]) -> Figure:
    """A critical-difference diagram: each row at its mean rank, and bars beside those that do not differ."""
    rows, score = facts["rows"], facts["scores"][0]
    figure = Figure(figsize=(7.4, 0.24 * len(rows) + 1.3))
    axes: Axes = figure.subplots()
    labelled: set[str] = set()
    for place, row in enumerate(rows):
        family = row["family"]
        label = None if family in labelled else figures.FAMILIES[family]
        labelled.add(family)
        axes.plot(row["ranks"][score], place, figures.MARKS[family], color=figures.COLORS[family], label=label, ms=5)
    right = max(row["ranks"][score] for row in rows)
    step = 0.02 * max(right - 1, 1)
    for number, bar in enumerate(facts["bars"]):
        at = right + (2 + number) * step
        axes.plot([at, at], [min(bar) - 0.25, max(bar) + 0.25], color=INK, linewidth=2.2, solid_capstyle="butt")
    axes.set_yticks(range(len(rows)), [figures.shorten_title(row["title"]) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel=f"mean rank over {facts['tables']} tables (1 is best); bars join rows that do not differ")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=4)
    return figure


def _regimes_chart(facts: Mapping[str, Any], out: pathlib.Path) -> theme.Chart:
    alt = "Mean differences from naive training by thirds of the tables, with standard errors. The table has them."
    title = f"Where does what help? Δ {facts['titles'][facts['scores'][0]]} from naive training"
    return theme.chart(regimes(facts["regimes"]), "regimes", title, alt, folder=out)


def regimes(found: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel for each regime: its thirds across, the differences of some rows from naive training up."""
    figure = Figure(figsize=(9.2, 3.2))
    panels = [key for key in REGIMES if any(one["regime"] == key for one in found)]
    rows = list(dict.fromkeys(one["row"] for one in found))
    every: Any = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, key in zip(every, panels, strict=True):
        spans = sorted({(one["low"], one["high"]) for one in found if one["regime"] == key})
        for number, (row, color, mark) in enumerate(zip(rows, (RED, BLUE, GREEN, GREY), "Dosv", strict=False)):
            own = {(one["low"], one["high"]): one for one in found if (one["regime"], one["row"]) == (key, row)}
            at = [place + 0.12 * (number - 1.5) for place, span in enumerate(spans) if span in own]
            these = [own[span] for span in spans if span in own]
            errors = [one["error"] or 0 for one in these]
            axes.errorbar(
                at, [one["mean"] for one in these], yerr=errors, fmt=mark, color=color, markersize=4,
                label=these[0]["row_title"] if axes is every[0] and these else None,
            )  # fmt: skip
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xticks(range(len(spans)), [f"{low:.3g}–{high:.3g}" for low, high in spans])
        axes.set(xlabel=REGIMES[key])
    every[0].set_ylabel("Δ vs naive")
    figure.legend(loc="outside upper center", ncols=2)
    return figure
