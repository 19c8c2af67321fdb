"""What an NVIDIA GPU gives, in one command of at most 9 minutes: `python -m benchmarks.gpu [--minutes=9] [--out=FILE]`.

It measures the matrix and memory rates; a grid of settings of ResNet-18's meta-step, and picks the best; the fraud MLP;
a minute of training on CIFAR-10 with the best; and PyTorch on the same work. The most telling comes first, and each
figure is written to `--out` when it is there. When time is up the command prints the table of what it has and ends; a
second call with the same file measures what is missing. `--small` goes through all of it on a CPU in seconds, with
networks that tell nothing. `benchmarks/README.md` says what the file holds and what is to be changed by it.
"""

import argparse
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import gpu_parts
from benchmarks.gpu_parts import PAPER, SMALL, Row, Sizes
from mbjax import atomic
from mbjax.types import UserError

COLUMNS = {
    "ms": "ms an update", "pair_ms": "ms a pair", "tflops": "TFLOP/s", "share": "share of the matrix rate",
    "kernels": "kernels an update", "peak_mib": "peak MiB", "compile_s": "compile s",
}  # fmt: skip


class Record:
    """The figures so far, the file that has them, and the time that is left.

    Args:
      out: the file; what it holds already is not measured again.
      sizes: of what is measured.
      minutes: from now on.

    Raises:
      UserError: the file has figures of another machine, version or size.
    """

    def __init__(self, out: Path, sizes: Sizes, minutes: float):
        self.out, self.seconds, self.started = out, 60 * minutes, time.monotonic()
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self._longest, self._lock = 0.0, threading.Lock()
        device = jax.devices()[0]
        self.machine = {
            "device": device.device_kind, "platform": device.platform, "jax": jax.__version__,
            "python": platform.python_version(), "small": sizes is SMALL,
        }  # fmt: skip
        if out.exists():
            before = json.loads(out.read_text())
            if before["machine"] != self.machine:
                raise UserError(f"--out={out} has figures of another machine or version: name another file")
            self.rows = before["rows"]

    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.started)

    def names(self, part: str) -> list[str]:
        """What is measured of a part."""
        return [row["name"] for row in self.rows if row["part"] == part and "error" not in row]

    def add(self, part: str, name: str, measure: Callable[[], Row]) -> bool:
        """Measures a row, unless it is there. False if none of the rows so far took longer than the time that is left.

        What the device refuses, for its memory mostly, is the row's `error`.
        """
        if name in self.names(part):
            return True
        if self._longest > self.left():
            return False
        started = time.monotonic()
        try:
            row = measure()
        except jax.errors.JaxRuntimeError as error:
            row = {"error": " ".join(str(error).split())[:200]}
        self._longest = max(self._longest, time.monotonic() - started)
        with self._lock:
            others = [r for r in self.rows if (r["part"], r["name"]) != (part, name)]
            self.rows = [*others, {"part": part, "name": name, **row}]
        print(f"{self.seconds - self.left():4.0f} s  {part}, {name}: {json.dumps(row)}", flush=True)
        self.save()
        return True

    def note(self, text: str) -> None:
        """What a reader must know."""
        print(text, flush=True)
        self.notes.append(text)
        self.save()

    def save(self) -> None:
        with self._lock:
            figures = {
                "machine": self.machine, "rows": self.rows, "best": gpu_parts.best(self.rows), "notes": self.notes,
            }  # fmt: skip
            atomic.write_text(self.out, json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


def measure_all(record: Record, sizes: Sizes) -> None:
    """Everything, the most telling first; the grid has half of the time, and then what the others leave."""
    half = record.left() / 2

    def go(part: str, jobs: Any, until: float = 0.0) -> None:
        for name, measure in jobs:
            if record.left() < until or not record.add(part, name, measure):
                record.note(f"{part}: no time for {name} and what comes after it")
                break

    go("rates", gpu_parts.rates(sizes))
    go("grid", gpu_parts.grid(sizes, record.rows), until=half)
    go("fraud", gpu_parts.fraud(sizes))
    go("cifar", gpu_parts.cifar(sizes, record.rows, record.note, record.left))
    go("torch", gpu_parts.torch(sizes, record.names("torch"), record.note, record.left))
    go("grid", gpu_parts.grid(sizes, record.rows))


def table(record: Record) -> str:
    """All rows as a Markdown table, and the best settings of the grid."""
    lines = ["", f"{record.machine['device']}, JAX {record.machine['jax']}", ""]
    lines += [f"| | {' | '.join(COLUMNS.values())} |", f"| --- |{' --- |' * len(COLUMNS)}"]
    for row in record.rows:
        cells = [row.get(key) for key in COLUMNS]
        shown = ["" if cell is None else f"{cell:.4g}" for cell in cells]
        rest = {k: v for k, v in row.items() if k not in (*COLUMNS, "part", "name", "cell")}
        more = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rest.items())
        lines.append(f"| {row['part']}: {row['name']}{more and f' ({more})'} | {' | '.join(shown)} |")
    lines += ["", *(f"Best, {what}: {setting}" for what, setting in gpu_parts.best(record.rows).items())]
    return "\n".join([*lines, *record.notes])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="after which it ends, whatever is measured by then")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.json"))
    parser.add_argument("--small", action="store_true", help="all of it on a CPU in seconds, to see that it works")
    options = parser.parse_args(arguments)
    # What is not taken is PyTorch's, which has a process of its own.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    sizes = SMALL if options.small else PAPER
    options.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        record = Record(options.out, sizes, options.minutes)
    except UserError as error:
        parser.error(str(error))
    if record.machine["platform"] != "gpu" and not options.small:
        parser.error(f"JAX has no GPU here, but {record.machine['device']}: --small goes through all of it on a CPU")

    def cut_off() -> None:
        record.note("time was up")
        print(table(record), flush=True)
        os._exit(0)  # a compilation would not end for less

    timer = threading.Timer(record.left(), cut_off)
    timer.daemon = True
    timer.start()
    measure_all(record, sizes)
    timer.cancel()
    print(table(record))


if __name__ == "__main__":
    sys.exit(main())
