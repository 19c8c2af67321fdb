"""Images that stay on the host: decoded from files as they are asked for, or read from one prepared file.

Both are `mbjax.types.HostArray`s. Pillow decodes and resizes without the interpreter's lock, so threads share the work.
"""

import functools
import hashlib
import json
import logging
import os
import shutil
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mbjax import atomic
from mbjax.data.images import labelled as images
from mbjax.types import HostArray, UserError, first_line

log = logging.getLogger("mbjax")
_CHUNK = 1024  # images held at a time where all of them are gone through
_MEND = "delete it to have it made anew, or choose another with --config.data.prepared"
_TASK = 8  # images that a thread takes at a time: a task of one small image would mostly be bookkeeping


class Decoded(NamedTuple):
    """Images from files.

    Attributes:
      x: `[n, size, size, 3]`, uint8; zeros where a file could not be read.
      failed: why not, by the number of the file.
    """

    x: np.ndarray
    failed: dict[int, str]


def decode(files: Sequence[Path], *, size: int, threads: int = 0) -> Decoded:
    """Reads image files as `mbjax.data.images.labelled.decode` does, and says which could not be read.

    Args:
      files: `n` files.
      size: pixels of a side: the shorter side is resized to it (antialiased), the middle is kept.
      threads: how many decode; all calls with the same number share them. 0 for as many as there are cores.
    """
    x = np.zeros((len(files), size, size, 3), np.uint8)

    def read(start: int) -> dict[int, str]:
        failed = {}
        for number in range(start, min(start + _TASK, len(files))):
            try:
                x[number] = images.decode_one(files[number], size)
            except images.BadImage as error:
                failed[number] = str(error)
        return failed

    failed: dict[int, str] = {}
    for part in _pool(threads).map(read, range(0, len(files), _TASK)):
        failed |= part
    return Decoded(x, failed)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="decode")


def unreadable(files: Sequence[Path], *, size: int) -> dict[int, str]:
    """Decodes every file once, a bounded number at a time, and tells why some cannot be read, by their numbers."""
    return {number: why for start, part in _chunks(files, size, 0) for number, why in _counted(start, part).items()}


def _chunks(files: Sequence[Path], size: int, threads: int) -> Iterator[tuple[int, Decoded]]:
    for start in range(0, len(files), _CHUNK):
        yield start, decode(files[start : start + _CHUNK], size=size, threads=threads)


def _counted(start: int, part: Decoded) -> dict[int, str]:
    return {start + number: why for number, why in part.failed.items()}


def check_share(bad: Mapping[str, str], total: int, max_bad_share: float) -> None:
    """Stops at too many unreadable images.

    Args:
      bad: the files' names and why they cannot be read.
      total: of how many.
      max_bad_share: the share of `total` up to which there is no error.

    Raises:
      UserError: there are more; the message names the first three.
    """
    if len(bad) > max_bad_share * total:
        names = [f"{name} ({why})" for name, why in bad.items()][:3]
        raise UserError(
            f"{len(bad)} of {total} images cannot be read, more than config.data.max_bad_share={max_bad_share} "
            f"allows: {', '.join(names)}{', …' if len(bad) > 3 else ''}: repair or replace them, or raise "
            "--config.data.max_bad_share to do without them"
        )


def digest(files: Sequence[Path], *, size: int) -> str:
    """Names a set of images by the names of the files and their folders, the files' bytes, and `size`; reads none.

    Raises:
      UserError: a file that is not there.
    """
    sha = hashlib.sha256(f"{size}".encode())
    for file in files:
        try:
            sha.update(f"\n{file.parent.name}/{file.name} {os.stat(file).st_size}".encode())
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror}): restore it") from None
    return sha.hexdigest()


class ImageFiles:
    """Image files as a `HostArray`: decoded and resized when they are read, nothing kept.

    A file that cannot be read is found when it is read for the first time. It is then named in a warning and counted;
    more than `max_bad_share` of all files stop with a `UserError`. Up to that, the next readable image of the same
    identity stands in for it, which keeps its label right and depends on the files alone, so that a resumed run reads
    the same. That suits training; among test images a stand-in would be its own match, so find those beforehand with
    `unreadable`.

    Args:
      files: `n` files.
      size: see `decode`, as is `threads`.
      identity: whose image each is, `[n]`; without it nothing can stand in, and a file that cannot be read stops.
      max_bad_share: of the files.

    Raises:
      UserError: a file that is not there.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        size: int,
        identity: np.ndarray | None = None,
        max_bad_share: float = 0.01,
        threads: int = 0,
    ):
        self.shape, self.dtype, self.block = (len(files), size, size, 3), np.dtype(np.uint8), 1
        self.digest = digest(files, size=size)
        self._files, self._identity, self._max_bad_share, self._threads = files, identity, max_bad_share, threads
        self._bad: dict[str, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The images at `rows` (integers of any shape, or a slice), `[*rows.shape, size, size, 3]` uint8.

        An image that is asked for several times is decoded once. Safe to call from several threads.

        Raises:
          UserError: too many files that cannot be read, or one that nothing can stand in for.
        """
        index = np.arange(len(self))[rows]
        once, where = np.unique(index, return_inverse=True)
        x, failed = decode([self._files[row] for row in once.tolist()], size=self.shape[1], threads=self._threads)
        for number, why in failed.items():
            x[number] = self._stand_in(int(once[number]), why)
        return x[where.reshape(index.shape)]

    def _stand_in(self, row: int, why: str) -> np.ndarray:
        """The next readable image of the same identity, `[size, size, 3]`."""
        self._note(row, why)
        own = np.array([row]) if self._identity is None else np.flatnonzero(self._identity == self._identity[row])
        for other in np.roll(own, -int(np.searchsorted(own, row)))[1:].tolist():
            x, failed = decode([self._files[other]], size=self.shape[1], threads=self._threads)
            if not failed:
                return x[0]
            self._note(other, failed[0])
        raise UserError(
            f"{self._files[row]} is no readable image ({why}), and its identity has no other that could stand in: "
            "repair it, or remove the identity"
        )

    def _note(self, row: int, why: str) -> None:
        name = str(self._files[row])
        with self._lock:
            if name in self._bad:
                return
            self._bad[name] = why
            bad = dict(self._bad)
        log.warning("%s is no readable image (%s): another of its identity stands in, so far for %d of %d", name, why,
                    len(bad), len(self))  # fmt: skip
        check_share(bad, len(self), self._max_bad_share)


class PreparedImages:
    """A prepared file (see `prepare`) as a `HostArray`: memory-mapped, what is read is a copy.

    Each image is checked by its checksum when it is read for the first time; files of older versions have none.

    Args:
      path: the `.npy` file; its `.json` file lies beside it.
      digest: of the images that it must hold; see `mbjax.data.images.host_images.digest`.

    Attributes:
      bad: numbers of the images that could not be read when the file was made, sorted; their rows hold zeros.

    Raises:
      UserError: a file that is damaged or holds other images.
    """

    def __init__(self, path: Path, *, digest: str):
        self._path = path
        try:
            about = json.loads(_beside(path).read_text())
            self.digest, self.bad = str(about["digest"]), tuple(int(number) for number in about["bad"])
            self._x = np.load(path, mmap_mode="r", allow_pickle=False)
            if self._x.dtype != np.uint8 or self._x.ndim != 4:
                raise ValueError(f"it is {self._x.dtype} {self._x.shape}")
            sums = bytes.fromhex(about["checksums"]) if "checksums" in about else None
            self._sums = None if sums is None else np.frombuffer(sums, "<u4")
            if self._sums is not None and len(self._sums) != len(self._x):
                raise ValueError(f"it has {len(self._x)} images and {len(self._sums)} checksums")
            self._checked = np.full(len(self._x), self._sums is None)
        except Exception as error:  # whatever a hostile header makes NumPy raise
            raise UserError(f"{path} cannot be read as prepared images ({first_line(error)}): {_MEND}") from None
        if self.digest != digest:
            raise UserError(f"{path} was prepared from other images, or in another size: {_MEND}")
        self.shape, self.dtype, self.block = self._x.shape, self._x.dtype, 1

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The images at `rows` (integers of any shape, or a slice), `[*rows.shape, size, size, 3]` uint8.

        Raises:
          UserError: one of them is not what was written.
        """
        x = np.array(self._x[rows])
        index = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows).reshape(-1)
        images = x.reshape(-1, *self.shape[1:])
        for number in np.flatnonzero(~self._checked[index]).tolist():
            row = int(index[number])
            if self._sums is not None and zlib.crc32(images[number]) != self._sums[row]:
                raise UserError(f"image {row} in {self._path} is not what was written there: {_MEND}")
            self._checked[row] = True
        return x


class Rows:
    """Some rows of a `HostArray`, in an order of their own, as a `HostArray`.

    Args:
      base: `[n, ...]`.
      rows: `[m]`, integers below `n`.
    """

    def __init__(self, base: HostArray, rows: np.ndarray):
        self._base, self._rows = base, rows
        self.shape, self.dtype, self.block = (len(rows), *base.shape[1:]), base.dtype, 1
        self.digest = hashlib.sha256(base.digest.encode() + np.ascontiguousarray(rows, np.int64).data).hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """What `base` has at `rows` of these rows, `[*rows.shape, ...]`."""
        return self._base[self._rows[rows]]


def open_prepared(files: Sequence[Path], path: Path, *, size: int, max_bad_share: float) -> PreparedImages:
    """Opens a prepared file, and makes it first if it is not there; see `prepare`."""
    name = digest(files, size=size)
    if not path.exists():
        log.info("decoding %d images into %s, once", len(files), path)
        prepare(files, path, size=size, max_bad_share=max_bad_share)
    return PreparedImages(path, digest=name)


def prepare(files: Sequence[Path], path: Path, *, size: int, max_bad_share: float, threads: int = 0) -> None:
    """Writes images into one file, an `.npy` array `[n, size, size, 3]` uint8, with a small `.json` file beside it.

    All images are decoded, a bounded number at a time; those that cannot be read leave rows of zeros and are listed in
    the `.json` file. Both are written under temporary names and renamed when they are whole, the `.npy` file last.

    Args:
      files: `n` image files.
      path: the `.npy` file.
      size: see `decode`, as is `threads`.
      max_bad_share: of the files; see `check_share`.

    Raises:
      UserError: too many files that cannot be read, or a file that cannot be written: then neither is left, nor a part.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.writing(path) as stream:
            bad, sums = _write_images(stream, files, size=size, max_bad_share=max_bad_share, threads=threads)
            stream.flush()  # a full disk shows here, before there is a .json file
            about = {"digest": digest(files, size=size), "bad": sorted(bad), "images": len(files)}
            about["checksums"] = np.array(sums, "<u4").tobytes().hex()
            atomic.write_text(_beside(path), json.dumps(about))
    except OSError as error:
        room = shutil.disk_usage(path.parent).free if path.parent.exists() else 0
        raise UserError(
            f"{path} cannot be written ({error.strerror}): it takes {len(files) * size * size * 3:,} bytes, {room:,} "
            "are free there; make room, name another file with --config.data.prepared, or none"
        ) from None


def _write_images(
    stream: BinaryIO, files: Sequence[Path], *, size: int, max_bad_share: float, threads: int
) -> tuple[dict[int, str], list[int]]:
    """Writes the array; returns why some images could not be read, by their numbers, and each image's checksum."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), size, size, 3)}
    # Not a writable memory map: on a full disk that ends the process, without an exception.
    np.lib.format.write_array_header_1_0(stream, header)
    bad: dict[int, str] = {}
    sums: list[int] = []
    for start, part in _chunks(files, size, threads):
        bad |= _counted(start, part)
        check_share({str(files[number]): why for number, why in bad.items()}, len(files), max_bad_share)
        _write(stream, part.x)
        sums += [zlib.crc32(image) for image in part.x]
    return bad, sums


def _write(stream: BinaryIO, x: np.ndarray) -> None:
    stream.write(x.data)


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")
