"""The updates of a run: what feeds them, and the compiled function that does many in one call."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbjax import methods, sampling
from mbjax.devices import parallel as parallel_lib
from mbjax.state import TrainState
from mbjax.train.experiment import Experiment

Examples = dict[str, jax.Array]
Advance = Callable[
    [TrainState, Mapping[str, Examples], Mapping[str, np.ndarray], int], tuple[TrainState, dict[str, jax.Array]]
]


def make_advance(method: methods.Method, updates_per_call: int) -> Advance:
    """Makes `advance(state, examples, indices, count)`: `count` updates in one call of a compiled function.

    `indices` has room for `updates_per_call` updates, of which the first `count` are done; so calls of any length
    share one program and a resumed run repeats an uninterrupted one to the bit.

    Returns:
      The new state (the old one is donated) and the metrics of each update, `[updates_per_call]` each.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(state, examples, indices, count):
        def update(k, state):
            batches = {name: _batch(examples.get(name), rows, k) for name, rows in indices.items()}
            spread = {
                name: parallel_lib.split(batch, method.mesh, axes=len(method.streams[name]))
                for name, batch in batches.items()
            }
            state, metrics = method.step(state, spread)
            return parallel_lib.keep_replicated((state, metrics), method.mesh)

        def body(k, carry):
            state, rows = carry
            state, metrics = update(k, state)
            return state, jax.tree.map(lambda row, value: row.at[k].set(value), rows, metrics)

        shapes = jax.eval_shape(update, 0, state)[1]
        rows = jax.tree.map(lambda s: jnp.full((updates_per_call, *s.shape), jnp.nan, s.dtype), shapes)
        return jax.lax.fori_loop(0, count, body, (state, rows))

    return advance


def _batch(examples: Examples | None, rows: Any, k: jax.Array) -> Examples:
    """What update `k` of a call reads: rows of what lies on the device, or what came from the host with the call."""
    if examples is None:
        return jax.tree.map(lambda batches: batches[k], rows)
    return {name: array[rows[k]] for name, array in examples.items()}


def feed(
    experiment: Experiment, start: int, boundaries: list[int], updates_per_call: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yields `(count, {stream: indices})` of each call, on the device; no call goes past a boundary.

    Of a stream whose examples stay on the host, the examples themselves in place of their indices. On several devices
    each gets its own part, and each process draws and reads only what is its devices'.
    """
    step, mesh = start, experiment.method.mesh
    for boundary in boundaries:
        while step < boundary:
            count = min(updates_per_call, boundary - step)
            yield (
                count,
                {
                    name: parallel_lib.feed(
                        functools.partial(_read, experiment.streams[name], step, count, shape),
                        (updates_per_call, *parallel_lib.padded_shape(shape, mesh)),
                        mesh,
                    )
                    for name, shape in experiment.method.streams.items()
                },
            )
            step += count


def _read(
    stream: sampling.Stream, step: int, count: int, shape: tuple[int, ...], box: tuple[slice, ...]
) -> np.ndarray | dict[str, np.ndarray]:
    """Indices of `count` updates, or the examples if these stay on the host: the part in `box`, zeros after them."""
    sizes = [s.stop - s.start for s in box]
    rows = np.zeros(sizes, np.int32)
    rows[:count] = stream.indices(step, count, shape, box[1:])
    if isinstance(stream.x, np.ndarray):
        return rows
    x = stream.x[rows[:count]]
    if count < len(rows):
        x = np.concatenate([x, np.zeros((len(rows) - count, *x.shape[1:]), x.dtype)])
    return {"x": x, **{name: labels[rows].astype(np.int32) for name, labels in stream.labels.items()}}


def on_device(streams: Mapping[str, sampling.Stream], mesh: jax.sharding.Mesh | None = None) -> dict[str, Examples]:
    """Puts each stream's examples on the device, or on every one of a mesh; arrays that streams share only once.

    Streams whose examples stay on the host are left out.
    """
    placed: dict[int, jax.Array] = {}

    def place(array: np.ndarray) -> jax.Array:
        if id(array) not in placed:
            placed[id(array)] = jnp.asarray(array) if mesh is None else parallel_lib.replicate(array, mesh)
        return placed[id(array)]

    return {
        name: {"x": place(stream.x), **{key: place(labels) for key, labels in stream.labels.items()}}
        for name, stream in streams.items()
        if isinstance(stream.x, np.ndarray)
    }
