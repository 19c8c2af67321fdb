"""What more devices are worth: `python -m benchmarks.scaling`.

Work and bytes of each device, and the time of an update, on 1, 2, 4 and 8 devices: all GPUs of this machine, or else
CPU devices that share its cores, whose times say what spreading costs and nothing of what it gains. From the work and
the bytes comes an estimate for the paper's CIFAR-10 update on GPUs; what it assumes is printed with it.
"""

import argparse
import functools
import math
import os
import re
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from benchmarks.meta_step import SGD, batches
from mbjax import losses, models
from mbjax.devices import parallel
from mbjax.meta import make_meta_step
from mbjax.methods import Problem

# Assumptions of the estimate.
TFLOPS = 280  # of a GPU: 40% of 700 in bfloat16
INSIDE, BETWEEN = (
    300e9,
    40e9,
)  # bytes a second and GPU that an all-reduce moves within a host of 8 GPUs, and between hosts
LATENCY = 20e-6  # seconds of an all-reduce of little

# Each with its images or features, support and query batch; XLA counts the work of its own convolution alone.
NETWORKS: dict[str, tuple[Callable[..., Any], tuple[int, ...], int, int]] = {
    "fraud MLP": (
        lambda conv: models.build("mlp", outputs=1, hidden=(16, 24, 20, 24), dropout=(0, 0.5, 0, 0)), (29,), 24, 16
    ),
    "narrow ResNet": (
        lambda conv: models.build("resnet18", outputs=10, width=16, stages=(1, 1, 1), conv=conv), (32, 32, 3), 20, 30
    ),
    "ResNet-18": (lambda conv: models.build("resnet18", outputs=10, conv=conv), (32, 32, 3), 20, 30),
}  # fmt: skip


def problem_of(network: str, conv: str = "auto") -> tuple[Problem, optax.GradientTransformation]:
    """The network with its loss and optimiser."""
    build, shape, *_ = NETWORKS[network]
    tx, model = optax.sgd(SGD["lr"], momentum=SGD["momentum"]), build(conv)
    example = np.zeros((1, *shape), np.float32)
    return Problem(model, losses.supervised_loss(model.apply), tx, example, np.ones(2), 1), tx


@functools.cache
def count_flop(network: str) -> float:
    """Operations of a pair, by XLA's account before it optimises."""
    problem, tx = problem_of(network, "lax")
    _, shape, support, query = NETWORKS[network]
    step: Any = make_meta_step(problem.loss_fn, tx, inner_lr=SGD["inner_lr"])
    state = jax.eval_shape(problem.init, 0)
    return step.lower(state, *batches(1, support, query, shape, 2)).cost_analysis()["flops"]


def count_bytes(network: str) -> int:
    """Bytes of the gradient and of the running statistics, which an update sums over pairs."""
    state = jax.eval_shape(problem_of(network)[0].init, 0)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state.params, state.model_state)))


def all_reduced(program: str) -> tuple[int, int]:
    """How many all-reduces a compiled program holds, and the bytes of their results."""
    sizes = {"f32": 4, "f64": 8, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}
    results = re.findall(r"= (.*?) all-reduce(?:-start)?\(", program)
    shapes = [shape for result in results for shape in re.findall(r"(\w+)\[([\d,]*)\]", result)]
    return len(results), sum(sizes[kind] * math.prod(int(n) for n in dims.split(",") if n) for kind, dims in shapes)


def measure(network: str, pairs: int, devices: int, *, turns: int) -> list[str]:
    """A row of the table: `devices` of this machine share an update of so many pairs."""
    problem, tx = problem_of(network)
    _, shape, support, query = NETWORKS[network]
    groups = parallel.count_groups(devices, pairs)
    grid = np.array(jax.devices()[:devices]).reshape(groups, -1)
    mesh = Mesh(grid, (parallel.AXIS, parallel.BATCH)) if devices > 1 else None
    chunk = pairs if network == "fraud MLP" else 1
    options: Any = {"inner_lr": SGD["inner_lr"], "pairs_per_chunk": chunk}
    step: Any = make_meta_step(problem.loss_fn, tx, axis_name=parallel.AXIS if mesh else None, **options)
    if mesh:
        step = parallel.spread(step, mesh)
    state, data = parallel.replicate((problem.init(0), batches(pairs, support, query, shape, 2)), mesh)
    compiled = step.lower(state, *data).compile()
    times = []
    for _ in range(turns + 1):
        started = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, *data))
        times.append(time.perf_counter() - started)
    share = parallel.padded(pairs, groups) / groups / (devices // groups)
    number, size = all_reduced(compiled.as_text())
    work, milliseconds = share * count_flop(network) / 1e9, 1e3 * statistics.median(times[1:])
    cells = [f"{network}, {pairs} pairs", str(devices), f"{groups} × {devices // groups}", f"{share:g}", f"{work:.4g}"]
    return [*cells, str(number), f"{size:,}", f"{milliseconds:.1f}"]


def estimate(network: str, pairs: int) -> None:
    """Prints what an update should take on more GPUs than there are here."""
    flop, size = count_flop(network), count_bytes(network)
    print(
        f"\nEstimate for {network}, {pairs} pairs of {flop / 1e9:.0f} GFLOP, {size / 1e6:.1f} MB summed over pairs in "
        f"float32. Assumed, not measured: {TFLOPS} TFLOP/s of each GPU, whatever its share; an all-reduce on n GPUs "
        f"moves 2 (n − 1)/n times its bytes, at {INSIDE / 1e9:.0f} GB/s within a host of 8 GPUs, "
        f"{BETWEEN / 1e9:.0f} GB/s between hosts, and takes {1e6 * LATENCY:.0f} µs at least; nothing overlaps; input "
        "costs nothing.\n"
    )
    print("| GPUs | pairs on each | idle | ms of work | ms of all-reduce | ms an update | times as fast as one |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    alone = pairs * flop / (TFLOPS * 1e12)
    for devices in (1, 8, 64):
        groups = parallel.count_groups(devices, pairs)
        assert groups == devices, "the estimate has no batches that are split"
        places = parallel.padded(pairs, groups)
        work = places / devices * flop / (TFLOPS * 1e12)
        move = 2 * (devices - 1) / devices * size / (INSIDE if devices <= 8 else BETWEEN)
        reduce = 0 if devices == 1 else LATENCY + move
        cells = [devices, f"{places // devices}", f"{1 - pairs / places:.0%}"]
        cells += [
            f"{1e3 * work:.2f}",
            f"{1e3 * reduce:.2f}",
            f"{1e3 * (work + reduce):.2f}",
            f"{alone / (work + reduce):.1f}",
        ]
        print("| " + " | ".join(map(str, cells)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=10)
    arguments = parser.parse_args()
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", 8)  # of no account where there are GPUs
    counts = [n for n in (1, 2, 4, 8) if n <= len(jax.devices())]
    print(f"JAX {jax.__version__}, {len(jax.devices())} devices: {jax.devices()[0].device_kind}\n")
    print(
        "| | devices | groups × devices of each | pairs on a device | GFLOP on a device | all-reduces | bytes of them "
        f"| ms an update, median of {arguments.turns} |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for network, pairs in (("fraud MLP", 80), ("narrow ResNet", 8), ("narrow ResNet", 4)):
        for devices in counts:
            print("| " + " | ".join(measure(network, pairs, devices, turns=arguments.turns)) + " |", flush=True)
    estimate("ResNet-18", 80)


if __name__ == "__main__":
    main()
