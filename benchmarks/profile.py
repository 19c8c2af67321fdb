"""What an update spends its time on: `python -m benchmarks.profile [--only=mlp|resnet]`.

JAX's profiler names each operation that XLA runs, and the compiled program says what it is of. Times are an operation's
own, without what it calls, summed over threads; the profiler itself makes small operations slower.
"""

import argparse
import collections
import glob
import re
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks.meta_step import batches, mbjax_contestant
from mbjax import models
from mbjax.devices import parallel

# What an operation is, by its name and by where in the model it comes from: the first pattern that fits.
KINDS = (
    ("waiting for other threads and devices", r"^(all-reduce|all-gather|collective|Rendezvous|Wait:|SlinkyThreadPool)"),
    ("random numbers", r"threefry|random_bits|_uniform|shift-right|bernoulli"),
    ("convolutions", r"conv_general_dilated|^convolution"),
    ("matrix products", r"dot_general|^(dot|ynn)"),
    ("copies and transposes", r"^(copy|transpose|concatenate|slice|pad|bitcast|reshape)|/(transpose|concatenate|pad)$"),
    ("sums and means", r"^reduce|reduce_sum|/reduce"),
    ("running the operations", r"^(ThunkExecutor|while|call|conditional|fori|tuple)"),
)  # fmt: skip
REST = "element by element"


def sources(program: str) -> dict[str, str]:
    """Where each instruction of a compiled program comes from, by its name."""
    return dict(re.findall(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"', program, re.MULTILINE))


def kind_of(name: str, source: str) -> str:
    text = f"{name} {source}"
    return next((kind for kind, pattern in KINDS if re.search(pattern, text)), REST)


def own_times(events: list[Any]) -> list[tuple[str, float]]:
    """Name and own nanoseconds of the events of one thread, which lie within one another or apart."""
    events = sorted(events, key=lambda e: (e.start_ns, -e.duration_ns))
    out, open_events = [], []
    for event in events:
        while open_events and open_events[-1][1] <= event.start_ns:
            open_events.pop()
        if open_events:
            out[open_events[-1][0]][1] -= event.duration_ns
        open_events.append((len(out), event.start_ns + event.duration_ns))
        out.append([event.name, event.duration_ns])
    return [(name, own) for name, own in out]


def traced(run: Callable[[], None], *, calls: int = 1) -> list[list[Any]]:
    """The events of each thread while `run` is called: what it waits for left out, and on a GPU its streams' alone."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                run()
        (file,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        planes = list(jax.profiler.ProfileData.from_file(file).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")] or planes
    lines = [line for plane in devices for line in plane.lines if line.name != "python"]
    lines = [line for line in lines if line.name.startswith("Stream")] or lines
    ignored = ("end: ", "wait for completion")
    return [[e for e in line.events if not any(part in e.name for part in ignored)] for line in lines]


def count_operations(run: Callable[[], None]) -> int:
    """What one call makes the device do: the kernels that a GPU launches, copies included, or a CPU's operations."""
    return sum(map(len, traced(run)))


def profile(title: str, contestant: Any, *, calls: int) -> None:
    """Prints where the time of some calls goes."""
    contestant.run()
    where = sources(contestant.program)
    counters: Any = [collections.Counter() for _ in range(3)]
    totals, counts, longest = counters
    for events in traced(contestant.run, calls=calls):
        for name, own in own_times(events):
            kind = kind_of(name, where.get(name, ""))
            totals[kind] += own
            counts[kind] += 1
            longest[f"{name} ({where.get(name, '').rpartition('/')[2]})"] += own
    updates, everything = calls * contestant.updates, sum(totals.values())
    print(f"\n{title}\n\n| | share of the time | ms an update | operations an update |\n| --- | --- | --- | --- |")
    for kind, nanoseconds in totals.most_common():
        cells = [kind, f"{nanoseconds / everything:.1%}", f"{nanoseconds / 1e6 / updates:.3f}"]
        print("| " + " | ".join([*cells, f"{counts[kind] / updates:.0f}"]) + " |")
    named = [f"{name} {nanoseconds / everything:.1%}" for name, nanoseconds in longest.most_common(6)]
    print(f"\nLongest: {', '.join(named)}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("mlp", "resnet"))
    only = parser.parse_args().only
    parallel.use_all_cores()
    print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}")
    if only in (None, "mlp"):
        model = models.build("mlp", outputs=1, hidden=(16, 24, 20, 24), dropout=(0, 0.5, 0, 0))
        batch = batches(80, 24, 16, (29,), 2)
        mesh = Mesh(np.array(jax.devices()).reshape(-1, 1), (parallel.AXIS, parallel.BATCH))
        for name, spread in (("one device", None), (f"{mesh.size} devices", mesh)):
            contestant = mbjax_contestant("", model, batch, updates=50, pairs_per_chunk=80, mesh=spread)
            profile(f"Fraud-sized MLP, 80 pairs, {name}", contestant, calls=4)
    if only in (None, "resnet"):
        model = models.build("resnet18", outputs=10)
        contestant = mbjax_contestant("", model, batches(2, 20, 30, (32, 32, 3), 10))
        profile("ResNet-18, 2 pairs of 20 and 30 images of 32×32", contestant, calls=2)


if __name__ == "__main__":
    main()
