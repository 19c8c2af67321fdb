"""Index samplers for examples that are read in blocks: the orders of `mbjax.sampling.stream`, drawn window by window.

A window is 64 to 256 blocks of a random order of all blocks; its rows come shuffled. So a pass reads each block about
once, as one piece, and no array of all rows is ever made: what is kept are tables of one number a block, the rows of
rare classes, and the windows in use. Each position is still a pure function of the key, and can be had at once.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from mbjax.sampling import stream
from mbjax.sampling.stream import Strategy, Take
from mbjax.types import count_classes

_WINDOW_ROWS = 65_536  # of a window, but it has 64 blocks at least and 256 at most
_FEW = 8192  # positions drawn at a time, at least
_LISTED = 1 / 32  # the share of all rows that may be listed one by one: those of the rarest classes
_CHUNK = 1 << 20  # labels looked at together
_SHUFFLE = 1 << 16  # keeps its random numbers apart from those of the classes' walks, which have the classes' numbers

ClassWalk = tuple[int, Take]
"""How many rows a class has, and permutations of them, one after another."""


def natural(y: np.ndarray, strategy: Strategy, key: tuple[int, ...], *, block: int) -> tuple[int, Take]:
    """Every example once an epoch. Like every sampler here, returns the length of an epoch and the order.

    Args:
      y: class numbers, `[n]`, of any integer type.
      strategy: see `mbjax.sampling.make_stream`.
      key: of the random numbers.
      block: rows that lie together.
    """
    return len(y), _windows(y, key, block)


def over(y: np.ndarray, strategy: Strategy, key: tuple[int, ...], *, block: int) -> tuple[int, Take]:
    """Random over-sampling: every example, and repeats of the smaller classes that each epoch draws anew.

    The repeats go round: the examples of a class come equally often, but for one time, where chance decides in
    `mbjax.sampling.stream.over`.
    """
    repeats = stream.targets(y, strategy, "over-sampling")
    walks = _class_walks(y, key, block)
    counts = [count + repeats.get(number, 0) for number, (count, _) in walks.items()]
    takes = [
        _first_of_each(walk, period=-(-total // count) * count, used=total)
        for total, (count, walk) in zip(counts, walks.values(), strict=True)
    ]
    return sum(counts), _shuffled(_interleaved(counts, takes), sum(counts), key, block)


def under(y: np.ndarray, strategy: Strategy, key: tuple[int, ...], *, block: int) -> tuple[int, Take]:
    """Random under-sampling: of the larger classes each epoch keeps the next part of a permutation.

    So an example of theirs does not come again before nearly all others came, where `mbjax.sampling.stream.under` draws
    every epoch on its own. What is left of a permutation, less than a part, is passed over: no epoch has a row twice.
    """
    kept = stream.targets(y, strategy, "under-sampling")
    walks = _class_walks(y, key, block)
    counts = [kept.get(number, count) for number, (count, _) in walks.items()]
    takes = [
        _first_of_each(walk, period=count, used=count // part * part)
        for part, (count, walk) in zip(counts, walks.values(), strict=True)
    ]
    return sum(counts), _shuffled(_interleaved(counts, takes), sum(counts), key, block)


def class_balanced(y: np.ndarray, strategy: Strategy, key: tuple[int, ...], *, block: int) -> tuple[int, Take]:
    """Batches whose classes have the shares that random over-sampling aims at: by default, equal ones.

    The classes take turns, so a batch of any size has its shares to within an example or two.
    """
    repeats = stream.targets(y, strategy, "over-sampling")
    walks = _class_walks(y, key, block)
    counts = [count + repeats.get(number, 0) for number, (count, _) in walks.items()]
    return sum(counts), _interleaved(counts, [walk for _, walk in walks.values()])


def _class_walks(y: np.ndarray, key: tuple[int, ...], block: int) -> dict[int, ClassWalk]:
    """The walk of each class that occurs, in the order of their numbers.

    The rarest classes have their rows listed, and permutations of all of them; the others walk from window to window.
    """
    counts = count_classes(y)
    numbers = np.argsort(counts, kind="stable")
    listed = numbers[np.cumsum(counts[numbers]) <= _LISTED * len(y)]
    rows = _rows(y, listed)

    def walk(number: int) -> Take:
        own = (*key, number)
        return _windows(y, own, block, number) if number not in rows else _permutations(rows[number], own)

    return {number: (int(counts[number]), walk(number)) for number in np.flatnonzero(counts).tolist()}


def _rows(y: np.ndarray, numbers: np.ndarray) -> dict[int, np.ndarray]:
    """The rows of these classes, `[count]` each, int32, sorted."""
    wanted = np.zeros(int(y.max()) + 1, bool)
    wanted[numbers] = True
    chunks = range(0, len(y), _CHUNK)
    rows = np.concatenate(
        [np.flatnonzero(wanted[y[start : start + _CHUNK]]).astype(np.int32) + start for start in chunks]
    )
    labels = y[rows]
    order = np.argsort(labels, kind="stable")
    edges = np.searchsorted(labels[order], [numbers, numbers + 1])
    return {int(n): rows[order[low:high]] for n, low, high in zip(numbers, *edges, strict=True) if high > low}


def _permutations(rows: np.ndarray, key: tuple[int, ...]) -> Take:
    """Permutations of listed rows."""
    _, order = stream.natural(rows, "auto", key)
    return lambda start, count: rows[order(start, count)]


def _windows(y: np.ndarray, key: tuple[int, ...], block: int, number: int | None = None) -> Take:
    """Permutations of all rows, or of a class's, that go from window to window."""
    counts, size = _count_in_blocks(y, block, number), _blocks_of_window(block)

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        blocks = np.random.default_rng([*key, epoch]).permutation(len(counts))
        edges = np.append(0, np.cumsum(counts[blocks], dtype=np.int64))
        return blocks.astype(np.int32), np.append(edges[:-1:size], edges[-1])

    def draw(epoch: int, window: int) -> np.ndarray:
        blocks = order(epoch)[0][window * size : (window + 1) * size].astype(np.int64)
        rows = (blocks[:, None] * block + np.arange(block)).ravel()
        rows = rows[rows < len(y)].astype(np.int32)
        # A seed of zeros at its end is the seed without them, hence + 1: `[*key, epoch]` is the order's.
        rng = np.random.default_rng([*key, epoch, window + 1])
        rows = rows if number is None else rows[y[rows] == number]
        return rows[rng.permutation(len(rows))]  # faster than to shuffle them

    return _endless(int(counts.sum(dtype=np.int64)), lambda epoch: order(epoch)[1], draw)


def _blocks_of_window(block: int) -> int:
    return min(max(_WINDOW_ROWS // block, 64), 256)


def _count_in_blocks(y: np.ndarray, block: int, number: int | None) -> np.ndarray:
    """Rows in each block, or those of a class, `[blocks]`, uint32."""
    if number is None:
        counts = np.full(-(-len(y) // block), block, np.uint32)
        counts[-1] = len(y) - (len(counts) - 1) * block
        return counts
    size = max(_CHUNK // block, 1) * block
    chunks = (y[start : start + size] == number for start in range(0, len(y), size))
    return np.concatenate([np.add.reduceat(c, np.arange(0, len(c), block), dtype=np.uint32) for c in chunks])


def _interleaved(shares: Sequence[int], takes: Sequence[Take]) -> Take:
    """The classes take turns, each as often as its share says; over `sum(shares)` positions exactly so."""
    shares = [share // int(np.gcd.reduce(shares)) for share in shares]
    if sum(shares) * max(shares) >= 2**63:
        raise ValueError(f"an epoch of {sum(shares)} examples is too long")

    def take(start: int, count: int) -> np.ndarray:
        out = np.empty(count, np.int32)
        for walk, (where, ranks) in zip(takes, _turns(start, count, shares), strict=True):
            if len(where):
                out[where] = walk(int(ranks[0]), len(where))
        return out

    return take


def _turns(start: int, count: int, shares: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each class: which of the positions `start` … `start + count - 1` are its turns, and their numbers.

    The first class has had `floor(t · share / sum(shares))` turns before position t; the others share the positions
    that it leaves in the same manner.
    """
    turns, total, where = [], sum(shares), np.arange(count)
    for share in shares:
        t = np.arange(start, start + len(where) + 1)  # what one class leaves are consecutive positions again
        had = t // total * share + t % total * share // total
        mine = had[1:] > had[:-1]
        turns.append((where[mine], had[:-1][mine]))
        where, start, total = where[~mine], start - int(had[0]), total - share
    return turns


def _first_of_each(take: Take, *, period: int, used: int) -> Take:
    """The first `used` of every `period` positions."""

    def first(start: int, count: int) -> np.ndarray:
        parts, stop = [np.empty(0, np.int32)], start + count
        while start < stop:
            number, at = divmod(start, used)
            parts.append(take(number * period + at, min(stop - start, used - at)))
            start += len(parts[-1])
        return np.concatenate(parts)

    return first


def _shuffled(take: Take, length: int, key: tuple[int, ...], block: int) -> Take:
    """The same epochs, shuffled in pieces that do not go past an epoch's end; short epochs several at a time.

    A piece has the rows of two windows: longer ones would have to read many windows at the same time.
    """
    epochs = max(1, _FEW // length)
    edges = np.append(np.arange(0, epochs * length, max(2 * _blocks_of_window(block) * block, _FEW)), epochs * length)

    def draw(number: int, piece: int) -> np.ndarray:
        values = take(number * epochs * length + int(edges[piece]), int(edges[piece + 1] - edges[piece]))
        rng = np.random.default_rng([*key, _SHUFFLE, number, piece])
        if epochs == 1:
            return values[rng.permutation(len(values))]
        return rng.permuted(values.reshape(epochs, -1), axis=1).ravel()

    return _endless(epochs * length, lambda _: edges, draw)


def _endless(length: int, edges: Callable[[int], np.ndarray], draw: Callable[[int, int], np.ndarray]) -> Take:
    """Epoch after epoch of pieces: piece k of epoch e is `draw(e, k)`, from `edges(e)[k]` to `edges(e)[k + 1]`."""
    drawn = functools.lru_cache(maxsize=8)(draw)

    def take(start: int, count: int) -> np.ndarray:
        out, done = np.empty(count, np.int32), 0
        while done < count:
            epoch, at = divmod(start + done, length)
            piece = int(np.searchsorted(edges(epoch), at, "right")) - 1
            values = drawn(epoch, piece)[at - int(edges(epoch)[piece]) :][: count - done]
            out[done : done + len(values)] = values
            done += len(values)
        return out

    return take
