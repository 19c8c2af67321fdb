"""The features that a model's frozen stem makes of images: computed once, and kept for whoever asks again."""

import collections
import functools
import hashlib
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbjax import atomic, augment

KEPT_BYTES = 3 * 2**29
"""How much a process keeps in all; what was asked for longest ago goes first."""
SHARED_BYTES = 2**32
"""How much processes that share a folder keep there."""
_BATCH = 64  # images of which features are computed at a time
_kept: collections.OrderedDict[str, np.ndarray] = collections.OrderedDict()
_folder: pathlib.Path | None = None


def share_in(folder: pathlib.Path) -> None:
    """From now on keeps features as files of a folder, for all processes that do so; its maker removes it."""
    global _folder
    _folder = folder


def size_of(model: Any, images: np.ndarray, known: Mapping[str, Any], dtype: Any = np.float32) -> int:
    """The bytes of the features of images, in a dtype; see `features`."""
    like = jax.ShapeDtypeStruct((1, *images.shape[1:]), np.float32)
    return len(images) * math.prod(jax.eval_shape(model.frozen_stem, like, known).shape) * np.dtype(dtype).itemsize


def features(
    model: Any,
    images: np.ndarray,
    known: Mapping[str, Any],
    *,
    augmentation: str = "none",
    views: int = 1,
    seed: int = 0,
    dtype: Any = np.float32,
) -> np.ndarray:
    """The features of images and, it may be, of random views of them.

    They are kept by the images' content and by what the stem makes of the first of them, so that the runs of a
    comparison on the same images compute them once.

    Args:
      model: with `frozen_stem`, see `mbjax.models.MODELS`.
      images: `[n, height, width, channels]`.
      known: what the stem learned of training images, its `learn_stem`.
      augmentation: of `mbjax.augment.AUGMENTATIONS`, of every view but the first; of `"flip"` the second view is the
        mirror image.
      views: of each image: the image itself, then random ones.
      seed: of these.
      dtype: of the features.

    Returns:
      `[n · views, rows, columns, channels]`, which must not be written to.
    """
    stem = jax.jit(lambda x: model.frozen_stem(augment.to_float(x), known))
    first = np.asarray(stem(_full(images[:_BATCH])))
    asked = repr((_digest(images), _digest(first), augmentation, views, seed, np.dtype(dtype).str))
    key = hashlib.sha256(asked.encode()).hexdigest()
    compute = functools.partial(_compute, stem, images, augmentation, views, seed, dtype)
    if _folder:
        return _shared(_folder / f"{key}.npy", compute)
    found = _kept.pop(key) if key in _kept else compute()
    if found.nbytes <= KEPT_BYTES:
        _kept[key] = found
    while sum(kept.nbytes for kept in _kept.values()) > KEPT_BYTES:
        _kept.popitem(last=False)
    return found


def _shared(file: pathlib.Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The array of a file, which is made where it is missing; two processes may make it at a time."""
    if not file.exists():
        found = compute()
        if found.nbytes + sum(other.stat().st_size for other in file.parent.glob("*.npy")) > SHARED_BYTES:
            return found
        try:
            with atomic.writing(file) as part:
                np.save(part, found)
        except OSError:  # a full disk costs time alone
            return found
    return np.load(file, mmap_mode="r")


def _compute(
    stem: Callable[[jax.Array], jax.Array], images: np.ndarray, augmentation: str, views: int, seed: int, dtype: Any
) -> np.ndarray:
    change = jax.jit(_mirror if augmentation == "flip" else augment.AUGMENTATIONS[augmentation])
    shape = jax.eval_shape(stem, jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)).shape[1:]
    out = np.empty((len(images), views, *shape), dtype)
    for start in range(0, len(images), _BATCH):
        part = images[start : start + _BATCH]
        count, part = len(part), jnp.asarray(_full(part))
        rng = jax.random.fold_in(jax.random.key(seed), start)
        for view in range(views):
            seen = change(jax.random.fold_in(rng, view), part) if view else part
            out[start : start + count, view] = np.asarray(stem(seen))[:count]
    out.flags.writeable = False
    return out.reshape(-1, *shape)


def _full(images: np.ndarray) -> np.ndarray:
    return np.concatenate([images, np.zeros((_BATCH - len(images), *images.shape[1:]), images.dtype)])


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes() + repr((array.shape, array.dtype)).encode()).digest()


def _mirror(rng: jax.Array, images: jax.Array) -> jax.Array:
    return images[:, :, ::-1]
