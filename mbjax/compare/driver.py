"""The comparison: it plans the runs, does those that are missing, and writes the page and the table."""

import contextlib
import functools
import logging
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import tqdm

from mbjax import atomic, data, sealed, versions
from mbjax import config as config_lib
from mbjax.compare import baselines, best, figures, folders, page, plan, schedule, work, workers
from mbjax.compare import table as comparison
from mbjax.options import shown
from mbjax.report import paper
from mbjax.types import Config, Dataset, UserError

log = logging.getLogger("mbjax")


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
      rows: of `mbjax.rows.ROWS`, of the file's own, or methods of other modules, `module:name`; all if None.
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
    task = plan.Task(config, tune=tune, dataset=dataset, methods=plan.methods_in(rows))
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
    """Does what is missing and writes the page, the table and figures, of what is there also if it is stopped.

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
      minutes: in which it ends; the table then has the rows that are whole.
      save_best: whether the model of the row that the page recommends is kept; see `mbjax.compare.best.save`.

    Returns:
      The table, the runs that it is of, and the answer.

    Raises:
      UserError: a mistake in the configuration, data that no row can use, or nothing that ended well.
    """
    pace = schedule.Pace(minutes, jobs)
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
            do_missing_runs, out=out, file=file, pool=pool, shard=shard, source=task.dataset, pace=pace
        )
        stopped = None
        try:
            _say_what_is_compared(runs, task, loaded, pace)
            do_missing(runs)
            if searches:
                runs = plan.distinct(planned(found=plan.found_settings(searches, runs, read(out), seeds)))
                if waited := [run for run in runs if task.rows[run.row].after]:
                    do_missing(waited)
        except KeyboardInterrupt as stop:  # Ctrl-C, SIGTERM: the table of what there is, and then the end
            stopped = stop
        done = _summarize(task, loaded, runs, names, seeds, select=select, out=out, save_best=save_best and not stopped)
        if stopped:
            log.info("%s", done.answer or done.table.strip())
            raise stopped
        return done


def _say_what_is_compared(runs: Sequence[plan.Run], task: plan.Task, loaded: Dataset, pace: schedule.Pace) -> None:
    """What is going to be done; and what cannot be, for a package is missing."""
    names = [name for name in dict.fromkeys(run.row for run in runs) if task.rows[name].family != "search"]
    seeds = len({run.seed for run in runs})
    limit = "" if pace.minutes is None else f", for at most {pace.minutes:.2g} minutes"
    log.info("comparing %d rows on %s, each with %d seeds%s", len(names), loaded.source, seeds, limit)
    for note in loaded.notes:
        log.info("%s", note)
    lack = {name: package for name in names if (package := baselines.missing_package(task.rows[name].estimator))}
    if lack:
        packages = ", ".join(dict.fromkeys(lack.values()))
        log.warning("no %s: %s not installed (%s)", ", ".join(lack), packages, baselines.install(*lack.values()))


def _summarize(
    task: plan.Task, loaded: Dataset, runs: Sequence[plan.Run], names: Sequence[str], seeds: Sequence[int], *,
    select: str, out: pathlib.Path, save_best: bool,
) -> Comparison:  # fmt: skip
    """Writes the tables and the page of the runs that have ended."""
    done = read(out)
    shown, common, left = schedule.whole(runs, done, seeds)
    left = [name for name in names if name in left or task.rows[name].after in left]
    if left:
        log.warning("not done yet, and left out: %s; the same command does them", ", ".join(left))
    if shown and len(common) < len(seeds):
        log.warning("the table has %d of the %d seeds, those that all its rows have done", len(common), len(seeds))
    lines = [{**done[run.key], "row": run.row} for run in runs if run.row in shown and run.seed in common]
    if not lines:
        return Comparison("no row is whole yet\n", [])
    if not runs[0].alone:
        lines += [adjusted(line, row) for row in names if (like := task.rows[row].like) for line in lines
                  if line["row"] == like and line["status"] == "ok"]  # fmt: skip
    if all(line["status"] != "ok" for line in lines):
        raise UserError(f"no run has ended well; the first: {lines[0]['reason']}")
    left = [task.rows[row].title for row in left]
    table, facts = _write(task, loaded, lines, left, alone=runs[0].alone, select=select, out=out)
    if facts and save_best:
        use = task.rows[facts["use"]].like or facts["use"]
        key = comparison.choose(comparison.frame_of(lines), facts["score"], select).query("row == @use")["key"]
        run = min((run for run in runs if run.key in set(key)), key=lambda run: run.seed)
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
    task: plan.Task, loaded: Dataset, lines: list[dict[str, Any]], left: Sequence[str], *, alone: bool, select: str,
    out: pathlib.Path,
) -> tuple[str, dict[str, Any]]:  # fmt: skip
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
    compared = page.Compared(
        lines, task.rows, loaded.source, select, loaded.overlap, paper.of(name, task.scenario), left, loaded.notes
    )
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
    pace: schedule.Pace,
) -> None:
    """Does the runs that have not ended well yet; the arguments are those of `complete`.

    Args:
      file: in `out`, for the lines.
      source: of `Task.dataset`.
      pace: what is begun in what time.
    """
    units = schedule.units_of(runs, limited=pace.minutes is not None)
    if shard:  # every n-th
        units = units[shard[0] :: shard[1]]
    ended = {key for key, line in read(out).items() if line["status"] == "ok"}
    left = dict(enumerate(own for unit in units if (own := [run for run in unit if run.key not in ended])))
    code = versions.commit()
    total = sum(map(len, left.values()))
    log.info("%d runs to do, of %d rows; %d are done", total, len({u[0].row for u in left.values()}), len(runs) - total)
    do = functools.partial(_timed, functools.partial(work.do, code=code, out=out, source=source))
    lost = lambda piece: (piece[0], work.lost(piece[1], code), 0.0)  # noqa: E731
    fits = lambda piece: pace.fits(piece[1])  # noqa: E731
    form = "{l_bar}{bar}| {n_fmt}/{total_fmt} runs, {elapsed} so far{postfix}"
    progress = tqdm.tqdm(total=total, disable=not sys.stderr.isatty(), dynamic_ncols=True, bar_format=form)
    with progress:
        for number, lines, seconds in pool.map(do, [*left.items()], lost=lost, fits=fits, end=pace.end):
            append(file, lines)
            pace.took(left.pop(number), seconds)
            row, rest = lines[0]["row"], pace.rest([*left.values()])
            progress.update(len(lines))
            progress.set_postfix_str(f"{row}; {rest}")
            if progress.disable:
                log.info("%s: %d runs in %.0f s; %s", row, len(lines), seconds, rest)


def _timed(do: Callable[[Any], list[Any]], piece: tuple[int, Any]) -> tuple[int, list[Any], float]:
    """The number of a unit, what `do` gives of it, and the seconds that it took."""
    started = time.monotonic()
    return piece[0], do(piece[1]), time.monotonic() - started


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
