"""A suite: the rows of a comparison on many tables, and what they say of the next one."""

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mbjax import config as config_lib
from mbjax import data
from mbjax.compare import driver, plan, schedule, suite_page, work, workers
from mbjax.compare.suite_page import Study, TableFacts
from mbjax.data.tables.suites import SUITES
from mbjax.options import listed, nearest
from mbjax.rows import SUITE
from mbjax.types import Dataset, UserError

log = logging.getLogger("mbjax")
_WIDTHS = (8, 16, 64, 256, 1024)  # tables up to as many features share a program
_TABLES, _ROOM = 8, 128  # that one process trains at a time, and the features that these may have together


def complete(
    task: plan.Task,
    *,
    suite: str,
    out: pathlib.Path,
    names: Sequence[str] | None = None,
    tables: Sequence[str] | None = None,
    seeds: Sequence[int] = range(10),
    jobs: int = 1,
    backend: str = "loky",
    scheduler: str = "",
    shard: tuple[int, int] | None = None,
    minutes: float | None = None,
) -> str:
    """Does the runs that are missing, and writes the page, `results.parquet` and the figures.

    A table that cannot be used is one line of the log and of the page, and so is a row that cannot run on a table.

    Args:
      task: `configs/suite.py`, or a configuration like it, with what is changed in it. A table is one change more.
      suite: of `SUITES`.
      out: the study's folder.
      names: of rows; `mbjax.rows.SUITE` if None.
      tables: of the suite; all if None.
      seeds: of the splits and all else.
      jobs, backend, scheduler, shard, minutes: see `mbjax.compare.driver.complete`.

    Returns:
      What the study shows, in words.

    Raises:
      UserError: a mistake in the configuration, no table that can be used, or nothing that ended well.
    """
    pace = schedule.Pace(minutes, jobs)
    names = plan.names_of(task, SUITE if names is None else names)
    plan.check_options(task, names)
    pool = workers.Pool(jobs, backend, scheduler)
    file = out / (f"results-{shard[0]}.jsonl" if shard else "results.jsonl")
    with driver.locked(out, shard):
        driver.read(out, say=True)
        runs, facts, problems = _plan(task, suite, names, tables, seeds)
        driver.do_missing_runs(runs, out=out, file=file, pool=pool, shard=shard, source=None, pace=pace)
        done = driver.read(out)
        lines = [{**done[run.key], "row": run.row, "table": work.table_of(run)} for run in runs if run.key in done]
        left = len(runs) - len(lines)
        if left:
            log.warning("%d of %d runs are not done yet; the same command does them", left, len(runs))
        lines += [driver.adjusted(line, row) for row in names if (like := task.rows[row].like) for line in lines
                  if line["row"] == like and line["status"] == "ok"]  # fmt: skip
        if lines and all(line["status"] != "ok" for line in lines):
            raise UserError(f"no run has ended well; the first: {lines[0]['reason']}")
        return suite_page.leave(out, Study(suite, lines, task.rows, facts, problems, left)) if lines else ""


def _plan(
    task: plan.Task, suite: str, names: Sequence[str], tables: Sequence[str] | None, seeds: Sequence[int]
) -> tuple[list[plan.Run], dict[str, TableFacts], dict[str, str]]:
    """All runs, what is known of each table, and a line for each that cannot be used."""
    options = {key.removeprefix("data."): value for key, value in task.overrides.items() if key.startswith("data.")}
    found = SUITES[suite].find(options.get("path", ""), options.get("dir", ""))
    chosen = [*found.loaders, *found.problems] if tables is None else list(tables)
    for name in chosen:
        if name not in found.loaders and name not in found.problems:
            raise UserError(f"--tables={name}: no such table; did you mean {listed(nearest(name, [*found.loaders]))}?")
    problems = {name: found.problems[name] for name in chosen if name in found.problems}
    runs, facts = [], {}
    for name in (name for name in chosen if name not in problems):
        own = dataclasses.replace(task, overrides={**task.overrides, "task": suite, "data.table": name})
        try:
            loaded = _load(own, names[0], seeds[0])
            facts[name] = TableFacts.of(loaded)
            runs += _runs_of(own, name, loaded, names, seeds)
        except UserError as error:
            problems[name] = str(error)
    for line in problems.values():
        log.warning("left out: %s", line)
    if not runs:
        raise UserError(f"the suite {suite} has no table that can be used: {next(iter(problems.values()), 'none')}")
    return _in_groups(runs, facts), facts, problems


def _load(task: plan.Task, name: str, seed: int) -> Dataset:
    config = task.config(name)
    config.seed = seed
    valid = config_lib.validate(config)
    options = {key: value for key, value in valid.data.items() if key not in ("scaling", "encoding", "bins")}
    return data.load(valid.task, seed=seed, **options)


def _runs_of(task: plan.Task, table: str, loaded: Dataset, names: Sequence[str], seeds: Sequence[int]) -> Any:
    runs = plan.distinct(plan.plan(task, names, seeds, data_digest=data.digest(loaded)))
    return [dataclasses.replace(run, group=table) for run in runs]


def _in_groups(runs: Sequence[plan.Run], facts: Mapping[str, TableFacts]) -> list[plan.Run]:
    """The runs with networks of tables of like width in one group: they share a program, which takes longer to compile
    than a small table to train on."""

    @functools.cache
    def group(table: str) -> str:
        own = facts[table]
        like = [name for name, other in facts.items() if _kind(other) == _kind(own)]
        return f"{_kind(own)} {like.index(table) // max(min(_TABLES, _ROOM // _kind(own)[0]), 1)}"

    return [run if run.estimator else dataclasses.replace(run, group=group(run.group)) for run in runs]


def _kind(facts: TableFacts) -> tuple[int, int]:
    wide = facts.features
    return next((width for width in _WIDTHS if wide <= width), int(2 ** np.ceil(np.log2(wide)))), facts.classes
