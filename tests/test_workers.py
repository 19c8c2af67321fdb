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


def die(piece: int) -> int:
    if piece == 1:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    return piece


def cores(piece: int) -> tuple[int, list[int]]:
    time.sleep(0.3)
    return os.getpid(), sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_piece_is_done_once(jobs):
    pieces = [(number, "") for number in range(7)]
    results = workers.Pool(jobs).map(square, pieces, lost=lambda piece: -1)
    assert sorted(results) == [number**2 for number in range(7)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_when_it_is_over_nothing_more_is_begun_and_what_was_begun_ends(jobs):
    asked = iter([False] * 5)
    pieces = [(number, "") for number in range(50)]
    over = workers.Pool(jobs).map(square, pieces, lost=lambda piece: -1, is_over=lambda: next(asked, True))
    done = [*over]
    assert len(done) == 5 - (jobs > 1)  # several processes ask once before the first piece
    assert sorted(done) == [number**2 for number in range(len(done))]


def test_a_killed_process_costs_its_piece_a_second_try(tmp_path, caplog):
    pieces = [(number, str(tmp_path)) for number in range(7)]
    results = [*workers.Pool(2).map(square, pieces, lost=lambda piece: -1)]
    assert sorted(results) == [number**2 for number in range(7)]
    assert caplog.text.count("a process was killed") == 1


def test_a_piece_that_kills_its_process_every_time_is_given_up_and_the_rest_goes_on():
    results = [*workers.Pool(2).map(die, range(6), lost=lambda piece: -piece)]
    assert set(results) >= {0, 2, 3, 4, 5, -1}


def test_processes_share_the_cores():
    here = sorted(os.sched_getaffinity(0))
    found = dict(workers.Pool(2).map(cores, range(8), lost=lambda piece: (0, [])))
    assert len(found) == 2
    if len(here) > 1:
        assert sorted(sum(found.values(), [])) == here  # noqa: RUF017


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
