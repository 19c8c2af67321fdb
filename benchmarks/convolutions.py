"""Convolutions on a CPU: `python -m benchmarks.convolutions [--only=winograd|layouts|errors]`.

`winograd` and `layouts` time the layers of ResNets in a loop, as the meta-step runs them; the contestants take turns.
`errors` compares float32 gradients of ResNet-18 with those of float64.
"""

import argparse
import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.bounds import Runs, fastest, table
from benchmarks.meta_step import batches
from mbjax import losses, models
from mbjax.devices import parallel
from mbjax.meta import meta_loss
from mbjax.models.conv import ConvImplementation, convolve

STAGES = ((32, 64), (16, 128), (8, 256), (4, 512))  # pixels of a side and channels, of ResNet-18 on 32×32 images
LOOPED = 6


def random(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def looped(function: Callable[..., Any], *arrays: jax.Array, count: int = LOOPED) -> tuple[Callable[[], None], int]:
    """Calls a function on each slice of the arrays, in one compiled loop."""
    compiled: Any = jax.jit(lambda *arrays: jax.lax.map(lambda slices: function(*slices), arrays))
    return lambda: jax.block_until_ready(compiled(*arrays)), count


def gradients(implementation: ConvImplementation, x: jax.Array, kernel: jax.Array, y_bar: jax.Array) -> Any:
    return jax.vjp(lambda x, kernel: convolve(x, kernel, 1, implementation), x, kernel)[1](y_bar)


def winograd(turns: int) -> None:
    """How many times as fast Winograd's convolution is as XLA's. Kernels differ by slice, as adapted ones do."""
    print(f"\n3×3 convolutions, forward and both gradients, {turns} turns\n")
    print("| pixels | channels | images | tiles | XLA, ms | forward, times as fast | gradients, times as fast |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for pixels, channels in ((16, 16), (16, 32), (4, 64), *STAGES):
        for images in (1, 5, 20, 64):
            x, kernel = random(LOOPED, images, pixels, pixels, channels), random(LOOPED, 3, 3, channels, channels)
            y_bar = x + 1

            runs: Runs = {}
            for name in ("explicit", "winograd"):
                runs[f"forward {name}"] = looped(functools.partial(convolve, stride=1, implementation=name), x, kernel)
                runs[f"gradients {name}"] = looped(functools.partial(gradients, name), x, kernel, y_bar)
            ms = {name: 1e3 * statistics.median(times) for name, times in fastest(runs, turns).items()}
            cells = [str(pixels), str(channels), str(images), str(images * pixels**2 // 16)]
            cells += [f"{ms['forward explicit']:.2f}"]
            cells += [f"{ms[f'{part} explicit'] / ms[f'{part} winograd']:.2f}" for part in ("forward", "gradients")]
            print("| " + " | ".join(cells) + " |", flush=True)


def layouts(turns: int) -> None:
    """XLA's convolution: pairs put together, and channels first."""
    for pixels, channels in STAGES:
        kernel, x = random(3, 3, channels, channels) / channels, random(LOOPED, 20, pixels, pixels, channels)
        images = LOOPED * 20

        def channels_first(x: jax.Array, kernel: jax.Array = kernel) -> jax.Array:
            weights = kernel.transpose(3, 2, 0, 1)
            return jax.lax.conv_general_dilated(x, weights, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))

        def explicit(x: jax.Array, kernel: jax.Array = kernel) -> jax.Array:
            return convolve(x, kernel, 1, "explicit")

        runs = {
            "20 images at a time": looped(explicit, x, count=images),
            "the support passes of 6 pairs together: 120 images": looped(
                explicit, x.reshape(1, images, *x.shape[2:]), count=images
            ),
            "channels first": looped(channels_first, x.transpose(0, 1, 4, 2, 3), count=images),
        }
        title = f"XLA's 3×3 convolution, {pixels}×{pixels} pixels, {channels} channels, an image, {turns} turns"
        table(title, fastest(runs, turns))


def errors() -> None:
    """Relative errors of ResNet-18's gradients in float32, at initial weights, 20 support and 30 query images."""
    jax.config.update("jax_enable_x64", True)
    support, query = (jax.tree.map(lambda a: a[0], part) for part in batches(1, 20, 30, (32, 32, 3), 10))

    def gradient(dtype: str, conv: str, inner_lr: float) -> list[np.ndarray]:
        model = models.build("resnet18", outputs=10, dtype=dtype, conv=conv)
        variables = models.init(model, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
        state, part, other = jax.tree.map(
            lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, (variables, support, query)
        )
        loss_fn = losses.supervised_loss(model.apply)
        rest = {name: value for name, value in state.items() if name != "params"}

        def loss(params: Any) -> jax.Array:
            return meta_loss(loss_fn, params, rest, part, other, jax.random.key(1), inner_lr=inner_lr)[0]

        compiled: Any = jax.jit(jax.grad(loss))
        return [np.asarray(a, np.float64) for a in jax.tree.leaves(compiled(state["params"]))]

    def norm(leaves: list[np.ndarray]) -> float:
        return sum((a**2).sum() for a in leaves) ** 0.5

    print("\n| | the query loss | MetaBalance, γ = 0.01 |\n| --- | --- | --- |")
    exact = {inner_lr: gradient("float64", "lax", inner_lr) for inner_lr in (0.0, 0.01)}
    for conv in ("explicit", "cpu"):
        cells = []
        for inner_lr, right in exact.items():
            off = [a - b for a, b in zip(gradient("float32", conv, inner_lr), right, strict=True)]
            cells.append(f"{norm(off) / norm(right):.4f}")
        print("| " + " | ".join([conv, *cells]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("winograd", "layouts", "errors"))
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    parallel.use_all_cores()
    print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}")
    if arguments.only in (None, "winograd"):
        winograd(arguments.turns)
    if arguments.only in (None, "layouts"):
        layouts(arguments.turns)
    if arguments.only in (None, "errors"):
        errors()


if __name__ == "__main__":
    main()
