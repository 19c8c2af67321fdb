"""ResNets (He et al. 2016) for small and for natural images, on `mbjax.models.conv`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from mbjax.models.conv import CONV_IMPLEMENTATIONS, CONV_OPTION, Conv, ConvImplementation, as_images
from mbjax.models.heads import HEAD_OPTION, Head, make_head
from mbjax.options import COUNT, TEXT, WHOLE_NOT_NEGATIVE, Option, choice, several
from mbjax.types import UserError

DTYPES = ("float32", "bfloat16", "float64")
Stem = Literal["cifar", "imagenet"]
Normalize = Literal["auto", "none", "imagenet"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels from 0 to 1: red, green, blue
_STAGES = several(COUNT, "whole numbers of at least 1 are needed: the blocks of each stage")
_COMMON = (
    Option("dtype", "float32", choice(DTYPES), "what it computes in; weights stay float32"),
    CONV_OPTION,
    HEAD_OPTION,
    Option("embedding", 0, WHOLE_NOT_NEGATIVE, "length of an embedding before the head; none if 0"),
    Option("stem", "cifar", choice(get_args(Stem)),
           "the first layers; cifar: 3×3, for small images; imagenet: 7×7 and max-pooling, for natural ones"),
    Option("stem_stride", 1, COUNT, "of the stem cifar's convolution; 2 for larger images"),
    Option("normalize", "auto", choice(get_args(Normalize)),
           "of pixels; none: from −1 to 1; imagenet: less ImageNet's mean, over its deviation; auto: imagenet for "
           "pretrained weights"),
    Option("pretrained", "", TEXT, "a safetensors file of such a network's weights in torchvision's or timm's names"),
)  # fmt: skip


def _options(name: str, stages: tuple[int, ...]) -> tuple[Option, ...]:
    """The options of a ResNet; width and stages are each one's own, so that none takes over another's."""
    return (
        Option("width", 64, COUNT, f"channels of the first stage; each later stage doubles them; {name} has 64"),
        Option("stages", stages, _STAGES, f"blocks of each stage; {stages} is {name}"),
        *_COMMON,
    )


class ResNet(nn.Module):
    """ResNet of basic blocks; `stages=(2, 2, 2, 2)` is ResNet-18.

    Padding, strides and BatchNorm are torchvision's: `size // 2` zeros around an image, ε = 10⁻⁵, and running
    statistics that keep 0.9 of what they were (PyTorch's momentum 0.1, flax's 0.9). Running variances are biased ones,
    as flax has them; PyTorch's divide by `n − 1`.

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
      stem: the first layers. `"cifar"`: a 3×3 convolution with `stem_stride`. `"imagenet"`: a 7×7 convolution and 3×3
        max-pooling, both with stride 2, as published.
      stem_stride: of the stem `"cifar"`. ResNet-18 costs 0.56·10⁹ multiplications for an image of 32×32 and 6.8·10⁹
        for one of 112×112; a stride of 2 makes these 1.7·10⁹.
      normalize: `"imagenet"` takes pixels from −1 to 1 to `((x + 1) / 2 − mean) / deviation` of ImageNet's channels,
        which pretrained weights expect. `"auto"` does so if `pretrained` names a file.
      pretrained: the file that `mbjax.models.init` takes the weights from: see `mbjax.models.pretrained`.
    """

    outputs: int
    width: int = 64
    stages: Sequence[int] = (2, 2, 2, 2)
    dtype: str = "float32"
    conv: ConvImplementation = "auto"
    head: Head = "linear"
    embedding: int = 0
    stem: Stem = "cifar"
    stem_stride: int = 1
    normalize: Normalize = "auto"
    pretrained: str = ""

    OPTIONS = _options("ResNet-18", (2, 2, 2, 2))
    bottleneck = False

    def __post_init__(self):
        choices = {"dtype": DTYPES, "conv": CONV_IMPLEMENTATIONS, "stem": get_args(Stem)}
        for name, names in {**choices, "normalize": get_args(Normalize)}.items():
            if getattr(self, name) not in names:
                raise UserError(f"config.model.{name}={getattr(self, name)!r}: choose one of {', '.join(names)}")
        if self.width < 1 or not self.stages or min(self.stages) < 1:
            raise UserError(
                f"config.model.width={self.width}, config.model.stages={tuple(self.stages)}: at least 1 is needed"
            )
        if self.embedding < 0 or self.stem_stride < 1:
            raise UserError(
                f"config.model.embedding={self.embedding}, config.model.stem_stride={self.stem_stride}: "
                "at least 0 and 1 are needed"
            )
        if self.stem == "imagenet" and self.stem_stride != 1:
            raise UserError(
                f"config.model.stem_stride={self.stem_stride} is of the stem 'cifar': leave it at 1 with "
                "config.model.stem='imagenet', whose strides are fixed"
            )
        super().__post_init__()

    @property
    def normalizes(self) -> bool:
        """Whether pixels get ImageNet's mean and deviation."""
        return self.normalize == "imagenet" or (self.normalize == "auto" and bool(self.pretrained))

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, features: bool = False) -> jax.Array:
        """Logits `[n, outputs]`, float32 at least, of images `[n, height, width, channels]` or `[n, height, width]`.

        With `features`, what the head is given instead: embeddings `[n, embedding]`, or pooled channels if there are
        none.
        """
        conv = functools.partial(Conv, dtype=self.dtype, conv=self.conv)
        norm = functools.partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype
        )
        x = as_images(x, type(self).__name__)
        x = _normalized(x) if self.normalizes else x
        large = self.stem == "imagenet"
        x = nn.relu(norm()(conv(self.width, size=7 if large else 3, stride=2 if large else self.stem_stride)(x)))
        x = _max_pool(x) if large else x
        block = _bottleneck_block if self.bottleneck else _basic_block
        for stage, blocks in enumerate(self.stages):
            for number in range(blocks):
                x = block(x, conv, norm, self.width * 2**stage, 2 if stage > 0 and number == 0 else 1)
        x = x.mean((1, 2))
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.embedding:
            x = norm(dtype=x.dtype)(nn.Dense(self.embedding, use_bias=False, name="embedding_layer")(x))
        return x if features else make_head(self.head, self.outputs)(x)


class ResNet34(ResNet):
    """ResNet-34: `ResNet` with `stages=(3, 4, 6, 3)`."""

    stages: Sequence[int] = (3, 4, 6, 3)

    OPTIONS = _options("ResNet-34", (3, 4, 6, 3))


class ResNet50(ResNet):
    """ResNet-50: bottleneck blocks of 1×1, 3×3 and 1×1 convolutions, the last with four times as many channels.

    The stride is in the 3×3 convolution, as in torchvision and timm ("v1.5"); He et al. had it in the first 1×1.
    """

    stages: Sequence[int] = (3, 4, 6, 3)

    OPTIONS = _options("ResNet-50", (3, 4, 6, 3))
    bottleneck = True


_Layer = Callable[..., Any]


def _basic_block(x: jax.Array, conv: _Layer, norm: _Layer, channels: int, stride: int) -> jax.Array:
    y = nn.relu(norm()(conv(channels, stride=stride)(x)))
    return _residual(x, norm()(conv(channels)(y)), conv, norm, stride)


def _bottleneck_block(x: jax.Array, conv: _Layer, norm: _Layer, channels: int, stride: int) -> jax.Array:
    y = nn.relu(norm()(conv(channels, size=1)(x)))
    y = nn.relu(norm()(conv(channels, stride=stride)(y)))
    return _residual(x, norm()(conv(4 * channels, size=1)(y)), conv, norm, stride)


def _residual(x: jax.Array, y: jax.Array, conv: _Layer, norm: _Layer, stride: int) -> jax.Array:
    if x.shape != y.shape:
        x = norm()(conv(y.shape[-1], size=1, stride=stride)(x))
    return nn.relu(x + y)


def _normalized(x: jax.Array) -> jax.Array:
    if x.shape[-1] != len(IMAGENET_MEAN):
        raise UserError(
            f"config.model.normalize: ImageNet's mean is of 3 channels, and these images have {x.shape[-1]}: set "
            "--config.model.normalize=none, or make the images RGB"
        )
    mean, std = (jnp.asarray(values, x.dtype).reshape(1, 1, 1, -1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((x + 1) / 2 - mean) / std


def _max_pool(x: jax.Array) -> jax.Array:
    """The largest of 3×3 pixels, with stride 2 and a pixel of zeros around images that are not negative.

    As maxima of shifted images and not as XLA's window reduction, whose gradient is slow on a CPU.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        x = jnp.pad(x, [(1, 1) if axis == other else (0, 0) for other in range(4)])
        shifted = [jax.lax.slice_in_dim(x, start, start + size, stride=2, axis=axis) for start in range(3)]
        x = functools.reduce(jnp.maximum, shifted)
    return x
