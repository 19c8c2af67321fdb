"""Samplers of blocks: what they promise as all samplers do, and that memory and reads stay small."""

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest

from mbjax.sampling import Stream, make_stream
from mbjax.types import Split, UserError

SAMPLERS = ("natural", "over", "under", "class_balanced")
COUNTS = {"two classes": (2000, 45), "three": (1100, 900, 30), "equal": (70, 70, 70)}


class Blocks:
    """What a sampler sees of a `HostArray`."""

    dtype, digest = np.dtype(np.float32), ""

    def __init__(self, n: int, block: int = 16):
        self.shape, self.block = (n, 1), block

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.asarray(rows, np.float32)[..., None]


def make_split(counts: tuple[int, ...], block: int = 16) -> Split:
    y = np.random.default_rng(3).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.uint8)
    return Split(Blocks(len(y), block), y)


def stream(split: Split, sampler: str, **settings: Any) -> Stream:
    defaults = {"name": "query", "seed": 0, "classes": ("fine", "fraud", "odd")[: split.y.max() + 1], "cache_dir": None}
    return make_stream(split, sampler=sampler, **{**defaults, **settings})


def epochs(one: Stream, count: int) -> np.ndarray:
    return one.indices(0, count, (one.epoch_length,))


@pytest.fixture(scope="module", params=list(COUNTS))
def split(request: pytest.FixtureRequest) -> Split:
    return make_split(COUNTS[request.param])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler(sampler: str, split: Split):
    one, again = stream(split, sampler), stream(split, sampler)
    indices = one.indices(0, 40, (5, 7))
    assert indices.shape == (40, 5, 7)
    assert indices.dtype == np.int32
    assert 0 <= indices.min() <= indices.max() < len(split)
    # A pure function of (seed, step): whatever was asked for before, and however it is cut.
    for cut in (33, 4, 1):
        assert np.array_equal(again.indices(cut, 40 - cut, (5, 7)), indices[cut:])
        assert np.array_equal(again.indices(0, cut, (5, 7)), indices[:cut])
    far = stream(split, sampler).indices(10**9, 2, (5, 7))
    assert np.array_equal(one.indices(10**9 + 1, 1, (5, 7))[0], far[1])
    assert one.indices(3, 0, (5, 7)).shape == (0, 5, 7)
    # What a caller does to its indices stays its own.
    kept = indices.copy()
    indices[:] = 0
    assert np.array_equal(one.indices(0, 40, (5, 7)), kept)
    orders = [kept, stream(split, sampler, name="support").indices(0, 40, (5, 7))]
    orders += [stream(split, sampler, seed=1).indices(0, 40, (5, 7))]
    for a, b in itertools.combinations(orders, 2):
        assert np.mean(a == b) < 0.1
    assert one.x is split.x
    assert one.y is split.y


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_epochs_have_their_length_and_shares(sampler: str, split: Split):
    counts = np.bincount(split.y)
    wanted = {"natural": counts, "under": np.full_like(counts, counts.min())}
    shares = wanted.get(sampler, np.full_like(counts, counts.max()))
    one = stream(split, sampler)
    assert one.epoch_length == shares.sum()
    drawn = epochs(one, 3)
    for epoch in drawn:
        assert np.array_equal(np.bincount(split.y[epoch]), shares)
    assert not np.array_equal(drawn[0], drawn[1])


def test_natural_is_every_example_once_an_epoch(split: Split):
    for epoch in epochs(stream(split, "natural"), 3):
        assert np.array_equal(np.sort(epoch), np.arange(len(split)))


def test_over_takes_every_example_and_repeats_that_go_round(split: Split):
    repeats = []
    counts = np.bincount(split.y)
    for epoch in epochs(stream(split, "over"), 3):
        times = np.bincount(epoch, minlength=len(split))
        for number, count in enumerate(counts):
            mine = times[split.y == number]
            assert mine.min() == counts.max() // count
            assert mine.max() == -(-counts.max() // count)
        repeats.append(tuple(times))
    assert len(set(repeats)) == (1 if len(set(counts)) == 1 else 3)


def test_under_draws_anew_without_repeats_and_gets_through_all(split: Split):
    counts = np.bincount(split.y)
    under, kept = stream(split, "under"), []
    passes = counts.max() // counts.min()
    for epoch in epochs(under, 3 * passes):
        assert len(np.unique(epoch)) == len(epoch)
        kept.append(epoch[split.y[epoch] == counts.argmax()])
    for start in range(0, 3 * passes, passes):  # nothing comes again before (nearly) all came
        assert len(np.unique(np.concatenate(kept[start : start + passes]))) == passes * counts.min()


def test_the_classes_of_a_shuffled_epoch_are_mixed():
    split = make_split((2000, 45))
    for sampler in ("over", "under", "natural"):
        one = stream(split, sampler)
        labels = split.y[epochs(one, 1)[0]]
        thirds = [part.mean() for part in np.array_split(labels, 3)]
        assert max(thirds) - min(thirds) < 0.25
        assert 0.2 < np.mean(labels[1:] == labels[:-1]) / (labels.mean() ** 2 + (1 - labels.mean()) ** 2) < 1.5
    labels = split.y[stream(split, "under").indices(0, 200, (16,))].sum(1)
    assert len(set(labels.tolist())) > 3  # chance decides a batch's shares, as without blocks


def test_class_balanced_batches_are_exact():
    split = make_split(COUNTS["three"])
    one = stream(split, "class_balanced")
    assert all(np.bincount(split.y[batch]).tolist() == [5, 5, 5] for batch in one.indices(7, 9, (15,)))
    assert all(sorted(np.bincount(split.y[batch])) == [5, 5, 6] for batch in one.indices(0, 9, (16,)))
    flat = one.indices(0, 400, (15,)).ravel()
    mine = flat[split.y[flat] == 2]
    assert np.array_equal(
        np.sort(mine[: len(mine) // 30 * 30].reshape(-1, 30)), np.tile(np.flatnonzero(split.y == 2), (66, 1))
    )


@pytest.mark.parametrize(
    ("sampler", "strategy", "counts"),
    [
        ("over", 0.5, (2000, 1000)),
        ("over", "{'fraud': 300}", (2000, 300)),
        ("under", 0.5, (90, 45)),
        ("under", "{'fine': 700, 'fraud': 10}", (700, 10)),
        ("class_balanced", 0.25, (2000, 500)),
    ],
)
def test_sampling_strategy(sampler: str, strategy: Any, counts: tuple[int, int]):
    split = make_split((2000, 45))
    one = stream(split, sampler, sampling_strategy=strategy)
    assert one.epoch_length == sum(counts)
    for epoch in epochs(one, 2):
        assert tuple(np.bincount(split.y[epoch])) == counts


def test_mistakes_are_one_line():
    split = make_split((2000, 45))
    with pytest.raises(UserError, match="makes new examples of arrays in memory"):
        stream(split, "smote")
    with pytest.raises(UserError, match=r"config.query.sampler='over' .* increase the ratio"):
        stream(split, "over", sampling_strategy=0.01)


def test_a_pass_goes_through_the_blocks_once():
    block, n = 64, 64 * 1000 - 5
    split = Split(Blocks(n, block), (np.arange(n) % 4 == 0).astype(np.uint8))  # a class of each: none is rare
    natural = stream(split, "natural").indices(0, 100, (640,)).reshape(100, -1)
    window = 256 * block
    touched = [len(np.unique(natural.ravel()[start : start + window] // block)) for start in range(0, n, window)]
    assert max(touched) <= 256 + 5  # one window has the short block, so from then on 5 rows are the next one's
    assert sum(touched) <= 1000 + 5 * len(touched)
    order = natural.ravel()[:window]
    assert np.abs(np.corrcoef(order, np.arange(window))[0, 1]) < 0.05  # blocks in no order, rows in none
    n = block * 8000
    under = stream(Split(Blocks(n, block), (np.arange(n) % 4 == 0).astype(np.uint8)), "under").indices(0, 10, (1600,))
    assert len(np.unique(under // block)) < 1600  # 8,000 of each class: 167 and 500 blocks would do


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_memory_does_not_hold_the_rows(sampler: str):
    n = 4_000_000
    y = np.zeros(n, np.uint8)
    y[::2000] = 1
    split = Split(Blocks(n, 256), y)
    tracemalloc.start()
    try:
        one = stream(split, sampler)
        for step in (0, 1, 10**6):
            one.indices(step, 1, (10, 1000))
        current, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert current < 3_000_000  # int32 of all rows would be 16 MB
    assert peak < 4 * n  # imbalanced-learn's own count of the labels takes 3 bytes a row, for a moment
