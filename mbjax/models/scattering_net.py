"""A linear classifier, or a small residual network, on the scattering transform: for few images of a class."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mbjax.models import patches, whitening
from mbjax.models.conv import CONV_OPTION, Conv, ConvImplementation, as_images
from mbjax.models.heads import HEAD_OPTION, Head, make_head
from mbjax.models.scattering import paths, scattering
from mbjax.options import COUNT, FLAG, WHOLE_NOT_NEGATIVE, Option, choice
from mbjax.types import UserError

SCALES, ANGLES = 2, 8
_FLOOR = 2e-3  # of a coefficient before its logarithm: one part in a thousand of the range of pixels, −1 to 1
Norm = Literal["batch", "group"]

OPTIONS = (  # of config.model
    Option("blocks", 0, WHOLE_NOT_NEGATIVE, "residual blocks; 0 for a linear classifier of whitened features"),
    Option("whiten", 256, WHOLE_NOT_NEGATIVE, "without blocks, how many directions are whitened; 0 for none"),
    Option("patches", 0, WHOLE_NOT_NEGATIVE, "without blocks, how many patches of training images are compared with"),
    Option("symmetric", False, FLAG, "features are averaged over an image and its mirror image"),
    Option("width", 64, COUNT, "channels of the residual blocks"),
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
    coefficients = scattering(as_images(images, "scattering"), scales=SCALES, angles=ANGLES)
    is_mean = jnp.arange(coefficients.shape[-1]) % paths(SCALES, ANGLES) == 0
    logs = jnp.log(jnp.maximum(coefficients, 0) + _FLOOR)
    return jnp.where(is_mean[None, None, None], coefficients, logs)


class OnScattering(nn.Module):
    """What `ScatteringNet` has behind its stem: the same weights, called with the stem's features.

    What was learned of the training part before (`mbjax.models.patches`, `mbjax.models.whitening`) are its variables
    `stem`; training leaves them as they are.
    """

    outputs: int
    blocks: int
    whiten: int
    patches: int
    symmetric: bool
    width: int
    norm: Norm
    conv: ConvImplementation
    head: Head
    learned: whitening.Whitening | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, features: bool = False, images: bool = False) -> jax.Array:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if images:
            x = _features(x, self._known(1 if x.ndim == 3 else x.shape[-1]), self.blocks, self.symmetric)
        else:
            self._known((x.shape[-1] - 2 * self.patches) // paths(SCALES, ANGLES))
        size = int(np.prod(x.shape[1:]))
        learned = self.learned or whitening.identity(x.shape[-1], size, 0 if self.blocks else min(self.whiten, size))
        stem = {name: array.astype(x.dtype) for name, array in self._variables(learned.arrays()).items()}
        x = (x - stem["mean"][None, None, None]) / stem["scale"][None, None, None]
        if not self.blocks:
            x = x.reshape(x.shape[0], -1)
            if "directions" in stem:
                x = x + (x @ stem["directions"].T * stem["gains"][None]) @ stem["directions"]
            x = stem["factor"][None] * x
        else:
            x = self._norm(train, Conv(self.width, size=1, conv=self.conv, dtype=str(x.dtype))(x))
            for _ in range(self.blocks):
                y = nn.relu(self._norm(train, Conv(self.width, conv=self.conv, dtype=str(x.dtype))(nn.relu(x))))
                x = x + self._norm(train, Conv(self.width, conv=self.conv, dtype=str(x.dtype))(y))
            x = nn.relu(x).mean((1, 2))
        return x if features else make_head(self.head, self.outputs)(x)

    def _known(self, channels: int) -> Mapping[str, jax.Array]:
        """The dictionary of patches, of images with so many channels."""
        known = self.learned.known if self.learned else {}
        return self._variables(known or (patches.none(channels, self.patches) if self.patches else {}))

    def _variables(self, arrays: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        return {name: self.variable("stem", name, jnp.asarray, array).value for name, array in arrays.items()}

    def _norm(self, train: bool, x: jax.Array) -> jax.Array:
        if self.norm == "group":
            return nn.GroupNorm(num_groups=None, group_size=min(8, self.width))(x)
        return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)(x)


class ScatteringNet(nn.Module):
    """Log-scattering coefficients of images, then a linear classifier or a small residual network.

    The stem has no weights, so training computes its features once (`mbjax.train.frozen`). The linear classifier has
    the coefficients' means over 2×2 places, whitened by what differs within the classes; blocks have the coefficients,
    standardised.

    Attributes:
      outputs: logits.
      blocks: residual blocks of two 3×3 convolutions; 0 for a linear classifier.
      whiten: directions that are whitened for the linear classifier.
      patches: of training images, with which the patches of images are compared beside the coefficients.
      symmetric: features are the means of those of an image and of its mirror image, so that nothing tells the two
        apart: a linear classifier then has the mean logits of both. Without it, `augment="flip"` shows training both.
      width: channels of the residual blocks; with `norm="group"` a multiple of 8.
      norm: `"batch"`, or `"group"` for GroupNorm of 8 channels a group, within the blocks.
      views: of each training image that features are computed of.
      conv: see `mbjax.models.conv.convolve`.
      head: the last layer: see `mbjax.models.heads`.
    """

    outputs: int
    blocks: int = 0
    whiten: int = 256
    patches: int = 0
    symmetric: bool = False
    width: int = 64
    norm: Norm = "batch"
    views: int = 4
    conv: ConvImplementation = "auto"
    head: Head = "linear"

    @nn.nowrap
    def learn_stem(self, images: np.ndarray, labels: np.ndarray) -> Mapping[str, np.ndarray]:
        """What the stem learns of the training images `[n, height, width, channels]` and their class numbers `[n]`."""
        if self.patches and self.blocks:
            raise UserError(
                f"config.model.patches={self.patches}: residual blocks take the coefficients alone; set it or "
                f"config.model.blocks={self.blocks} to 0"
            )
        images = as_images(images, "scattering")
        return patches.learn(images, labels, count=self.patches) if self.patches else {}

    @nn.nowrap
    def frozen_stem(self, images: jax.Array, known: Mapping[str, Any]) -> jax.Array:
        """The features that the rest is called with, `[n, rows, columns, channels]`, of images from −1 to 1."""
        return _features(images, known, self.blocks, self.symmetric)

    @nn.nowrap
    def behind(
        self,
        features: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        known: Mapping[str, np.ndarray] | None = None,
    ) -> nn.Module:
        """The rest: a module with the same weights, called as `module(features, train=…) -> logits`.

        Args:
          features: those of the training part, `[n, rows, columns, channels]`, to learn their whitening of.
          labels: its class numbers, `[n]`.
          known: what the stem learned, to be kept with the weights.
        """
        learned = None
        if features is not None and labels is not None:
            rank = 0 if self.blocks else self.whiten
            learned = whitening.learn(features, labels, rank=rank, last=2 * self.patches, known=known or {})
        of = (self.outputs, self.blocks, self.whiten, self.patches, self.symmetric, self.width, self.norm, self.conv)
        return OnScattering(*of, self.head, learned, parent=None)

    def setup(self):
        self._behind = self.behind()
        nn.share_scope(self, self._behind)

    def __call__(self, x: jax.Array, *, train: bool, features: bool = False) -> jax.Array:
        """Logits `[n, outputs]` of images `[n, height, width, channels]`, from −1 to 1."""
        return self._behind(x, train=train, features=features, images=True)


def _features(images: jax.Array, known: Mapping[str, Any], blocks: int, symmetric: bool) -> jax.Array:
    images = as_images(images, "scattering")
    if symmetric:
        seen, mirrored = (_features(view, known, blocks, False) for view in (images, images[:, :, ::-1]))
        return (seen + mirrored) / 2
    x = log_scattering(images)
    x = x if blocks or min(x.shape[1:3]) < 2 else nn.avg_pool(x, (2, 2), (2, 2))
    if "patches" not in known:
        return x
    return jnp.concatenate([x, patches.encode(images, known, rows=x.shape[1], columns=x.shape[2])], -1)
