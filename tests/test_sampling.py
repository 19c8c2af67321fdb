"""Samplers: what all of them promise, what each one does, the resamplers' cache, error lines, prefetching."""

import gc
import itertools
import os
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from imblearn.over_sampling import SMOTE

from mbjax.sampling import SAMPLERS, Stream, make_stream, prefetch
from mbjax.sampling.resample import RESAMPLERS
from mbjax.types import Split, UserError


def blobs(counts: tuple[int, ...], shape: tuple[int, ...] = (4,), spread: float = 0.6, seed: int = 7) -> Split:
    """Overlapping clouds, one a class, in random order."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    x = rng.normal(size=(len(y), *shape)) + spread * y.reshape(-1, *[1] * len(shape))
    return Split(x.astype(np.float32), y)


TWO = blobs((60, 16))
THREE = blobs((14, 60, 20), (3, 2, 1), spread=0.9)


def stream(split: Split, sampler: str, **settings) -> Stream:
    number_of_classes = int(split.y.max()) + 1
    defaults = {
        "name": "query",
        "seed": 0,
        "classes": ("fine", "fraud", "odd")[:number_of_classes],
        "cache_dir": None,
    }
    return make_stream(split, sampler=sampler, **{**defaults, **settings})


def epochs(stream: Stream, count: int) -> np.ndarray:
    """The first epochs, `[count, epoch_length]`."""
    return stream.indices(0, count, (stream.epoch_length,))


# What every sampler promises.


@pytest.fixture(scope="module", params=[TWO, THREE], ids=["two classes", "three classes, images"])
def split(request: pytest.FixtureRequest) -> Split:
    return request.param


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler(sampler: str, split: Split):
    one, again = stream(split, sampler), stream(split, sampler)
    shape = (5, 7)  # 35 examples: no multiple of 2 or 3 classes
    indices = one.indices(0, 10, shape)
    assert indices.shape == (10, 5, 7)
    assert indices.dtype == np.int32
    assert indices.min() >= 0
    assert indices.max() < len(one.y) == len(one.x)
    # A pure function of (seed, step): whatever was asked for before, and however it is cut.
    for cut in (4, 1):
        assert np.array_equal(again.indices(cut, 10 - cut, shape), indices[cut:])
        assert np.array_equal(again.indices(0, cut, shape), indices[:cut])
    far = again.indices(2500, 2, shape)
    assert np.array_equal(one.indices(2501, 1, shape)[0], far[1])
    assert np.array_equal(one.indices(0, 50, (7,)).reshape(10, 5, 7), indices)
    assert one.indices(3, 0, shape).shape == (0, 5, 7)
    # What a caller does to its indices stays its own.
    kept = indices.copy()
    indices[:] = 0
    assert np.array_equal(one.indices(0, 10, shape), kept)
    # Other streams and other seeds draw otherwise.
    orders = [kept, stream(split, sampler, name="support").indices(0, 10, shape)]
    orders += [stream(split, sampler, name="train").indices(0, 10, shape)]
    orders += [stream(split, sampler, seed=1).indices(0, 10, shape)]
    for a, b in itertools.combinations(orders, 2):
        assert not np.array_equal(a, b)
    # The data keeps its form, and every class its examples.
    assert one.x.dtype == np.float32
    assert one.x.shape[1:] == split.x.shape[1:]
    assert one.y.dtype == np.int32
    assert set(one.y[epochs(one, 1)[0]].tolist()) == set(split.y.tolist())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_epoch_length(sampler: str, split: Split):
    counts = np.bincount(split.y)
    index_samplers = {
        "natural": len(split),
        "over": len(counts) * counts.max(),
        "under": len(counts) * counts.min(),
        "class_balanced": len(counts) * counts.max(),
    }
    one = stream(split, sampler)
    assert one.epoch_length == index_samplers.get(sampler, len(one.y))
    assert (one.x is split.x and one.y is split.y) == (sampler in index_samplers)


def test_batches_run_across_epochs_and_drop_nothing():
    natural = stream(TWO, "natural")  # 76 examples: 19 batches of 16 are 4 epochs
    flat = natural.indices(0, 19, (16,)).reshape(4, 76)
    assert all(sorted(epoch) == list(range(76)) for epoch in flat.tolist())
    assert len({tuple(epoch) for epoch in flat.tolist()}) == 4


def test_long_epochs_are_permutations_too():
    natural = stream(blobs((9000, 100), (1,)), "natural")  # longer than a block
    first, second = epochs(natural, 2)
    assert np.array_equal(np.sort(first), np.arange(9100))
    assert np.array_equal(np.sort(second), np.arange(9100))
    assert not np.array_equal(first, second)


# Random over- and under-sampling.


def test_over_keeps_originals_and_draws_the_rest():
    over = stream(THREE, "over")
    repeats = []
    for epoch in epochs(over, 3):
        times = np.bincount(epoch, minlength=len(THREE))
        assert times.min() >= 1
        assert (times[THREE.y == 1] == 1).all()  # the majority
        assert np.bincount(THREE.y[epoch]).tolist() == [60, 60, 60]
        repeats.append(tuple(times[THREE.y == 0]))
        assert len(np.unique(epoch[: len(THREE)])) < len(THREE)  # the originals do not come first
    assert len(set(repeats)) == 3


@pytest.mark.parametrize("majority", [60, 600], ids=["few", "many"])
def test_under_draws_anew_without_repeats(majority: int):
    split = blobs((majority, 16, 20))
    under = stream(split, "under")
    kept = []
    for epoch in epochs(under, 40):
        assert len(np.unique(epoch)) == len(epoch)
        assert np.bincount(split.y[epoch]).tolist() == [16, 16, 16]
        kept.append(frozenset(epoch[split.y[epoch] == 0].tolist()))
    assert len(set(kept)) == 40
    chance = 1 - (1 - 16 / majority) ** 40  # that an example of the majority is ever kept
    assert len(frozenset.union(*kept)) == pytest.approx(chance * majority, rel=0.1)


@pytest.mark.parametrize(
    ("sampler", "strategy", "counts"),
    [
        ("over", 0.5, (60, 30)),
        ("over", "0.5", (60, 30)),
        ("under", 0.5, (32, 16)),
        ("over", {"fraud": 50}, (60, 50)),
        ("over", {1: 50}, (60, 50)),
        ("over", "{'fraud': 100, 'fine': 80}", (80, 100)),
        ("under", {"fine": 20}, (20, 16)),
        ("under", "{'fine': 20, 'fraud': 10}", (20, 10)),
        ("under", "majority", (16, 16)),
        ("smote", 0.5, (60, 30)),
        ("smote", {"fraud": 50}, (60, 50)),
        ("nearmiss", "{'fine': 20}", (20, 16)),
        ("cluster_centroids", 0.5, (32, 16)),
    ],
)
def test_sampling_strategy(sampler: str, strategy, counts: tuple[int, ...]):
    one = stream(TWO, sampler, sampling_strategy=strategy)
    assert one.epoch_length == sum(counts)
    for epoch in epochs(one, 2):
        assert tuple(np.bincount(one.y[epoch])) == counts


def test_a_class_name_goes_before_a_class_number():
    over = stream(TWO, "over", classes=("1", "2"), sampling_strategy={1: 70})
    assert np.bincount(TWO.y[epochs(over, 1)[0]]).tolist() == [70, 16]


# Class-balanced batches.


def test_class_balanced_batches_are_exact_and_the_remainder_goes_round():
    balanced = stream(THREE, "class_balanced")
    counts = lambda size: [  # noqa: E731
        np.bincount(THREE.y[b], minlength=3).tolist() for b in balanced.indices(5, 9, (size,))
    ]
    assert counts(15) == [[5, 5, 5]] * 9
    sixteen = counts(16)
    assert all(sorted(c) == [5, 5, 6] for c in sixteen)
    assert np.sum(sixteen, axis=0).tolist() == [48, 48, 48]
    assert np.sum(counts(2), axis=0).tolist() == [6, 6, 6]


def test_class_balanced_uses_every_example_before_one_again():
    balanced = stream(THREE, "class_balanced")
    flat = balanced.indices(0, 60, (15,)).ravel()
    for number in range(3):
        mine, size = flat[THREE.y[flat] == number], int((THREE.y == number).sum())
        walks = mine[: len(mine) // size * size].reshape(-1, size)
        assert len(walks) >= 5
        assert (np.sort(walks, axis=1) == np.flatnonzero(THREE.y == number)).all()
        assert len(np.unique(walks, axis=0)) == len(walks)


@pytest.mark.parametrize(
    ("counts", "strategy", "shares"),
    [
        ((60, 16), 0.5, (2 / 3, 1 / 3)),
        ((60, 16), {"fraud": 45}, (4 / 7, 3 / 7)),
        ((60, 5, 4), {"fraud": 6, "odd": 4}, (60 / 70, 6 / 70, 4 / 70)),
    ],
)
def test_class_balanced_follows_the_strategy(counts: tuple[int, ...], strategy, shares: tuple[float, ...]):
    split = blobs(counts)
    balanced = stream(split, "class_balanced", sampling_strategy=strategy)
    for size in (10, 21):
        batches = [np.bincount(split.y[b], minlength=len(counts)) for b in balanced.indices(3, 210, (size,))]
        assert np.abs(np.array(batches) - size * np.array(shares)).max() < 2
        np.testing.assert_allclose(np.sum(batches, axis=0), 210 * size * np.array(shares), rtol=0, atol=1e-6)


# Resamplers.


def test_smote_points_lie_between_minority_neighbors():
    neighbors = 3
    one = stream(TWO, "smote", neighbors=neighbors)
    minority = TWO.x[TWO.y == 1].astype(np.float64)
    assert np.array_equal(one.x[: len(TWO)], TWO.x)
    distances = np.linalg.norm(minority[:, None] - minority, axis=-1)
    nearest = np.argsort(distances, axis=1)[:, 1 : neighbors + 1]
    for point in one.x[len(TWO) :].astype(np.float64):
        a, b = minority[:, None], minority[nearest]
        t = ((point - a) * (b - a)).sum(-1) / ((b - a) ** 2).sum(-1)
        off = np.linalg.norm(a + t[..., None] * (b - a) - point, axis=-1)
        assert off[(t > -1e-5) & (t < 1 + 1e-5)].min() < 1e-5


def test_images_keep_their_pixels():
    """The first rows of SMOTE's output are its input, so a wrong reshape would show."""
    one = stream(THREE, "smote")
    assert np.array_equal(one.x[: len(THREE)], THREE.x)
    bytes_ = Split((THREE.x * 20 + 100).astype(np.uint8), THREE.y)
    resampled = stream(bytes_, "smote")
    assert resampled.x.dtype == np.uint8
    assert resampled.x.shape == (180, 3, 2, 1)
    assert np.array_equal(resampled.x[: len(THREE)], bytes_.x)
    # Rounded, not cut off: the mean of the new examples is then not half a step too low.
    exact = stream(Split(bytes_.x.astype(np.float32), THREE.y), "smote")
    assert abs(float(resampled.x.mean() - exact.x.mean())) < 0.05


@pytest.mark.parametrize("sampler", sorted(set(RESAMPLERS) - {"cluster_centroids"}))
def test_neighbors_reach_the_resampler(sampler: str):
    few, many = stream(TWO, sampler, neighbors=1), stream(TWO, sampler, neighbors=7)
    assert few.x.shape != many.x.shape or not np.array_equal(few.x, many.x)


@pytest.mark.parametrize("sampler", ["smote", "borderline_smote", "svmsmote", "adasyn", "smoteenn"])
def test_the_seed_reaches_the_resampler(sampler: str):
    one, other = stream(TWO, sampler), stream(TWO, sampler, seed=1)
    assert one.x.shape != other.x.shape or not np.array_equal(one.x, other.x)


def test_repeated_examples_are_no_trouble_for_cluster_centroids():
    few = Split(np.tile(TWO.x[:4], (19, 1)), TWO.y)  # k-means then finds fewer distinct centres, and warns
    assert np.bincount(stream(few, "cluster_centroids").y).tolist() == [16, 16]


# The cache.


@pytest.fixture
def computations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one each time that a SMOTE is computed."""
    calls = []

    class Counted(SMOTE):
        def fit_resample(self, X, y, **params):
            calls.append("smote")
            return super().fit_resample(X, y, **params)

    monkeypatch.setitem(RESAMPLERS, "smote", (Counted, "k_neighbors"))
    return calls


def test_the_cache_computes_once(tmp_path, computations: list[str]):
    cache = tmp_path / "not" / "there"
    first, second = (stream(TWO, "smote", cache_dir=cache, name=name) for name in ("support", "query"))
    assert len(computations) == 1
    assert np.array_equal(first.x, second.x)
    assert np.array_equal(first.y, second.y)
    assert (second.x.dtype, second.y.dtype) == (np.float32, np.int32)
    assert [path.suffix for path in cache.iterdir()] == [".kept"]  # nothing temporary is left

    nudged = TWO.x.copy()
    nudged[0, 0] = np.nextafter(nudged[0, 0], np.float32(9))
    flipped = TWO.y.copy()
    flipped[:2] = 1 - flipped[:2]
    misses = [
        (TWO, {"seed": 1}),
        (TWO, {"neighbors": 2}),
        (TWO, {"sampling_strategy": 0.5}),
        (Split(nudged, TWO.y), {}),
        (Split(TWO.x, flipped), {}),
        (Split(TWO.x.reshape(-1, 2, 2), TWO.y), {}),
    ]
    for number, (split, settings) in enumerate(misses):
        stream(split, "smote", cache_dir=cache, **settings)
        assert len(computations) == 2 + number
    stream(TWO, "smote", cache_dir=cache)
    stream(TWO, "smote", cache_dir=cache, neighbors=2)
    assert len(computations) == 1 + len(misses)


def test_without_a_cache_folder_nothing_is_written(tmp_path, computations: list[str], monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        stream(TWO, "smote")
    assert len(computations) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_cache_file_is_computed_again(tmp_path, computations: list[str], caplog, part: float):
    first = stream(TWO, "smote", cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole)) if isinstance(part, float) else part])
    second = stream(TWO, "smote", cache_dir=tmp_path)
    assert np.array_equal(first.x, second.x)
    assert len(computations) == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(path) in caplog.text
    stream(TWO, "smote", cache_dir=tmp_path)
    assert len(computations) == 2


def test_a_damaged_cache_file_is_computed_again(tmp_path, computations: list[str]):
    first = stream(TWO, "smote", cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = bytearray(path.read_bytes())
    places = [*range(0, len(whole), len(whole) // 60), len(whole) - 1]
    for number, place in enumerate(places):
        broken = whole.copy()
        broken[place] ^= 1 << number % 8
        path.write_bytes(bytes(broken))
        assert np.array_equal(stream(TWO, "smote", cache_dir=tmp_path).x, first.x)
        assert len(computations) == 2 + number
    aside = path.with_name(f"{path.name}.damaged")
    assert sorted(tmp_path.iterdir()) == [path, aside]
    assert aside.read_bytes() == bytes(broken)


def test_another_result_under_the_same_name_is_not_believed(tmp_path, computations: list[str]):
    first = stream(TWO, "smote", cache_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    stream(TWO, "smote", cache_dir=tmp_path, seed=1)
    (other,) = set(tmp_path.iterdir()) - {path}
    path.write_bytes(other.read_bytes())
    assert np.array_equal(stream(TWO, "smote", cache_dir=tmp_path).x, first.x)
    assert len(computations) == 3


def test_a_cache_folder_that_others_may_write_to_is_neither_read_nor_written(tmp_path, computations, caplog):
    stream(TWO, "smote", cache_dir=tmp_path)
    tmp_path.chmod(0o770)
    stream(TWO, "smote", cache_dir=tmp_path)
    stream(TWO, "smote", cache_dir=tmp_path, seed=1)
    assert len(computations) == 3
    assert len(list(tmp_path.iterdir())) == 1
    said = f"resampled data cannot be kept in {tmp_path} (others may write to it: chmod go-w): it is made again"
    assert caplog.text.count(said) == 2


def test_a_cache_folder_is_made_for_its_user_alone(tmp_path):
    before = os.umask(0o002)
    try:
        stream(TWO, "smote", cache_dir=tmp_path / "cache" / "resampled")
    finally:
        os.umask(before)
    assert [folder.stat().st_mode & 0o077 for folder in (tmp_path / "cache", tmp_path / "cache/resampled")] == [0, 0]


def test_a_cache_that_cannot_be_written_only_warns(tmp_path, caplog):
    (tmp_path / "file").touch()
    one = stream(TWO, "smote", cache_dir=tmp_path / "file" / "cache")
    assert len(one.y) == 120
    assert "cannot be" in caplog.text


# Errors: one line that names the value and the way out.


@pytest.mark.parametrize(
    ("sampler", "settings", "parts"),
    [
        ("smotee", {}, ["config.query.sampler='smotee'", *SAMPLERS]),
        ("over", {"sampling_strategy": "majority"}, ["config.query.sampler='over'", "'majority'"]),
        ("over", {"sampling_strategy": 0.1}, ["sampling_strategy=0.1", "increase the ratio"]),
        ("under", {"sampling_strategy": 1.5}, ["sampling_strategy=1.5", "(0, 1]"]),
        ("under", {"sampling_strategy": {"fraud": 17}}, ["sampling_strategy={'fraud': 17}", "16", "17"]),
        (
            "class_balanced",
            {"sampling_strategy": {"fraud": 2}},
            ["16", "2 samples", "--config.query.sampling_strategy"],
        ),
        ("over", {"sampling_strategy": {"frod": 50}}, ["no class 'frod'", "fine, fraud"]),
        ("over", {"sampling_strategy": {2: 50}}, ["no class 2"]),
        ("over", {"sampling_strategy": {"fraud": 50, 1: 60}}, ["class 'fraud' one count"]),
        ("under", {"sampling_strategy": {"fraud": 0}}, ["class 'fraud'", "at least 1"]),
        ("under", {"sampling_strategy": {"fraud": 2.5}}, ["class 'fraud'", "at least 1"]),
        ("over", {"sampling_strategy": "None"}, ["config.query.sampling_strategy='None'", "a ratio such as 0.5"]),
        ("over", {"sampling_strategy": "half"}, ["sampling_strategy='half'", "not majority"]),
        ("enn", {"sampling_strategy": {"fine": 5}}, ["config.query.sampler='enn'", "--config.query.sampling_strategy"]),
        ("smote", {"neighbors": 0}, ["'k_neighbors'", "0", ".neighbors"]),
        ("nearmiss", {"neighbors": 17}, ["config.query.sampler='nearmiss'", "17", "16", ".neighbors"]),
        *[
            (
                sampler,
                {"neighbors": 16},
                ["'fraud'", "16", "--config.query.neighbors=15", "--config.query.sampler=over"],
            )
            for sampler in ("smote", "borderline_smote", "svmsmote", "adasyn", "smoteenn")
        ],
    ],
)
def test_error_lines(sampler: str, settings: dict, parts: list[str]):
    with pytest.raises(UserError) as caught:
        stream(TWO, sampler, **settings)
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert part in line


def test_the_largest_neighborhood_that_the_message_allows_works():
    assert np.bincount(stream(TWO, "smote", neighbors=15).y).tolist() == [60, 60]


def test_a_single_example_cannot_have_neighbors():
    with pytest.raises(
        UserError, match=r"class 'odd' has too few training examples, 1, .*: set --config.train.sampler=over$"
    ):
        stream(blobs((60, 16, 1)), "smote", name="train")


def test_only_classes_that_grow_need_neighbors():
    split = blobs((60, 16, 3))
    one = stream(split, "smote", sampling_strategy={"fraud": 40})
    assert np.bincount(one.y).tolist() == [60, 40, 3]


def test_a_ratio_needs_two_classes():
    with pytest.raises(UserError, match="multi-class, use a dict"):
        stream(THREE, "over", sampling_strategy=0.5)


def test_one_class_alone_has_nothing_to_balance():
    with pytest.raises(UserError, match="more than 1 class"):
        stream(Split(TWO.x, np.zeros_like(TWO.y)), "under", classes=("fine", "fraud"))


def isolated() -> Split:
    """Eight minority examples, each amid twelve of the majority and far from the others."""
    y = np.tile(np.repeat([0, 1], [12, 1]), 8).astype(np.int32)
    return Split((np.repeat(np.arange(8) * 50, 13)[:, None] + 0.01 * blobs((104,)).x).astype(np.float32), y)


APART = Split((TWO.x % 1 + 100 * TWO.y[:, None]).astype(np.float32), TWO.y)


@pytest.mark.parametrize(
    ("sampler", "split", "parts"),
    [
        ("borderline_smote", APART, ["adds no example of 'fraud'"]),
        ("adasyn", APART, ["ADASYN is not suited"]),
        ("svmsmote", isolated(), ["considered as noise"]),
        # A lone minority example amid the others: cleaning all classes takes it away.
        ("enn", blobs((60, 1), spread=0.0), []),
        ("smote", Split(np.where(TWO.x > 2, np.nan, TWO.x), TWO.y), ["NaN"]),
    ],
)
def test_data_that_does_not_suit_the_resampler(sampler: str, split: Split, parts: list[str]):
    settings = {"sampling_strategy": "all"} if sampler == "enn" else {}
    with pytest.raises(UserError) as caught:
        stream(split, sampler, **settings)
    line = str(caught.value)
    assert "\n" not in line
    for part in [f"config.query.sampler={sampler!r}", ".sampler", *(parts or ["no example of 'fraud'"])]:
        assert part in line


def test_a_class_that_did_not_grow_is_named(caplog):
    far = Split(THREE.x + 100 * (THREE.y == 0)[:, None, None, None].astype(np.float32), THREE.y)
    one = stream(far, "borderline_smote")
    assert np.bincount(one.y).tolist() == [14, 60, 60]
    assert "borderline_smote adds no example of 'fine'" in caplog.text


# Prefetching.


def prefetching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_prefetch_keeps_order_and_ends():
    assert list(prefetch(range(50))) == list(range(50))
    assert list(prefetch([])) == []
    assert list(prefetch([None, None], size=1)) == [None, None]
    assert prefetching() == []


def test_prefetch_runs_ahead_by_its_size_and_no_further():
    made = []

    def numbers() -> Iterator[int]:
        for k in itertools.count():
            made.append(k)
            yield k

    items = prefetch(numbers(), size=3)
    assert next(items) == 0
    wait_until(lambda: len(made) == 5)  # one taken, three waiting, one that waits for room
    time.sleep(0.02)
    assert len(made) == 5
    items.close()
    assert prefetching() == []
    assert len(made) == 5


def test_prefetch_passes_an_exception_on_after_the_items_before_it():
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("unreadable")

    got = []
    with pytest.raises(OSError, match="unreadable"):
        got.extend(item for item in prefetch(failing()))
    items = prefetch(failing())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="unreadable"):
        next(items)
    assert prefetching() == []


def test_a_dropped_prefetch_leaves_no_thread():
    items = prefetch(itertools.count(), size=1)
    next(items)
    assert len(prefetching()) == 1
    del items
    gc.collect()
    assert prefetching() == []


def test_prefetch_gives_the_stream_in_order():
    natural = stream(TWO, "natural")
    blocks = prefetch(natural.indices(step, 5, (16,)) for step in range(0, 20, 5))
    assert np.array_equal(np.concatenate(list(blocks)), natural.indices(0, 20, (16,)))


def wait_until(done) -> None:
    deadline = time.monotonic() + 5
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class TestGroups:
    group = np.repeat([0, 1], [80, 10]).astype(np.int32)
    split = Split(np.arange(90.0)[:, None], np.arange(90) % 30, group)

    def test_groups_are_balanced_in_place_of_classes(self):
        balanced = stream(self.split, "class_balanced", balance="group", groups=("m", "f"))
        for batch in balanced.indices(0, 5, (128,)):
            assert np.bincount(self.group[batch]).tolist() == [64, 64]
        over = stream(self.split, "over", balance="group", groups=("m", "f"), sampling_strategy="{'f': 40}")
        assert np.bincount(self.group[next(iter(epochs(over, 1)))]).tolist() == [80, 40]

    def test_they_go_with_the_examples(self):
        assert set(stream(self.split, "natural").labels) == {"y", "group"}

    def test_mistakes_are_one_line(self):
        with pytest.raises(UserError, match=r"config.query.balance='group': this data has no groups"):
            stream(Split(self.split.x, self.split.y), "over", balance="group", name="query")
        with pytest.raises(UserError, match=r"config.query.sampler='smote' makes new examples of arrays in memory"):
            stream(self.split, "smote", name="query")
