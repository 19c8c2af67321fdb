"""Files and folders that are there whole or not at all: neither a reader nor a kill sees a part of one."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


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
