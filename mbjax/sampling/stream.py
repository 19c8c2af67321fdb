"""Index samplers: endless orders of examples, each a pure function of (seed, stream, position).

Examples are drawn in epochs. `default_rng([seed, stream, block])` draws a block of them: one epoch, or, where epochs
are short, as many as make drawing cheap. So any position can be had at once, and a resumed run needs only its step.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from imblearn.utils import check_sampling_strategy

Take = Callable[[int, int], np.ndarray]
"""`take(start, count)`: the indices at positions start … start + count - 1, `[count]`, int32."""
Strategy = str | float | dict[int, int]

_BLOCK = 8192  # examples drawn at a time, at least
_MOST = 2**31  # indices have 32 bits


@dataclasses.dataclass(frozen=True)
class Stream:
    """An endless stream of examples.

    Attributes:
      x: what the indices point into, `[n, ...]`: the split's own array or `HostArray`, or the resampled array.
      y: its class numbers, `[n]`, int32.
      epoch_length: examples that make an epoch.
      take: `take(start, count)`, the indices at `count` positions from `start` on.
      group: its group numbers, `[n]`, int32, if there are any.
      weight: what each example's loss is multiplied by, `[n]`, float32, if examples have weights.
    """

    x: Any
    y: np.ndarray
    epoch_length: int
    take: Take
    group: np.ndarray | None = None
    weight: np.ndarray | None = None

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """What goes with `x`: `"y"` and, if there are any, `"group"` and `"weight"`."""
        every = {"y": self.y, "group": self.group, "weight": self.weight}
        return {name: values for name, values in every.items() if values is not None}

    def class_shares(self, classes: int, most: int = 2**20) -> np.ndarray:
        """The classes' shares of an epoch's loss, or of that of its first `most` examples, `[classes]`."""
        rows = self.take(0, min(self.epoch_length, most))
        weights = None if self.weight is None else self.weight[rows]
        counts = np.bincount(self.y[rows], weights=weights, minlength=classes)
        return counts / counts.sum()

    def indices(self, step: int, steps: int, shape: tuple[int, ...]) -> np.ndarray:
        """What the updates `step` … `step + steps - 1` read.

        Args:
          step: the first update, from 0.
          steps: how many updates.
          shape: the examples of one update; its last axis is a batch.

        Returns:
          Indices into `x` and `y`, `[steps, *shape]`, int32. Batches run on across epochs.
        """
        size = math.prod(shape)
        return self.take(step * size, steps * size).reshape(steps, *shape)


def with_views(stream: Stream, x: np.ndarray, views: int, key: tuple[int, ...]) -> Stream:
    """The stream of examples of which there are several views each, one of them drawn whenever one is read.

    Args:
      stream: in the order of which they are read.
      x: the views of its first example, then those of its second, and so on, `[n · views, ...]`.
      views: of each.
      key: of the draws.
    """
    draw = _endless(lambda rng, epochs: rng.integers(views, size=(epochs, _BLOCK), dtype=np.int32), _BLOCK, key)
    labels = {name: np.repeat(values, views) for name, values in stream.labels.items()}
    take = lambda start, count: stream.take(start, count) * np.int32(views) + draw(start, count)  # noqa: E731
    return dataclasses.replace(stream, x=x, take=take, **labels)


def natural(y: np.ndarray, strategy: Strategy, key: tuple[int, ...]) -> tuple[int, Take]:
    """Every example once an epoch. Like every sampler here, returns the length of an epoch and the order."""
    return len(y), _walk(np.arange(len(y), dtype=np.int32), key)


def over(y: np.ndarray, strategy: Strategy, key: tuple[int, ...]) -> tuple[int, Take]:
    """Random over-sampling: every example, and repeats of the smaller classes that each epoch draws anew."""
    repeats = targets(y, strategy, "over-sampling")
    rows, everything = _rows(y), np.arange(len(y), dtype=np.int32)
    length = len(y) + sum(repeats.values())

    def draw(rng: np.random.Generator, epochs: int) -> np.ndarray:
        drawn = [rng.choice(rows[number], (epochs, count)) for number, count in repeats.items()]
        return rng.permuted(np.concatenate([np.tile(everything, (epochs, 1)), *drawn], axis=1), axis=1)

    return length, _endless(draw, length, key)


def under(y: np.ndarray, strategy: Strategy, key: tuple[int, ...]) -> tuple[int, Take]:
    """Random under-sampling: each epoch draws anew which examples of the larger classes it keeps."""
    kept = targets(y, strategy, "under-sampling")
    rows = _rows(y)
    counts = {number: kept.get(number, len(r)) for number, r in rows.items()}
    length = sum(counts.values())

    def subsets(rng: np.random.Generator, values: np.ndarray, count: int, epochs: int) -> np.ndarray:
        if len(values) <= count + 300:  # below, shuffling all of them costs less than a call an epoch
            return _permutations(rng, values, epochs)[:, :count]
        return np.stack([rng.choice(values, count, replace=False, shuffle=False) for _ in range(epochs)])

    def draw(rng: np.random.Generator, epochs: int) -> np.ndarray:
        drawn = [subsets(rng, rows[number], count, epochs) for number, count in counts.items()]
        return rng.permuted(np.concatenate(drawn, axis=1), axis=1)

    return length, _endless(draw, length, key)


def class_balanced(y: np.ndarray, strategy: Strategy, key: tuple[int, ...]) -> tuple[int, Take]:
    """Batches whose classes have the shares that random over-sampling aims at: by default, equal ones.

    The classes take turns, so a batch of any size has its shares to within an example or two, exactly where it
    divides, and what is left over goes round. A class's examples come in permutations of them, one after another.
    """
    repeats = targets(y, strategy, "over-sampling")
    rows = _rows(y)
    counts = np.array([len(r) + repeats.get(number, 0) for number, r in rows.items()])
    shares = counts // np.gcd.reduce(counts)
    turns = _turns(shares)
    places = [np.flatnonzero(turns == k) for k in range(len(shares))]
    walks = [_walk(r, (*key, number)) for number, r in rows.items()]

    def take(start: int, count: int) -> np.ndarray:
        periods, rest = divmod(start, len(turns))
        turn = turns[(rest + np.arange(count)) % len(turns)]
        out = np.empty(count, np.int32)
        for k, walk in enumerate(walks):
            here = turn == k
            taken = periods * int(shares[k]) + int(np.searchsorted(places[k], rest))
            out[here] = walk(taken, int(np.count_nonzero(here)))
        return out

    return int(counts.sum()), take


def targets(y: np.ndarray, strategy: Strategy, kind: str) -> dict[int, int]:
    """Of each class that the strategy means: what to add (`"over-sampling"`) or to keep (`"under-sampling"`).

    Raises:
      ValueError: imbalanced-learn refuses the strategy for these classes, or it asks for too many examples.
    """
    counts = {int(number): int(count) for number, count in (check_sampling_strategy(strategy, y, kind) or {}).items()}
    if (total := len(y) + sum(counts.values())) >= _MOST:
        raise ValueError(f"an epoch of {total:,} examples; fewer than {_MOST:,} are possible")
    return counts


def loss_weights(y: np.ndarray, weight: np.ndarray, *, natural: bool) -> np.ndarray:
    """What to multiply losses by so that an example of weight 2 counts as two of weight 1 would, in expectation.

    Samplers that balance draw each class as often as before, however much its examples weigh; so there the mean over
    a class's examples is 1, and over all examples where they are drawn as they come.

    Args:
      y: class numbers, `[n]`.
      weight: how many examples each one stands for, `[n]`.
      natural: whether examples are drawn as they come.

    Returns:
      `[n]`, float32.
    """
    of = np.zeros_like(y) if natural else y
    means = np.bincount(of, weights=weight) / np.maximum(np.bincount(of), 1)
    return (weight / means[of]).astype(np.float32)


def _rows(y: np.ndarray) -> dict[int, np.ndarray]:
    """The indices of each class that occurs, `[count]`, int32."""
    return {int(number): np.flatnonzero(y == number).astype(np.int32) for number in np.unique(y)}


def _turns(shares: np.ndarray) -> np.ndarray:
    """The order in which classes take turns, `[sum(shares)]`: next is whichever is furthest behind its share."""
    if (shares == 1).all():
        return np.arange(len(shares))
    behind, turns = np.zeros_like(shares), np.empty(shares.sum(), int)
    for i in range(len(turns)):
        behind += shares
        turns[i] = behind.argmax()
        behind[turns[i]] -= len(turns)
    return turns


def _permutations(rng: np.random.Generator, values: np.ndarray, epochs: int) -> np.ndarray:
    return rng.permuted(np.tile(values, (epochs, 1)), axis=1)


def _walk(values: np.ndarray, key: tuple[int, ...]) -> Take:
    """Permutations of `values`, one after another."""
    return _endless(lambda rng, epochs: _permutations(rng, values, epochs), len(values), key)


def _endless(draw: Callable[[np.random.Generator, int], np.ndarray], length: int, key: tuple[int, ...]) -> Take:
    """Epoch after epoch of `draw(rng, epochs)`, which returns `[epochs, length]` indices."""
    epochs = max(1, _BLOCK // length)
    size = epochs * length

    @functools.lru_cache(maxsize=2)
    def block(number: int) -> np.ndarray:
        return draw(np.random.default_rng([*key, number]), epochs).reshape(-1)

    def take(start: int, count: int) -> np.ndarray:
        stop = start + count
        parts = [block(b)[max(start - b * size, 0) : stop - b * size] for b in range(start // size, -(-stop // size))]
        return np.concatenate([np.empty(0, np.int32), *parts])  # a copy: a caller's change stays out of the cache

    return take
