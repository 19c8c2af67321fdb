"""What a run or a group of runs scored, as text."""

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mbjax import config, sealed
from mbjax.evaluation import metrics
from mbjax.report.paper import ACCURACY
from mbjax.types import UserError

SCORES = ("roc_auc", "average_precision", "accuracy", "balanced_accuracy", "g_mean", "log_loss", "calibration_error")
BY_CLASS = ("majority_accuracy", "minority_accuracy")
PRIORS, MATCHED = ", priors divided out", ", majority accuracy matched"  # of a row's name: what was done to its group


def describe(result: dict[str, Any]) -> str:
    """The scores of one run on its test split, and what it was trained on."""
    data, test = result["data"], result["test"]
    names, counts = (
        data[key] for key in (("classes", "class_counts") if "classes" in data else ("groups", "group_counts"))
    )
    lines = [
        f"{result['method']} on {result['task']} ({data['source']}), seed {result['seed']}: "
        f"{result['updates']} updates in {result['seconds']:.1f} s on {result['device']}",
        "training examples: " + _by_class(names, counts["train"]),
    ]
    if "rank1_accuracy" in test:
        return "\n".join([*lines, *_identification(test)])
    shown = SCORES if len(names) == 2 else (*SCORES, *BY_CLASS)
    lines += [f"test {name:<18} {test[name]:.4f}" for name in shown if name in test]
    lines.append("test class_accuracy: " + _by_class(names, [f"{a:.3f}" for a in test["class_accuracy"]]))
    return "\n".join(lines)


def _identification(test: Mapping[str, Any]) -> list[str]:
    """Lines of the scores of people; in brackets the 95% bootstrap interval over identities."""
    lines = []
    for name in (name for name in test if f"{name}_interval" in test):
        low, high = test[f"{name}_interval"]
        lines.append(f"test {name:<22} {test[name]:.4f} [{low:.4f}, {high:.4f}]")
    return [*lines, *(f"test {name:<22} {test[name]:.4f}" for name in ("true_accept_rate", "verification_auc"))]


def _by_class(classes: Sequence[str], values: Sequence[Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(classes, values, strict=True))


def found(
    folder: pathlib.Path, name: str, advice: str = "no finished run: run it first, or leave it out"
) -> pathlib.Path:
    """A file of a finished run's folder.

    Raises:
      UserError: it is missing; `advice` says what to do.
    """
    if not (folder / name).exists():
        raise UserError(f"{folder}: {name} is missing: {advice}")
    return folder / name


def load_runs(groups: Mapping[str, Sequence[str | pathlib.Path]], *, chosen: Sequence[str] = ()) -> pd.DataFrame:
    """One row per finished run: its group's name (`run`), `folder`, `seed`, cost, test scores, and its whole `result`.

    Args:
      groups: run folders by the name of their group. The runs of a group differ in nothing but the seed and `chosen`.
      chosen: keys of the configuration whose values each run has chosen for itself on validation data.

    Raises:
      UserError: a folder without a finished run, a group of runs that differ in more than the seed or do not differ in
        it, or runs that were tested by different protocols.
    """
    rows: list[dict[str, Any]] = []
    for name, folders in groups.items():
        first: dict[str, Any] = {}
        seeds: set[int] = set()
        for folder in map(pathlib.Path, folders):
            row = _load_run(folder)
            settings = config.flatten(read(folder, "config.json"))
            # The others do not change what is computed: where the data lies, and how many devices share the work.
            free = ("seed", "data.dir", "parallel", *chosen)
            settings = {key: value for key, value in settings.items() if key not in free}
            first = first or settings
            if changed := [key for key in sorted(first | settings) if first.get(key) != settings.get(key)]:
                raise UserError(f"{folder}: {changed[0]} differs from that of {folders[0]}: give it another group")
            if row["seed"] in seeds:
                raise UserError(f"{folder}: seed {row['seed']} is in {name!r} twice: leave one out")
            seeds.add(row["seed"])
            rows.append({"run": name, **row})
            if row["protocol"] != rows[0]["protocol"]:
                one, other = (f"{r['folder']} by {r['protocol']!r}" for r in (row, rows[0]))
                raise UserError(f"protocols of testing differ, {one}, {other}: give them tables of their own")
    return pd.DataFrame(rows)


def read(folder: pathlib.Path, name: str) -> dict[str, Any]:
    """The content of a run's `config.json` or `result.json`; a UserError if it is missing or damaged."""
    try:
        return sealed.read(found(folder, name))
    except sealed.Damaged as error:
        raise UserError(f"{folder / name} is damaged ({error}): run it again, or leave it out") from None


def _load_run(folder: pathlib.Path) -> dict[str, Any]:
    result = read(folder, "result.json")
    protocol = result.get("protocol", "clean")  # runs older than the choice are clean
    columns = {"folder": folder, "protocol": protocol, **{key: result[key] for key in ("seed", "updates", "seconds")}}
    scores = {name: value for name, value in result["test"].items() if name in (*SCORES, *BY_CLASS)}
    return {**columns, **scores, "result": result}


def mean_and_error(values: Sequence[float] | np.ndarray) -> str:
    """`mean ± standard error`; the mean alone for one value."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return f"{values.mean():.4f}"
    return f"{values.mean():.4f} ± {stats.sem(values):.4f}"


def paired_difference(a: Any, b: Any, overlap: float) -> tuple[float, float, int]:
    """The mean of `a − b`, half the width of its 95% interval, and how many seeds it is over.

    Seeds that split one data set share most of their examples, so their differences are correlated, and a plain t
    interval is too narrow. The variance of the mean of `J` differences `d` is taken as `(1/J + overlap) var(d)` in
    place of `var(d) / J`: the corrected resampled t test of Nadeau and Bengio (2003, "Inference for the Generalization
    Error", Machine Learning 52). It is conservative. `python -m benchmarks.coverage` measures what both cover.

    Args:
      a, b: pandas Series by seed; seeds that only one of them has are left out.
      overlap: test examples over training examples, `Dataset.overlap`; 0 gives the plain t interval.
    """
    difference = (a - b).dropna().to_numpy(float)
    seeds = len(difference)
    if seeds < 2:
        return float(difference.mean()) if seeds else math.nan, math.nan, seeds
    error = math.sqrt(1 / seeds + overlap) * difference.std(ddof=1)
    return float(difference.mean()), float(stats.t.ppf(0.975, seeds - 1) * error), seeds


def interval_note(overlap: float) -> str:
    """What the intervals of `paired_difference` are, in a sentence."""
    if overlap:
        return (
            "95% intervals of paired differences are corrected for the overlap of the seeds' splits "
            f"(Nadeau and Bengio 2003, test over training examples {overlap:.2f})."
        )
    return (
        "95% t intervals of paired differences are over draws of the training part; the test part is the same for all "
        "seeds."
    )


Column = Callable[[str, pd.DataFrame], str]
"""A column of a table: the cell of a row, of its name and its runs by seed."""


def make_table(rows: Mapping[str, pd.DataFrame], columns: Mapping[str, Column]) -> str:
    """A Markdown table: how many seeds each row has, and a cell of each column. Every table of mbjax is made here.

    Args:
      rows: the runs of each row by its name, indexed by seed.
      columns: by their heading.

    Example:
      >>> runs = pd.DataFrame({"roc_auc": [0.5, 0.7]}, index=[0, 1])
      >>> print(make_table({"naive": runs}, {"ROC-AUC": mean_of("roc_auc")}))
      | run | seeds | ROC-AUC |
      | --- | --- | --- |
      | naive | 2 | 0.6000 ± 0.1000 |
    """
    cells = [[name, str(len(runs)), *(cell(name, runs) for cell in columns.values())] for name, runs in rows.items()]
    head = ["run", "seeds", *columns]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *cells))


def mean_of(score: str, show: Callable[[np.ndarray], str] = mean_and_error) -> Column:
    """The column of a score, as `show` shows its values over seeds."""
    return lambda _, runs: show(runs[score].to_numpy())


def difference_from(rows: Mapping[str, pd.DataFrame], reference: str, score: str, overlap: float) -> Column:
    """The column of the paired differences of a score from the row `reference`."""

    def cell(name: str, runs: pd.DataFrame) -> str:
        return difference_cell(runs[score], rows[reference][score], overlap) if name != reference else ""

    return cell


def difference_cell(a: Any, b: Any, overlap: float) -> str:
    """The paired difference of two Series by seed as text."""
    mean, half, seeds = paired_difference(a, b, overlap)
    if seeds < 2:
        return f"{mean:+.4f} (one seed)" if seeds else "no seed in common"
    return f"{mean:+.4f} ± {half:.4f}"


def by_group(runs: pd.DataFrame, names: Sequence[str] = ()) -> dict[str, pd.DataFrame]:
    """The groups of `load_runs` by name, each indexed by seed.

    Raises:
      UserError: one of `names` is no group.
    """
    groups = {str(name): group.set_index("seed") for name, group in runs.groupby("run", sort=False)}
    for name in names:
        if name not in groups:
            raise UserError(f"no group is named {name!r}: choose one of {', '.join(groups)}")
    return groups


def protocol_note(runs: pd.DataFrame) -> str:
    """What a table or figure must say of how its runs were tested; nothing of clean tests."""
    protocol = str(runs["protocol"].iloc[0])
    return {"clean": "", "authors": "authors' protocol: random crop and flip at test time"}.get(protocol, protocol)


def paper_cell(figures: Mapping[str, tuple[float, float | None]], name: str, decimals: int = 4) -> str:
    """The paper's figure of the row of this name, `over-mixup` and `Over mixup` alike; nothing if it has none."""
    key = name.lower().replace(PRIORS, "_priors").replace(MATCHED, "_matched").replace("-", "_").replace(" ", "_")
    mean, error = figures.get(key.removesuffix("sampling").strip("_"), (None, None))
    if mean is None:
        return ""
    # Halves go up, as one rounds by hand: 0.00165, in binary a little less, is 0.0017.
    return f"{mean:.{decimals}f}" + ("" if error is None else f" ± {error + 1e-9:.{decimals}f}")


def compare_runs(
    runs: pd.DataFrame, *, score: str | None = None, reference: str | None = None, paper: str | None = None
) -> str:
    """A Markdown table: each group's mean ± standard error over seeds, and its paired difference from a reference.

    Args:
      runs: of `load_runs`, or of `mbjax.report.analysis.with_priors`.
      score: the score of the differences; see `score_of`.
      reference: a label of `runs`; the first by default.
      paper: adds the paper's accuracies, a key of `mbjax.report.paper.ACCURACY`; None for no such column.

    Raises:
      UserError: a score or a reference that `runs` does not have, or no row that the paper has.
    """
    score, overlap = score_of(runs, score), overlap_of(runs)
    groups = by_group(runs, [reference] if reference else [])
    reference = reference or next(iter(groups))
    difference = difference_from(groups, reference, score, overlap)
    columns = {**_columns(runs), f"{score}: Δ vs {reference} (95% CI)": difference}
    if paper:
        if not any(paper_cell(ACCURACY[paper], name) for name in groups):
            raise UserError(f"--paper={paper}: name a group after one of its rows, {', '.join(ACCURACY[paper])}")
        columns["the paper's accuracy"] = lambda name, _: paper_cell(ACCURACY[paper], name)
    note = protocol_note(runs)
    return (f"Tested by the {note}.\n\n" if note else "") + f"{make_table(groups, columns)}\n\n{interval_note(overlap)}"


def overlap_of(runs: pd.DataFrame) -> float:
    """The overlap of the splits of these runs, the largest: see `paired_difference`. Older runs do not say; 0 then."""
    return max(result["data"].get("overlap", 0.0) for result in runs["result"])


def score_of(runs: pd.DataFrame, score: str | None) -> str:
    """What runs are compared by: what `mbjax.evaluation.metrics.primary` says of the columns shown, if it is not given.

    Raises:
      UserError: a score that `runs` does not have.
    """
    score = score or metrics.primary(_columns(runs))
    if score not in (valid := [name for name in (*SCORES, *BY_CLASS) if name in runs]):
        raise UserError(f"--score={score}: choose one of {', '.join(valid)}")
    return score


def _columns(runs: pd.DataFrame) -> dict[str, Column]:
    """The columns of a table of these runs."""
    if "roc_auc" in runs:
        return {name: mean_of(name) for name in SCORES if name in runs}
    names = ["accuracy", "balanced_accuracy", *BY_CLASS, "log_loss", "calibration_error"]
    if np.allclose(runs["accuracy"], runs["balanced_accuracy"], rtol=0, atol=1e-9):  # balanced test data: the same
        names.remove("balanced_accuracy")
    return {**{name: mean_of(name) for name in names}, "updates": mean_of("updates", span)}


def span(values: np.ndarray) -> str:
    """Whole numbers that are the same in most groups: one number, or from which to which."""
    low, high = int(np.min(values)), int(np.max(values))
    return f"{low}" if low == high else f"{low}–{high}"
