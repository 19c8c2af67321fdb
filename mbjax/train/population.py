"""Many runs in one compiled program: seeds × settings along mapped axes.

Each run has its own split, samples, initial weights and settings, and the result that it would have alone, to rounding.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mbjax.state import TrainState
from mbjax.train import programs, widths
from mbjax.train.experiment import Experiment
from mbjax.train.updates import drive, last_state, spans

log = logging.getLogger("mbjax")

NUMBERS = programs.NUMBERS
"""The configuration keys in which runs of one program may differ, beside the seed."""

_EXAMPLES_TOGETHER = 256  # of an update; on a CPU, plain training (24) gains by mapping, MetaBalance (3,200) loses

Mode = Literal["auto", "together", "in_turn"]


@dataclasses.dataclass(frozen=True)
class Population:
    """Trained runs.

    Attributes:
      states: `states[s][v]`, the last state of seed number s with setting number v.
      seconds: of training, compilation included, divided by the number of runs.
      mode: how they were trained, `"together"` or `"in_turn"`.
    """

    states: list[list[TrainState]]
    seconds: float
    mode: str


def train_population(
    experiments: Sequence[Experiment],
    seeds: Sequence[int],
    settings: Sequence[Mapping[str, float]] = ({},),
    *,
    updates_per_call: int = 100,
    mode: Mode = "auto",
) -> Population:
    """Trains every experiment with every setting.

    Args:
      experiments: of configurations that differ in their seed, or in their data: tables of the same number of classes.
        Narrow ones are widened with zeros; see `mbjax.train.widths`.
      seeds: theirs, in the same order; of the initial weights and the random keys.
      settings: values of `NUMBERS`, the same keys in each; they replace the configuration's.
      updates_per_call: updates that the device does without returning to the host.
      mode: `"together"` maps the program over all runs; `"in_turn"` runs them one after another through a program that
        they share. `"auto"` takes the faster. That is together on an accelerator, and on a CPU where updates are small
        and their overhead counts: not where an update reads hundreds of examples, whose activations for all runs no
        cache holds, nor for convolutions, which mapping turns into grouped ones. `benchmarks/population.py` measures
        both.

    Raises:
      ValueError: a setting that is none of `NUMBERS`, examples of several shapes for a network that is no MLP, a model
        with a frozen stem, or a start (`config.diet`).
    """
    widths.check(experiments)
    if unknown := {key for setting in settings for key in setting} - set(NUMBERS):
        raise ValueError(f"settings {sorted(unknown)}: runs of one program can differ in {', '.join(NUMBERS)}")
    if hasattr(experiments[0].model, "frozen_stem"):
        raise ValueError("the runs have a model with a frozen stem, each its own features: train them one by one")
    if any(experiment.numbered is not None for experiment in experiments):
        raise ValueError("the runs have a start, config.diet, each its own weights: train them one by one")
    together = mode == "together" or (mode == "auto" and _pays(experiments[0]))
    log.debug("%d runs %s", len(experiments) * len(settings), "together, as one" if together else "in turn")
    started = time.perf_counter()
    states = (_together if together else _in_turn)(experiments, seeds, settings, updates_per_call)
    jax.block_until_ready(jax.tree.leaves([[s.params for s in row] for row in states]))
    seconds = (time.perf_counter() - started) / (len(experiments) * len(settings))
    return Population(states, seconds, "together" if together else "in_turn")


def is_finite(state: TrainState) -> bool:
    """Whether a run has kept its weights finite; one whose loss was not has lost them."""
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params))


def _pays(experiment: Experiment) -> bool:
    """Whether training together is the faster; benchmarks/README.md has the figures."""
    if experiment.platform != "cpu":
        return True
    members = getattr(experiment.model, "members", 1)
    examples = members * sum(math.prod(shape) for shape in experiment.shapes.values())
    weights = jax.tree.leaves(jax.eval_shape(experiment.method.init, 0).params)
    convolutions = any(leaf.ndim == 4 for leaf in weights)
    return examples <= _EXAMPLES_TOGETHER and not convolutions


def _together(experiments, seeds, settings, updates_per_call) -> list[list[TrainState]]:
    first = max(experiments, key=widths.width)
    numbers = {key: jnp.asarray([setting[key] for setting in settings], jnp.float32) for key in settings[0]}
    class_counts = jnp.asarray(np.stack([e.class_counts for e in experiments]), jnp.float32)
    examples = jax.tree.map(lambda *arrays: jnp.asarray(np.stack(arrays)), *_padded(experiments))
    updates = np.array([e.updates for e in experiments], np.int32)
    equal = bool((updates == updates[0]).all())
    last = updates[0] if equal else updates
    options: dict[str, Any] = {"updates": updates[0] if equal else None, "mapped": True}
    _, program = programs.find(first, tuple(numbers), updates_per_call, **options)

    def init(places: list[int]) -> TrainState:
        own, _ = programs.find(experiments[places[0]], tuple(numbers), updates_per_call, **options)
        states = own(np.repeat(np.asarray(seeds)[places, None], len(settings), axis=1))
        return widths.widen(states, jax.eval_shape(first.method.init, 0))

    def advance(states, counts, rows):
        count = counts[0] if equal else counts
        return program(states, numbers, class_counts, examples, rows, count, last)

    states = last_state(drive(advance, _by_width(experiments, init), _rows(experiments, updates_per_call)))
    states, own = widths.on_host(states), widths.shapes(experiments)
    pick = lambda s, v: widths.narrow(jax.tree.map(lambda x: x[s, v], states), own[s])  # noqa: E731
    return [[pick(s, v) for v in range(len(settings))] for s in range(len(seeds))]


def _by_width(experiments: Sequence[Experiment], init: Callable[[list[int]], TrainState]) -> TrainState:
    """The first states of all runs, `[experiments, …]`: `init(places)` gives those of one width."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, experiment in enumerate(experiments):
        places.setdefault(widths.width(experiment), []).append(place)
    parts = [init(own) for own in places.values()]
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate([*places.values()]))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *parts)


def _in_turn(experiments, seeds, settings, updates_per_call) -> list[list[TrainState]]:
    first = max(experiments, key=widths.width)
    numbers = [{key: jnp.float32(value) for key, value in setting.items()} for setting in settings]
    everything, shapes = [], widths.shapes(experiments)
    for experiment, seed, examples, own in zip(experiments, seeds, _padded(experiments), shapes, strict=True):
        init, advance = _one_seed(experiment, first, examples, numbers, updates_per_call)
        states = [init(seed) for _ in settings]  # a copy each: the program takes it over
        states = last_state(drive(advance, states, _rows([experiment], updates_per_call)))
        everything.append([widths.narrow(state, own) for state in states])
    return everything


def _one_seed(
    experiment: Experiment, first: Experiment, examples: Any, numbers: Sequence[Mapping[str, Any]],
    updates_per_call: int,
) -> tuple[programs.Program, programs.Program]:  # fmt: skip
    """`init(seed)`, and `advance(states, counts, rows)` of one experiment with all settings, one after another.

    The program is that of `first`, which is at least as wide.
    """
    keys, options = tuple(numbers[0]), {"updates": experiment.updates, "mapped": False}
    own, _ = programs.find(experiment, keys, updates_per_call, **options)
    _, program = programs.find(first, keys, updates_per_call, **options)
    class_counts = jnp.asarray(experiment.class_counts, jnp.float32)
    examples = jax.tree.map(jnp.asarray, examples)
    wide = jax.eval_shape(first.method.init, 0)

    def advance(states, counts, rows):
        rows = {name: jnp.asarray(given[0]) for name, given in rows.items()}
        each = zip(states, numbers, strict=True)
        count, updates = int(counts[0]), experiment.updates
        return [program(s, n, class_counts, examples, rows, count, updates)[0] for s, n in each], {}

    return lambda seed: widths.widen(own(seed), wide), advance


def _padded(experiments: Sequence[Experiment]) -> Iterator[Any]:
    """Yields each experiment's examples, all with as many rows and features."""
    widest = max(map(widths.width, experiments))
    most = {
        name: max(len(programs.pad(e.streams[name].labels["y"])) for e in experiments)
        for name in experiments[0].streams
    }
    for experiment in experiments:
        every = programs.examples(experiment)
        yield {
            name: {key: widths.pad(array, most[name], widest) for key, array in own.items()}
            for name, own in every.items()
        }


def _rows(
    experiments: Sequence[Experiment], updates_per_call: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yields `(counts [experiments], {stream: indices [experiments, updates_per_call, ...]})` of each call."""
    updates = np.array([e.updates for e in experiments], np.int32)
    for start, _ in spans(0, [int(updates.max())], updates_per_call):
        counts = np.clip(updates - start, 0, updates_per_call)
        rows = {
            name: np.zeros((len(experiments), updates_per_call, *shape), np.int32)
            for name, shape in experiments[0].shapes.items()
        }
        for s, (experiment, count) in enumerate(zip(experiments, counts.tolist(), strict=True)):
            for name, shape in experiment.shapes.items():
                rows[name][s, :count] = experiment.streams[name].indices(start, count, shape)
        yield counts, rows
