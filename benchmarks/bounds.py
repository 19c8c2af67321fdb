"""What an idea could save of the meta-step on a CPU, at most: `python -m benchmarks.bounds [--only=mlp|convolutions]`.

Each row leaves out, or does for nothing, what its idea would make cheaper, so that it bounds what the idea can give.
The contestants take turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks.meta_step import UPDATES_PER_CALL, batches, mbjax_contestant
from mbjax.devices import parallel
from mbjax.models.conv import convolve

Runs = dict[str, tuple[Callable[[], None], int]]  # by name: what is timed, and how many of what is counted it does


class Network(nn.Module):
    """The fraud network, of other widths, without dropout or without biases."""

    hidden: tuple[int, ...] = (16, 24, 20, 24)
    rate: float = 0.5
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for layer, units in enumerate(self.hidden):
            x = nn.relu(nn.Dense(units, use_bias=self.bias)(x))
            if layer == 1 and self.rate:
                x = nn.Dropout(self.rate, deterministic=not train)(x)
        return nn.Dense(1, use_bias=self.bias)(x)


def fastest(runs: Runs, turns: int) -> dict[str, list[float]]:
    """Seconds for one of what each run counts, by turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run, _ in runs.values():
        run()
    for _ in range(turns):
        for name, (run, count) in runs.items():
            started = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - started) / count)
    return times


def table(title: str, times: dict[str, list[float]]) -> None:
    """Prints medians, and how many times as fast as the first each is."""
    base = statistics.median(next(iter(times.values())))
    print(f"\n{title}\n\n| | median ms | fastest ms | times as fast |\n| --- | --- | --- | --- |")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"| {name} | {1e3 * median:.3f} | {1e3 * min(seconds):.3f} | {base / median:.2f} |", flush=True)


def mlp(turns: int) -> None:
    """The fraud network, 80 pairs, all in one chunk."""
    batch = batches(80, 24, 16, (29,), 2)
    padded = [{**part, "x": jnp.pad(part["x"], ((0, 0), (0, 0), (0, 3)))} for part in batch]

    def contestant(model: Any, batch: Any, **options: Any) -> tuple[Callable[[], None], int]:
        made = mbjax_contestant("", model, batch, updates=UPDATES_PER_CALL, **{"pairs_per_chunk": 80, **options})
        return made.run, UPDATES_PER_CALL

    runs = {
        "as it is": contestant(Network(), batch),
        "no masks of dropout to draw": contestant(Network(rate=0), batch),
        "no biases, fewer small operations": contestant(Network(bias=False), batch),
        "every matrix 32 wide, one shape for all products": contestant(Network(hidden=(32, 32, 32, 32)), padded),
        "40 pairs a chunk": contestant(Network(), batch, pairs_per_chunk=40),
        "16 pairs a chunk": contestant(Network(), batch, pairs_per_chunk=16),
        "no Hessian, first order": contestant(Network(), batch, grad_mode="first_order"),
        "half of the pairs on one device: spreading for nothing": contestant(
            Network(), batches(40, 24, 16, (29,), 2), pairs_per_chunk=40
        ),
    }
    devices = jax.devices()
    if len(devices) > 1:
        mesh = Mesh(np.array(devices).reshape(-1, 1), (parallel.AXIS, parallel.BATCH))
        runs[f"spread over {len(devices)} devices"] = contestant(Network(), batch, mesh=mesh)
    table(f"Fraud-sized MLP, an update of 80 pairs, {turns} turns", fastest(runs, turns))


def convolutions(turns: int) -> None:
    """A convolution of each stage of ResNet-18 in a loop, as the meta-step runs it: layouts, and pairs put together."""
    for pixels, channels in ((32, 64), (16, 128), (8, 256), (4, 512)):
        rng = np.random.default_rng(0)
        kernel = jnp.asarray(rng.normal(size=(3, 3, channels, channels)) / channels, jnp.float32)
        x = jnp.asarray(rng.normal(size=(6, 20, pixels, pixels, channels)), jnp.float32)

        def looped(conv: Callable[[jax.Array], jax.Array], x: jax.Array) -> tuple[Callable[[], None], int]:
            compiled: Any = jax.jit(lambda x: jax.lax.map(conv, x))
            images = 120
            return lambda: jax.block_until_ready(compiled(x)), images

        def channels_first(x: jax.Array, kernel: jax.Array = kernel) -> jax.Array:
            weights = kernel.transpose(3, 2, 0, 1)
            return jax.lax.conv_general_dilated(x, weights, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))

        def explicit(x: jax.Array, kernel: jax.Array = kernel) -> jax.Array:
            return convolve(x, kernel, 1, "explicit")

        runs = {
            "as it is: 20 images at a time": looped(explicit, x),
            "the support passes of 6 pairs together: 120 images": looped(explicit, x.reshape(1, 120, *x.shape[2:])),
            "channels first": looped(channels_first, x.transpose(0, 1, 4, 2, 3)),
        }
        title = f"3×3 convolution, {pixels}×{pixels} pixels, {channels} channels, an image, {turns} turns"
        table(title, fastest(runs, turns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("mlp", "convolutions"))
    parser.add_argument("--turns", type=int, default=15)
    arguments = parser.parse_args()
    parallel.use_all_cores()
    print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}")
    if arguments.only in (None, "mlp"):
        mlp(arguments.turns)
    if arguments.only in (None, "convolutions"):
        convolutions(arguments.turns)


if __name__ == "__main__":
    main()
