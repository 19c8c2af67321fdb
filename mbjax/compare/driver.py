"""The comparison: which runs there are, doing what is missing, and the table."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import itertools
import json
import logging
import math
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

import mbjax
from mbjax import cli, data, train
from mbjax import config as config_lib
from mbjax.compare import baselines as references
from mbjax.compare import table as comparison
from mbjax.compare.rows import CONTENDERS
from mbjax.evaluation import evaluate, metrics
from mbjax.train import population
from mbjax.types import Config, Dataset, UserError

log = logging.getLogger("mbjax")

VALIDATION_SHARE = 0.2  # of the training part, where the configuration sets none
SEEDS_PER_UNIT = 10


@dataclasses.dataclass(frozen=True)
class Task:
    """What is compared on.

    Attributes:
      file: of `configs/`.
      overrides: what the command line changes in it.
      scenario: the part of the configuration's name before the row, such as `severe` of `configs/cifar10.py:severe`.
    """

    file: str
    overrides: Mapping[str, Any]
    scenario: str = ""

    def config(self, method: str) -> Config:
        spec = importlib.util.spec_from_file_location("task_config", self.file)
        if spec is None or spec.loader is None or not os.path.exists(self.file):
            raise UserError(f"--config={self.file}: no such file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        takes_name = bool(inspect.signature(module.get_config).parameters)
        name = f"{self.scenario},{method}" if self.scenario else method
        config = module.get_config(name) if takes_name else module.get_config()
        config.method = method
        if not config.data.get("validation_share"):
            config.data.validation_share = VALIDATION_SHARE
        config.update_from_flattened_dict(self.overrides)
        return config


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: a contender with settings of its grid and a seed. `key` is a digest of all that decides its result."""

    contender: str
    settings: Mapping[str, Any]
    seed: int
    config: Config
    key: str


_COMPARISONS = {  # keys that no option may set, and what to do about it
    "method": "choose rows with --methods",
    "seed": "choose how many with --seeds",
    "rows": "choose rows with --methods",
}


def check_options(task: Task, names: Iterable[str]) -> None:
    """Raises a UserError for an option that would change what defines a row; the message names both."""
    for key, value in task.overrides.items():
        if key in _COMPARISONS:
            raise UserError(f"--config.{key}={value}: a comparison decides this; {_COMPARISONS[key]}")
        owners = [
            name
            for name in names
            if (row := CONTENDERS[name]).family != "reference" and not row.like and key in row.overrides
        ]
        if owners:
            raise UserError(
                f"--config.{key}={value}: this key defines the row {', '.join(owners)}; leave the option out, or "
                f"choose other rows with --methods"
            )


def plan(
    task: Task,
    names: Iterable[str],
    seeds: Sequence[int],
    *,
    data_digest: str,
    found: Mapping[tuple[str, int], Mapping[str, Any]] | None = None,
) -> list[Run]:
    """All runs of a comparison.

    A task's options come first, then what defines the row, then the settings of its grid; an option takes the place of
    the values of a grid.

    Args:
      task: what is compared on.
      names: keys of `CONTENDERS`.
      seeds: of the runs.
      data_digest: of the data's content, a part of each run's key.
      found: the settings that searches have found, by their row and seed. Rows that wait for one are left out.
    """
    runs = []
    for name in names:
        contender = CONTENDERS[name]
        if contender.like:
            continue
        reference = contender.family == "reference"
        base = task.config("erm" if reference else contender.method)
        overrides = {key: value(base) if callable(value) else value for key, value in contender.overrides.items()}
        grid = dict(contender.grid)
        if not reference:
            base.update_from_flattened_dict(overrides)
            grid.update({key: (task.overrides[key],) for key in grid if key in task.overrides})
        for values, seed in itertools.product(itertools.product(*grid.values()), seeds):
            settings = dict(zip(grid, values, strict=True))
            if contender.after:
                if (contender.after, seed) not in (found or {}):
                    continue
                settings = {**(found or {})[contender.after, seed], **settings}
            config = base.copy_and_resolve_references()
            if not reference:
                config.update_from_flattened_dict(settings)
            config.seed = seed
            # Where the data lies and how its work is spread change no result; what it holds does.
            apart = {"data.dir": "", "data.path": "", "parallel": "", "data": data_digest}
            what = {**config_lib.flatten(config.to_dict()), **apart, "contender": contender.method, **overrides}
            text = json.dumps([what, settings], sort_keys=True, default=str)
            key = hashlib.sha256(text.encode()).hexdigest()[:16]
            runs.append(Run(name, settings, seed, config, key))
    return runs


def units_of(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups runs into what one process does at a time: runs of one contender that one program can train together."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        apart = [(key, value) for key, value in run.settings.items() if key not in population.NUMBERS]
        if {"support.sampler", "query.sampler"} <= {key for key, _ in apart}:
            apart = [pair for pair in apart if pair[0] != "support.sampler"]  # a row of the search over pairs
        if CONTENDERS[run.contender].family == "reference":
            apart = []
        groups.setdefault((run.contender, str(apart), run.seed // SEEDS_PER_UNIT), []).append(run)
    return list(groups.values())


def do(unit: Sequence[Run], code: str) -> list[dict[str, Any]]:
    """Does the runs of a unit; a run that cannot be done gets a line that says why."""
    if CONTENDERS[unit[0].contender].family == "reference":
        return [_line(run, code, _reference(run)) for run in unit]
    lines = []
    programs: dict[str, list[Run]] = {}
    for run in unit:
        apart = {key: value for key, value in run.settings.items() if key not in population.NUMBERS}
        programs.setdefault(json.dumps(apart), []).append(run)
    for runs in programs.values():
        lines += [_line(run, code, outcome) for run, outcome in _train(runs)]
    return lines


def _train(runs: Sequence[Run]) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Trains runs that differ in their seed and in `population.NUMBERS`. Yields each with its scores or its failure."""
    by_seed: dict[int, list[Run]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, []).append(run)
    built: dict[tuple[Any, ...], list[tuple[int, train.Experiment]]] = {}
    for seed, own in by_seed.items():
        try:
            experiment = train.build(config_lib.validate(own[0].config))
        except UserError as error:
            yield from ((run, {"status": "failed", "reason": str(error)}) for run in own)
            continue
        # After a kill in the middle, seeds may lack different settings.
        built.setdefault(tuple(json.dumps(run.settings) for run in own), []).append((seed, experiment))
    for texts, group in built.items():
        seeds, experiments = zip(*group, strict=True)
        settings = [{k: v for k, v in json.loads(t).items() if k in population.NUMBERS} for t in texts]
        trained = population.train_population(
            experiments, seeds, settings, updates_per_call=runs[0].config.updates_per_call
        )
        for seed, experiment, states in zip(seeds, experiments, trained.states, strict=True):
            batch_size = runs[0].config.eval.batch_size
            predict = {
                part: evaluate.make_predict(
                    experiment.model,
                    experiment.dataset.splits[part],
                    batch_size=batch_size,
                    protocol=runs[0].config.eval.protocol,
                )
                for part in ("validation", "test")
            }
            for run, state in zip(by_seed[seed], states, strict=True):
                if not population.is_finite(state):
                    yield run, {"status": "failed", "reason": f"the loss is not finite with {_shown(run.settings)}"}
                    continue
                probabilities = {part: predict[part](state) for part in predict}
                more = {"updates": experiment.updates, "mode": trained.mode, "seconds": round(trained.seconds, 4)}
                yield run, _scores(experiment.dataset, probabilities) | more


def _reference(run: Run) -> dict[str, Any]:
    contender = CONTENDERS[run.contender]
    try:
        valid = config_lib.validate(run.config)
        dataset = _load(valid.task, valid.seed, json.dumps(valid.data.to_dict()))
        started = time.perf_counter()
        balanced = bool(contender.overrides["balanced"])
        predict = references.fit(contender.method, dataset, seed=run.seed, balanced=balanced, settings=run.settings)
        seconds = round(time.perf_counter() - started, 4)
    except UserError as error:
        return {"status": "failed", "reason": str(error)}
    probabilities = {part: predict(dataset.splits[part].x) for part in ("validation", "test")}
    return _scores(dataset, probabilities) | {"seconds": seconds}


@functools.lru_cache(maxsize=4)
def _load(task: str, seed: int, options: str) -> Dataset:
    return data.load(task, seed=seed, **json.loads(options))


def _scores(dataset: Dataset, probabilities: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The scores of both parts, as predicted and with the priors divided out."""
    counts = dataset.class_counts
    sizes = {part: len(split) for part, split in dataset.splits.items()}
    line: dict[str, Any] = {"status": "ok", "data": _describe(dataset), "sizes": sizes}
    adjusted = {part: metrics.adjust_priors(p, counts / counts.sum()) for part, p in probabilities.items()}
    for prefix, predicted in (("", probabilities), ("priors_", adjusted)):
        line[prefix + "validation_halves"] = _halves(predicted["validation"], dataset.splits["validation"].y)
        for part, p in predicted.items():
            y = dataset.splits[part].y
            line[prefix + part] = metrics.scores(p, y, majority_class=int(counts.argmax()))
        if len(counts) == 2:  # whatever part it is scored on, the threshold is the validation part's
            threshold = metrics.choose_threshold(predicted["validation"][:, 1], dataset.splits["validation"].y)
            for part, p in predicted.items():
                score = metrics.balanced_accuracy_at(p[:, 1], dataset.splits[part].y, threshold)
                line[prefix + part]["threshold_balanced_accuracy"] = score
    return line


def _halves(probabilities: np.ndarray, labels: np.ndarray) -> list[float]:
    """The primary score on each half of the validation part: settings chosen on one are judged on the other.

    Halves are every other example of each class, so that both have all classes; of fewer than two of a class the score
    is NaN.
    """
    half = np.zeros(len(labels), bool)
    for number in np.unique(labels):
        half[np.flatnonzero(labels == number)[::2]] = True
    if np.unique(labels[~half]).size < probabilities.shape[1]:
        return [math.nan, math.nan]
    return [metrics.primary_score(probabilities[rows], labels[rows]) for rows in (half, ~half)]


def _describe(dataset: Dataset) -> str:
    return "; ".join([dataset.source, *dataset.notes]) if len(dataset.classes) == 2 else dataset.source


def _line(run: Run, code: str, outcome: Mapping[str, Any]) -> dict[str, Any]:
    head = {"key": run.key, "contender": run.contender, "settings": dict(run.settings), "seed": run.seed, "code": code}
    return {**head, **outcome}


def _shown(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


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


def compare(
    task: Task,
    *,
    names: Sequence[str],
    seeds: Sequence[int],
    out: pathlib.Path,
    select: str = "validation",
    jobs: int = 1,
    shard: tuple[int, int] | None = None,
) -> str:
    """Does what is missing and writes the table and figures.

    Returns:
      The table.

    Raises:
      UserError: a mistake in the configuration, or data that no contender can use.
    """
    check_options(task, names)
    first = task.config("erm")
    valid = config_lib.validate(first)
    loaded = data.load(first.task, seed=seeds[0], **valid.data)  # mistakes show before the work
    if loaded.kind != "classification":
        raise UserError(f"config.task={first.task!r}: comparisons are of classifiers; compare runs with mbjax.report")
    if "validation" not in loaded.splits:
        raise UserError(f"config.data.validation_share={first.data.validation_share}: a comparison needs one above 0")
    searches = [after for name in names if (after := CONTENDERS[name].after) and after not in names]
    planned = functools.partial(plan, task, [*searches, *names], seeds, data_digest=data.digest(loaded))
    out.mkdir(parents=True, exist_ok=True)
    file = out / (f"results-{shard[0]}.jsonl" if shard else "results.jsonl")
    runs = _distinct(planned())
    _complete(runs, out=out, file=file, jobs=jobs, shard=shard)
    if any(CONTENDERS[name].after for name in names):
        runs = _distinct(planned(found=_found(runs, read(out), seeds)))
        _complete(runs, out=out, file=file, jobs=jobs, shard=shard)
    done = read(out)
    lines = [{**done[run.key], "contender": run.contender} for run in runs if run.key in done]
    lines += [_adjusted(line, name) for name in names if CONTENDERS[name].like for line in lines
              if line["contender"] == CONTENDERS[name].like and line["status"] == "ok"]  # fmt: skip
    table = comparison.make_table(lines, task=first.task, select=select, overlap=loaded.overlap)
    (out / "table.md").write_text(table)
    (out / "times.md").write_text(comparison.make_times(lines))
    if any(line["status"] == "ok" for line in lines):
        comparison.plot_comparison(lines, out / "comparison.png", task=first.task, select=select)
        comparison.plot_pairs(lines, out / "pairs.png", task=first.task)
    return table


def _complete(
    runs: Sequence[Run], *, out: pathlib.Path, file: pathlib.Path, jobs: int, shard: tuple[int, int] | None
) -> None:
    """Does the runs that have not ended well yet."""
    units = units_of(runs)
    # The largest first, so that no process ends long before the others; a shard takes every n-th.
    units.sort(key=len, reverse=True)
    if shard:
        units = units[shard[0] :: shard[1]]
    ended = {key for key, line in read(out).items() if line["status"] == "ok"}
    units = [left for unit in units if (left := [run for run in unit if run.key not in ended])]
    code = _code()
    progress = tqdm.tqdm(total=sum(map(len, units)), unit="run", disable=not sys.stderr.isatty(), dynamic_ncols=True)
    with progress:
        for number, lines in enumerate(_work(units, code, jobs), 1):
            append(file, lines)
            progress.update(len(lines))
            if progress.disable:
                log.info("%d of %d units: %s, %d runs", number, len(units), lines[0]["contender"], len(lines))


def _distinct(runs: Sequence[Run]) -> list[Run]:
    """The runs without rows that come to the same as an earlier one on this task."""
    keys: dict[str, list[str]] = {}
    for run in runs:
        keys.setdefault(run.contender, []).append(run.key)
    first: dict[tuple[str, ...], str] = {}
    for name, own in keys.items():
        first.setdefault(tuple(own), name)
    return [run for run in runs if run.contender in first.values()]


def _found(
    runs: Sequence[Run], done: Mapping[str, Mapping[str, Any]], seeds: Iterable[int]
) -> dict[tuple[str, int], Mapping[str, Any]]:
    """The best settings of each search and seed on its validation part, of searches that are complete."""
    found = {}
    for name, seed in itertools.product(
        {run.contender for run in runs if CONTENDERS[run.contender].family == "search"}, seeds
    ):
        own = [run for run in runs if (run.contender, run.seed) == (name, seed)]
        if any(run.key not in done for run in own):
            continue  # other shards are at it
        scored = [(done[run.key]["validation"], run) for run in own if done[run.key]["status"] == "ok"]
        if scored:
            found[name, seed] = max(scored, key=lambda pair: pair[0][metrics.primary(pair[0])])[1].settings
    return found


def _adjusted(line: Mapping[str, Any], contender: str) -> dict[str, Any]:
    parts = {part: line[f"priors_{part}"] for part in ("validation", "test", "validation_halves")}
    return {**line, "contender": contender, **parts}


def _work(units: Sequence[Sequence[Run]], code: str, jobs: int) -> Iterator[list[dict[str, Any]]]:
    if jobs == 1:
        yield from (do(unit, code) for unit in units)
        return
    context = multiprocessing.get_context("spawn")
    workers = context.Value("i", 0)
    pool = concurrent.futures.ProcessPoolExecutor(
        min(jobs, max(len(units), 1)), context, initializer=_start_worker, initargs=(workers, jobs)
    )
    try:
        pending = [pool.submit(do, unit, code) for unit in units]
        for future in concurrent.futures.as_completed(pending):
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(workers: Any, jobs: int) -> None:
    """Gives a process its share of the cores: many threads of many processes would wait for one another."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    with workers.get_lock():
        number, workers.value = workers.value, workers.value + 1
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number % len(cores) :: jobs])
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    cli.show_log()
    cli.keep_programs()


def _leave_with_parent() -> None:
    """A worker whose parent was killed would else wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _code() -> str:
    """The commit of the code, where it is a checkout, else its version."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return "commit " + subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"version {mbjax.__version__}"
