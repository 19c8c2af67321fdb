"""Compiled training programs, kept for the runs that can share them.

A program takes the examples, the class counts and the values of some of the configuration's numbers as arguments. So
runs that differ in these alone compile once: the members of a population, or the fits of an estimator.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from mbjax.train.experiment import Experiment
from mbjax.train.updates import make_advance

NUMBERS = (
    *("optimizer.lr", "optimizer.weight_decay"),
    *("loss.beta", "loss.gamma", "loss.tau", "meta.inner_lr", "meta.beta"),
)
"""The configuration keys whose values a program can take as arguments."""

Program = Callable[..., Any]

_KEPT = 64
_PROGRAMS: dict[str, tuple[Program, Program]] = {}  # the last one used is last


def find(
    experiment: Experiment, keys: tuple[str, ...], updates_per_call: int, *, updates: int | None, mapped: bool = False
) -> tuple[Program, Program]:
    """`init(seed)` and `advance(state, numbers, class_counts, examples, indices, count, updates)`, compiled.

    Runs that differ in their samplers, or in the values of `keys`, share them. The number of all updates is part of the
    program if it is given (optax's schedules need to know it), else its last argument. All on one device, whatever the
    configuration spreads a lone run over.

    Args:
      experiment: one of the runs that share them.
      keys: of `NUMBERS`: those whose values are given to `advance`, as `{key: value}`.
      updates_per_call: updates that the device does without returning to the host.
      updates: of the whole run; None where runs differ in them.
      mapped: whether to map them over settings (of `numbers`) and, outside of these, over seeds.
    """
    sections = {
        name: {
            k: v
            for k, v in section.items()
            if k not in ("sampler", "sampling_strategy", "neighbors", "dir") and f"{name}.{k}" not in keys
        }
        for name, section in experiment.sections.items() if name != "data"
    }  # fmt: skip
    name, x = experiment.make_method.args[0], experiment.dataset.train.x
    network = experiment.make_method.keywords["model"]  # with what it has learned of a frozen part's features
    key = json.dumps(
        [name, sections, repr(network), keys, updates_per_call, updates, mapped, x.shape[1:], str(x.dtype)],
        default=str,
    )
    _PROGRAMS[key] = _PROGRAMS.pop(key, None) or _compile(experiment, updates_per_call, updates, mapped)
    if len(_PROGRAMS) > _KEPT:
        del _PROGRAMS[next(iter(_PROGRAMS))]
    return _PROGRAMS[key]


def _compile(
    experiment: Experiment, updates_per_call: int, updates: int | None, mapped: bool
) -> tuple[Program, Program]:
    # Not the experiment itself, whose data would stay in memory with the program.
    make_method, sections, counts = experiment.make_method, experiment.sections, experiment.class_counts

    def init(seed):
        return make_method(sections=sections, class_counts=counts, updates=1).init(seed)

    def advance(state, numbers, class_counts, examples, indices, count, last):
        method = make_method(
            sections=replaced(sections, numbers),
            class_counts=class_counts,
            updates=last if updates is None else int(updates),
        )
        return make_advance(method, updates_per_call)(state, examples, indices, count)

    if mapped:
        by_run = None if updates is not None else 0
        advance = jax.vmap(advance, in_axes=(0, 0, None, None, None, None, None))
        advance = jax.vmap(advance, in_axes=(0, None, 0, 0, 0, by_run, by_run))
        init = jax.vmap(jax.vmap(init))
    return jax.jit(init), jax.jit(advance, donate_argnums=0)


def replaced(sections: Mapping[str, Any], numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The sections with the values of `numbers`, `{"section.key": value}`."""
    new = {name: dict(section) for name, section in sections.items()}
    for key, value in numbers.items():
        section, name = key.split(".")
        new[section][name] = value
    return new


def value(sections: Mapping[str, Any], key: str) -> Any:
    """What the sections hold under `"section.key"`."""
    section, _, name = key.partition(".")
    return sections[section][name]


def examples(experiment: Experiment) -> dict[str, dict[str, np.ndarray]]:
    """Each stream's examples, padded: training parts differ in size, and programs by shape."""
    return {
        name: {key: pad(array) for key, array in {"x": stream.x, **stream.labels}.items()}
        for name, stream in experiment.streams.items()
    }


def pad(array: np.ndarray) -> np.ndarray:
    """An array of at least one row with rows of zeros after it: 64 rows, 128, 256 and so on."""
    rest = max(2 ** (len(array) - 1).bit_length(), 64) - len(array)
    return np.pad(array, [(0, rest)] + [(0, 0)] * (array.ndim - 1))
