"""What mbjax writes and reads back carries a checksum: damage is noticed, and never believed.

A JSON object has it as its last key; a file of a cache begins with it, over its content and over what it is kept for.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbjax import atomic

log = logging.getLogger("mbjax")
_KEY = "checksum"
_MAGIC = b"mbjax kept 1\n"


class Damaged(ValueError):
    """What was read is not what was written."""


def dumps(row: Mapping[str, Any], *, indent: int | None = None) -> str:
    """A JSON object with its checksum."""
    plain = json.loads(json.dumps(row))  # the checksum is of what a reader sees: keys that are text, lists for tuples
    return json.dumps({**plain, _KEY: _checksum(plain)}, indent=indent)


def loads(text: str) -> dict[str, Any]:
    """The JSON object, without its checksum. One that never had a checksum, of an older version, is taken as it is.

    Raises:
      Damaged: it is no JSON object, or another one than was written.
    """
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"it is no JSON ({str(error).splitlines()[0]})" if text.strip() else "it is empty") from None
    if not isinstance(row, dict):
        raise Damaged(f"it holds a {type(row).__name__}, not an object")
    written = row.pop(_KEY, None)
    if written is not None and written != _checksum(row):
        raise Damaged("its checksum does not match")
    return row


def read(path: Path) -> dict[str, Any]:
    """`loads` of a file.

    Raises:
      Damaged: as `loads`, or bytes that are no text.
    """
    try:
        return loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise Damaged("it is no text") from None


def _checksum(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]


def set_aside(path: Path, mark: str = "damaged") -> Path:
    """Renames a file or folder to a name beside it that nothing reads, `NAME.MARK`, never over another one.

    Raises:
      OSError: it cannot be renamed.
    """
    number, aside = 1, path.with_name(f"{path.name}.{mark}")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{mark}-{number}")
    return path.rename(aside)


class Cache:
    """A folder of files that can be made again, each for one key: read whole and checked, or not at all.

    Args:
      folder: made, for this user alone, when something is first written.
      what: one of them, for messages: "resampled data".
      private: whether the folder is refused where others may write to it. Else it is a folder of the user's.
    """

    def __init__(self, folder: Path, what: str, *, private: bool = True):
        self.folder, self._what, self._private, self._failed = folder, what, private, False

    def get(self, name: str, key: str) -> bytes | None:
        """The content that `put` was given for this key; None where there is none, or it is damaged.

        A damaged file is set aside and reported, in one line.
        """
        path = self.folder / name
        try:
            if self._private:
                refuse_shared(self.folder)
        except OSError:  # `put` says so
            return None
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("%s cannot be read (%s) and is made again: %s", self._what, error.strerror, path)
            return None
        head = len(_MAGIC) + 32
        if data.startswith(_MAGIC) and data[len(_MAGIC) : head] == self._digest(key, data[head:]):
            return data[head:]
        where = "stays there"
        with contextlib.suppress(OSError):
            where = f"is now {_replace_aside(path).name}"
        log.warning("%s is damaged and is made again; the file %s: %s", self._what, where, path)
        return None

    def put(self, name: str, key: str, content: bytes) -> None:
        """Keeps the content, if it can be written; else says so in one line."""
        path = self.folder / name
        try:
            if self._private:
                make_private(self.folder)
            with atomic.writing(path) as stream:
                stream.write(_MAGIC + self._digest(key, content))
                stream.write(content)
        except OSError as error:
            if not self._failed:  # a full disk is said once
                log.warning(
                    "%s cannot be kept in %s (%s): it is made again when it is needed",
                    self._what, self.folder, error.strerror,
                )  # fmt: skip
            self._failed = True

    @staticmethod
    def _digest(key: str, content: bytes) -> bytes:
        digest = hashlib.sha256(key.encode() + b"\0")
        digest.update(content)
        return digest.digest()


def _replace_aside(path: Path) -> Path:
    """Of a cache one damaged file of a name is enough."""
    return path.replace(path.with_name(f"{path.name}.damaged"))


def make_private(folder: Path) -> None:
    """Makes a folder, and those above it, that only its user may write to; or refuses one that others may write to.

    Raises:
      OSError: it cannot be made, or others may write to it.
    """
    if not folder.exists():
        if not folder.parent.exists():
            make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    refuse_shared(folder)


def refuse_shared(folder: Path) -> None:
    """Raises an OSError if the folder is another user's, or others may write to it: what it holds cannot be trusted."""
    about = folder.stat()
    if about.st_uid not in (os.getuid(), 0):
        raise PermissionError(errno.EPERM, "it is another user's", str(folder))
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EPERM, "others may write to it: chmod go-w", str(folder))
