"""The updates of a run: what feeds them, the compiled function that does many in one call, and the loop over calls."""

import collections
import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mbjax import methods, sampling
from mbjax.devices import parallel
from mbjax.state import TrainState
from mbjax.train.experiment import Experiment

T = TypeVar("T")
Metrics = dict[str, jax.Array]
Examples = dict[str, jax.Array]
Advance = Callable[[TrainState, Mapping[str, Examples], Mapping[str, Any], int], tuple[TrainState, Metrics]]
Updates = Callable[[TrainState, Sequence[int]], Generator[tuple[int, TrainState, Metrics], None, None]]


def make_updates(experiment: Experiment, updates_per_call: int) -> Updates:
    """Makes `updates(state, stops)`, the generator of a run's updates. What it compiles serves every use of it.

    Args:
      experiment: what is trained.
      updates_per_call: updates that the devices do without returning to the host.

    Returns:
      `updates(state, stops)`, which goes on from `state`, of any update, to the last of `stops`, increasing numbers of
      updates, and no call of the compiled function goes past one. It yields `(count, state, metrics)` after each call:
      the updates that it did, the new state, and the metrics of each, `[updates_per_call]`, of which the first `count`
      hold. A state is the generator's again when the next is asked for, which takes over its memory; so is the first.
      A thread reads ahead; it ends with the generator, also where that is closed before its end.
    """
    examples = on_device(experiment.streams, experiment.method.mesh)
    advance = make_advance(experiment.method, updates_per_call)

    def updates(state: TrainState, stops: Sequence[int]) -> Generator[tuple[int, TrainState, Metrics], None, None]:
        given = feed(experiment, int(state.step), stops, updates_per_call)
        return drive(lambda state, count, rows: advance(state, examples, rows, count), state, given)

    return updates


def drive(
    advance: Callable[[T, Any, Any], tuple[T, Metrics]], state: T, given: Iterable[tuple[Any, Any]]
) -> Generator[tuple[Any, T, Metrics], None, None]:
    """The loop over calls: yields `(count, state, metrics)` after each.

    Args:
      advance: `advance(state, count, rows) -> (state, metrics)`.
      state: the first one.
      given: `(count, rows)` of each call; a thread runs it ahead.
    """
    with contextlib.closing(sampling.prefetch(given)) as calls:
        for count, rows in calls:
            state, metrics = advance(state, count, rows)
            yield count, state, metrics


def last_state(updates: Iterable[tuple[Any, T, Metrics]]) -> T:
    """The state after the last of a generator's updates, which are at least one."""
    return collections.deque(updates, maxlen=1).pop()[1]


def spans(start: int, stops: Iterable[int], updates_per_call: int) -> Iterator[tuple[int, int]]:
    """Yields the first update and the number of updates of each call; no call goes past a stop."""
    for stop in stops:
        while start < stop:
            count = min(updates_per_call, stop - start)
            yield start, count
            start += count


def make_advance(method: methods.Method, updates_per_call: int) -> Advance:
    """Makes `advance(state, examples, rows, count)`: `count` updates in one call of a compiled function.

    `rows` has room for `updates_per_call` updates, of which the first `count` are done; so calls of any length share
    one program and a resumed run repeats an uninterrupted one to the bit.

    Returns:
      The new state (the old one is donated) and the metrics of each update, `[updates_per_call]` each.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(state, examples, rows, count):
        def update(k, state):
            batches = {name: _batch(examples.get(name), given, k) for name, given in rows.items()}
            spread = {name: parallel.split(b, method.mesh, axes=b["y"].ndim) for name, b in batches.items()}
            state, metrics = method.step(state, spread)
            return parallel.keep_replicated((state, metrics), method.mesh)

        def body(k, carry):
            state, logs = carry
            state, metrics = update(k, state)
            return state, jax.tree.map(lambda log, value: log.at[k].set(value), logs, metrics)

        shapes = jax.eval_shape(update, 0, state)[1]
        logs = jax.tree.map(lambda s: jnp.full((updates_per_call, *s.shape), jnp.nan, s.dtype), shapes)
        return jax.lax.fori_loop(0, count, body, (state, logs))

    return advance


def _batch(examples: Examples | None, rows: Any, k: jax.Array) -> Examples:
    """What update `k` of a call reads: rows of what lies on the device, or what came from the host with the call."""
    if examples is None:
        return jax.tree.map(lambda batches: batches[k], rows)
    return {name: array[rows[k]] for name, array in examples.items()}


def feed(
    experiment: Experiment, start: int, stops: Iterable[int], updates_per_call: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields `(count, {stream: indices})` of each call, on the devices.

    Of a stream whose examples stay on the host, the examples themselves in place of their indices: each process draws
    all indices and reads the examples of its own devices.
    """
    for step, count in spans(start, stops, updates_per_call):
        given = {}
        for name, shape in experiment.shapes.items():
            stream = experiment.streams[name]
            rows = np.zeros((updates_per_call, *shape), np.int32)
            rows[:count] = stream.indices(step, count, shape)
            given[name] = parallel.feed(functools.partial(_read, stream, count), rows, experiment.method.mesh)
        yield count, given


def _read(stream: sampling.Stream, count: int, rows: np.ndarray) -> np.ndarray | dict[str, np.ndarray]:
    """The rows, or their examples if these stay on the host: of `count` updates, zeros after them."""
    if isinstance(stream.x, np.ndarray):
        return rows
    x = stream.x[rows[:count]]
    if count < len(rows):
        x = np.concatenate([x, np.zeros((len(rows) - count, *x.shape[1:]), x.dtype)])
    return {"x": x, **{name: _narrow(labels[rows]) for name, labels in stream.labels.items()}}


def _narrow(labels: np.ndarray) -> np.ndarray:
    """Class and group numbers as int32, whatever integers a table of many millions keeps; weights as they are."""
    return labels if labels.dtype == np.float32 else labels.astype(np.int32)


def on_device(
    streams: Mapping[str, sampling.Stream],
    mesh: jax.sharding.Mesh | None = None,
    prepare: Callable[[np.ndarray], np.ndarray] = lambda array: array,
) -> dict[str, Examples]:
    """Puts each stream's examples on the device, or on every one of a mesh; arrays that streams share only once.

    Streams whose examples stay on the host are left out. `prepare` is applied to each array first.
    """
    placed: dict[int, jax.Array] = {}

    def place(array: np.ndarray) -> jax.Array:
        if id(array) not in placed:
            own = prepare(array)
            placed[id(array)] = jnp.asarray(own) if mesh is None else parallel.replicate(own, mesh)
        return placed[id(array)]

    return {
        name: {"x": place(stream.x), **{key: place(labels) for key, labels in stream.labels.items()}}
        for name, stream in streams.items()
        if isinstance(stream.x, np.ndarray)
    }
