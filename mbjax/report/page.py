"""A run's page: `report.html`, one file that needs nothing else, and its figures as PNG in `figures/`."""

import json
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2

from mbjax import atomic, config, data, predict, sealed
from mbjax.data.images.labelled import read_arrays
from mbjax.evaluation import metrics
from mbjax.report import facts, plots, run_charts, tables, theme
from mbjax.report.examine import Logits, examine
from mbjax.report.names import TITLES
from mbjax.report.numbers import Numbers
from mbjax.types import Dataset, UserError, first_line

log = logging.getLogger("mbjax")
PAGE, FACTS, FIGURES = "report.html", "report.json", "figures"
_MANY = 12  # classes of a confusion matrix that is shown whole


def environment() -> jinja2.Environment:
    """What renders the templates beside this module: everything that is not marked as HTML is escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("mbjax.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.globals.update(css=theme.css(), titles=TITLES)
    return made


def leave_page(folder: pathlib.Path, dataset: Dataset, logits: Logits | None) -> None:
    """Makes the page of a run that has just finished. Whatever goes wrong is one line of the log: the run is done."""
    try:
        write_page(folder, lambda: (dataset, logits))
    except Exception as error:
        log.warning("%s was not made (%s); mbjax report %s tries again", folder / PAGE, first_line(error), folder)


def write_page(folder: pathlib.Path, load: Any = None) -> pathlib.Path:
    """Writes `report.html`, its figures, and `report.json`: the numbers on it that `result.json` does not hold.

    Args:
      folder: of a finished run.
      load: gives the data set and the network's logits, where they have to be looked at: what a former page knew of
        them is taken from `report.json`. If None, what the run's configuration names, and its model.

    Raises:
      UserError: no finished run, or files that are damaged.
    """
    result, settings = tables.read(folder, "result.json"), tables.read(folder, "config.json")
    advice = "it is part of a finished run: restore it, or run again in a new folder"
    predictions = read_arrays(tables.found(folder, "predictions.npz", advice))
    try:
        own = facts.of_people if "groups" in result["data"] else facts.of_classes
        report = own(result, predictions)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    report |= _examined(folder, load, settings, predictions, result)
    rows = plots.metrics_rows(folder) if (folder / "metrics.jsonl").exists() else []
    documents = {"result": result, "report": json.loads(json.dumps(report)), "rows": rows}
    with theme.drawing():
        drawn = run_charts.draw(folder / FIGURES, documents, predictions)
    atomic.write_text(folder / FACTS, sealed.dumps(report, indent=2) + "\n")
    title = f"{result['method']} on {result['data']['source']}"
    shown = {"numbers": Numbers(documents), "settings": _changed(settings), "many": _MANY, "charts": drawn}
    shown |= {**documents, "folder": folder.name, "primary": metrics.primary(result["test"]), "title": title}
    page = environment().get_template("run.html").render(shown)
    atomic.write_text(folder / PAGE, page)
    return folder / PAGE


def _examined(
    folder: pathlib.Path, load: Any, settings: Mapping[str, Any], predictions: Mapping[str, Any], result: Mapping
) -> dict[str, Any]:
    """What `examine` says: now, or what it said before; why not, where neither can be had."""
    if load is None:
        before = _before(folder)
        if "importance" in before or "confused" in before:
            return {name: before[name] for name in ("images", "importance", "mistakes", "confused") if name in before}
    try:
        dataset, logits = (load or (lambda: _load(folder, settings, result)))()
        return examine(dataset, logits, predictions, result)
    except Exception as error:  # whatever a file of the user's, a plug-in or scikit-learn raises: the rest is there
        return {"unexamined": first_line(error)}


def _before(folder: pathlib.Path) -> dict[str, Any]:
    try:
        return sealed.read(folder / FACTS)
    except (OSError, sealed.Damaged):
        return {}


def _load(folder: pathlib.Path, settings: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[Dataset, Any]:
    """The data of a finished run, and its network.

    Raises:
      UserError: the data is not there any more, or is other data now.
    """
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in settings["data"].items()}
    dataset = data.load(settings["task"], seed=settings["seed"], **options)
    if data.digest(dataset) != result["data"]["digest"]:
        raise UserError(f"{dataset.source} holds other data now than when the run was trained")
    return dataset, predict.load(folder).logits if dataset.kind == "classification" else None


def _changed(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The keys of the configuration whose values are not their defaults, and these values."""
    defaults = json.loads(json.dumps(config.defaults(settings), default=str))
    flat = config.flatten(settings)
    return [(key, value) for key, value in sorted(flat.items()) if key not in defaults or defaults[key] != value]
