"""From a command to its first update, without programs kept on disk and with them: `python -m benchmarks.start`.

Each start is `python -m mbjax.main` in a process of its own: one with an empty folder for compiled programs, one with
what that left there, and so on in turn. A third row has the folder off.
"""

import argparse
import collections
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mbjax import data
from mbjax.train import loop

JOBS = {
    "digits": ["--config=configs/digits.py"],
    "ResNet-18 on 32×32 images, 2 pairs": [
        "--config=configs/images.py", "--config.data.path=IMAGES", "--config.meta.steps=2",
        "--config.model.width=64", "--config.model.stages=(2,2,2,2)",
    ],
}  # fmt: skip
COLUMNS = (
    "s to the end of the first update", "imports", "data", "compiling or loading programs", "tracing and the update",
    "s of the whole command", "programs compiled", "loaded",
)  # fmt: skip
STARTS = {"nothing kept": "off", "cold": "empty", "warm": "filled"}


def watch() -> None:
    """Runs the command as `mbjax.main`, and prints what it took as JSON; in the process that is measured.

    The first argument is the time when that process was started.
    """
    started = float(sys.argv.pop(1))
    seconds = {"imports": time.time() - started, "data": 0.0, "programs": 0.0}
    events: collections.Counter[str] = collections.Counter()
    load, make_updates = data.load, loop.make_updates

    def timed_load(*arguments: Any, **options: Any) -> Any:
        begun = time.time()
        loaded = load(*arguments, **options)
        seconds["data"] += time.time() - begun
        return loaded

    def timed_updates(*arguments: Any, **options: Any) -> Any:
        updates = make_updates(*arguments, **options)

        def timed(*arguments: Any, **options: Any) -> Any:
            for done in updates(*arguments, **options):
                jax.block_until_ready(done)
                seconds.setdefault("first update", time.time() - started)
                yield done

        return timed

    def on_seconds(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and "first update" not in seconds:
            seconds["programs"] += duration_secs

    def on_event(event: str, **_: Any) -> None:
        events[event.rpartition("/")[2]] += 1

    data.load, loop.make_updates = timed_load, timed_updates
    jax.monitoring.register_event_duration_secs_listener(on_seconds)
    jax.monitoring.register_event_listener(on_event)
    try:
        runpy.run_module("mbjax.main", run_name="__main__", alter_sys=True)
    finally:
        seconds["whole"] = time.time() - started
        print(json.dumps([jax.devices()[0].device_kind, seconds, events]))


def start(arguments: list[str], kept: Path, mode: str) -> list[Any]:
    """One start. Returns what `watch` prints."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(kept)}
    environment["JAX_ENABLE_COMPILATION_CACHE"] = str(mode != "off")
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-c", "from benchmarks import start; start.watch()", str(time.time())]
        command += [*arguments, "--config.updates=1", f"--workdir={workdir}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def row(name: str, runs: list[list[Any]]) -> str:
    """A row of the table: medians, and the programs of the last run."""

    def median(key: str) -> float:
        return statistics.median(seconds[key] for _, seconds, _ in runs)

    parts = [median(key) for key in ("imports", "data", "programs")]
    first, events = median("first update"), collections.Counter(runs[-1][2])
    asked, loaded = events["compile_requests_use_cache"], events["cache_hits"]
    cells = [f"{cell:.2f}" for cell in (first, *parts, first - sum(parts), median("whole"))]
    return f"| {' | '.join([name, *cells])} | {asked - loaded if asked else 'all'} | {loaded} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    repetitions = parser.parse_args().repetitions
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images.npz")
        rng = np.random.default_rng(0)
        np.savez(images, x=rng.integers(0, 256, (500, 32, 32, 3), np.uint8), y=np.arange(500) % 10)
        for job, arguments in JOBS.items():
            arguments = [argument.replace("IMAGES", str(images)) for argument in arguments]
            runs: dict[str, list[Any]] = {name: [] for name in STARTS}
            for number in range(repetitions):
                for name, mode in STARTS.items():
                    runs[name].append(start(arguments, Path(folder, f"{len(arguments)}-{number}"), mode))
            print(f"\n{job}; JAX {jax.__version__} on {runs['cold'][0][0]}; median of {repetitions} turns\n")
            print(f"| | {' | '.join(COLUMNS)} |\n|{' --- |' * (len(COLUMNS) + 1)}")
            for name, results in runs.items():
                print(row(name, results))


if __name__ == "__main__":
    main()
