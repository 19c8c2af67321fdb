"""Mallat's scattering transform of images, of second order: a fixed stem of wavelets that learns from no image.

Bruna and Mallat 2013, "Invariant Scattering Convolution Networks". With Morlet wavelets `ψ_{j,θ}` of scales
`j < scales` and directions `θ`, and a Gaussian `φ`,

    S₀ = x ∗ φ,    S₁ = |x ∗ ψ_{j₁,θ₁}| ∗ φ,    S₂ = ||x ∗ ψ_{j₁,θ₁}| ∗ ψ_{j₂,θ₂}| ∗ φ    with j₁ < j₂,

each taken at every 2^scales-th pixel. Convolutions with wavelets are products of Fourier transforms, and a product is
folded before its inverse transform, which then is that of an image of the lower resolution.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_PERIODS = np.arange(-2, 3)  # of the filters' tails that are folded back into the image


def paths(scales: int, angles: int) -> int:
    """How many channels the transform makes of one: 81 of 2 scales and 8 angles."""
    return 1 + scales * angles + scales * (scales - 1) // 2 * angles**2


@functools.partial(jax.jit, static_argnames=("scales", "angles"))
def scattering(images: jax.Array, *, scales: int = 2, angles: int = 8) -> jax.Array:
    """The scattering transform of every channel.

    Images are padded by reflection and the padding is cut off again. The filters are Kymatio's (Andreux et al. 2020),
    whose values these are to 1e-4: `ψ_{j,θ}` has the width `0.8 · 2^j`, the frequency `(3π/4) / 2^j` and a slant of
    `4 / angles`; `φ` has the width `0.8 · 2^(scales − 1)`.

    Args:
      images: `[n, height, width, channels]`, floating point.
      scales: `J ≥ 1`, of wavelets; coefficients are of every `2^J`-th pixel.
      angles: directions of each wavelet.

    Returns:
      `[n, ⌊height / 2^J⌋, ⌊width / 2^J⌋, channels · paths]`: of each channel first `S₀`, then `S₁` by `(j₁, θ₁)`, then
      `S₂` by `(j₁, θ₁, j₂, θ₂)`.

    Raises:
      ValueError: images smaller than `2^J` pixels.

    Example:
      >>> scattering(jnp.ones((1, 32, 32, 3))).shape
      (1, 8, 8, 243)
    """
    n, height, width, channels = images.shape
    step = 2**scales
    if min(height, width) < step:
        raise ValueError(f"images of {height}×{width} pixels: {step} at least are needed for {scales} scales")
    axes = [_axis(size, step) for size in (height, width)]
    bank = _bank(axes[0].padded, axes[1].padded, scales, angles)
    x = jnp.pad(images.transpose(0, 3, 1, 2).reshape(n * channels, height, width),
                [(0, 0), *((axis.before, axis.after) for axis in axes)], "reflect")  # fmt: skip

    def average(x: jax.Array, j: int) -> jax.Array:
        """`x ∗ φ` of images at every 2^j-th pixel, `[..., height / 2^J, width / 2^J]`."""
        down, across = (jnp.asarray(_averages(axis, scales, j), x.dtype) for axis in axes)
        return jnp.einsum("ap,...pq,bq->...ab", down, x, across, precision="highest")

    def wavelets(spectrum: jax.Array, j: int, at: int) -> jax.Array:
        """`|x ∗ ψ_{j,θ}|` for every θ at every 2^j-th pixel, of the spectrum of `x` at every 2^at-th."""
        filters = jnp.asarray(bank[j, at], spectrum.real.dtype)
        filters = filters.reshape(*(1 for _ in spectrum.shape[:-2]), *filters.shape)
        parts = (part[..., None, :, :] * filters for part in (spectrum.real, spectrum.imag))
        return _modulus(jnp.fft.ifft2(_fold(jax.lax.complex(*parts), 2 ** (j - at))))

    spectrum = jnp.fft.fft2(x)
    out, second = [average(x, 0)[:, None]], []
    for first in range(scales):
        u = wavelets(spectrum, first, 0)
        out.append(average(u, first))
        if first + 1 < scales:
            finer = jnp.fft.fft2(u)
            each = [average(wavelets(finer, j, first), j) for j in range(first + 1, scales)]
            each = jnp.stack(each, 2)  # [images, θ₁, j₂, θ₂, rows, columns]
            second.append(each.reshape(each.shape[0], math.prod(each.shape[1:4]), *each.shape[4:]))
    coefficients = jnp.concatenate(out + second, 1)
    _, count, rows, columns = coefficients.shape
    return coefficients.reshape(n, channels, count, rows, columns).transpose(0, 3, 4, 1, 2).reshape(
        n, rows, columns, channels * count
    )  # fmt: skip


class _Axis(NamedTuple):
    """One axis of the images: its size with padding, and the padding on either side."""

    padded: int
    before: int
    after: int


def _axis(size: int, step: int) -> _Axis:
    """Padded to a multiple of `step`, by `step` at least in all: the first and last coefficients are cut off again."""
    padded = (size // step + 2) * step
    before = (padded - size) // 2
    return _Axis(padded, before, padded - size - before)


@functools.lru_cache(maxsize=16)
def _bank(height: int, width: int, scales: int, angles: int) -> dict[tuple[int, int], np.ndarray]:
    """Fourier transforms of the wavelets: `[j, at]` of scale `j` at every 2^at-th pixel, `[angles, p, q]`."""
    wavelets = {}
    for j in range(scales):
        turned = [math.pi * (int(angles / 2 - 1) - k) / angles for k in range(angles)]
        fine = np.stack([_morlet(height, width, 0.8 * 2**j, theta, 0.75 * math.pi / 2**j, 4 / angles)
                         for theta in turned])  # fmt: skip
        wavelets |= {(j, at): _lowest(_lowest(fine, at, axis=1), at, axis=2) for at in range(j + 1)}
    return wavelets


def _morlet(height: int, width: int, sigma: float, theta: float, frequency: float, slant: float) -> np.ndarray:
    """The Fourier transform, which is real, of a Morlet wavelet: a Gabor wavelet less as much of its envelope as makes
    its mean 0, `(e^{iξ·u} − κ) g(u)`, with the envelope `g` of width `sigma` across its waves and `sigma / slant` along
    them."""
    down, across = (size * _PERIODS[:, None] + np.arange(size) for size in (height, width))
    u, v = down[:, None, :, None], across[None, :, None, :]
    along, beside = u * math.cos(theta) + v * math.sin(theta), v * math.cos(theta) - u * math.sin(theta)
    envelope = np.exp(-(along**2 + (slant * beside) ** 2) / (2 * sigma**2)) * slant / (2 * math.pi * sigma**2)
    gabor = (envelope * np.exp(1j * frequency * along)).sum((0, 1))
    envelope = envelope.sum((0, 1))
    return np.fft.fft2(gabor - gabor.sum() / envelope.sum() * envelope).real


@functools.lru_cache(maxsize=32)
def _averages(axis: _Axis, scales: int, at: int) -> np.ndarray:
    """Convolution with `φ`, which is a product of one Gaussian for each axis, and what it is kept of, as a matrix.

    Of values at every 2^at-th pixel, `[size / 2^scales, padded / 2^at]`.
    """
    sigma = 0.8 * 2 ** (scales - 1)
    places = axis.padded * _PERIODS[:, None] + np.arange(axis.padded)
    gaussian = (np.exp(-(places**2) / (2 * sigma**2)) / math.sqrt(2 * math.pi * sigma**2)).sum(0)
    kernel = np.fft.ifft(_lowest(np.fft.fft(gaussian).real, at, axis=0)).real
    count = axis.padded // 2**scales
    centres = 2 ** (scales - at) * np.arange(1, count - 1)
    return kernel[(centres[:, None] - np.arange(len(kernel))) % len(kernel)]


def _lowest(spectrum: np.ndarray, at: int, *, axis: int) -> np.ndarray:
    """The lowest frequencies of an axis, as many as an image of every 2^at-th pixel has."""
    size = spectrum.shape[axis]
    kept = size // 2**at
    half = kept // 2
    return np.take(spectrum, np.r_[0 : kept - half, size - half : size], axis=axis)


def _fold(spectrum: jax.Array, step: int) -> jax.Array:
    """The spectrum of every `step`-th pixel, of that of all."""
    *rest, height, width = spectrum.shape
    return spectrum.reshape(*rest, step, height // step, step, width // step).mean((-4, -2))


def _modulus(x: jax.Array) -> jax.Array:
    """`|x|`, with the derivative 0 at 0."""
    squared = x.real**2 + x.imag**2
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
