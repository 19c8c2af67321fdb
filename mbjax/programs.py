"""Compiled programs, kept on disk: a damaged one would crash the process, or compute something else."""

import contextlib
import hashlib
import logging
import os
import pathlib
import platform
import tempfile

import jax
from jax._src import compilation_cache  # JAX has no public way to say how programs are read
from jax._src.compilation_cache_interface import CacheInterface

from mbjax import sealed

log = logging.getLogger("mbjax")
_KEPT_BYTES = 2 * 2**30


def keep(folder: pathlib.Path = pathlib.Path("~/.cache/mbjax/compiled")) -> None:
    """Keeps compiled programs on disk, so that the next start of the same job compiles nothing.

    Each is checked before JAX reads it, and compiled again where it is damaged. A folder that others may write to is
    not used.

    What JAX's own variables say goes first: `JAX_COMPILATION_CACHE_DIR` is another folder, which stays as it grows, and
    `JAX_ENABLE_COMPILATION_CACHE=0` is none. Call it when a job's processes have joined: several keep programs only in
    a folder that the variable names, for all have to find the same there. GPUs wait for one another when they compile.
    """
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # many small programs take long together
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if "://" in (named or "") or (named is None and jax.distributed.is_initialized()):
        return
    try:
        own = pathlib.Path(named) if named else folder.expanduser() / _machine()
        sealed.make_private(own)
        tempfile.TemporaryFile(dir=own).close()
    except (OSError, RuntimeError) as error:  # the latter where there is no home
        log.warning("compiled programs are not kept: %s", error)
        jax.config.update("jax_compilation_cache_dir", None)
        return
    if not named:
        _prune(own.parent, _KEPT_BYTES)
    if "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES" not in os.environ:
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # files of XLA's own, which nobody checks
    compilation_cache.get_file_cache = lambda path: (_Programs(pathlib.Path(path)), path)
    jax.config.update("jax_compilation_cache_dir", str(own))


class _Programs(CacheInterface):
    """JAX's interface to what is kept, with checksums."""

    def __init__(self, folder: pathlib.Path):
        self._path = folder
        self._cache = sealed.Cache(folder, "a compiled program")

    def get(self, key: str) -> bytes | None:
        return self._cache.get(f"{key}-kept", key)

    def put(self, key: str, value: bytes) -> None:
        self._cache.put(f"{key}-kept", key, value)


def _machine() -> str:
    """A name for machines that may share programs: those for a CPU hold its instructions, and loops cut for its cores.

    JAX's own key lacks the cores and does not promise the instructions; a home folder may be that of many machines.
    """
    try:
        first = pathlib.Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
        parts = ("vendor_id", "cpu family", "model", "flags", "CPU ", "Features")
        cpu = "\n".join(line for line in first.splitlines() if line.startswith(parts))
    except OSError:
        cpu = platform.processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()}-{hashlib.sha256(cpu.encode()).hexdigest()[:8]}-{cores}"


def _prune(folder: pathlib.Path, limit: int) -> None:
    """Removes the files that were not read for longest, until the others have at most `limit` bytes."""
    with contextlib.suppress(OSError):  # another process may be at it
        files = [(path.stat(), path) for path in folder.rglob("*") if path.is_file()]
        for stat, path in sorted(files, key=lambda file: file[0].st_atime, reverse=True):
            limit -= stat.st_size
            if limit < 0:
                path.unlink(missing_ok=True)
