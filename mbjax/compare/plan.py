"""The runs of a comparison: which there are, and which of them one process does together."""

import dataclasses
import hashlib
import importlib.util
import inspect
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mbjax import config as config_lib
from mbjax.compare.rows import CONTENDERS
from mbjax.evaluation import metrics
from mbjax.train import population
from mbjax.types import Config, UserError

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


def distinct(runs: Sequence[Run]) -> list[Run]:
    """The runs without rows that come to the same as an earlier one on this task."""
    keys: dict[str, list[str]] = {}
    for run in runs:
        keys.setdefault(run.contender, []).append(run.key)
    first: dict[tuple[str, ...], str] = {}
    for name, own in keys.items():
        first.setdefault(tuple(own), name)
    return [run for run in runs if run.contender in first.values()]


def found_settings(
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
