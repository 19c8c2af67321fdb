"""How fast images come from the host: `python -m benchmarks.input`.

Images a second that are decoded from JPEG files of CelebA's size by one and by two threads, and read from a prepared
file; the memory of a process that reads 10,000 batches of a prepared file through `mbjax.sampling.prefetch`; and how
long `configs/faces.py:synthetic,metabalance` waits for images that stay on the host, as files and as a prepared file.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from configs import faces
from mbjax import config as config_lib
from mbjax import sampling, train
from mbjax.data.images import host_images
from mbjax.data.people import drawn_faces
from mbjax.train import updates as updates_lib
from mbjax.types import HostArray

BATCH = 128
SIZE = 112  # pixels of a side, as in configs/celeba.py


def draw_files(folder: Path, count: int) -> list[Path]:
    """JPEG files of 178×218 pixels as CelebA's are, of drawn faces with noise."""
    files = []
    for number in range(count):
        person = drawn_faces.draw_person(np.random.default_rng([0, number]), number % 2)
        x = drawn_faces.draw_image(person, np.random.default_rng([0, number, 0]), size=218)
        files.append(folder / f"{number:06}.jpg")
        Image.fromarray(x[:, 20:198]).save(files[-1], quality=90)
    return files


def batches(x: HostArray, count: int) -> Iterator[np.ndarray]:
    """Reads batches of drawn rows."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield x[rng.integers(0, len(x), BATCH)]


def images_per_second(x: HostArray, *, seconds: float, turns: int) -> list[float]:
    """Of several turns of at least so many seconds each; a batch before them is not counted."""
    endless, rates = batches(x, 10**9), []
    next(endless)
    for _ in range(turns):
        started, read = time.perf_counter(), 0
        while (passed := time.perf_counter() - started) < seconds:
            read += len(next(endless))
        rates.append(read / passed)
    return rates


def memory() -> tuple[float, float]:
    """MiB of this process that are resident: all of it, and without pages of files, which the system can drop."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    resident, anonymous = (int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))
    return resident, anonymous


def memory_over_batches(x: HostArray, count: int, marks: int = 5) -> list[tuple[int, float, float]]:
    """What `memory` says after 1%, then after equal parts of `count` batches read ahead by a thread."""
    wanted = {max(count // 100, 1), *(count * (k + 1) // marks for k in range(marks))}
    blocks, rows = sampling.prefetch(batches(x, count)), []
    for number, _ in enumerate(blocks, 1):
        if number in wanted:
            rows.append((number, *memory()))
    return rows


def waiting_share(blocks: Iterator[Any], step: Callable[[Any], Any], *, warm: int, steps: int) -> float:
    """The share of the time that a loop of steps waits for its data.

    Args:
      blocks: what the steps take, for instance `mbjax.sampling.prefetch(…)`; at least `warm + steps` of them.
      step: takes one of them and returns when the device is done.
      warm: steps before the clock starts: compilation, and the first blocks that nobody read ahead.
      steps: steps that are counted.
    """
    waited = 0.0
    for _ in range(warm):
        step(next(blocks))
    started = time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        block = next(blocks)
        waited += time.perf_counter() - asked
        step(block)
    return waited / (time.perf_counter() - started)


def training_waits(folder: Path, *, warm: int, updates: int) -> dict[str, float]:
    """The waiting share of training on drawn faces, decoded from files as they are read and from a prepared file."""
    shares = {}
    for what, prepared in (("decoding", ""), ("reading the prepared file", str(folder / "faces.npy"))):
        config = faces.get_config("synthetic,metabalance")
        config.data.update(dir=str(folder), on_host=True, prepared=prepared)
        config.updates, config.updates_per_call = warm + updates, 1
        experiment = train.build(config_lib.validate(config))
        advance, state = updates_lib.make_advance(experiment.method, 1), [experiment.method.init(0)]

        def step(block: Any, advance=advance, state=state) -> None:
            state[0], metrics = advance(state[0], {}, block[1], block[0])
            jax.block_until_ready(metrics["loss"])

        blocks = sampling.prefetch(updates_lib.feed(experiment, 0, [experiment.updates], 1))
        shares[what] = waiting_share(blocks, step, warm=warm, steps=updates)
        blocks.close()
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000, help="files to draw")
    parser.add_argument("--batches", type=int, default=10_000, help="batches over which memory is watched")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn")
    parser.add_argument("--updates", type=int, default=20, help="over which training's waiting is timed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = draw_files(folder, options.images)
        kib = sum(file.stat().st_size for file in files) / len(files) / 1024
        host_images.prepare(files, folder / "prepared.npy", size=SIZE, max_bad_share=0.0)
        prepared = host_images.PreparedImages(folder / "prepared.npy", digest=host_images.digest(files, size=SIZE))
        sources: dict[str, HostArray] = {
            f"decoding, {threads} thread{'s' * (threads > 1)}": host_images.ImageFiles(
                files, size=SIZE, threads=threads
            )
            for threads in (1, 2)
        }
        sources["reading the prepared file"] = prepared
        print(f"{len(files)} JPEG files of 178×218, {kib:.1f} KiB each, to {SIZE}×{SIZE}; batches of {BATCH}\n")
        print(f"| | images a second, median of {options.turns} turns | slowest | fastest |")
        print("| --- | --- | --- | --- |")
        for what, x in sources.items():
            rates = images_per_second(x, seconds=options.seconds, turns=options.turns)
            print(f"| {what} | {statistics.median(rates):,.0f} | {min(rates):,.0f} | {max(rates):,.0f} |")
        print("\n| batches read ahead | MiB resident | of these not pages of files |")
        print("| --- | --- | --- |")
        for number, resident, anonymous in memory_over_batches(prepared, options.batches):
            print(f"| {number:,} | {resident:.1f} | {anonymous:.1f} |")
        print("\n| training on drawn faces | share of a step that waits for images |\n| --- | --- |")
        for what, share in training_waits(folder, warm=3, updates=options.updates).items():
            print(f"| {what} | {100 * share:.2f}% |")


if __name__ == "__main__":
    main()
