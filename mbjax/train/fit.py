"""Training in memory: no folder, no checkpoints, but early stopping, and programs that fits of equal shapes share."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from mbjax.state import TrainState
from mbjax.train import programs
from mbjax.train.experiment import Experiment
from mbjax.train.start import first_state
from mbjax.train.updates import drive, feed, on_device
from mbjax.types import UserError

EVERY = 50
"""Updates between looks at the validation part; the device does so many without returning to the host."""

_NUMBERS = ("optimizer.lr", "optimizer.weight_decay", "meta.inner_lr")  # fits that differ in these share a program

Score = Callable[[TrainState], tuple[float, Any]]
"""`score(state) -> (loss, predictions)` on validation data; the state of least loss is kept, with its predictions."""


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What training in memory gives.

    Attributes:
      state: the last state, or the best one where there is validation data; NumPy arrays, without its random key.
      updates: how many updates were done, of all fits that led to this one.
      history: one dict for every `EVERY` updates: `updates` so far, the means of the method's metrics over them
        (`loss`, …), and `validation_loss`.
      predictions: what `score` gave with the state.
    """

    state: TrainState
    updates: int
    history: list[dict[str, float]]
    predictions: Any = None


def fit(
    experiment: Experiment,
    *,
    seed: int,
    updates: int,
    start: TrainState | None = None,
    score: Score | None = None,
    patience: int = 10,
    progress: bool = False,
) -> Fitted:
    """Trains on JAX's default device.

    Args:
      experiment: of `mbjax.train.assemble`, of a configuration with `parallel="none"`.
      seed: of the initial weights and the random keys.
      updates: how many to do.
      start: the `state` of an earlier fit of the same network, to go on from; new weights if None.
      score: the loss on validation data, where training shall stop early.
      patience: looks at the validation data without a new least loss, after which training stops.
      progress: shows a bar.

    Raises:
      UserError: the loss is not finite.
    """
    optimizer = experiment.sections["optimizer"]
    values = {key: programs.value(experiment.sections, key) for key in _NUMBERS}
    fixed = updates if optimizer["schedule"] == "cosine" else None
    init, program = programs.find(experiment, _NUMBERS, EVERY, updates=fixed)
    numbers = {key: np.float32(value) for key, value in values.items()}
    class_counts = np.asarray(experiment.class_counts, np.float32)
    examples = on_device(experiment.streams, prepare=programs.pad)
    if start is None and experiment.numbered is not None:
        state = first_state(experiment, seed)  # no program that fits share: what it starts from is its own
    else:
        state = init(np.uint32(seed))
    if start is not None:
        state = jax.tree.map(jnp.array, start.replace(rng=None)).replace(rng=state.rng)  # a copy: the program takes it
    first = step = int(state.step)
    last = np.int32(first + updates)

    def advance(state: TrainState, count: int, rows: Any) -> Any:
        return program(state, numbers, class_counts, examples, rows, np.int32(count), last)

    history, best = [], None
    calls = drive(advance, state, feed(experiment, step, [int(last)], EVERY))
    bar = tqdm.tqdm(total=updates, unit="update", disable=not progress, dynamic_ncols=True)
    with contextlib.closing(calls), bar:
        for row, state in _rows(calls, step):
            history.append(row)
            step = int(row["updates"])
            bar.update(step - first - bar.n)
            if score is not None:
                row["validation_loss"], predictions = score(state)
                if best is None or row["validation_loss"] < best[0]:
                    best = row["validation_loss"], _on_host(state), predictions, len(history)
                elif len(history) - best[3] >= patience:
                    break
            bar.set_postfix({name: value for name, value in row.items() if "loss" in name}, refresh=False)
    if best is None:
        return Fitted(_on_host(state), step, history)
    return Fitted(best[1], step, history, best[2])


def _rows(calls: Iterator[tuple[int, TrainState, Any]], step: int) -> Iterator[tuple[dict[str, float], TrainState]]:
    """Yields a row of the history for each call, and the state after it."""
    for count, state, metrics in calls:
        step += count
        means = {name: float(np.asarray(values)[:count].mean()) for name, values in metrics.items()}
        if not math.isfinite(means["loss"]):
            raise UserError(
                f"the loss is {means['loss']} after {step} updates: lower config.optimizer.lr or config.meta.inner_lr, "
                "or look at the data"
            )
        yield {"updates": step, **means}, state


def _on_host(state: TrainState) -> TrainState:
    return jax.device_get(state.replace(rng=None))
