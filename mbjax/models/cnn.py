"""A small convolutional network: for the 8×8 digits as it is, with `pooling="mean"` for images of any size."""

from collections.abc import Sequence
from typing import Literal, get_args

import flax.linen as nn
import jax

from mbjax.models.conv import CONV_OPTION, Conv, ConvImplementation, as_images
from mbjax.models.heads import HEAD_OPTION, Head, make_head
from mbjax.options import COUNT, Option, choice, several
from mbjax.types import UserError

Pooling = Literal["none", "mean"]

OPTIONS = (  # of config.model
    Option("channels", (16, 32), several(COUNT, "whole numbers of at least 1 are needed: the channels of each layer"),
           "channels of each convolution"),
    Option("pooling", "none", choice(get_args(Pooling)),
           "before the head; none: every pixel counts, for small images; mean: of each channel, for any size"),
    CONV_OPTION,
    HEAD_OPTION,
)  # fmt: skip


class CNN(nn.Module):
    """Convolution, BatchNorm, ReLU for each of `channels`, all but the first with stride 2; then the head.

    Attributes:
      outputs: logits.
      channels: of each convolution.
      pooling: `"none"` gives the head all pixels of the last convolution, `"mean"` each channel's mean.
      conv: see `mbjax.models.conv.convolve`.
      head: the last layer: see `mbjax.models.heads`.
    """

    outputs: int
    channels: Sequence[int] = (16, 32)
    pooling: Pooling = "none"
    conv: ConvImplementation = "auto"
    head: Head = "linear"

    def __post_init__(self):
        if self.pooling not in get_args(Pooling):
            raise UserError(f"config.model.pooling={self.pooling!r}: choose one of {', '.join(get_args(Pooling))}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, features: bool = False) -> jax.Array:
        """Logits `[n, outputs]` of images `[n, height, width, channels]` or `[n, height, width]`.

        With `features`, what the head is given instead: the last convolution's images, pooled or flattened.
        """
        x = as_images(x, "CNN")
        for layer, channels in enumerate(self.channels):
            x = Conv(channels, stride=1 if layer == 0 else 2, dtype=str(x.dtype), conv=self.conv)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)(x))
        if self.pooling == "mean":
            x = x.mean((1, 2))
        x = x.reshape(x.shape[0], -1)  # a length of its own would not export a batch of any size
        return x if features else make_head(self.head, self.outputs)(x)
