"""The comparison: it plans the runs, does those that are missing, and writes the table."""

import functools
import json
import logging
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import tqdm

import mbjax
from mbjax import config as config_lib
from mbjax import data
from mbjax.compare import figures, folders, plan, work, workers
from mbjax.compare import table as comparison
from mbjax.types import UserError

log = logging.getLogger("mbjax")


def compare(
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
) -> str:
    """Does what is missing and writes the table and figures.

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

    Returns:
      The table.

    Raises:
      UserError: a mistake in the configuration, or data that no row can use.
    """
    plan.check_options(task, names)
    first = config_lib.validate(task.config(names[0]))
    loaded = data.load(first.task, seed=seeds[0], **first.data)  # mistakes show before the work
    if task.grid and "validation" not in loaded.splits:
        raise UserError(
            f"config.data.validation_share={first.data.get('validation_share')}: rows that choose their settings need "
            "one above 0; --notune leaves them those of the configuration"
        )
    searches = [after for name in names if (after := task.rows[name].after) and after not in names]
    planned = functools.partial(plan.plan, task, [*searches, *names], seeds, data_digest=data.digest(loaded))
    out.mkdir(parents=True, exist_ok=True)
    file = out / (f"results-{shard[0]}.jsonl" if shard else "results.jsonl")
    runs = plan.distinct(planned())
    pool = workers.Pool(jobs, backend, scheduler)
    _complete(runs, out=out, file=file, pool=pool, shard=shard)
    if searches:
        runs = plan.distinct(planned(found=plan.found_settings(searches, runs, read(out), seeds)))
        after = [run for run in runs if task.rows[run.row].after]
        _complete(after, out=out, file=file, pool=pool, shard=shard)
    done = read(out)
    lines = [{**done[run.key], "row": run.row} for run in runs if run.key in done]
    if runs[0].alone:
        table = folders.make_table(lines, task=task, name=first.task, kind=loaded.kind, select=select, out=out)
    else:
        lines += [_adjusted(line, name) for name in names if task.rows[name].like for line in lines
                  if line["row"] == task.rows[name].like and line["status"] == "ok"]  # fmt: skip
        shared: dict[str, Any] = {"rows": task.rows, "task": first.task}
        table = comparison.make_table(lines, select=select, overlap=loaded.overlap, **shared)
        if any(line["status"] == "ok" for line in lines):
            figures.plot_comparison(lines, out / "comparison.png", select=select, **shared)
            figures.plot_pairs(lines, out / "pairs.png", **shared)
    (out / "table.md").write_text(table)
    (out / "times.md").write_text(comparison.make_times(lines, task.rows))
    return table


def _complete(
    runs: Sequence[plan.Run],
    *,
    out: pathlib.Path,
    file: pathlib.Path,
    pool: workers.Pool,
    shard: tuple[int, int] | None,
) -> None:
    """Does the runs that have not ended well yet."""
    units = plan.units_of(runs)
    # The largest first, so that no process ends long before the others; a shard takes every n-th.
    units.sort(key=len, reverse=True)
    if shard:
        units = units[shard[0] :: shard[1]]
    ended = {key for key, line in read(out).items() if line["status"] == "ok"}
    units = [left for unit in units if (left := [run for run in unit if run.key not in ended])]
    code = _code()
    progress = tqdm.tqdm(total=sum(map(len, units)), unit="run", disable=not sys.stderr.isatty(), dynamic_ncols=True)
    do, lost = functools.partial(work.do, code=code, out=out), functools.partial(work.lost, code=code)
    with progress:
        for number, lines in enumerate(pool.map(do, units, lost=lost), 1):
            append(file, lines)
            progress.update(len(lines))
            if progress.disable:
                log.info("%d of %d units: %s, %d runs", number, len(units), lines[0]["row"], len(lines))


def _adjusted(line: Mapping[str, Any], row: str) -> dict[str, Any]:
    parts = {part: line[f"priors_{part}"] for part in ("validation", "test", "validation_halves") if part in line}
    return {**line, "row": row, **parts}


def read(out: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The lines of every results file of a folder, by their run's key; a line that a kill cut short is left out."""
    lines = {}
    for file in sorted(out.glob("results*.jsonl")):
        for text in file.read_text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            lines[line["key"]] = line
    return lines


def append(file: pathlib.Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Adds the lines of a unit in one write."""
    cut = file.exists() and not file.read_bytes().endswith(b"\n")  # a kill in the middle of a line
    with file.open("a") as stream:
        stream.write(("\n" if cut else "") + "".join(json.dumps(line) + "\n" for line in lines))
        stream.flush()
        os.fsync(stream.fileno())


def _code() -> str:
    """The commit of the code, where it is a checkout, else its version."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return "commit " + subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"version {mbjax.__version__}"
