"""One process at a time writes to a folder; the lock of one that is gone is free."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from mbjax import atomic
from mbjax.compare import driver
from mbjax.train.folder import Folder
from mbjax.types import UserError

ROOT = pathlib.Path(__file__).parents[2]
HOLD = """
import sys, time, pathlib
from mbjax import atomic
with atomic.locking(pathlib.Path(sys.argv[1]), "--workdir"):
    print("held", flush=True)
    time.sleep(600)
"""


def refused(file: pathlib.Path, *, shared: bool = False) -> str:
    with pytest.raises(UserError) as caught, atomic.locking(file, "--workdir", shared=shared):
        pass
    return str(caught.value)


def test_a_second_process_is_refused_and_a_killed_one_frees_the_folder(tmp_path):
    file = tmp_path / ".lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert refused(file) == (
            f"{tmp_path} is in use by process {process.pid} on {socket.gethostname()}: "
            "wait until that ends, or choose another --workdir"
        )
        process.send_signal(signal.SIGKILL)
    with atomic.locking(file, "--workdir"):
        assert file.read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    assert not list(tmp_path.iterdir())


def test_who_opened_the_lock_of_one_that_ended_meanwhile_does_not_share_it(tmp_path):
    """A lock on a file that is gone would be no lock: a third process makes a new file, and locks that."""
    file = tmp_path / ".lock"
    with atomic.locking(file, "--workdir"):
        late = file.open("ab")  # as a process between its open and its lock
    with late, atomic.locking(file, "--workdir"):
        assert os.fstat(late.fileno()).st_nlink == 0
        refused(file)


def test_shards_share_a_folder_and_a_whole_comparison_does_not(tmp_path):
    file = tmp_path / ".lock"
    with atomic.locking(file, "--out", shared=True), atomic.locking(file, "--out", shared=True):
        refused(file)
    with atomic.locking(file, "--out"):
        refused(file, shared=True)
    with atomic.locking(file, "--out", shared=True):
        pass


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog):
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(atomic.fcntl, "flock", unsupported)
    with atomic.locking(tmp_path / ".lock", "--workdir"):
        pass
    assert caplog.messages == [
        f"{tmp_path} has no locks (Operation not supported): see that no other process writes to it"
    ]


def test_a_run_and_a_comparison_refuse_a_folder_in_use(tmp_path):
    folder = Folder(tmp_path / "run")
    with folder.locked(), pytest.raises(UserError, match="run is in use by process"), folder.locked():
        pass
    with driver.locked(tmp_path, (0, 2)), driver.locked(tmp_path, (1, 2)):
        for shard in (None, (0, 2)):
            with pytest.raises(UserError, match="is in use by process"), driver.locked(tmp_path, shard):
                pass
    with driver.locked(tmp_path, None), pytest.raises(UserError, match="another --out"), driver.locked(tmp_path, None):
        pass


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "a\ud800b", "file/below"])
def test_a_folder_that_cannot_be_is_one_line(name, tmp_path):
    (tmp_path / "file").touch()
    for make in (lambda: Folder(tmp_path / name).locked(), lambda: driver.locked(tmp_path / name, None)):
        with pytest.raises(UserError) as caught, make():
            pass
        assert len(str(caught.value)) < 300
        assert str(caught.value).isprintable()
