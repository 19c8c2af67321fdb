"""Files and folders that are there whole or not at all, and that one process at a time writes to."""

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mbjax.types import UserError

log = logging.getLogger("mbjax")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A new file to write to, beside `path`; it gets this name, in place of a file that has it, when the block ends.

    After an exception in the block nothing is left of it. Two processes may write the same file; the later one stays.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())  # else a crash of the machine can leave the name without the content
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file of UTF-8."""
    with writing(path) as stream:
        stream.write(text.encode())


@contextlib.contextmanager
def making(folder: Path) -> Iterator[Path]:
    """A new folder to fill, beside `folder`; it gets this name when the block ends.

    If another process was faster, its folder stays and this one is dropped.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)  # mkdtemp's folder is its user's alone
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def locking(file: Path, option: str, *, shared: bool = False) -> Iterator[None]:
    """Holds the lock of a folder during the block. The system gives it back when the process ends, however it ends.

    Args:
      file: the lock's own file in the folder, which is made.
      option: what another folder is chosen with, for the message.
      shared: whether others may hold it, too, who share it.

    Raises:
      UserError: another process holds it; the message has its number and its host.
    """
    try:
        stream = _lock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    except BlockingIOError:
        holder = (file.read_text(errors="replace").strip() if file.exists() else "") or "another process"
        raise UserError(
            f"{file.parent} is in use by {holder}: wait until that ends, or choose another {option}"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        log.warning("%s has no locks (%s): see that no other process writes to it", file.parent, error.strerror)
        yield
        return
    with stream:
        with contextlib.suppress(OSError):  # on a full disk the lock holds without a name
            os.truncate(stream.fileno(), 0)
            os.write(stream.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        try:
            yield
        finally:
            if not shared:  # while it is held: whoever opened it before finds that it is gone, and makes another
                file.unlink(missing_ok=True)


def _lock(file: Path, kind: int) -> BinaryIO:
    """Raises a BlockingIOError if another process has the lock."""
    while True:
        stream = file.open("ab")
        try:
            fcntl.flock(stream, kind | fcntl.LOCK_NB)
            if os.fstat(stream.fileno()).st_nlink:
                return stream
        except BaseException:
            stream.close()
            raise
        stream.close()
