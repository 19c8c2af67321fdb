"""Several processes as one job, most often one per host: who is who, what they agree on, and what a lost one does.

JAX alone would end the processes that are left by a crash, its own or its collectives', or only as its heartbeats fail.
Here process 0 keeps a connection to each other process. One that breaks, or does not answer for half a minute, ends all
of them with a line that says which process is gone; so does a process that stops for a reason of its own.
"""

import contextlib
import ctypes
import dataclasses
import logging
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mbjax.types import UserError

log = logging.getLogger("mbjax")

# What starts processes tells them by these variables: how many there are, which one this is, and the same on its host.
_LAUNCHERS = (
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_LOCALID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK"),  # Kubeflow's operators, torchrun
)
_KUBERNETES_INDEX = "JOB_COMPLETION_INDEX"  # of an indexed job, whose pods do not know how many they are
_JOIN_SECONDS = 300
_LOST_SECONDS = 30
_FINISHED = "finished"


@dataclasses.dataclass(frozen=True)
class Place:
    """This process's place in the job.

    Attributes:
      coordinator: `HOST:PORT` of process 0.
      processes: how many there are.
      process: this one's number.
      local: this one's number on its host, if the host has several: the one GPU that it takes. Else it takes all.
    """

    coordinator: str
    processes: int
    process: int
    local: int | None = None


def find_place(
    environment: Mapping[str, str],
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> Place | None:
    """This process's place, by what it was told or else by the variables of SLURM, Open MPI or Kubernetes.

    Args:
      environment: `os.environ`.
      coordinator: `HOST:PORT`, a free port of process 0's host.
      processes: how many.
      process: this one's number, from 0.

    Returns:
      None for a lone process.

    Raises:
      UserError: a part of it is missing, or a number out of its range.
    """
    told = coordinator is not None or processes is not None or process is not None
    launcher = next((names for names in _LAUNCHERS if all(name in environment for name in names[:2])), None)
    local = None
    if launcher:
        count, number, local_count, local_number = (environment.get(name, "") for name in launcher)
        processes, process = processes or int(count), int(number) if process is None else process
        several = any(int(n) > 1 for n in re.sub(r"\(x\d+\)", "", local_count).split(",") if n)  # SLURM's: "2(x3),1"
        local = int(local_number) if several and local_number else None
    elif process is None and _KUBERNETES_INDEX in environment and told:
        process = int(environment[_KUBERNETES_INDEX])
    if not told and (processes or 1) == 1:
        return None
    coordinator = coordinator or _coordinator(environment, processes)
    for name, value in (("coordinator", coordinator), ("processes", processes), ("process", process)):
        if value is None:
            raise UserError(f"--{name} is missing: a job of several processes needs --coordinator=HOST:PORT, "
                            "--processes=N and --process=0 … N-1")  # fmt: skip
    assert coordinator is not None
    assert processes is not None
    assert process is not None
    if not re.fullmatch(r"\S+:\d{1,5}", coordinator) or not 0 < int(coordinator.rpartition(":")[2]) < 65536:
        raise UserError(f"--coordinator={coordinator}: give process 0's host and a free port of it, HOST:PORT")
    if processes < 1 or not 0 <= process < processes:
        raise UserError(f"--processes={processes} --process={process}: numbers go from 0 to one less than there are")
    return Place(coordinator, processes, process, local) if processes > 1 else None


def _coordinator(environment: Mapping[str, str], processes: int | None) -> str | None:
    """Process 0's address by the launcher's variables, if it tells."""
    if "MASTER_ADDR" in environment:
        return f"{environment['MASTER_ADDR']}:{environment.get('MASTER_PORT', '29500')}"
    if first := re.match(r"([^\[,]+)(?:\[(\d+))?", environment.get("SLURM_STEP_NODELIST", "")):  # gpu[07-09,12],cpu1
        return f"{first[1]}{first[2] or ''}:{61440 + int(environment.get('SLURM_JOB_ID', 0)) % 4096}"
    if environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == str(processes):  # all on this host
        return "127.0.0.1:29500"
    return None


def start(place: Place | None) -> None:
    """Joins the job; nothing for a lone process. JAX must not have been used yet.

    Where not all processes join within five minutes, this one ends with a line that says so: JAX would crash.

    Raises:
      UserError: the coordinator's address cannot be used.
    """
    if place is None:
        return
    log.info("process %d of %d, coordinator %s", place.process, place.processes, place.coordinator)
    late = f"not all of {place.processes} processes joined in {_JOIN_SECONDS} s: is the address right?"
    timer = threading.Timer(_JOIN_SECONDS, _end, (f"error: --coordinator={place.coordinator}: {late}", 2))
    timer.daemon = True
    timer.start()
    try:
        if place.process == 0:  # JAX would crash on a port that is taken
            socket.create_server(("", int(place.coordinator.rpartition(":")[2]))).close()
        jax.distributed.initialize(
            place.coordinator, place.processes, place.process,
            local_device_ids=None if place.local is None else [place.local],
            cluster_detection_method="deactivate", heartbeat_timeout_seconds=_LOST_SECONDS,
            initialization_timeout=2 * _JOIN_SECONDS,
        )  # fmt: skip
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"--coordinator={place.coordinator}: cannot join the job ({reason})") from error
    finally:
        timer.cancel()
    _watch(place)
    if place.process:
        log.setLevel(logging.WARNING)  # process 0 says for all what goes on


def is_primary() -> bool:
    """Whether this is process 0, which writes for all."""
    return jax.process_index() == 0


def wait_for_all() -> None:
    """Waits until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("mbjax")


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process. All must ask."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def check_equal(text: str, what: str) -> None:
    """Raises a UserError if the text is not the same in every process. All must ask."""
    if jax.process_count() > 1:
        texts = multihost_utils.process_allgather(np.frombuffer(text.encode().ljust(256)[:256], np.uint8))
        for process, other in enumerate(texts):
            if (other != texts[0]).any():
                raise UserError(f"process {process} has another {what} than process 0: all must start alike")


_connections: dict[int, socket.socket] = {}  # by the other's number; of process 0 all, of another one process 0's
_lock = threading.Lock()


def finish() -> None:
    """Says that this process is done: that its connections close means nothing any more."""
    for process in list(_connections):
        _send(process, _FINISHED)


def await_news() -> None:
    """Waits a moment after an unexpected error: if another process is gone, the watch says so and ends this one."""
    if _connections:
        time.sleep(2)


def leave(reason: str, status: int) -> None:
    """Ends this process and the others, which are told why; returns in a lone process, whose end is its own."""
    if _connections:
        _end(f"process {jax.process_index()} stopped: {reason}", status, say=False)


def _watch(place: Place) -> None:
    """Connects process 0 with each other one, and lets a thread wait for news on each connection."""
    secret, port, listener = secrets.token_bytes(16), 0, None
    if place.process == 0:
        listener = socket.create_server(("", 0))
        port = listener.getsockname()[1]
    message = np.frombuffer(secret + port.to_bytes(4) + socket.gethostname().encode().ljust(236)[:236], np.uint8)
    message = np.asarray(multihost_utils.broadcast_one_to_all(message)).astype(np.uint8).tobytes()
    secret, port, name = message[:16], int.from_bytes(message[16:20]), message[20:].decode().strip()
    try:
        if listener:
            with listener:
                listener.settimeout(_LOST_SECONDS)
                while len(_connections) < place.processes - 1:
                    connection, _ = listener.accept()
                    connection.settimeout(_LOST_SECONDS)
                    greeting = connection.recv(20, socket.MSG_WAITALL)
                    if greeting[:16] == secret:  # else it is no process of this job
                        _connections[int.from_bytes(greeting[16:])] = connection
        else:
            connection = _connect((place.coordinator.rpartition(":")[0].strip("[]"), name), port)
            connection.sendall(secret + place.process.to_bytes(4))
            _connections[0] = connection
    except OSError as error:
        log.warning("the processes cannot watch one another (%s); a lost one is noticed by JAX's heartbeats", error)
    _crash_slowly()
    for process, connection in _connections.items():
        connection.settimeout(None)
        _keep_alive(connection)
        threading.Thread(target=_listen, args=(process, connection), name=f"watch {process}", daemon=True).start()


def _connect(hosts: tuple[str, ...], port: int) -> socket.socket:
    for host in hosts[:-1]:
        try:
            return socket.create_connection((host, port), timeout=5)
        except OSError:
            continue
    return socket.create_connection((hosts[-1], port), timeout=_LOST_SECONDS)


def _keep_alive(connection: socket.socket) -> None:
    """A host that lost its power closes nothing; the system asks it every few seconds whether it is there."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", (_LOST_SECONDS - 10) // 5)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)


def _crash_slowly() -> None:
    """Gives the watch some seconds to speak: JAX and Gloo call `abort` when a process is gone, and may be first.

    The signal's number is `sleep`'s argument, 6 seconds in the thread that crashes; then the crash goes on.
    """
    libc: Any = ctypes.CDLL(None)
    libc.signal(signal.SIGABRT, libc.sleep)


def _listen(process: int, connection: socket.socket) -> None:
    try:
        text = connection.makefile().readline().strip()
    except OSError:
        text = ""
    if text != _FINISHED:
        gone = f"process {process} is gone: it was killed, ran out of memory, or its host or network is down"
        _end(f"{text or gone}; the last checkpoint is whole, and the same command resumes there", 1)


def _end(text: str, status: int, *, say: bool = True) -> None:
    """Tells the others, and ends this process at once: it may be waiting for one that will not answer."""
    with _lock:  # which is never given back
        if say:
            print(f"mbjax: {text}", file=sys.stderr)
        for process in list(_connections):
            _send(process, text)
        if 0 not in _connections:
            time.sleep(1)  # JAX crashes the others when its coordinator, in process 0, ends before they do
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _send(process: int, text: str) -> None:
    with contextlib.suppress(OSError):
        _connections[process].sendall(f"{text}\n".encode())
