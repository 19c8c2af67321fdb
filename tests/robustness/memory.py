"""Resident memory and open files of long commands, sampled while they run: part of `batteries.py memory`."""

import itertools
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

from jobs import ROOT

BOUND_MIB = 16  # by which the median of the last third may be above that of the first, after the warm-up
BOUND_FILES = 5  # likewise; orbax opens some for each checkpoint, and has threads that close them
WARM_UP = 0.2  # of the time from the first sign of work on
_EVERY = 0.1  # seconds between samples

# Two rows, for each new one has its compiled programs, which stay: of 64 at most (mbjax/train/programs.py).
COMMANDS = {  # and the file that is there once they do what they are watched for
    "a run of 20,000 updates": (
        [
            "-m", "mbjax.main", "--config=configs/digits.py", "--config.updates=20000", "--config.eval.every=400",
            "--config.updates_per_call=20", "--config.meta.steps=2", "--config.model.hidden=(8,)",
        ],
        "--workdir", "metrics.jsonl",
    ),
    "a comparison of 500 runs": (
        [
            "-m", "mbjax.compare", "--config=configs/digits.py", "--methods=naive,over", "--notune", "--seeds=250",
            "--select=test", "--config.updates=100", "--config.model.hidden=(8,)", "--config.data.minority_count=8",
        ],
        "--out", "results.jsonl",
    ),
}  # fmt: skip


class Sample(NamedTuple):
    resident_mib: float
    files: int


def watch_all(folder: pathlib.Path) -> dict[tuple[str, str], int]:
    """Runs each command and prints its figures; returns outcomes to count."""
    outcomes = {}
    for (name, (command, option, file)), number in zip(COMMANDS.items(), itertools.count()):
        out = folder / str(number)
        samples = _watch([*command, f"{option}={out}"], out / file, folder / f"said-{number}")
        samples = samples[round(WARM_UP * len(samples)) :]
        third = len(samples) // 3
        first, last = samples[:third], samples[-third:]
        memory = [statistics.median(sample.resident_mib for sample in part) for part in (first, last)]
        files = [statistics.median(sample.files for sample in part) for part in (first, last)]
        print(
            f"{name}: {len(samples)} samples after the warm-up; resident {memory[0]:.1f} MiB in their first third and "
            f"{memory[1]:.1f} MiB in the last; open files {files[0]:.0f} and {files[1]:.0f}",
            flush=True,
        )
        outcomes[name, "memory is flat" if memory[1] - memory[0] <= BOUND_MIB else "memory grows"] = 1
        outcomes[
            name, "open files are flat" if files[1] - files[0] <= BOUND_FILES else "number of open files grows"
        ] = 1
    return outcomes


def _watch(arguments: list[str], sign: pathlib.Path, said: pathlib.Path) -> list[Sample]:
    """Samples a command from the time that `sign` is there to its end.

    Raises:
      SystemExit: the command fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    samples: list[Sample] = []
    with said.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=stream
        )
    while process.poll() is None:
        time.sleep(_EVERY)
        if sign.exists():
            samples += _sample(process.pid)
    if process.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {process.returncode}:\n{said.read_text(errors='replace')}")
    return samples


def _sample(pid: int) -> list[Sample]:
    about = pathlib.Path(f"/proc/{pid}")
    try:
        pages = int((about / "statm").read_text().split()[1])
        return [Sample(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir(about / "fd")))]
    except (OSError, IndexError):  # it ends at this very moment
        return []
