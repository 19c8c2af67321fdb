"""Commands that train, each in a folder of its own: what batteries start, stop, damage and compare."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp

import mbjax
from mbjax import sealed
from mbjax.types import UserError

ROOT = pathlib.Path(__file__).parents[2]
ROUNDING = 1e-3  # of the largest value of an array, as in tests/test_hosts.py
DAMAGED = "a line that is damaged"
_SECONDS = 600  # after which a process hangs


class Job(NamedTuple):
    """A command that trains, in as many processes as it takes."""

    options: tuple[str, ...]
    updates: int
    processes: int = 1


SMALL = ("--config.updates=60", "--config.eval.every=20", "--config.updates_per_call=5", "--config.meta.steps=8")
JOBS = {
    "digits": Job(
        ("--config=configs/digits.py", *SMALL, "--config.query.sampler=smote", "--config.query.neighbors=2"), 60
    ),
    "CIFAR small": Job(
        (
            "--config=configs/cifar10.py:small", "--config.updates=20", "--config.eval.every=10",
            "--config.updates_per_call=2", "--config.model.width=4", "--config.meta.steps=2",
            "--config.data.imbalance=counts", f"--config.data.counts={(5, 200, *[5] * 8)}",
        ),
        20,
    ),
    "two processes": Job(("--config=configs/digits.py", *SMALL, "--config.parallel=shard_map"), 60, processes=2),
}  # fmt: skip


class Ended(NamedTuple):
    """How a job ended: its exit status, that of the first process that has another one than 0, and what it said."""

    status: int
    said: str

    @property
    def warned(self) -> bool:
        return any(word in self.said for word in ("damaged", "lacks the rows", "cannot be"))


class Outcome(NamedTuple):
    """What a finished run has: the digest of its last state, its scores and its rows of metrics, `DAMAGED` for some."""

    state: str
    scores: Mapping[str, Any]
    rows: list[str]


@dataclasses.dataclass(frozen=True)
class Place:
    """A job's folder, with the run's in it, and the home that holds the caches."""

    job: Job
    folder: pathlib.Path
    home: pathlib.Path

    @classmethod
    def make(cls, job: Job, folder: pathlib.Path, home: pathlib.Path | None = None) -> "Place":
        """A place where nothing has run yet."""
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "home").mkdir(parents=True)
        return cls(job, folder, home or folder / "home")

    @property
    def run(self) -> pathlib.Path:
        return self.folder / "run"

    @property
    def last(self) -> pathlib.Path:
        return self.run / "checkpoints" / str(self.job.updates)

    def start(self) -> list[subprocess.Popen]:
        count, port = self.job.processes, _free_port()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(self.home), "JAX_PLATFORMS": "cpu"}
        environment["PYTHONFAULTHANDLER"] = "1"
        together: list[tuple[str, ...]] = [()]
        if count > 1:  # which keep compiled programs where all of them are told to
            environment |= {"JAX_NUM_CPU_DEVICES": "1", "JAX_COMPILATION_CACHE_DIR": str(self.home / "compiled")}
            job = (f"--coordinator=127.0.0.1:{port}", f"--processes={count}")
            together = [(*job, f"--process={number}") for number in range(count)]
        processes = []
        for number, options in enumerate(together):
            command = [sys.executable, "-m", "mbjax.main", *self.job.options, *options, f"--workdir={self.run}"]
            with self._said(number).open("wb") as said:
                processes.append(
                    subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=said)
                )
        return processes

    def end(self, processes: list[subprocess.Popen]) -> Ended:
        """Waits for the processes; one that hangs is aborted, which writes down where it is."""
        deadline = time.monotonic() + _SECONDS
        for process in processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)
                time.sleep(10)
                process.kill()
                process.wait()
        said = "".join(self._said(number).read_text(errors="replace") for number in range(len(processes)))
        return Ended(next((p.returncode for p in processes if p.returncode), 0), said)

    def finish(self) -> Ended:
        return self.end(self.start())

    def _said(self, process: int) -> pathlib.Path:
        return self.home / f"said-{self.folder.name}-{process}"  # not in the folder, which may be full

    def is_held_by(self, process: subprocess.Popen) -> bool:
        """Whether this process has the run's lock: all processes of its job have then joined."""
        lock = self.run / ".lock"
        return lock.exists() and f"process {process.pid} " in lock.read_text()

    def copy(self, folder: pathlib.Path) -> "Place":
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.run, folder / "run")
        shutil.copytree(self.home, folder / "home")
        return Place(self.job, folder, folder / "home")

    def checkpoints(self) -> list[int]:
        folder = self.run / "checkpoints"
        return sorted(int(file.name) for file in folder.iterdir() if file.name.isdigit()) if folder.exists() else []

    def result(self) -> dict[str, Any]:
        return json.loads((self.run / "result.json").read_text())

    def outcome(self) -> Outcome:
        about, result = json.loads((self.last / "run/metadata").read_text()), self.result()
        scores = {key: result[key] for key in ("test", "priors_test")}
        lines = (self.run / "metrics.jsonl").read_bytes().decode(errors="replace").splitlines()
        return Outcome(about["state"], scores, [line if _is_whole(line) else DAMAGED for line in lines])

    def state(self) -> list[np.ndarray]:
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore((self.last / "state").absolute())
        return [np.asarray(leaf) for name in ("params", "model_state") for leaf in _leaves(tree[name])]

    def probabilities(self, inputs: np.ndarray) -> bytes | None:
        """What the run's model predicts, or None where its files are refused."""
        try:
            return mbjax.load(self.run).predict_proba(inputs).tobytes()
        except UserError:
            return None


def _leaves(tree: Any) -> list[Any]:
    return [leaf for key in sorted(tree) for leaf in _leaves(tree[key])] if isinstance(tree, dict) else [tree]


def _is_whole(line: str) -> bool:
    try:
        return bool(sealed.loads(line))
    except sealed.Damaged:
        return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def judge(ended: Ended, place: Place, whole: Place, wanted: Outcome) -> str:
    """Names how a job ended that had been damaged or stopped before, against one that had not."""
    if ended.status < 0:
        return "a crash"
    if "Traceback" in ended.said:
        return "a traceback"
    if ended.status:
        errors = [line for line in ended.said.splitlines() if line.startswith("mbjax: error")]
        return "refused, in one line" if len(errors) == 1 else "several lines"
    got = place.outcome()
    same = (got.state, got.scores) == (wanted.state, wanted.scores)
    if same and DAMAGED in got.rows:  # of a finished run, which does not read them again
        return "the same result; plots refuse its metrics, in one line"
    if same and (got.rows == wanted.rows or ended.warned):
        return "the same result, and a word" if ended.warned else "the same result"
    if place.job.processes > 1 and _close(place.state(), whole.state()):
        return "the same result to rounding"
    return "another result"


def _close(state: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    return len(state) == len(wanted) and all(
        np.allclose(a, b, rtol=0, atol=ROUNDING * max(1, np.abs(b).max())) for a, b in zip(state, wanted, strict=True)
    )
