"""What an idea could save of the meta-step on a CPU, at most: `python -m benchmarks.bounds`.

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

Runs = dict[str, tuple[Callable[[], None], int]]  # by name: what is timed, and how many of what is counted it does


class Network(nn.Module):
    """The fraud network, of other widths, without dropout or without biases."""

    hidden: tuple[int, ...] = (16, 24, 20, 24)
    rate: float = 0.5
    bias: bool = True
    per_draw: int = 1  # masks of dropout from one draw of 32 bits

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for layer, units in enumerate(self.hidden):
            x = nn.relu(nn.Dense(units, use_bias=self.bias)(x))
            if layer == 1 and self.per_draw > 1:
                x = jnp.where(self.keep(x), x / (1 - self.rate), 0)
            elif layer == 1 and self.rate:
                x = nn.Dropout(self.rate, deterministic=not train)(x)
        return nn.Dense(1, use_bias=self.bias)(x)

    def keep(self, x: jax.Array) -> jax.Array:
        bits = 32 // self.per_draw
        drawn = jax.random.bits(self.make_rng("dropout"), (-(-x.size // self.per_draw),), jnp.uint32)
        parts = jax.lax.bitcast_convert_type(drawn, f"uint{bits}").reshape(-1)[: x.size].reshape(x.shape)
        return parts >= round(self.rate * 2**bits)


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
        "two masks of dropout from one draw, 16 bits each": contestant(Network(per_draw=2), batch),
        "four masks of dropout from one draw, 8 bits each": contestant(Network(per_draw=4), batch),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=15)
    arguments = parser.parse_args()
    parallel.use_all_cores()
    print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}")
    mlp(arguments.turns)


if __name__ == "__main__":
    main()
