"""The processes of a comparison: joblib's, on this machine or on a cluster that its user has."""

import concurrent.futures
import contextlib
import fcntl
import importlib
import logging
import math
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import joblib

from mbjax import cli, programs
from mbjax.models import stem
from mbjax.types import UserError

log = logging.getLogger("mbjax")
T = TypeVar("T")
R = TypeVar("R")
# joblib's, of a process that has grown and gives way to a new one; one that is killed gets a line of ours.
warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)


class Pool:
    """Processes that do independent pieces of work.

    Args:
      jobs: how many; with 1 on this machine, the work is done in this process, unless it has an end.
      backend: joblib's name: `"loky"` for processes of this machine; `"dask"` or `"ray"` for a cluster's, which find
        mbjax installed and the data where the configuration says.
      scheduler: the address of a Dask scheduler, `"tcp://HOST:PORT"`; a cluster of this machine if empty.

    Raises:
      UserError: a backend that joblib does not know or that is not installed.
    """

    def __init__(self, jobs: int, backend: str = "loky", scheduler: str = ""):
        self._jobs, self._backend, self._scheduler = jobs, backend, scheduler
        self._begun: Any = jobs if backend == "loky" else "n_jobs"  # at a time
        packages = {"loky": "joblib", "dask": "distributed", "ray": "ray.util.joblib"}
        if backend not in packages:
            raise UserError(f"--backend={backend}: choose one of {', '.join(packages)}")
        try:
            self._package = importlib.import_module(packages[backend])
        except ImportError:
            raise UserError(f"--backend={backend}: it is not installed: pip install {backend}") from None

    def map(
        self,
        function: Callable[[T], R],
        pieces: Sequence[T],
        *,
        lost: Callable[[T], R],
        fits: Callable[[T], bool] = lambda piece: True,
        end: float = math.inf,
    ) -> Iterator[R]:
        """Yields `function(piece)` of every piece, in the order in which they are done.

        A process that is killed costs the others nothing: the pieces that were being done then are tried again, one at
        a time, and `lost(piece)` takes the place of the result of the one whose process is killed again.

        Args:
          function: does a piece.
          pieces: in the order in which they are begun.
          lost: see above.
          fits: whether a piece is still to be begun, asked when it is its turn.
          end: the time (`time.time()`) at which this machine's processes leave whatever they do; a cluster's end what
            they have begun.
        """
        if self._jobs == 1 and self._backend == "loky" and end == math.inf:
            yield from map(function, filter(fits, pieces))
            return
        left, suspects = dict(enumerate(pieces)), set[int]()
        with self._settings(end):
            while left:
                begun: list[int] = []
                alone = next((number for number in left if number in suspects), None)
                now = left if alone is None else {alone: left[alone]}
                parallel: Any = joblib.Parallel(return_as="generator_unordered", pre_dispatch=self._begun)
                try:
                    for number, result in parallel(self._calls(function, now, begun, fits)):
                        del left[number]
                        yield result
                    if alone is None:
                        return
                    left.pop(alone, None)  # where it does not fit any more
                except concurrent.futures.BrokenExecutor:
                    if time.time() >= end:
                        return
                    suspects.update(number for number in begun if number in left)
                    if alone is not None:
                        yield lost(left.pop(alone))
                    log.warning("a process was killed; what it did is done again")

    def _calls(
        self, function: Callable[[T], R], now: dict[int, T], begun: list[int], fits: Callable[[T], bool]
    ) -> Iterator[Any]:
        for number, piece in [*now.items()]:
            if fits(piece):
                begun.append(number)
                yield joblib.delayed(_numbered)(number, function, piece)

    @contextlib.contextmanager
    def _settings(self, end: float) -> Iterator[None]:
        if self._backend == "dask":
            with self._package.Client(self._scheduler or None), joblib.parallel_config(backend="dask"):
                yield
            return
        if self._backend == "ray":
            self._package.register_ray()
            with joblib.parallel_config(backend="ray"):
                yield
            return
        with tempfile.TemporaryDirectory(prefix="mbjax-cores-") as folder:
            start = {"initializer": _start, "initargs": (folder, self._jobs, os.getpid(), end)}
            # Of one process joblib would make none but this one, which nothing could stop: a second is idle then.
            count = max(2, self._jobs)
            threads = max(1, joblib.cpu_count() // self._jobs)  # of OpenMP and BLAS, whatever the environment says
            with joblib.parallel_config(backend="loky", n_jobs=count, inner_max_num_threads=threads, **start):
                yield


def _numbered(number: int, function: Callable[[T], R], piece: T) -> tuple[int, R]:
    return number, function(piece)


_core: Any = None  # the open file whose lock says which share of the cores this process has


def _start(folder: str, jobs: int, parent: int, end: float) -> None:
    """Gives a process its share of the machine: many threads of many processes would wait for one another."""
    global _core
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    for number in range(jobs):  # a killed process leaves its share to the one that takes its place
        with contextlib.suppress(OSError):  # the share is another's, or all has ended
            _core = pathlib.Path(folder, str(number)).open("w")  # noqa: SIM115
            fcntl.flock(_core, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _take(number, jobs)
            break
    threading.Thread(target=_leave_with, args=(parent, end), daemon=True).start()
    cli.show_log()
    programs.keep()
    stem.share_in(pathlib.Path(folder))


def _take(number: int, jobs: int) -> None:
    """The share of one of `jobs` processes: some of the cores and, where there are GPUs, one of them."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number % len(cores) :: jobs])
    if gpus := _gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]


def _gpus() -> list[str]:
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return []


def _leave_with(parent: int, end: float) -> None:
    """A process whose parent was killed would else wait for work for minutes; and at its end it leaves, too."""
    while os.getppid() == parent and time.time() < end:
        time.sleep(1)
    os._exit(1)
