"""ResNet for 32×32 images (He et al. 2016), with a convolution that is fast inside XLA's CPU loops."""

import functools
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from mbjax.types import UserError

ConvImplementation = Literal["auto", "matmul", "lax"]
CONV_IMPLEMENTATIONS = ("auto", "matmul", "lax")
DTYPES = ("float32", "bfloat16", "float64")


def convolve(x: jax.Array, kernel: jax.Array, stride: int, implementation: ConvImplementation = "auto") -> jax.Array:
    """Two-dimensional convolution with `(size − 1) / 2` zeros around the image, as PyTorch's `padding=size // 2`.

    XLA's CPU backend runs a convolution inside a loop (`lax.scan`) many times slower than outside
    (https://github.com/jax-ml/jax/issues/12868), and the meta-step is a loop. The same sum written as one matrix
    product of the shifted images, concatenated, does not pay that.

    Args:
      x: `[n, height, width, in]`.
      kernel: `[size, size, in, out]`, size odd.
      stride: of both axes.
      implementation: `"matmul"`, `"lax"`, or `"auto"`: the matrix product on a CPU, XLA's convolution elsewhere.

    Returns:
      `[n, ⌈height / stride⌉, ⌈width / stride⌉, out]`.
    """
    size, _, _, outputs = kernel.shape
    pad = (size - 1) // 2
    if implementation == "auto":
        implementation = "matmul" if jax.default_backend() == "cpu" else "lax"
    if implementation == "lax":
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), ((pad, pad), (pad, pad)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    shifted = [x[:, i : i + height : stride, j : j + width : stride] for i in range(size) for j in range(size)]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, outputs)


class Conv(nn.Module):
    """`convolve` with its kernel: He normal by fan-out, no bias (BatchNorm follows)."""

    features: int
    size: int = 3
    stride: int = 1
    dtype: str = "float32"
    conv: ConvImplementation = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.variance_scaling(2.0, "fan_out", "normal"), shape, jnp.float32)
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.conv)


class ResNet(nn.Module):
    """ResNet of basic blocks with a 3×3 stem and no max-pooling; `stages=(2, 2, 2, 2)` is ResNet-18.

    Attributes:
      outputs: logits.
      width: channels of the stem and the first stage; each later stage doubles them and halves the image.
      stages: blocks of each stage.
      dtype: what it computes in. Weights and running statistics stay float32.
      conv: see `convolve`. The parameters are the same.
      axis_name: the mapped axis over whose devices BatchNorm's batch statistics are taken; each device's own if None.
    """

    outputs: int
    width: int = 64
    stages: Sequence[int] = (2, 2, 2, 2)
    dtype: str = "float32"
    conv: ConvImplementation = "auto"
    axis_name: str | None = None

    def __post_init__(self):
        for name, choices in (("dtype", DTYPES), ("conv", CONV_IMPLEMENTATIONS)):
            if getattr(self, name) not in choices:
                raise UserError(f"config.model.{name}={getattr(self, name)!r}: choose one of {', '.join(choices)}")
        if self.width < 1 or not self.stages or min(self.stages) < 1:
            raise UserError(
                f"config.model.width={self.width}, config.model.stages={tuple(self.stages)}: at least 1 is needed"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Logits `[n, outputs]`, float32 at least, of images `[n, height, width, channels]`."""
        conv = functools.partial(Conv, dtype=self.dtype, conv=self.conv)
        norm = functools.partial(
            nn.BatchNorm,
            use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, axis_name=self.axis_name,
        )  # fmt: skip
        x = nn.relu(norm()(conv(self.width)(x)))
        for stage, blocks in enumerate(self.stages):
            features = self.width * 2**stage
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                y = nn.relu(norm()(conv(features, stride=stride)(x)))
                y = norm()(conv(features)(y))
                if x.shape != y.shape:
                    x = norm()(conv(features, size=1, stride=stride)(x))
                x = nn.relu(x + y)
        x = x.mean((1, 2))
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return nn.Dense(self.outputs)(x)
