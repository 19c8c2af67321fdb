"""Parts of training images that others are compared with: a dictionary that is drawn, not trained.

Coates and Ng 2011, "The Importance of Encoding Versus Training with Sparse Coding and Vector Quantization": patches are
whitened, some of them are the dictionary, and what lies beyond a threshold of the similarity to each is the code.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbjax import augment
from mbjax.types import UserError

SIZE = 6
THRESHOLD = 0.25
_CONTRAST = 10 / 127.5  # added to a patch's standard deviation, in pixels from −1 to 1
_FLOOR = 0.1  # added to the variance of contrast-normalised patches along each direction
_DRAWN = 20_000  # patches that the whitening is learned of


def learn(images: np.ndarray, labels: np.ndarray, *, count: int) -> dict[str, np.ndarray]:
    """Draws patches of training images, equally many of each class, and learns their whitening.

    Args:
      images: `[n, height, width, channels]`, uint8, or floating point from −1 to 1.
      labels: class numbers, `[n]`.
      count: patches in the dictionary.

    Returns:
      `patch_whitening`, `[d, d]` with `d = 36 · channels`, the inverse root of their covariance, and `patches`,
      `[count, d]`, whitened, each of length 1.

    Raises:
      UserError: images smaller than a patch.
    """
    height, width = images.shape[1:3]
    if min(height, width) < SIZE:
        raise UserError(
            f"config.model.patches={count}: images of {height}×{width} pixels have no patches of {SIZE}×{SIZE}; "
            "set it to 0"
        )
    rng = np.random.default_rng(0)
    classes = np.unique(labels)
    of = rng.permutation(np.resize(classes, _DRAWN))
    rows = np.empty(_DRAWN, int)
    for number in classes:
        rows[of == number] = rng.choice(np.flatnonzero(labels == number), (of == number).sum())
    top, left = rng.integers(0, height - SIZE + 1, _DRAWN), rng.integers(0, width - SIZE + 1, _DRAWN)
    span = np.arange(SIZE)
    drawn = images[rows[:, None, None], top[:, None, None] + span[:, None], left[:, None, None] + span]
    x = np.asarray(augment.to_float(jnp.asarray(drawn))).transpose(0, 3, 1, 2).reshape(_DRAWN, -1)
    even = x.std(1) < _CONTRAST / 10  # sky, and the white around a thing: they look like nothing
    x = np.asarray(_normalized(x[~even] if not even.all() else x), np.float64)
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    whitening = vectors / np.sqrt(values + _FLOOR) @ vectors.T
    chosen = x[rng.choice(len(x), count, replace=len(x) < count)] @ whitening
    chosen /= np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-6)
    return {"patch_whitening": whitening.astype(np.float32), "patches": chosen.astype(np.float32)}


def none(channels: int, count: int) -> dict[str, np.ndarray]:
    """What `learn` gives, with its shapes: a whitening that changes nothing, and patches of 0."""
    size = SIZE * SIZE * channels
    return {"patch_whitening": np.eye(size, dtype=np.float32), "patches": np.zeros((count, size), np.float32)}


def encode(images: jax.Array, known: Mapping[str, Any], *, rows: int, columns: int) -> jax.Array:
    """How similar the patches of images are to those of a dictionary, averaged within the fields of a grid.

    With the cosine `s` between a whitened patch and one of the dictionary, its code is `max(s − t, 0)` and
    `max(−s − t, 0)`, `t = THRESHOLD`; features are the roots of the averages of the codes.

    Args:
      images: `[n, height, width, channels]`, from −1 to 1.
      known: of `learn`.
      rows, columns: of the grid, whose fields are equally large; it lies in the middle of the image.

    Returns:
      `[n, rows, columns, 2 · count]`, from 0 to 1.
    """
    x = jax.lax.conv_general_dilated_patches(
        images, (SIZE, SIZE), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )  # [n, height − 5, width − 5, d], channel by channel
    high, wide = x.shape[1] // rows, x.shape[2] // columns
    top, left = (x.shape[1] - high * rows) // 2, (x.shape[2] - wide * columns) // 2
    x = _normalized(x[:, top : top + high * rows, left : left + wide * columns])
    whitening, patches = (jnp.asarray(known[name], x.dtype) for name in ("patch_whitening", "patches"))
    x = x @ whitening
    x = x * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) + 1e-3)
    similarity = x @ patches.T
    code = jnp.concatenate([jnp.maximum(side * similarity - THRESHOLD, 0) for side in (1, -1)], -1)
    means = code.reshape(code.shape[0], rows, high, columns, wide, code.shape[-1]).mean((2, 4))
    return jnp.where(means > 0, jnp.sqrt(jnp.where(means > 0, means, 1)), 0)


def _normalized(x: Any) -> Any:
    """Patches `[..., d]` without their mean, by their standard deviation."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + _CONTRAST**2)
