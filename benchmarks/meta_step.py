"""The meta-step beside PyTorch, in one run: `python -m benchmarks.meta_step [--only=mlp|resnet|flops]`.

The contestants take turns, so that whatever else the machine does hits all alike; each figure is a median over turns.
Peak memory is XLA's own account of the compiled update on one device: its arguments, results and temporary buffers.
"""

import argparse
import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from mbjax import losses, models
from mbjax.devices import parallel
from mbjax.meta import make_meta_step
from mbjax.methods import Problem

try:
    from benchmarks import peers
except ImportError:
    peers = None

SGD = {"inner_lr": 0.01, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
UPDATES_PER_CALL = 50
REFERENCE = "PyTorch eager, second order"


@dataclasses.dataclass
class Contestant:
    """`run()` does `updates` updates and waits for the last."""

    name: str
    run: Callable[[], None]
    updates: int = 1
    pairs: int = 0  # of an update; 0 for those of the table
    compile_seconds: float = math.nan
    peak_mib: float = math.nan
    program: str = ""  # as XLA compiled it


def mbjax_contestant(
    name: str, model, batch, *, updates: int = 1, mesh: Mesh | None = None, wrapper: Any = "shard_map", **options
) -> Contestant:
    """An update of mbjax; several in one compiled loop, as training runs them, or one a call."""
    support, query = parallel.replicate(batch, mesh)
    sgd = optax.sgd(SGD["lr"], momentum=SGD["momentum"], nesterov=True)
    tx = optax.chain(optax.add_decayed_weights(SGD["weight_decay"]), sgd)
    problem = Problem(model, losses.supervised_loss(model.apply), tx, np.asarray(query["x"][0, :1]), np.ones(2), 1)
    axis_name = parallel.AXIS if mesh else None
    step = make_meta_step(problem.loss_fn, tx, inner_lr=SGD["inner_lr"], axis_name=axis_name, **options)
    if mesh:
        step = parallel.spread(step, mesh, wrapper=wrapper)

    def many(state, support, query):
        return jax.lax.fori_loop(0, updates, lambda _, s: step(s, support, query)[0], state), None

    function: Any = jax.jit(many, donate_argnums=0) if updates > 1 else step
    state = parallel.replicate(problem.init(0), mesh)
    started = time.perf_counter()
    compiled = function.lower(state, support, query).compile()
    seconds = time.perf_counter() - started
    memory: Any = compiled.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    latest = [state]

    def run():
        latest[0], _ = compiled(latest[0], support, query)
        jax.block_until_ready(latest[0].params)

    pairs = query["y"].shape[0]
    peak_mib = (peak - memory.alias_size_in_bytes) / 2**20
    return Contestant(name, run, updates, pairs, seconds, peak_mib, compiled.as_text())


def compare(contestants: list[Contestant], *, repetitions: int, pairs: int, title: str) -> None:
    """Times the contestants in turn and prints a Markdown table."""
    times: dict[str, list[float]] = {c.name: [] for c in contestants}
    first = {}
    for c in contestants:  # PyTorch compiles when it first runs
        started = time.perf_counter()
        c.run()
        first[c.name] = time.perf_counter() - started
    for _ in range(repetitions):
        for c in contestants:
            started = time.perf_counter()
            c.run()
            times[c.name].append((time.perf_counter() - started) / c.updates)
    base = statistics.median(times.get(REFERENCE, [math.nan]))
    print(f"\n{title}; median of {repetitions} turns\n")
    print("| | ms per update | fastest | ms per pair | times as fast as PyTorch eager | compile s | peak MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for c in contestants:
        median = statistics.median(times[c.name])
        pair = median / (c.pairs or pairs)
        cells = [f"{1e3 * median:.2f}", f"{1e3 * min(times[c.name]):.2f}", f"{1e3 * pair:.3f}"]
        compiling = first[c.name] - median if math.isnan(c.compile_seconds) else c.compile_seconds
        cells += [f"{base / pairs / pair:.2f}", f"{compiling:.1f}", f"{c.peak_mib:.2f}"]
        print("| " + " | ".join([c.name, *(cell.replace("nan", "") for cell in cells)]) + " |")


def batches(pairs: int, support: int, query: int, shape: tuple[int, ...], classes: int) -> list[dict[str, jax.Array]]:
    """Random support and query batches on the device."""
    rng = np.random.default_rng(0)
    return [
        {
            "x": jnp.asarray(rng.normal(size=(pairs, n, *shape)), jnp.float32),
            "y": jnp.asarray(rng.integers(0, classes, (pairs, n)), jnp.int32),
        }
        for n in (support, query)
    ]


def mlp(repetitions: int) -> None:
    """The fraud network (Table 5) at the paper's batch sizes."""
    pairs = 80
    batch = batches(pairs, 24, 16, (29,), 2)
    model = models.build("mlp", outputs=1, hidden=(16, 24, 20, 24), dropout=(0, 0.5, 0, 0))
    contestants = [
        mbjax_contestant(
            f"mbjax {mode}, {chunk} a chunk", model, batch,
            updates=UPDATES_PER_CALL, grad_mode=mode, pairs_per_chunk=chunk,
        )
        for chunk in (80, 8, 1)
        for mode in ("mixed", "reverse", "first_order")
    ]  # fmt: skip
    for count in (20, 320):  # the cost is linear in pairs
        more = batches(count, 24, 16, (29,), 2)
        name = f"mbjax mixed, 8 a chunk, {count} pairs"
        contestants.append(mbjax_contestant(name, model, more, updates=UPDATES_PER_CALL, pairs_per_chunk=8))
    contestants.append(mbjax_contestant("mbjax mixed, 80 a chunk, one update a call", model, batch, pairs_per_chunk=80))
    devices = jax.devices()
    if len(devices) > 1:
        name = f"80 pairs spread over {len(devices)} {devices[0].platform.upper()} devices"
        mesh = Mesh(np.array(devices).reshape(-1, 1), (parallel.AXIS, parallel.BATCH))
        spread = functools.partial(
            mbjax_contestant, model=model, batch=batch, mesh=mesh, updates=UPDATES_PER_CALL, pairs_per_chunk=80
        )
        contestants += [
            spread(f"mbjax mixed, {name}"),
            spread(f"mbjax reverse, {name}", grad_mode="reverse"),
            spread(f"mbjax first_order, {name}", grad_mode="first_order"),
            spread(f"mbjax mixed, {name} by pmap", wrapper="pmap"),
        ]
    if peers is not None:
        contestants += [Contestant(*peer) for peer in peers.mlp(batch)]
    title = "Fraud-sized MLP 29→16→24→(dropout)→20→24→1, support 24, query 16, 80 pairs"
    compare(contestants, repetitions=repetitions, pairs=pairs, title=title)
    for chunk in (1, 8):
        beside = {}
        for count in (8, 80):
            batch = batches(count, 24, 16, (29,), 2)
            contestant = mbjax_contestant("", model, batch, pairs_per_chunk=chunk)
            beside[count] = contestant.peak_mib - sum(x.nbytes for x in jax.tree.leaves(batch)) / 2**20
        print(
            f"\npeak memory beside the batches, {chunk} a chunk: {beside[8]:.4f} MiB at 8 pairs, {beside[80]:.4f} MiB "
            f"at 80, {beside[80] / beside[8]:.3f} times"
        )


def resnet(repetitions: int) -> None:
    """ResNet-18 on CIFAR-sized images at the paper's batch sizes, pairs one after another."""
    pairs = 6
    batch = batches(pairs, 20, 30, (32, 32, 3), 10)
    model = models.build("resnet18", outputs=10)
    contestants = [
        mbjax_contestant("mbjax mixed", model, batch, grad_mode="mixed"),
        mbjax_contestant("mbjax first_order", model, batch, grad_mode="first_order"),
        mbjax_contestant("mbjax mixed, 2 pairs", model, batches(2, 20, 30, (32, 32, 3), 10), grad_mode="mixed"),
    ]
    if jax.default_backend() == "cpu":  # what Winograd's convolution is worth
        explicit = models.build("resnet18", outputs=10, conv="explicit")
        contestants.append(mbjax_contestant("mbjax mixed, no Winograd", explicit, batch, grad_mode="mixed"))
    # Reverse over reverse leads XLA's CPU loops off their fast convolution; matrix products it has in any order.
    reverse = models.build("resnet18", outputs=10, conv="matmul") if jax.default_backend() == "cpu" else model
    contestants.append(mbjax_contestant("mbjax reverse", reverse, batch, grad_mode="reverse"))
    if peers is not None:
        contestants += [Contestant(*peer) for peer in peers.resnet(batch)]
    title = "ResNet-18 on 32×32 images, support 20, query 30, 6 pairs in the scanned update, 1 a chunk"
    compare(contestants, repetitions=repetitions, pairs=pairs, title=title)


def count_flop(model: Any, batch: Any, grad_mode: Any) -> float:
    """Operations of an update, by XLA's account before it optimises; the model's convolutions must be `"lax"`."""
    tx = optax.sgd(0.01)
    example = np.zeros(batch[0]["x"].shape[1:], np.float32)[:1]
    problem = Problem(model, losses.supervised_loss(model.apply), tx, example, np.ones(2), 1)
    step: Any = make_meta_step(problem.loss_fn, tx, inner_lr=0.01, grad_mode=grad_mode)
    return step.lower(jax.eval_shape(problem.init, 0), *batch).cost_analysis()["flops"]


def flops() -> None:
    """Counts the work of a ResNet-18 pair, and of the paper's CIFAR-10 runs."""
    model, batch = models.build("resnet18", outputs=10, conv="lax"), batches(1, 20, 30, (32, 32, 3), 10)
    print(
        "\nResNet-18 on 32×32 images, one pair of 20 and 30\n\n| | GFLOP a pair | PFLOP for 7,292 updates of 80 pairs |"
    )
    print("| --- | --- | --- |")
    for mode in ("mixed", "first_order"):
        work = count_flop(model, batch, mode)
        print(f"| {mode} | {work / 1e9:.0f} | {work * 7292 * 80 / 1e15:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("mlp", "resnet", "flops"))
    parser.add_argument("--repetitions", type=int, default=15)
    arguments = parser.parse_args()
    parallel.use_all_cores()
    torch = "PyTorch is missing: pip install torch" if peers is None else f"PyTorch {peers.VERSION}"
    print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}; {torch}")
    if arguments.only in (None, "mlp"):
        mlp(arguments.repetitions)
    if arguments.only in (None, "resnet"):
        resnet(max(3, arguments.repetitions // 3))
    if arguments.only in (None, "flops"):
        flops()


if __name__ == "__main__":
    main()
