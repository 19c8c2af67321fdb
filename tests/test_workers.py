"""The processes of a comparison: what is killed is done again, here and on a Dask cluster of two workers."""

import os
import pathlib
import signal
import time
from typing import Any

import pytest

from mbjax.compare import workers
from mbjax.types import UserError


def square(piece: tuple[int, str]) -> int:
    """The square of a number; the first to do number 3 kills its process, if a folder is named."""
    number, folder = piece
    if number == 3 and folder:
        mark = pathlib.Path(folder, "killed")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def threads(_: int) -> dict[str, int]:
    """How many threads OpenMP's and BLAS's pools have here, scikit-learn's own count, and how many cores there are."""
    import threadpoolctl
    from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

    pools = {pool["filepath"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    return {**pools, "scikit-learn": _openmp_effective_n_threads(), "cores": len(os.sched_getaffinity(0))}


def die(piece: tuple[int, str]) -> int:
    """Piece 1 kills its process, while another piece is being done if there is one."""
    number, folder = piece
    if number == 1:
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline and not (others := [*pathlib.Path(folder).iterdir()]):
            time.sleep(0.02)
        for other in others:
            other.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    pathlib.Path(folder, str(number)).touch()
    time.sleep(1)
    pathlib.Path(folder, str(number)).unlink(missing_ok=True)
    return number


def cores(piece: int) -> tuple[int, list[int]]:
    time.sleep(0.3)
    return os.getpid(), sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_piece_is_done_once(jobs):
    pieces = [(number, "") for number in range(7)]
    results = workers.Pool(jobs).map(square, pieces, lost=lambda piece: -1)
    assert sorted(results) == [number**2 for number in range(7)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_does_not_fit_is_not_begun_and_smaller_pieces_are(jobs):
    pieces = [(number, "") for number in range(7)]
    fits = lambda piece: piece[0] not in (2, 5)  # noqa: E731
    done = workers.Pool(jobs).map(square, pieces, lost=lambda piece: -1, fits=fits)
    assert sorted(done) == [0, 1, 9, 16, 36]


@pytest.mark.parametrize("jobs", [1, 2])
def test_at_its_end_it_waits_for_nothing(jobs):
    for_ever = 1e5  # seconds of a process that would be waited for
    done = workers.Pool(jobs).map(sleep, [0.0, for_ever, for_ever], lost=lambda piece: -1.0, end=time.time() + 2)
    assert [*done] in ([0.0], [])  # the processes may take longer to start


def test_a_killed_process_costs_its_piece_a_second_try(tmp_path, caplog):
    pieces = [(number, str(tmp_path)) for number in range(7)]
    results = [*workers.Pool(2).map(square, pieces, lost=lambda piece: -1)]
    assert sorted(results) == [number**2 for number in range(7)]
    assert caplog.text.count("a process was killed") == 1


def test_a_piece_that_kills_its_process_every_time_is_given_up_and_the_rest_goes_on(tmp_path):
    pieces = [(number, str(tmp_path)) for number in range(6)]
    results = [*workers.Pool(2).map(die, pieces, lost=lambda piece: 10 + piece[0])]
    assert sorted(results) == [0, 2, 3, 4, 5, 11]  # whatever was being done beside it


def test_processes_share_the_cores():
    here = sorted(os.sched_getaffinity(0))
    found = dict(workers.Pool(2).map(cores, range(8), lost=lambda piece: (0, [])))
    assert len(found) == 2
    if len(here) > 1:
        assert sorted(sum(found.values(), [])) == here  # noqa: RUF017


def test_no_process_has_more_threads_than_its_share_whatever_the_environment_says(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "16")
    (found,) = workers.Pool(2).map(threads, [0], lost=lambda piece: {})
    assert len(found) >= 3  # at least one pool was found
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {found[name] for name in found if name != "cores"} == {share}
    assert found["cores"] in (share, share + 1)


def test_a_dask_cluster_loses_a_worker_and_no_piece(tmp_path):
    from distributed import LocalCluster

    pieces = [(number, str(tmp_path)) for number in range(7)]
    options: Any = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    local: Any = LocalCluster(**options)
    with local as cluster:
        pool = workers.Pool(1, "dask", cluster.scheduler_address)
        results = [*pool.map(square, pieces, lost=lambda piece: -1)]
    assert (tmp_path / "killed").exists()
    assert sorted(results) == [number**2 for number in range(7)]


def test_a_backend_that_is_not_there_is_one_line(monkeypatch):
    import sys

    with pytest.raises(UserError, match="--backend=threads: choose one of loky, dask, ray"):
        workers.Pool(2, "threads")
    monkeypatch.setitem(sys.modules, "ray.util.joblib", None)
    with pytest.raises(UserError, match="--backend=ray: it is not installed: pip install ray"):
        workers.Pool(2, "ray")
