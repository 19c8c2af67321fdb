"""imbalanced-learn's resamplers: computed once, and kept on disk."""

import hashlib
import io
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imblearn
import numpy as np
import sklearn
from imblearn.combine import SMOTEENN
from imblearn.over_sampling import ADASYN, SMOTE, SVMSMOTE, BorderlineSMOTE
from imblearn.under_sampling import AllKNN, ClusterCentroids, EditedNearestNeighbours, NearMiss
from sklearn.exceptions import ConvergenceWarning

from mbjax import sealed
from mbjax.sampling.stream import Strategy, targets
from mbjax.types import Split, UserError

log = logging.getLogger("mbjax")

# Name: (how to make it, its parameter for `neighbors`).
_SYNTHESIZERS: dict[str, tuple[Callable[[], Any], str]] = {  # they draw new examples between neighbours of one class
    "smote": (SMOTE, "k_neighbors"),
    "borderline_smote": (BorderlineSMOTE, "k_neighbors"),
    "svmsmote": (SVMSMOTE, "k_neighbors"),
    "adasyn": (ADASYN, "n_neighbors"),
    "smoteenn": (lambda: SMOTEENN(smote=SMOTE()), "smote__k_neighbors"),
}
RESAMPLERS: dict[str, tuple[Callable[[], Any], str | None]] = {
    **_SYNTHESIZERS,
    "nearmiss": (NearMiss, "n_neighbors"),
    "cluster_centroids": (ClusterCentroids, None),
    "allknn": (AllKNN, "n_neighbors"),
    "enn": (EditedNearestNeighbours, "n_neighbors"),
}


def resample(
    split: Split,
    *,
    sampler: str,
    strategy: Strategy,
    neighbors: int | None,
    seed: int,
    classes: tuple[str, ...],
    cache_dir: Path | None,
    config_key: str,
    factory: Callable[[], Any] | None = None,
) -> Split:
    """The resampled split, of the given one's dtypes and example shape; from the cache if it is there.

    Args:
      split: examples of any shape; the resampler sees each as one row.
      sampler: a name of `RESAMPLERS`, or of a resampler from elsewhere.
      strategy: imbalanced-learn's `sampling_strategy`, classes given by their numbers.
      neighbors: see `mbjax.sampling.make_stream`.
      seed: the `random_state` of a resampler that has one.
      classes: the class names, for messages.
      cache_dir: where results are kept; None for nowhere.
      config_key: the stream's place in the configuration, for messages.
      factory: makes a resampler from elsewhere.

    Raises:
      UserError: a class is too small for its neighbours.
      ValueError, RuntimeError: the resampler cannot work on this data with these settings.
    """
    resampler = _make(sampler, strategy, neighbors, seed, factory)
    cache = None if cache_dir is None else sealed.Cache(Path(cache_dir), "resampled data")
    key = "" if cache is None else _digest(split, sampler, resampler.get_params())
    name = f"{sampler}-{key}.kept"
    if cache is not None and (kept := cache.get(name, key)) is not None:
        with np.load(io.BytesIO(kept), allow_pickle=False) as arrays:
            return Split(arrays["x"], arrays["y"])
    grow: list[int] = []
    if sampler in _SYNTHESIZERS:
        grow = [number for number, count in targets(split.y, strategy, "over-sampling").items() if count]
        _check_neighbors(split, sampler, resampler, grow, classes, config_key)
        _check_memory(split, strategy)
    rows = split.x.reshape(len(split), -1)
    rows = rows if np.issubdtype(rows.dtype, np.floating) else rows.astype(np.float32)
    with warnings.catch_warnings():
        # k-means: repeated examples give fewer distinct centres than asked for; and its memory under Windows.
        warnings.filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
        warnings.filterwarnings("ignore", "KMeans is known to have a memory leak", UserWarning)
        x, y = resampler.fit_resample(rows, split.y)
    x = x if np.issubdtype(split.x.dtype, np.floating) else np.rint(x)
    resampled = Split(x.astype(split.x.dtype).reshape(-1, *split.x.shape[1:]), y.astype(np.int32))
    _check_counts(split.y, resampled.y, grow, sampler, classes)
    if cache is not None:
        content = io.BytesIO()
        np.savez(content, x=resampled.x, y=resampled.y)
        cache.put(name, key, content.getvalue())
    return resampled


def _make(sampler: str, strategy: Strategy, neighbors: int | None, seed: int, factory: Callable[[], Any] | None) -> Any:
    make, neighbors_parameter = RESAMPLERS[sampler] if factory is None else (factory, None)
    resampler = make()
    if factory is not None:
        neighbors_parameter = next((p for p in ("k_neighbors", "n_neighbors") if p in resampler.get_params()), None)
    settings = {"sampling_strategy": strategy, "random_state": seed}
    # The last part of a nested name: SMOTEENN does not hand its settings on to the SMOTE it was given.
    given = {p: settings[p.split("__")[-1]] for p in resampler.get_params() if p.split("__")[-1] in settings}
    if neighbors is not None and neighbors_parameter is not None:
        given[neighbors_parameter] = neighbors
    return resampler.set_params(**given)


def _check_neighbors(
    split: Split, sampler: str, resampler: Any, grow: list[int], classes: tuple[str, ...], config_key: str
) -> None:
    """Refuses a class that has fewer other examples than its neighbourhood needs."""
    neighbors = resampler.get_params()[_SYNTHESIZERS[sampler][1]]
    counts = np.bincount(split.y)
    if not grow or counts[smallest := min(grow, key=lambda number: counts[number])] > neighbors:
        return
    count = int(counts[smallest])
    fewer = f"--config.{config_key}.neighbors={count - 1} or " if count > 1 else ""
    raise UserError(
        f"config.{config_key}.sampler={sampler!r}: class {classes[smallest]!r} has too few training examples, {count}, "
        f"for {neighbors} neighbors of each: set {fewer}--config.{config_key}.sampler=over"
    )


def _check_memory(split: Split, strategy: Strategy) -> None:
    """Refuses a result that is larger than the machine's memory."""
    rows = len(split) + sum(targets(split.y, strategy, "over-sampling").values())
    needed, memory = 2 * rows * split.x[0].nbytes, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise ValueError(f"{rows:,} examples take {needed / 2**30:.1f} GiB, the memory has {memory / 2**30:.1f} GiB")


def _check_counts(
    before: np.ndarray, after: np.ndarray, grow: list[int], sampler: str, classes: tuple[str, ...]
) -> None:
    """Refuses a result that lost a class, or that has not one of the examples asked for."""
    old, new = np.bincount(before, minlength=len(classes)), np.bincount(after, minlength=len(classes))
    names = lambda numbers: ", ".join(repr(classes[number]) for number in numbers)  # noqa: E731
    if lost := np.flatnonzero((old > 0) & (new == 0)).tolist():
        raise ValueError(f"it leaves no example of {names(lost)}")
    stayed = [number for number in grow if new[number] <= old[number]]
    if stayed and len(stayed) == len(grow):
        raise ValueError(f"it adds no example of {names(stayed)}")
    if stayed:
        log.warning("%s adds no example of %s", sampler, names(stayed))


def _digest(split: Split, sampler: str, settings: dict[str, Any]) -> str:
    """Names what the result depends on."""
    versions = (imblearn.__version__, sklearn.__version__)
    layout = [(array.shape, array.dtype.str) for array in (split.x, split.y)]
    digest = hashlib.sha256(repr((sampler, sorted(settings.items()), versions, layout)).encode())
    for array in (split.x, split.y):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
