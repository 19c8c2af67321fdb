"""The comparison: it plans the runs, does those that are missing, and writes the page and the table."""

import contextlib
import functools
import logging
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import tqdm

from mbjax import atomic, data, sealed, versions
from mbjax import config as config_lib
from mbjax.compare import best, figures, folders, page, plan, work, workers
from mbjax.compare import table as comparison
from mbjax.options import shown
from mbjax.report import paper
from mbjax.types import Config, Dataset, UserError

log = logging.getLogger("mbjax")


FIRST = (  # what says most soonest, if the comparison is stopped
    *("logistic_regression_balanced", "naive", "over", "metabalance", "no_adaptation"),
    *("boosting", "boosting_balanced", "logistic_regression", "under"),
)
T = TypeVar("T")
R = TypeVar("R")


class Limit:
    """When a comparison begins nothing more: when as long a unit as the longest so far would not end in time.

    Args:
      minutes: from now; None for no limit.
    """

    def __init__(self, minutes: float | None):
        self._end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self._longest = 0.0

    def took(self, seconds: float) -> None:
        self._longest = max(self._longest, seconds)

    def is_over(self) -> bool:
        return time.monotonic() + self._longest > self._end


class Comparison(NamedTuple):
    """A comparison's table, in Markdown, the lines of its runs, and what to use, in words: see `page.advise`."""

    table: str
    lines: list[dict[str, Any]]
    answer: str = ""


def run_comparison(
    config: Config | str,
    dataset: plan.Source = None,
    *,
    out: str | os.PathLike[str],
    rows: Sequence[str] | None = None,
    seeds: int | Sequence[int] = 10,
    tune: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Compares methods on the same splits, and writes the page, the table and figures.

    What `out` holds already is not done again.

    Args:
      config: a configuration, or a file of `configs/`.
      dataset: what is trained and tested on, or a function of the seed that gives it, which worker processes get by
        pickle; if None, what the configuration names. To tune it needs a split `"validation"`.
      out: the comparison's folder.
      rows: of `mbjax.compare.rows.ROWS`, or of the file's own; all if None.
      seeds: how many, or which.
      tune: whether rows choose their settings on the validation split.
      **options: of `complete`: `select`, `jobs`, `backend`, `scheduler`, `shard`, `minutes`, `save_best`.

    Returns:
      One row for each run that ended well: `row`, `seed`, `settings` (JSON), `seconds`, and the scores of each split,
      such as `test_roc_auc`.

    Raises:
      UserError: see `complete`.

    Example:
      >>> runs = mbjax.run_comparison(settings, dataset, rows=("naive", "metabalance"), out="runs/mine")
      >>> runs.groupby("row")["test_balanced_accuracy"].mean()
    """
    task = plan.Task(config, tune=tune, dataset=dataset)
    chosen = range(seeds) if isinstance(seeds, int) else seeds
    done = complete(task, names=plan.names_of(task, rows), seeds=chosen, out=pathlib.Path(out), **options)
    return comparison.frame_of(done.lines)


def compare(task: plan.Task, **options: Any) -> str:
    """The table of a comparison, which it completes first; the options are those of `complete`."""
    return complete(task, **options).table


def complete(
    task: plan.Task,
    *,
    names: Sequence[str],
    seeds: Sequence[int],
    out: pathlib.Path,
    select: str = "validation",
    jobs: int = 1,
    backend: str = "loky",
    scheduler: str = "",
    shard: tuple[int, int] | None = None,
    minutes: float | None = None,
    save_best: bool = False,
) -> Comparison:
    """Does what is missing and writes the page, the table and figures.

    Args:
      task: what is compared on.
      names: of rows.
      seeds: of the runs.
      out: the comparison's folder.
      select: what settings are chosen on, `"validation"` or `"test"`.
      jobs: how many runs are done at a time, each by a process of its own; 1 for none but this one. Of a cluster,
        which has its own number of workers, it does not matter.
      backend: joblib's name of what does them: `"loky"`, processes of this machine, or `"dask"` or `"ray"`, a cluster.
      scheduler: the address of a Dask scheduler; a cluster of this machine if empty.
      shard: `(i, n)`: only the i-th of n parts of the work.
      minutes: after which nothing more is begun; the table then has the rows that are whole.
      save_best: whether the model of the row that the page recommends is kept; see `mbjax.compare.best.save`.

    Returns:
      The table, the runs that it is of, and the answer.

    Raises:
      UserError: a mistake in the configuration, data that no row can use, or nothing that ended well.
    """
    limit = Limit(minutes)
    plan.check_options(task, names)
    loaded = _load_first(task, names[0], seeds[0])
    searches = [after for name in names if (after := task.rows[name].after) and after not in names]
    planned = functools.partial(plan.plan, task, [*searches, *names], seeds, data_digest=data.digest(loaded))
    file = out / (f"results-{shard[0]}.jsonl" if shard else "results.jsonl")
    with locked(out, shard):
        read(out, say=True)
        runs = plan.distinct(planned())
        pool = workers.Pool(jobs, backend, scheduler)
        do_missing = functools.partial(
            do_missing_runs, out=out, file=file, pool=pool, shard=shard, source=task.dataset, limit=limit
        )
        do_missing(runs)
        if searches:
            runs = plan.distinct(planned(found=plan.found_settings(searches, runs, read(out), seeds)))
            do_missing([run for run in runs if task.rows[run.row].after])
        done = read(out)
        left = dict.fromkeys(run.row for run in runs if run.key not in done)
        if left:
            log.warning("not done yet, and left out: %s; the same command does them", ", ".join(left))
        lines = [{**done[run.key], "row": run.row} for run in runs if run.row not in left]
        if not lines:
            return Comparison("no row is whole yet\n", [])
        if not runs[0].alone:
            lines += [adjusted(line, row) for row in names if (like := task.rows[row].like) for line in lines
                      if line["row"] == like and line["status"] == "ok"]  # fmt: skip
        if all(line["status"] != "ok" for line in lines):
            raise UserError(f"no run has ended well; the first: {lines[0]['reason']}")
        table, facts = _write(task, loaded, lines, alone=runs[0].alone, select=select, out=out)
        if facts and save_best:
            use = task.rows[facts["use"]].like or facts["use"]
            key = comparison.choose(comparison.frame_of(lines), facts["score"], select).query("row == @use")["key"]
            run = next(run for run in runs if run.key in set(key))
            log.info("the best, %s", best.save(run, task.rows[use].title, out, task.dataset))
        return Comparison(table, lines, facts.get("answer", ""))


def _load_first(task: plan.Task, name: str, seed: int) -> Dataset:
    """The data of the first run: mistakes show before the work."""
    config = task.config(name)
    config.seed = seed
    first = config_lib.validate(config)
    loaded = plan.load(task.dataset, first)
    if task.grid and "validation" not in loaded.splits:
        raise UserError(
            f"config.data.validation_share={first.data.get('validation_share')}: rows that choose their settings need "
            "one above 0, or a data set with a validation split; --notune (tune=False) leaves them those of the "
            "configuration"
        )
    return loaded


def _write(
    task: plan.Task, loaded: Dataset, lines: list[dict[str, Any]], *, alone: bool, select: str, out: pathlib.Path
) -> tuple[str, dict[str, Any]]:
    """Writes the tables, the figures and the page; returns the table and the page's numbers."""
    # The paper has no figures for data of one's own.
    name = task.config(lines[0]["row"]).task if task.dataset is None else loaded.source
    if alone:
        table = folders.make_table(lines, task=task, name=name, kind=loaded.kind, select=select, out=out)
    else:
        shared: dict[str, Any] = {"rows": task.rows, "task": name}
        table = comparison.make_table(lines, select=select, overlap=loaded.overlap, **shared)
        figures.plot_pairs(lines, out / "pairs.png", **shared)
    atomic.write_text(out / "table.md", table)
    atomic.write_text(out / "times.md", comparison.make_times(lines, task.rows))
    compared = page.Compared(lines, task.rows, name, select, loaded.overlap, paper.of(name, task.scenario))
    return table, page.leave(out, compared)


@contextlib.contextmanager
def locked(out: pathlib.Path, shard: tuple[int, int] | None) -> Iterator[None]:
    """Makes the folder and holds it during the block. Shards share it, and each holds its own part.

    Raises:
      UserError: the folder cannot be made, or another process holds it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"--out={shown(str(out))}: {getattr(error, 'strerror', error)}") from None
    part = contextlib.nullcontext() if shard is None else atomic.locking(out / f".lock-{shard[0]}", "--shard or --out")
    with atomic.locking(out / ".lock", "--out", shared=shard is not None), part:
        yield


def do_missing_runs(
    runs: Sequence[plan.Run],
    *,
    out: pathlib.Path,
    file: pathlib.Path,
    pool: workers.Pool,
    shard: tuple[int, int] | None,
    source: plan.Source,
    limit: Limit,
) -> None:
    """Does the runs that have not ended well yet; the arguments are those of `complete`.

    Args:
      file: in `out`, for the lines.
      source: of `Task.dataset`.
      limit: when nothing more is begun.
    """
    units = plan.units_of(runs)
    # After those of FIRST the largest, so that no process ends long before the others; a shard takes every n-th.
    units.sort(key=lambda unit: (FIRST.index(unit[0].row) if unit[0].row in FIRST else len(FIRST), -len(unit)))
    if shard:
        units = units[shard[0] :: shard[1]]
    ended = {key for key, line in read(out).items() if line["status"] == "ok"}
    units = [left for unit in units if (left := [run for run in unit if run.key not in ended])]
    code = versions.commit()
    total = sum(map(len, units))
    log.info("%d runs to do, of %d rows; %d are done", total, len({u[0].row for u in units}), len(runs) - total)
    progress = tqdm.tqdm(total=total, unit="run", disable=not sys.stderr.isatty(), dynamic_ncols=True)
    do = functools.partial(_timed, functools.partial(work.do, code=code, out=out, source=source))
    lost = lambda unit: (work.lost(unit, code), 0.0)  # noqa: E731
    started, done = time.monotonic(), 0
    with progress:
        for number, (lines, seconds) in enumerate(pool.map(do, units, lost=lost, is_over=limit.is_over), 1):
            append(file, lines)
            limit.took(seconds)
            done += len(lines)
            progress.update(len(lines))
            progress.set_postfix_str(lines[0]["row"])
            if progress.disable:
                left = (time.monotonic() - started) / done * (total - done) / 60
                row, runs_done = lines[0]["row"], len(lines)
                log.info("%d of %d units: %s, %d runs; about %.0f min left", number, len(units), row, runs_done, left)


def _timed(do: Callable[[T], R], unit: T) -> tuple[R, float]:
    """What `do` gives, and the seconds that it took."""
    started = time.monotonic()
    return do(unit), time.monotonic() - started


def adjusted(line: Mapping[str, Any], row: str) -> dict[str, Any]:
    """The line of a row that takes another's runs and divides the training priors out of what they predict."""
    parts = {part: line[f"priors_{part}"] for part in ("validation", "test", "validation_halves") if part in line}
    return {**line, "row": row, **parts}


def read(out: pathlib.Path, *, say: bool = False) -> dict[str, dict[str, Any]]:
    """The lines of every results file of a folder, by their run's key.

    A last line that a kill cut short is left out; so are damaged lines, whose runs are then missing:
    `say` logs how many.
    """
    lines, damaged = {}, 0
    for file in sorted(out.glob("results*.jsonl")):
        for text in file.read_bytes().decode(errors="replace").rpartition("\n")[0].splitlines():
            try:
                line = sealed.loads(text)
                if not isinstance(line["status"], str):
                    raise sealed.Damaged("it has no status")
                lines[str(line["key"])] = line
            except (sealed.Damaged, KeyError, TypeError):
                damaged += 1
    if damaged and say:
        log.warning("%s: %d damaged lines of results are left out, and their runs done again", out, damaged)
    return lines


def append(file: pathlib.Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Adds the lines of a unit in one write, after the last whole line: a kill, or a full disk, may have cut one."""
    with file.open("a+b") as stream:
        whole = stream.seek(0) or stream.read().rfind(b"\n") + 1
        stream.truncate(whole)
        try:
            stream.write("".join(sealed.dumps(line) + "\n" for line in lines).encode())
            stream.flush()
            os.fsync(stream.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(file, whole)
            raise
