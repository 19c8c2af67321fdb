"""The parts of `python -m benchmarks.gpu`: each yields the names of its rows and the functions that measure them."""

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import profile
from benchmarks.meta_step import batches, count_flop, mbjax_contestant
from configs import cifar10
from mbjax import config as config_lib
from mbjax import data, models, sampling, train
from mbjax.train import updates as updates_lib
from mbjax.types import Config, Dataset, Split, UserError

Row = dict[str, Any]
Jobs = Iterator[tuple[str, Callable[[], Row]]]
# What `jax.default_matmul_precision` is, and what a network computes in.
PRECISIONS = {
    "tf32": ("tensorfloat32", "float32"), "bfloat16": ("tensorfloat32", "bfloat16"), "float32": ("float32", "float32"),
}  # fmt: skip
UPDATES = 7292  # of the paper's run on CIFAR-10


@dataclasses.dataclass(frozen=True)
class Cell:
    """A setting of the meta-step."""

    conv: str
    pairs_per_chunk: int
    precision: str
    grad_mode: str

    @property
    def name(self) -> str:
        return f"{self.conv}, {self.pairs_per_chunk} a chunk, {self.precision}, {self.grad_mode}"


def ordered(convs: Sequence[str], chunks: Sequence[int]) -> tuple[Cell, ...]:
    """All settings: mbjax's default first, then those that differ from it in one thing, then in two, and so on."""
    choices: list[Any] = [list(enumerate(values)) for values in (convs, chunks, PRECISIONS, ("mixed", "first_order"))]
    ranked = sorted(itertools.product(*choices), key=lambda choice: sum(rank for rank, _ in choice))
    return tuple(Cell(*(value for _, value in choice)) for choice in ranked)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
      matrix: rows and columns of the matrices that are multiplied.
      array_mib: of the array that is read and written.
      network: options of the ResNet.
      pixels: of a side of its images.
      pairs: of an update.
      support: images of a support batch.
      query: images of a query batch.
      cells: settings of the meta-step.
      mlp_cells: pairs per chunk and order of the gradient of the fraud network.
      seconds: that a row is timed for, at least.
      training: seconds of training.
      calls: updates of each call while training.
    """

    matrix: int
    array_mib: int
    network: dict[str, Any]
    pixels: int
    pairs: int
    support: int
    query: int
    cells: tuple[Cell, ...]
    mlp_cells: tuple[tuple[int, str], ...]
    seconds: float
    training: float
    calls: int


PAPER = Sizes(
    matrix=8192, array_mib=2048, network={"width": 64, "stages": (2, 2, 2, 2)}, pixels=32, pairs=80, support=20,
    query=30, cells=ordered(("lax", "matmul"), (1, 16, 4, 80)),
    mlp_cells=((80, "mixed"), (80, "first_order"), (8, "mixed"), (1, "mixed")), seconds=1.0, training=60.0,
    calls=10,
)  # fmt: skip
SMALL = Sizes(
    matrix=64, array_mib=1, network={"width": 2, "stages": (1,)}, pixels=8, pairs=2, support=4, query=6,
    cells=(Cell("lax", 1, "tf32", "mixed"), Cell("matmul", 2, "bfloat16", "first_order")),
    mlp_cells=((2, "first_order"),), seconds=0.01, training=0.1, calls=2,
)  # fmt: skip


def timed(run: Callable[[], Any], seconds: float) -> list[float]:
    """Seconds of each call, of three at least, after one that does not count."""
    run()
    times, started = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        run()
        times.append(time.perf_counter() - before)
    return times


def rates(sizes: Sizes) -> Jobs:
    """What the device can do: products of large matrices in each precision, and reading and writing its memory."""
    loop = 8

    def multiply(precision: str, dtype: str) -> Row:
        x = jnp.full((sizes.matrix, sizes.matrix), 1 / sizes.matrix, dtype)
        with jax.default_matmul_precision(precision):
            product = jax.jit(lambda x: jax.lax.fori_loop(0, loop, lambda _, y: y @ x, x)).lower(x).compile()
        seconds = statistics.median(timed(lambda: product(x).block_until_ready(), sizes.seconds))
        return {"tflops": 2 * loop * sizes.matrix**3 / seconds / 1e12}

    def copy() -> Row:
        x = jnp.zeros(sizes.array_mib * 2**18, jnp.float32)
        add = jax.jit(lambda x: x + 1).lower(x).compile()
        seconds = statistics.median(timed(lambda: add(x).block_until_ready(), sizes.seconds))
        return {"gb_s": 2 * x.nbytes / seconds / 1e9}

    for name, (precision, dtype) in PRECISIONS.items():
        yield name, functools.partial(multiply, precision, dtype)
    yield "memory", copy


def figures_of(contestant: Any, pairs: int, seconds: float) -> Row:
    """Times, kernels and memory of an update of `mbjax_contestant`."""
    times = [1e3 * t / contestant.updates for t in timed(contestant.run, seconds)]
    median = statistics.median(times)
    return {
        "ms": median, "fastest_ms": min(times), "pair_ms": median / pairs,
        "kernels": profile.count_operations(contestant.run) / contestant.updates, "peak_mib": contestant.peak_mib,
        "compile_s": contestant.compile_seconds,
    }  # fmt: skip


def grid(sizes: Sizes, rows: Sequence[Row]) -> Jobs:
    """The meta-step of ResNet-18 in each setting; its share is of what products of large matrices reach."""
    images = sizes.support, sizes.query, (sizes.pixels, sizes.pixels, 3), 10
    build = functools.partial(models.build, "resnet18", outputs=10, **sizes.network)
    flop = functools.cache(lambda mode: count_flop(build(conv="lax"), batches(1, *images), mode))

    def measure(cell: Cell) -> Row:
        precision, dtype = PRECISIONS[cell.precision]
        with jax.default_matmul_precision(precision):
            contestant = mbjax_contestant(
                cell.name, build(conv=cell.conv, dtype=dtype), batches(sizes.pairs, *images),
                grad_mode=cell.grad_mode, pairs_per_chunk=cell.pairs_per_chunk,
            )  # fmt: skip
        row = figures_of(contestant, sizes.pairs, sizes.seconds)
        tflops = flop(cell.grad_mode) / row["pair_ms"] / 1e9
        rate = next(r["tflops"] for r in rows if (r["part"], r["name"]) == ("rates", cell.precision))
        return {**row, "tflops": tflops, "share": tflops / rate, "cell": dataclasses.asdict(cell)}

    for cell in sizes.cells:
        yield cell.name, functools.partial(measure, cell)


def best(rows: Sequence[Row]) -> dict[str, Row]:
    """The fastest setting of the grid for each precision and order of the gradient."""
    out: dict[str, Row] = {}
    for row in rows:
        if row["part"] == "grid" and "error" not in row:
            what = f"{row['cell']['precision']}, {row['cell']['grad_mode']}"
            if what not in out or row["ms"] < out[what]["ms"]:
                out[what] = {"ms": row["ms"], **row["cell"]}
    return out


def fraud(sizes: Sizes) -> Jobs:
    """The meta-step of the fraud network (Table 5), 50 updates a call."""
    model = models.build("mlp", outputs=1, hidden=(16, 24, 20, 24), dropout=(0, 0.5, 0, 0))
    batch = batches(sizes.pairs, 24, 16, (29,), 2)

    def measure(chunk: int, mode: str) -> Row:
        options: Any = {"updates": 50, "grad_mode": mode, "pairs_per_chunk": chunk}
        return figures_of(mbjax_contestant("", model, batch, **options), sizes.pairs, sizes.seconds)

    for chunk, mode in sizes.mlp_cells:
        yield f"{chunk} a chunk, {mode}", functools.partial(measure, chunk, mode)


def cifar(sizes: Sizes, rows: Sequence[Row], note: Callable[[str], None], left: Callable[[], float]) -> Jobs:
    """Training of `configs/cifar10.py:severe` with the grid's fastest second-order setting."""
    settings = [setting for setting in best(rows).values() if setting["grad_mode"] == "mixed"]
    if not settings:
        note("cifar: no second-order setting was measured to train with")
        return
    setting = min(settings, key=lambda setting: setting["ms"])
    precision, dtype = PRECISIONS[setting["precision"]]
    config = cifar10.get_config("severe")
    config.update(updates=UPDATES, updates_per_call=sizes.calls, parallel="none")
    config.model.update(conv=setting["conv"], dtype=dtype, **sizes.network)
    config.meta.update(steps=sizes.pairs, pairs_per_chunk=setting["pairs_per_chunk"])
    config.support.batch_size, config.query.batch_size = sizes.support, sizes.query

    def measure() -> Row:
        with jax.default_matmul_precision(precision):
            return train_for(min(sizes.training, left() - 10), config, cifar_images(sizes, config, note))

    yield f"severe, {setting['conv']}, {setting['pairs_per_chunk']} a chunk, {setting['precision']}", measure


def cifar_images(sizes: Sizes, config: Config, note: Callable[[str], None]) -> Dataset:
    """CIFAR-10 with one large class, or else noise of the same shape."""
    if sizes is not SMALL:
        try:
            return data.load("cifar10", seed=0, **config.data)
        except UserError as error:
            note(f"cifar: trained on noise, for there is no CIFAR-10: {error}")
    rng, y = np.random.default_rng(0), np.array([1] * 5000 + [0, 2, 3, 4, 5, 6, 7, 8, 9] * 5, np.int32)
    split = Split(rng.integers(0, 256, (len(y), sizes.pixels, sizes.pixels, 3), np.uint8), y)
    return Dataset({"train": split, "test": split}, tuple("0123456789"), "noise")


def train_for(seconds: float, config: Config, dataset: Dataset) -> Row:
    """Trains as `mbjax.train` does, for so long, after one call that compiles."""
    experiment = train.build(config_lib.validate(config), dataset)
    examples, count = updates_lib.on_device(experiment.streams), config.updates_per_call
    advance, state = updates_lib.make_advance(experiment.method, count), experiment.method.init(0)
    waits, losses, ends = [], [], []
    stops = range(count, experiment.updates + 1, count)
    with contextlib.closing(sampling.prefetch(updates_lib.feed(experiment, 0, stops, count))) as calls:
        while len(ends) < 2 or ends[-1] - ends[0] < seconds:
            asked = time.perf_counter()
            _, rows = next(calls)
            waits.append(time.perf_counter() - asked)
            state, metrics = advance(state, examples, rows, count)
            losses.append(float(metrics["loss"][-1]))  # waits for the device
            ends.append(time.perf_counter())
    spent, done = ends[-1] - ends[0], count * (len(ends) - 1)
    images = config.meta.steps * (config.support.batch_size + config.query.batch_size)
    return {
        "ms": 1e3 * spent / done, "pair_ms": 1e3 * spent / done / config.meta.steps, "waiting": sum(waits[1:]) / spent,
        "images_s": images * done / spent, "run_hours": UPDATES * spent / done / 3600, "updates": done,
        "first_loss": losses[0], "last_loss": losses[-1], "data": dataset.source,
    }  # fmt: skip


def torch(sizes: Sizes, done: Sequence[str], note: Callable[[str], None], left: Callable[[], float]) -> Jobs:
    """The same updates in PyTorch, in a process of its own: `benchmarks/gpu_peers.py`."""
    if importlib.util.find_spec("torch") is None:
        note("torch: PyTorch is not installed here: pip install torch")
        return
    given = {"seconds": max(1, min(180, int(left()) - 10)), "timed": sizes.seconds, "done": ";".join(done)}
    given |= {name: getattr(sizes, name) for name in ("pairs", "support", "query", "pixels")}
    command = [sys.executable, "-m", "benchmarks.gpu_peers", *(f"--{name}={value}" for name, value in given.items())]
    peers = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert peers.stdout is not None
    try:
        for line in peers.stdout:
            row = json.loads(line)
            yield row.pop("name"), functools.partial(dict, row)
    finally:
        peers.kill()
    if status := peers.wait():
        note(f"torch: its process ended with {status}" + ", for its time was up" * (status == -signal.SIGALRM))
