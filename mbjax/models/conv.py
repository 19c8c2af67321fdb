"""A convolution whose gradients are fast inside XLA's loops on a CPU, too."""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mbjax.options import Option, choice
from mbjax.types import UserError

ConvImplementation = Literal["auto", "cpu", "winograd", "explicit", "matmul", "lax"]
CONV_IMPLEMENTATIONS = ("auto", "cpu", "winograd", "explicit", "matmul", "lax")
CONV_OPTION = Option("conv", "auto", choice(CONV_IMPLEMENTATIONS), "how convolutions are computed")


def as_images(x: Any, model: str) -> Any:
    """Images `[n, height, width, channels]`, with one channel where `x` is `[n, height, width]`.

    Raises:
      UserError: `x` holds no images; `model` is the name of the network that needs them.
    """
    if x.ndim not in (3, 4):
        raise UserError(
            f"config.model.name: {model} is for images, and these examples are {list(x.shape[1:])}: choose mlp"
        )
    return x[..., None] if x.ndim == 3 else x


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
        mode. `"winograd"` needs a quarter of the products (Lavin and Gray 2016, "Fast Algorithms for Convolutional
        Neural Networks"), and some passes over memory; its results differ from the others' by 2e-6 of the largest in
        float32. It is for 3×3 kernels, stride 1 and images of a multiple of 4, and else falls back on `"explicit"`.
        `"cpu"` is the faster of these two on a CPU: `"winograd"` from 16 tiles of 4×4 pixels and 32 channels on, in
        float32 or float64.
        `"auto"` is what `automatic` says of JAX's default backend when this is traced.

    Returns:
      `[n, ⌈height / stride⌉, ⌈width / stride⌉, out]`.
    """
    if implementation == "auto":
        implementation = automatic(jax.default_backend())
    if implementation == "cpu":
        implementation = _fastest_on_cpu(x, kernel)
    if kernel.shape[0] == 1:  # a matrix product in any case
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    if implementation == "matmul":
        return _matmul(x, kernel, stride)
    if implementation == "lax":
        return _lax(x, kernel, stride)
    if implementation == "winograd" and kernel.shape[0] == 3 and stride == 1 and not any(s % 4 for s in x.shape[1:3]):
        return _winograd(x, kernel)
    return _explicit(x, kernel, stride)


def _fastest_on_cpu(x: jax.Array, kernel: jax.Array) -> ConvImplementation:
    """As `python -m benchmarks.convolutions` measures it. In bfloat16 the transforms would lose digits."""
    n, height, width, _ = x.shape
    if not isinstance(n, int):  # an export for any number of images
        return "explicit"
    worthwhile = n * height * width >= 16 * _OUT**2 and min(kernel.shape[2:]) >= 32
    return "winograd" if worthwhile and x.dtype.itemsize >= 4 else "explicit"


def automatic(platform: str) -> ConvImplementation:
    """What `"auto"` is on a platform, by JAX's name of it: `"cpu"`, `"gpu"` or `"cuda"`, `"tpu"`."""
    return "cpu" if platform == "cpu" else "lax"


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


# Winograd's F(4×4, 3×3): a tile of 6×6 pixels gives 4×4 of the convolution. With the tile d and the kernel g,
# y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A, and ⊙ summed over input channels is a matrix product for each of the 36 places.
# The polynomials are evaluated at 0, ±a, ±b and ∞. Lavin and Gray have 1 and 2; 2/3 and 3/2 have half of the rounding
# errors. Barabasz et al. 2020, "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural
# Networks", say why the points matter.
_TILE, _OUT = 6, 4
_a, _b = 2 / 3, 3 / 2
_a2, _b2 = _a**2, _b**2
_BT = ((_a2 * _b2, 0, -_a2 - _b2, 0, 1, 0), (0, -_a * _b2, -_b2, _a, 1, 0), (0, _a * _b2, -_b2, -_a, 1, 0),
       (0, -_b * _a2, -_a2, _b, 1, 0), (0, _b * _a2, -_a2, -_b, 1, 0), (0, _a2 * _b2, 0, -_a2 - _b2, 0, 1))  # fmt: skip
_na, _nb = 2 * _a2 * (_a2 - _b2), 2 * _b2 * (_b2 - _a2)
_G = ((1 / (_a2 * _b2), 0, 0), (1 / _na, _a / _na, _a2 / _na), (1 / _na, -_a / _na, _a2 / _na),
      (1 / _nb, _b / _nb, _b2 / _nb), (1 / _nb, -_b / _nb, _b2 / _nb), (0, 0, 1))  # fmt: skip
_GG = np.kron(_G, _G)  # [36, 9]: G g Gᵀ as one product with g, flattened
_AT = ((1, 1, 1, 1, 1, 0), (0, _a, -_a, _b, -_b, 0),
       (0, _a2, _a2, _b2, _b2, 0), (0, _a**3, -(_a**3), _b**3, -(_b**3), 1))  # fmt: skip
_A = tuple(zip(*_AT, strict=True))


@jax.custom_vjp
def _winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _winograd_forward(x, kernel)[0]


def _winograd_forward(x, kernel):
    tiles = _tiles(x)
    return _untile(jnp.einsum("tpc,tcd->tpd", tiles, _turned(kernel)), x.shape), (tiles, kernel)


def _winograd_backward(residuals, y_bar):
    tiles, kernel = residuals
    products = jnp.einsum("tpd,tdc->tpc", _tiles(y_bar), _turned(kernel[::-1, ::-1].swapaxes(2, 3)))
    places = jnp.einsum("tpc,tpd->tcd", tiles, _spread(y_bar))
    kernel_bar = (jnp.asarray(_GG.T, kernel.dtype) @ places.reshape(_TILE**2, -1)).reshape(kernel.shape)
    return _untile(products, y_bar.shape), kernel_bar


_winograd.defvjp(_winograd_forward, _winograd_backward)


def _tiles(x: jax.Array) -> jax.Array:
    """`Bᵀ d B` of every tile, `[36, tiles, channels]`."""
    _, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = _combine(_BT, [x[:, i : i + height - 3 : _OUT] for i in range(_TILE)])
    places = _combine(_BT, [rows[:, :, :, j : j + width - 3 : _OUT] for j in range(_TILE)], axis=1)
    return places.reshape(_TILE**2, -1, channels)


def _turned(kernel: jax.Array) -> jax.Array:
    """`G g Gᵀ`, `[36, in, out]`."""
    return (jnp.asarray(_GG, kernel.dtype) @ kernel.reshape(9, -1)).reshape(-1, *kernel.shape[2:])


def _untile(products: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`Aᵀ m A` of every tile, put back into images, `[n, height, width, channels]`."""
    n, height, width, _ = shape
    products = products.reshape(_TILE, _TILE, n, height // _OUT, width // _OUT, -1)
    rows = _combine(_AT, list(products), axis=3)
    return _combine(_AT, list(rows), axis=4).reshape(n, height, width, -1)


def _spread(y: jax.Array) -> jax.Array:
    """`A y Aᵀ` of every tile, `[36, tiles, channels]`: the transpose of `_untile`."""
    n, height, width, channels = y.shape
    y = y.reshape(n, height // _OUT, _OUT, width // _OUT, _OUT, channels)
    rows = _combine(_A, [y[:, :, i] for i in range(_OUT)])
    places = _combine(_A, [rows[:, :, :, :, j] for j in range(_OUT)], axis=1)
    return places.reshape(_TILE**2, -1, channels)


def _combine(matrix: Sequence[Sequence[float]], parts: Sequence[jax.Array], axis: int = 0) -> jax.Array:
    """The product of a small constant matrix and a list of arrays, stacked: no more additions than its entries ask for.

    The barrier has it computed once: XLA would compute the rows again for each column that is made of them.
    """
    terms = [[part if c == 1 else c * part for c, part in zip(row, parts, strict=True) if c] for row in matrix]
    return jax.lax.optimization_barrier(jnp.stack([functools.reduce(jnp.add, row) for row in terms], axis))


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
