"""A small residual network, or a linear classifier, on the scattering transform: for few images of a class."""

from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from mbjax.models.conv import CONV_OPTION, Conv, ConvImplementation
from mbjax.models.heads import HEAD_OPTION, Head, make_head
from mbjax.models.scattering import paths, scattering
from mbjax.options import COUNT, WHOLE_NOT_NEGATIVE, Option, choice

SCALES, ANGLES = 2, 8
_FLOOR = 2e-3  # of a coefficient before its logarithm: one part in a thousand of the range of pixels, −1 to 1
Norm = Literal["batch", "group"]

OPTIONS = (  # of config.model
    Option("width", 64, COUNT, "channels of the residual blocks"),
    Option("blocks", 2, WHOLE_NOT_NEGATIVE, "residual blocks; 0 for the head alone, a linear classifier"),
    Option("norm", "batch", choice(get_args(Norm)), "what normalises within the blocks"),
    Option("views", 4, COUNT,
           "of each training image, whose features are computed once: itself, and random ones by its stream's augment"),
    CONV_OPTION,
    HEAD_OPTION,
)  # fmt: skip


def log_scattering(images: jax.Array) -> jax.Array:
    """`S₀`, and the logarithms of `S₁` and `S₂`, of 2 scales and 8 angles: of 32×32×3 pixels 8×8×243 coefficients.

    Args:
      images: `[n, height, width, channels]` or `[n, height, width]`, from −1 to 1.

    Returns:
      `[n, ⌊height / 4⌋, ⌊width / 4⌋, 81 · channels]`.
    """
    images = images[..., None] if images.ndim == 3 else images
    coefficients = scattering(images, scales=SCALES, angles=ANGLES)
    is_mean = jnp.arange(coefficients.shape[-1]) % paths(SCALES, ANGLES) == 0
    logs = jnp.log(jnp.maximum(coefficients, 0) + _FLOOR)
    return jnp.where(is_mean[None, None, None], coefficients, logs)


class OnScattering(nn.Module):
    """What `ScatteringNet` has behind its stem: the same weights, called with the stem's features.

    BatchNorm without weights standardises the features. Without blocks, the head has their means over 2×2 places. Else
    a convolution of one pixel makes `width` channels of them, and the head has the means of what the blocks give.
    """

    outputs: int
    width: int
    blocks: int
    norm: Norm
    conv: ConvImplementation
    head: Head

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, features: bool = False) -> jax.Array:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, use_scale=False, use_bias=False)(x)
        if not self.blocks:
            x = nn.avg_pool(x, (2, 2), (2, 2)) if min(x.shape[1:3]) > 1 else x
            x = x.reshape(x.shape[0], -1)
        else:
            x = self._norm(train, Conv(self.width, size=1, conv=self.conv, dtype=str(x.dtype))(x))
            for _ in range(self.blocks):
                y = nn.relu(self._norm(train, Conv(self.width, conv=self.conv, dtype=str(x.dtype))(nn.relu(x))))
                x = x + self._norm(train, Conv(self.width, conv=self.conv, dtype=str(x.dtype))(y))
            x = nn.relu(x).mean((1, 2))
        return x if features else make_head(self.head, self.outputs)(x)

    def _norm(self, train: bool, x: jax.Array) -> jax.Array:
        if self.norm == "group":
            return nn.GroupNorm(num_groups=None, group_size=min(8, self.width))(x)
        return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)(x)


class ScatteringNet(nn.Module):
    """Log-scattering coefficients of images, then a small residual network or the head alone.

    The stem has no weights, so training computes its features once (`mbjax.train.frozen`).

    Attributes:
      outputs: logits.
      width: channels of the residual blocks; with `norm="group"` a multiple of 8.
      blocks: residual blocks of two 3×3 convolutions; 0 for a linear classifier of the standardised coefficients.
      norm: `"batch"`, or `"group"` for GroupNorm of 8 channels a group, within the blocks.
      views: of each training image that features are computed of.
      conv: see `mbjax.models.conv.convolve`.
      head: the last layer: see `mbjax.models.heads`.
    """

    outputs: int
    width: int = 64
    blocks: int = 2
    norm: Norm = "batch"
    views: int = 4
    conv: ConvImplementation = "auto"
    head: Head = "linear"

    @nn.nowrap
    def stem(self, images: jax.Array) -> jax.Array:
        """The features that the rest is called with, of images as the model takes them."""
        return log_scattering(images)

    @nn.nowrap
    def behind(self) -> nn.Module:
        """The rest: a module with the same weights, called as `module(features, train=…) -> logits`."""
        return OnScattering(self.outputs, self.width, self.blocks, self.norm, self.conv, self.head, parent=None)

    def setup(self):
        self._behind = self.behind()
        nn.share_scope(self, self._behind)

    def __call__(self, x: jax.Array, *, train: bool, features: bool = False) -> jax.Array:
        """Logits `[n, outputs]` of images `[n, height, width, channels]`, from −1 to 1."""
        return self._behind(self.stem(x), train=train, features=features)
