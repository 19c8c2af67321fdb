"""The meta-step beside PyTorch, in one run: `python -m benchmarks.meta_step [--only=mlp|resnet] [--repetitions=N]`.

The contestants take turns, so that whatever else the machine does hits all alike; each figure is a median over turns.
Peak memory is XLA's own account of the compiled update: its arguments, results and temporary buffers.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from mbjax import losses
from mbjax.meta import make_meta_step
from mbjax.methods import Problem

try:
    from benchmarks import peers
except ImportError:
    peers = None

SGD = {"inner_lr": 0.01, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
UPDATES_PER_CALL = 50


@dataclasses.dataclass
class Contestant:
    """`run()` does `updates` updates of `pairs` pairs and waits for the last."""

    name: str
    run: Callable[[], None]
    updates: int = 1
    compile_seconds: float = float("nan")
    peak_mib: float = float("nan")


def mbjax_contestant(name: str, model, batch, *, updates: int = 1, **options) -> Contestant:
    """An update of mbjax; `updates` of them in one compiled loop, as training runs them."""
    support, query = batch
    sgd = optax.sgd(SGD["lr"], momentum=SGD["momentum"], nesterov=True)
    tx = optax.chain(optax.add_decayed_weights(SGD["weight_decay"]), sgd)
    problem = Problem(model, losses.supervised_loss(model.apply), tx, np.asarray(query["x"][0, :1]))
    step = make_meta_step(problem.loss_fn, tx, inner_lr=SGD["inner_lr"], **options)

    def many(state, support, query):
        return jax.lax.fori_loop(0, updates, lambda _, s: step(s, support, query)[0], state)

    function = jax.jit(many, donate_argnums=0) if updates > 1 else step
    state = problem.init(0)
    started = time.perf_counter()
    compiled = function.lower(state, support, query).compile()
    seconds = time.perf_counter() - started
    memory: Any = compiled.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    box = [state]

    def run():
        result = compiled(box[0], support, query)
        box[0] = result if updates > 1 else result[0]
        jax.block_until_ready(box[0].params)

    return Contestant(name, run, updates, seconds, (peak - memory.alias_size_in_bytes) / 2**20)


def compare(contestants: list[Contestant], *, repetitions: int, pairs: int, reference: str, title: str) -> None:
    """Times the contestants in turn and prints a Markdown table."""
    times: dict[str, list[float]] = {c.name: [] for c in contestants}
    for c in contestants:
        c.run()
    for _ in range(repetitions):
        for c in contestants:
            started = time.perf_counter()
            c.run()
            times[c.name].append((time.perf_counter() - started) / c.updates)
    base = statistics.median(times[reference]) if reference in times else float("nan")
    torch = "PyTorch is missing: pip install torch" if peers is None else f"PyTorch {peers.VERSION}"
    print(f"JAX {jax.__version__} on {device}; {torch}")
    if arguments.only != "resnet":
        mlp(arguments.repetitions)
    if arguments.only != "mlp":
        resnet(max(3, arguments.repetitions // 3))


if __name__ == "__main__":
    main()
