"""ResNet for small images (He et al. 2016), on `mbjax.models.conv`."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from mbjax.models.conv import CONV_IMPLEMENTATIONS, CONV_OPTION, Conv, ConvImplementation
from mbjax.models.heads import HEAD_OPTION, Head, make_head
from mbjax.options import COUNT, WHOLE_NOT_NEGATIVE, Option, choice, several
from mbjax.types import UserError

DTYPES = ("float32", "bfloat16", "float64")


OPTIONS = (  # of config.model
    Option("width", 64, COUNT, "channels of the first stage; each later stage doubles them"),
    Option("stages", (2, 2, 2, 2), several(COUNT, "whole numbers of at least 1 are needed: the blocks of each stage"),
           "blocks of each stage; (2, 2, 2, 2) is ResNet-18"),
    Option("dtype", "float32", choice(DTYPES), "what it computes in; weights stay float32"),
    CONV_OPTION,
    HEAD_OPTION,
    Option("embedding", 0, WHOLE_NOT_NEGATIVE, "length of an embedding before the head; none if 0"),
    Option("stem_stride", 1, COUNT, "of the first convolution; 2 for larger images"),
)  # fmt: skip


class ResNet(nn.Module):
    """ResNet of basic blocks with a 3×3 stem and no max-pooling; `stages=(2, 2, 2, 2)` is ResNet-18.

    Attributes:
      outputs: logits.
      width: channels of the stem and the first stage; each later stage doubles them and halves the image.
      stages: blocks of each stage.
      dtype: what it computes in. Weights and running statistics stay float32.
      conv: see `mbjax.models.conv.convolve`. The parameters are the same.
      head: the last layer: see `mbjax.models.heads`. On an embedding, `"cosine"` is the
        classifier of CosFace.
      embedding: length of an embedding between pooling and head, a linear layer without bias and BatchNorm; without
        one if 0.
      stem_stride: of the first convolution. ResNet-18 costs 0.56·10⁹ multiplications for an image of 32×32 and 6.8·10⁹
        for one of 112×112; a stride of 2 makes these 1.7·10⁹.
    """

    outputs: int
    width: int = 64
    stages: Sequence[int] = (2, 2, 2, 2)
    dtype: str = "float32"
    conv: ConvImplementation = "auto"
    head: Head = "linear"
    embedding: int = 0
    stem_stride: int = 1

    def __post_init__(self):
        for name, choices in (("dtype", DTYPES), ("conv", CONV_IMPLEMENTATIONS)):
            if getattr(self, name) not in choices:
                raise UserError(f"config.model.{name}={getattr(self, name)!r}: choose one of {', '.join(choices)}")
        if self.width < 1 or not self.stages or min(self.stages) < 1:
            raise UserError(
                f"config.model.width={self.width}, config.model.stages={tuple(self.stages)}: at least 1 is needed"
            )
        if self.embedding < 0 or self.stem_stride < 1:
            raise UserError(
                f"config.model.embedding={self.embedding}, config.model.stem_stride={self.stem_stride}: "
                "at least 0 and 1 are needed"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, features: bool = False) -> jax.Array:
        """Logits `[n, outputs]`, float32 at least, of images `[n, height, width, channels]`.

        With `features`, what the head is given instead: embeddings `[n, embedding]`, or pooled channels if there are
        none.
        """
        conv = functools.partial(Conv, dtype=self.dtype, conv=self.conv)
        norm = functools.partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype
        )
        x = nn.relu(norm()(conv(self.width, stride=self.stem_stride)(x)))
        for stage, blocks in enumerate(self.stages):
            channels = self.width * 2**stage
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                y = nn.relu(norm()(conv(channels, stride=stride)(x)))
                y = norm()(conv(channels)(y))
                if x.shape != y.shape:
                    x = norm()(conv(channels, size=1, stride=stride)(x))
                x = nn.relu(x + y)
        x = x.mean((1, 2))
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.embedding:
            x = norm(dtype=x.dtype)(nn.Dense(self.embedding, use_bias=False, name="embedding_layer")(x))
        return x if features else make_head(self.head, self.outputs)(x)
