"""TrivialAugment (Müller and Hutter 2021): one operation for each image, drawn with its strength; nothing to tune.

The operations are those of the authors' "wide" space on images of 8 bits, each as Pillow has it (`ImageOps`,
`ImageEnhance`, nearest-neighbour transforms that fill with black).
"""

import jax
import jax.numpy as jnp

from mbjax.types import UserError

OPERATIONS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast",
    "sharpness", "posterize", "solarize", "auto_contrast", "equalize",
)  # fmt: skip
STRENGTHS = 31
"""Strengths are 0 to 30, of which 30 is the largest change that follows."""
SHEAR, PIXELS, DEGREES, FACTOR, BITS = 0.99, 32, 135, 0.99, 6
_SMOOTH = ((1, 1, 1), (1, 5, 1), (1, 1, 1))  # Pillow's ImageFilter.SMOOTH, over 13


def trivial_augment(rng: jax.Array, images: jax.Array) -> jax.Array:
    """Draws an operation, a strength and a sign for each image, all equally likely, and applies them.

    Args:
      rng: a random key.
      images: `[n, height, width, channels]` uint8.

    Returns:
      Images of the same shape and type.

    Raises:
      UserError: images that are not uint8.
    """
    n = len(images)
    operation = jax.random.randint(jax.random.fold_in(rng, 0), (n,), 0, len(OPERATIONS))
    strength = jax.random.randint(jax.random.fold_in(rng, 1), (n,), 0, STRENGTHS)
    sign = jnp.where(jax.random.bernoulli(jax.random.fold_in(rng, 2), shape=(n,)), 1, -1)
    return apply(images, operation, strength, sign)


def apply(images: jax.Array, operation: jax.Array, strength: jax.Array, sign: jax.Array) -> jax.Array:
    """Applies to each image one operation.

    Args:
      images: `[n, height, width, channels]` uint8.
      operation: places in `OPERATIONS`, `[n]`.
      strength: from 0 to 30, `[n]`.
      sign: 1 or −1, `[n]`: the direction of a transform, and whether a factor is above 1.
    """
    if images.dtype != jnp.uint8:
        raise UserError(f"TrivialAugment is for images of 8 bits (uint8), and these are {images.dtype}")

    def one(image: jax.Array, operation: jax.Array, share: jax.Array, sign: jax.Array) -> jax.Array:
        changed = jnp.where(operation <= 5, _moved(image, operation, sign * share), _looked_up(image, operation, share))
        changed = jnp.where((operation > 5) & (operation <= 9), _blended(image, operation, sign * share), changed)
        return jnp.where(operation == 0, image, changed.astype(jnp.uint8))

    return jax.vmap(one)(images, operation, strength / jnp.float32(STRENGTHS - 1), sign.astype(jnp.float32))


def _moved(image: jax.Array, operation: jax.Array, share: jax.Array) -> jax.Array:
    """Shear from the upper left corner, translation, or rotation about the middle; black comes in from outside."""
    height, width, _ = image.shape
    angle = jnp.where(operation == 5, -jnp.deg2rad(DEGREES * share), 0.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = jnp.arange(width)[None, :] + 0.5 - width / 2, jnp.arange(height)[:, None] + 0.5 - height / 2
    from_x, from_y = cos * x + sin * y + width / 2, cos * y - sin * x + height / 2
    from_x += share * jnp.select([operation == 1, operation == 3], [SHEAR * (y + height / 2), PIXELS], 0.0)
    from_y += share * jnp.select([operation == 2, operation == 4], [SHEAR * (x + width / 2), PIXELS], 0.0)
    column, row = jnp.floor(from_x).astype(jnp.int32), jnp.floor(from_y).astype(jnp.int32)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    moved = image[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
    return jnp.where(inside[..., None], moved, 0).astype(jnp.int32)


def _blended(image: jax.Array, operation: jax.Array, share: jax.Array) -> jax.Array:
    """`d + (1 + 0.99 share) (image − d)`: of `d` black for brightness, grey, its mean for contrast, or smoothed."""
    pixels = image.astype(jnp.int32)
    grey = _grey(pixels)
    mean = (2 * grey.sum() + grey.size) // (2 * grey.size)
    other = jnp.select([operation == 7, operation == 8, operation == 9], [grey, mean, _smoothed(pixels)], 0)
    blend = other + (1 + FACTOR * share) * (pixels - other).astype(jnp.float32)
    return jnp.clip(blend, 0, 255).astype(jnp.int32)


def _grey(pixels: jax.Array) -> jax.Array:
    """Luma as Pillow's mode L has it, `[height, width, 1]`; the mean of other than three channels."""
    if pixels.shape[-1] != 3:
        return pixels.sum(-1, keepdims=True) // pixels.shape[-1]
    red, green, blue = (pixels[..., channel : channel + 1] for channel in range(3))
    return (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16


def _smoothed(pixels: jax.Array) -> jax.Array:
    """Pillow's smoothing filter; the pixels at the edge stay."""
    height, width, _ = pixels.shape
    if min(height, width) < 3:
        return pixels
    parts = [
        _SMOOTH[i][j] * pixels[i : i + height - 2, j : j + width - 2] for i in range(3) for j in range(3)
    ]  # fmt: skip
    return pixels.at[1:-1, 1:-1].set((2 * sum(parts[1:], parts[0]) + 13) // 26)


def _looked_up(image: jax.Array, operation: jax.Array, share: jax.Array) -> jax.Array:
    """Posterize, solarize, auto-contrast and equalize: each value of a channel becomes another one."""
    channels = image.shape[-1]
    values = jnp.arange(256)[:, None]
    pixels = image.reshape(-1, channels).astype(jnp.int32)
    low, high = pixels.min(0, keepdims=True), pixels.max(0, keepdims=True)
    shift = jnp.round(BITS * share).astype(jnp.int32)
    posterized = (values >> shift) << shift
    most = STRENGTHS - 1  # times both sides: some thresholds are whole numbers
    solarized = jnp.where(most * values < 255 * jnp.round(most * (1 - share)), values, 255 - values)
    contrasted = jnp.where(high > low, (values - low) * 255 // jnp.maximum(high - low, 1), values)
    number = jnp.broadcast_to(jnp.arange(channels), pixels.shape)
    counts = jnp.zeros((256, channels), jnp.int32).at[pixels, number].add(1)
    step = (len(pixels) - jnp.take_along_axis(counts, high, 0)) // 255
    below = jnp.cumsum(counts, 0) - counts
    equalized = jnp.where(step > 0, (step // 2 + below) // jnp.maximum(step, 1), values)
    table = jnp.select(
        [operation == 10, operation == 11, operation == 12],
        [jnp.broadcast_to(posterized, counts.shape), jnp.broadcast_to(solarized, counts.shape), contrasted], equalized,
    )  # fmt: skip
    return jnp.take_along_axis(jnp.clip(table, 0, 255), pixels, 0).reshape(image.shape)
