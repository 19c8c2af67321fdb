"""A convolution whose gradients are fast inside XLA's loops on a CPU, too."""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

ConvImplementation = Literal["auto", "explicit", "matmul", "lax"]
CONV_IMPLEMENTATIONS = ("auto", "explicit", "matmul", "lax")


def convolve(x: jax.Array, kernel: jax.Array, stride: int, implementation: ConvImplementation = "auto") -> jax.Array:
    """Two-dimensional convolution with `size // 2` zeros around the image, as PyTorch's `padding=size // 2`.

    Args:
      x: `[n, height, width, in]`.
      kernel: `[size, size, in, out]`, size odd.
      stride: of both axes.
      implementation: `"lax"` is XLA's convolution and its gradients. `"explicit"` writes the gradients as forward
        convolutions of arrays in the forward layout: inside a loop (`lax.scan`) XLA's CPU backend has a fast kernel
        for these alone, and the gradient for the kernel is else some hundred times slower
        (https://github.com/jax-ml/jax/issues/12868). It takes any order of reverse mode, and forward over reverse,
        but not forward mode alone. `"matmul"` is one matrix product of the shifted images, concatenated, and takes any
        mode. `"auto"`: `"explicit"` on a CPU, `"lax"` elsewhere.

    Returns:
      `[n, ⌈height / stride⌉, ⌈width / stride⌉, out]`.
    """
    if implementation == "auto":
        implementation = "explicit" if jax.default_backend() == "cpu" else "lax"
    if kernel.shape[0] == 1:  # a matrix product in any case
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    if implementation == "matmul":
        return _matmul(x, kernel, stride)
    return (_explicit if implementation == "explicit" else _lax)(x, kernel, stride)


_conv = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _lax(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    pad = kernel.shape[0] // 2
    return _conv(x, kernel, window_strides=(stride, stride), padding=[(pad, pad), (pad, pad)])


_explicit = jax.custom_vjp(_lax, nondiff_argnums=(2,))


def _explicit_forward(x, kernel, stride):
    return _lax(x, kernel, stride), (x, kernel)


def _explicit_backward(stride, residuals, y_bar):
    x, kernel = residuals
    pad = kernel.shape[0] // 2
    unread = [(size - 1) % stride for size in x.shape[1:3]]  # rows and columns that no window starts at
    # y_bar, spread by the stride, convolved with the turned kernel.
    x_bar = _conv(
        y_bar, kernel[::-1, ::-1].swapaxes(2, 3), window_strides=(1, 1), lhs_dilation=(stride, stride),
        padding=[(pad, pad + rest) for rest in unread],
    )  # fmt: skip
    # x convolved with y_bar as the kernel; examples are what is summed over. The barrier keeps XLA from taking the
    # transposes into the convolution, which it would then not have a fast kernel for.
    xt, yt = jax.lax.optimization_barrier((x.transpose(3, 1, 2, 0), y_bar.transpose(1, 2, 0, 3)))
    kernel_bar = _conv(
        xt, yt, window_strides=(1, 1), rhs_dilation=(stride, stride), padding=[(pad, pad - rest) for rest in unread]
    )
    return x_bar, kernel_bar.transpose(1, 2, 0, 3)


_explicit.defvjp(_explicit_forward, _explicit_backward)


def _matmul(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    size, pad = kernel.shape[0], kernel.shape[0] // 2
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    shifted = [x[:, i : i + height : stride, j : j + width : stride] for i in range(size) for j in range(size)]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


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
