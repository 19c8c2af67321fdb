"""The runs of a comparison: which there are, and which of them one process does together."""

import dataclasses
import functools
import hashlib
import importlib.util
import inspect
import itertools
import json
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mbjax import config as config_lib
from mbjax import data
from mbjax.evaluation import metrics
from mbjax.rows import GRID, ROWS, TABULAR, Row
from mbjax.train import population
from mbjax.types import Config, Dataset, UserError

VALIDATION_SHARE = 0.2  # of the training part, where the configuration sets none
SEEDS_PER_UNIT = 10
Source = Dataset | Callable[[int], Dataset] | None


@dataclasses.dataclass(frozen=True)
class Task:
    """What is compared on.

    Attributes:
      file: of `configs/`, or a configuration itself. A file's module may have `ROWS`, names and what each changes in
        the configuration, in place of `mbjax.rows.ROWS`, and `GRID`, what every network chooses from, in place
        of `mbjax.rows.GRID`.
      overrides: what the command line changes in it.
      scenario: the part of the configuration's name before the row, such as `severe` of `configs/cifar10.py:severe`.
      tune: whether rows choose from their grids on validation data; else they have the configuration's settings.
      dataset: what is trained and tested on, or a function of the seed that gives it; if None, what the configuration
        names. Worker processes get it by pickle.
      methods: of other modules, `module:name`, which are rows, too.
    """

    file: str | Config
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scenario: str = ""
    tune: bool = True
    dataset: Source = None
    methods: tuple[str, ...] = ()

    @functools.cached_property
    def module(self) -> Any:
        if not isinstance(self.file, str):
            config = self.file
            return types.SimpleNamespace(get_config=lambda: config.copy_and_resolve_references())
        spec = importlib.util.spec_from_file_location("task_config", self.file)
        if spec is None or spec.loader is None or not os.path.exists(self.file):
            raise UserError(f"--config={self.file}: no such file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    @functools.cached_property
    def rows(self) -> Mapping[str, Row]:
        """The rows by name."""
        own = getattr(self.module, "ROWS", None)
        rows = {**ROWS, **TABULAR} if own is None else {name: _row(name, changes) for name, changes in own.items()}
        return {**rows, **{name: Row(name, "baseline", {"method": name}) for name in self.methods}}

    @property
    def grid(self) -> Mapping[str, Sequence[Any]]:
        """What every network chooses from."""
        return getattr(self.module, "GRID", GRID) if self.tune else {}

    def config(self, name: str) -> Config:
        """The configuration of a row; of a reference, the task's for plain training."""
        row = self.rows[name]
        word = name if hasattr(self.module, "ROWS") else row.changes.get("method", "erm")
        word = "erm" if name in self.methods else word
        takes_name = bool(inspect.signature(self.module.get_config).parameters)
        word = f"{self.scenario},{word}" if self.scenario else word
        config = self.module.get_config(word) if takes_name else self.module.get_config()
        if self.grid and config.data.get("validation_share") == 0:
            config.data.validation_share = VALIDATION_SHARE
        config_lib.change(config, self.overrides)
        changes = self.changes(name, config)
        with config.data.unlocked():  # a row may encode the data in its own way
            config.data.update({key[5:]: value for key, value in changes.items() if key.startswith("data.")})
        config_lib.change(config, {"method": "erm", **changes})
        return config

    def changes(self, name: str, config: Config) -> dict[str, Any]:
        """What defines a row, of a configuration of the task."""
        return {key: value(config) if callable(value) else value for key, value in self.rows[name].changes.items()}


def load(source: Source, config: Config) -> Dataset:
    """The data set of one seed's runs.

    Args:
      source: of a task, `Task.dataset`.
      config: of a run.

    Raises:
      UserError: data that one cannot train and test on.
    """
    if source is None:
        return data.load(config.task, seed=config.seed, **config.data)
    dataset = source(config.seed) if callable(source) else source
    data.check(dataset)
    return dataset


def methods_in(names: Sequence[str] | None) -> tuple[str, ...]:
    """Those of the names that are methods of other modules, `module:name`."""
    return tuple(name for name in names or () if ":" in name)


def names_of(task: Task, names: Sequence[str] | None) -> list[str]:
    """The names of rows, all if None, and of those whose runs they take."""
    if names is None:
        names = [name for name, row in task.rows.items() if row.family != "search" and name not in TABULAR]
    for name in names:
        if name not in task.rows:
            raise UserError(f"--methods={name}: choose among all, {', '.join(task.rows)}, or MODULE:NAME")
    return [*names, *(like for name in names if (like := task.rows[name].like) and like not in names)]


def _row(name: str, changes: Mapping[str, Any]) -> Row:
    """A row of a task's own: with the title and family of the row of that name, if there is one."""
    known = ROWS.get(name)
    family = "control" if changes.get("method") in (None, "metabalance") else "baseline"
    title, family = (known.title, known.family) if known else (name.replace("_", " "), family)
    return Row(title, family, {"method": "metabalance", **changes})


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
      row: its name.
      settings: of the row's grid.
      seed: of the split, the weights, and all else.
      config: its configuration.
      key: a digest of all that decides its result.
      estimator: of a reference, its name in `mbjax.compare.baselines.REFERENCES`.
      balanced: of a reference, whether classes are weighted.
      group: runs of one row and group are done together.
    """

    row: str
    settings: Mapping[str, Any]
    seed: int
    config: Config
    key: str
    estimator: str = ""
    balanced: bool = False
    group: str = ""

    @property
    def alone(self) -> bool:
        """Whether it has a folder of its own, with checkpoints and curves: networks with convolutions train long."""
        return self.config.model.name not in ("mlp", "tabm") and not self.estimator


_COMPARISONS = {  # keys that no option may set, and what to do about it
    "method": "choose rows with --methods",
    "seed": "choose how many with --seeds",
}


def check_options(task: Task, names: Iterable[str]) -> None:
    """Raises a UserError for an option that would change what defines a row; the message names both."""
    for key, value in task.overrides.items():
        if key in _COMPARISONS:
            raise UserError(f"--config.{key}={value}: a comparison decides this; {_COMPARISONS[key]}")
        if owners := [name for name in names if key in task.rows[name].changes]:
            raise UserError(
                f"--config.{key}={value}: this key defines the row {', '.join(owners)}; leave the option out, or "
                "choose other rows with --methods"
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
      names: of its rows.
      seeds: of the runs.
      data_digest: of the data's content, a part of each run's key.
      found: the settings that searches have found, by their row and seed. Rows that wait for one are left out.
    """
    runs = []
    for name in names:
        row = task.rows[name]
        if row.like:
            continue
        base, is_network = task.config(name), not row.estimator
        # Where the data lies and how its work is spread change no result; what it holds does.
        fixed = {"data.dir": "", "data.path": "", "parallel": "", "data": data_digest}
        if not is_network:
            fixed |= {"estimator": row.estimator, "balanced": row.balanced}
        grid = {**(task.grid if is_network and row.family != "search" else {}), **(row.grid if task.tune else {})}
        if is_network:
            grid |= {key: (task.overrides[key],) for key in grid if key in task.overrides}
        for values, seed in itertools.product(itertools.product(*grid.values()), seeds):
            settings = dict(zip(grid, values, strict=True))
            if row.after:
                if (row.after, seed) not in (found or {}):
                    continue
                settings = {**(found or {})[row.after, seed], **settings}
            config = base.copy_and_resolve_references()
            if is_network:
                config_lib.change(config, settings)
            config.seed = seed
            what = {**config_lib.flatten(config.to_dict()), **fixed}
            text = json.dumps([what, settings], sort_keys=True, default=str)
            key = hashlib.sha256(text.encode()).hexdigest()[:16]
            runs.append(Run(name, settings, seed, config, key, row.estimator, row.balanced))
    return runs


def distinct(runs: Sequence[Run]) -> list[Run]:
    """The runs without rows that come to the same as an earlier one on this task."""
    keys: dict[str, list[str]] = {}
    for run in runs:
        keys.setdefault(run.row, []).append(run.key)
    first: dict[tuple[str, ...], str] = {}
    for name, own in keys.items():
        first.setdefault(tuple(own), name)
    return [run for run in runs if run.row in first.values()]


def found_settings(
    searches: Iterable[str], runs: Sequence[Run], done: Mapping[str, Mapping[str, Any]], seeds: Iterable[int]
) -> dict[tuple[str, int], Mapping[str, Any]]:
    """The best settings of each search and seed on its validation part, of searches that are complete."""
    found = {}
    for name, seed in itertools.product(searches, seeds):
        own = [run for run in runs if (run.row, run.seed) == (name, seed)]
        if any(run.key not in done for run in own):
            continue  # other shards are at it
        scored = [(done[run.key]["validation"], run) for run in own if done[run.key]["status"] == "ok"]
        if scored:
            found[name, seed] = max(scored, key=lambda pair: pair[0][metrics.primary(pair[0])])[1].settings
    return found


def units_of(runs: Sequence[Run], seeds: Mapping[str, int] | None = None) -> list[list[Run]]:
    """Groups runs into what a process does at a time: one run, or those of a row that one program trains together.

    Args:
      runs: in any order.
      seeds: how many of a row are trained together, by its name; else `SEEDS_PER_UNIT`.
    """
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        if run.alone:
            groups[run.key] = [run]
            continue
        apart = [(key, value) for key, value in run.settings.items() if key not in population.NUMBERS]
        if {"support.sampler", "query.sampler"} <= {key for key, _ in apart}:
            apart = [pair for pair in apart if pair[0] != "support.sampler"]  # a row of the search over pairs
        if run.estimator:
            apart = []
        together = (seeds or {}).get(run.row, SEEDS_PER_UNIT)
        groups.setdefault((run.row, str(apart), run.seed // together, run.group), []).append(run)
    return list(groups.values())
