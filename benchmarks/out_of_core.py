"""A table larger than memory beside one on the device: `python -m benchmarks.out_of_core`.

Makes a table of 50 million rows and 30 columns of float32, 6 GB, in a temporary folder that is removed at the end,
however that comes. Then

- `python -m mbjax.main --config=configs/table.py` trains on it, 80 pairs of 24 natural and 16 under-sampled rows an
  update, in a process of its own whose memory is watched: from its start, over the pass for means and variances, the
  compiling (no program is kept) and two evaluations, to its end;
- the updates a second of the same training are compared with those on 200,000 such rows that lie on the device: the two
  take turns, first with what the system's page cache holds of the file, then with the file dropped from it before every
  turn.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS, POSITIVE = 30, 0.0017  # the share of frauds that the fraud data has
CHUNK = 250_000  # rows drawn at a time


def write_table(folder: Path, rows: int) -> None:
    """Writes `x.npy` and `y.npy` of normal features, three of which are shifted where the label is 1."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    with (folder / "x.npy").open("wb") as x, (folder / "y.npy").open("wb") as y:
        for stream, dtype, shape in ((x, "<f4", (rows, COLUMNS)), (y, "|u1", (rows,))):
            np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            labels = rng.random(count) < POSITIVE
            features = rng.standard_normal((count, COLUMNS), np.float32)
            features[labels, :3] += 1.5
            x.write(features.data)
            y.write(labels.astype(np.uint8).data)
        for stream in (x, y):
            stream.flush()
            os.fsync(stream.fileno())  # what is not on the disk yet cannot be dropped from the page cache


def peak_memory(command: list[str]) -> tuple[int, float]:
    """Runs a command; returns the most MiB that were resident at a time (VmHWM), and its seconds.

    The kernel keeps the peak; it is read until the process ends, for afterwards it is gone.
    """
    started, peak = time.monotonic(), 0
    with subprocess.Popen(command, env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0"}) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                peak = max(peak, next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")))
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} left with status {process.returncode}")
    return peak // 1024, time.monotonic() - started


def settings(updates: int) -> dict[str, Any]:
    """What both trainings have in common: the fraud network of Table 5."""
    return {
        "model.hidden": (16, 24, 20, 24),
        "model.dropout": (0.0, 0.5, 0.0, 0.0),
        "optimizer.lr": 0.01,
        "optimizer.weight_decay": 5e-4,
        "updates": updates,
    }


def command(table: Path, workdir: Path, updates: int) -> list[str]:
    """The command that trains on a table."""
    flags = [f"--config.{key}={value}" for key, value in settings(updates).items()]
    flags += [f"--config.data.path={table}", f"--workdir={workdir}", "--config.eval.every=0.5"]
    return [sys.executable, "-m", "mbjax.main", "--config=configs/table.py", *flags]


def make_turn(table: Path, *, updates: int, in_memory: bool) -> Callable[[], float]:
    """Makes a function that does so many updates and returns their seconds."""
    import jax

    from configs import table as table_config
    from mbjax import config as config_lib
    from mbjax import data, train
    from mbjax.types import Split

    config: Any = table_config.get_config()
    config.update_from_flattened_dict({**settings(10**9), "data.path": str(table)})
    valid = config_lib.validate(config)
    dataset = data.load(valid.task, seed=valid.seed, **valid.data)
    if in_memory:
        splits = {name: Split(split.x[:], split.y.astype(np.int32)) for name, split in dataset.splits.items()}
        dataset = dataclasses.replace(dataset, splits=splits)
    experiment = train.build(valid, dataset)
    do_updates = train.make_updates(experiment, config.updates_per_call)
    latest, step = experiment.method.init(0), 0

    def turn() -> float:
        nonlocal latest, step
        started = time.perf_counter()
        step += updates
        for _, state, metrics in do_updates(latest, [step]):
            jax.tree.map(np.asarray, metrics)  # as the training loop does
            latest = state
        jax.block_until_ready(latest.params)
        return time.perf_counter() - started

    return turn


def drop_pages(path: Path) -> None:
    """Drops a file from the system's page cache."""
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def compare_rates(large: Path, small: Path, *, updates: int, turns: int) -> list[tuple[str, list[float]]]:
    """Updates a second of each contestant in each of its turns, by pairs that took turns with one another.

    The turns before them compile and are not counted.
    """
    from mbjax.devices import parallel

    parallel.use_all_cores()
    on_device = make_turn(small, updates=updates, in_memory=True)
    from_disk = make_turn(large, updates=updates, in_memory=False)

    def cold() -> float:
        drop_pages(large / "x.npy")
        return from_disk()

    for turn in (on_device, from_disk):
        turn()
    rows = []
    for name, turn in (("in the page cache", from_disk), ("not in the page cache", cold)):  # cold turns come last
        times = [(on_device(), turn()) for _ in range(turns)]
        beside, rates = ([updates / seconds for seconds in column] for column in zip(*times, strict=True))
        rows += [("on the device", beside), (f"out of core, {name}", rates)]
    return rows


def report(rows: list[tuple[str, list[float]]]) -> None:
    print("\n| | updates a second, median | slowest | fastest | share of the row above |")
    print("| --- | --- | --- | --- | --- |")
    for number, (name, rates) in enumerate(rows):
        median = statistics.median(rates)
        share = f"{median / statistics.median(rows[number - 1][1]):.3f}" if number % 2 else ""
        print("| " + " | ".join([name, *(f"{v:.0f}" for v in (median, min(rates), max(rates))), share]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--small-rows", type=int, default=200_000, help="of the table on the device")
    parser.add_argument("--folder", default=None, help="where the temporary folder is made; the system's if not given")
    parser.add_argument("--updates", type=int, default=2000, help="of a turn, and of the run whose memory is watched")
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder is removed then, too
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        large, small = Path(name) / "large", Path(name) / "small"
        started = time.monotonic()
        write_table(large, options.rows)
        write_table(small, options.small_rows)
        size = (large / "x.npy").stat().st_size / 1e9
        print(f"{options.rows:,} rows of {COLUMNS} columns, {size:.1f} GB, made in {time.monotonic() - started:.0f} s")
        workdir = Path(name) / "run"
        memory, seconds = peak_memory(command(large, workdir, options.updates))
        result = json.loads((workdir / "result.json").read_text())
        print(
            f"\nthe command: {options.updates} updates and two evaluations, {seconds:.0f} s from its start to its end,"
        )
        print(f"{result['seconds']:.0f} s without loading; test ROC-AUC {result['test']['roc_auc']:.4f}")
        print(f"peak resident memory of the process: {memory} MiB")
        rates = compare_rates(large, small, updates=options.updates, turns=options.turns)
        print(
            f"\n{platform.machine()}, {os.cpu_count()} cores; {options.turns} turns of {options.updates} updates each"
        )
        report(rates)


if __name__ == "__main__":
    main()
