"""Where files are found, and how those that may be downloaded are fetched."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pooch
import requests

from mbjax.options import TEXT, Option, shown
from mbjax.types import UserError

ORIGINS: dict[str, str] = {
    "CIFAR-10": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "creditcard.csv": "https://www.kaggle.com/datasets/mlg-ulb/creditcardfraud",
    "loan_data.csv": "https://www.kaggle.com/datasets/sarahvch/predicting-who-pays-back-loans",
}


DIR_OPTION = Option("dir", "", TEXT, "where files are looked for; else $MBJAX_DATA_DIR; else ~/.cache/mbjax")
PATH_OPTION = Option("path", "", TEXT, "your own file or folder: absolute, or relative to here or to the data folder")


class Remote(NamedTuple):
    """A file that anyone may download, and the checksum of the whole file."""

    file: str
    url: str
    sha256: str


REMOTES: dict[str, Remote] = {
    "fraud": Remote(  # TensorFlow's copy of Kaggle's file, byte for byte: one checksum is published for both
        file="creditcard.csv",
        url="https://storage.googleapis.com/download.tensorflow.org/data/creditcard.csv",
        sha256="76274b691b16a6c49d3f159c883398e03ccd6d1ee12d9d8ee38f4b4b98551a89",
    ),
}


def data_dir(dir: str = "") -> Path:
    """The data folder: `dir`, else `$MBJAX_DATA_DIR`, else `~/.cache/mbjax`."""
    return expand(dir or os.environ.get("MBJAX_DATA_DIR") or "~/.cache/mbjax")


def expand(path: str) -> Path:
    """The path with `~` replaced.

    Raises:
      UserError: it is the home of nobody.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{shown(path)}: there is no such home folder; write the path in full") from None


def find_own(path: str, dir: str, *, wanted: str) -> Path:
    """Finds the file or folder that `config.data.path` names.

    Args:
      path: absolute, or relative to the working directory, else to the data folder.
      dir: see `data_dir`.
      wanted: what it should be, for the message that asks for it.

    Raises:
      UserError: it is empty, or names nothing that is there.
    """
    if not path:
        raise UserError(f"config.data.path: name {wanted} with --config.data.path=PATH")
    places = [expand(path).absolute(), data_dir(dir) / path]
    try:
        for place in places:
            if place.exists():
                return place
    except OSError as error:  # a name that is too long
        raise UserError(f"config.data.path={shown(path)}: {error.strerror}") from None
    raise UserError(f"config.data.path={shown(path, 200)}: there is neither {places[0]} nor {places[1]}")


def find(names: str | Sequence[str], dir: str = "") -> Path:
    """Finds a file in the data folder.

    Args:
      names: a file's name, or several (the official one first): the first that is there is taken.
      dir: see `data_dir`.

    Raises:
      UserError: none is there. The message says where to get the file and where to put it.
    """
    names, folder = [names] if isinstance(names, str) else list(names), data_dir(dir)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise missing(names, folder, names[0])


def missing(names: Sequence[str], folder: Path, what: str) -> UserError:
    """The error that none of `names` is in the data folder: where to get `what` (of `ORIGINS`) and where to put it."""
    command = "".join(f"run `python -m mbjax.data fetch {t}`, or " for t, r in REMOTES.items() if r.file == what)
    return UserError(
        f"no {' or '.join(names)} in {folder}: {command}get {what} from {ORIGINS[what]} and put it there, "
        "or name its folder with --config.data.dir=DIR or MBJAX_DATA_DIR"
    )


def fetch(task: str, dir: str = "") -> Path:
    """Downloads the file of a task in `REMOTES` into the data folder (see `data_dir`), unless it is there already.

    The file gets its name only when it is whole and its checksum is right.

    Raises:
      UserError: no network, a wrong checksum, a folder that cannot be written to, or another file of that name.
    """
    remote, folder = REMOTES[task], data_dir(dir)
    path, by_hand = folder / remote.file, f"get {remote.file} from {ORIGINS[remote.file]} and put it into {folder}"
    try:
        if path.exists() and pooch.file_hash(str(path)) != remote.sha256:  # it may be the user's own
            raise UserError(f"{path} is not the official file (sha256 {remote.sha256}): move it away first")
        downloader: Any = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30)
        return Path(pooch.retrieve(remote.url, f"sha256:{remote.sha256}", remote.file, folder, downloader=downloader))
    except requests.RequestException as error:
        reason = type(error).__name__ if error.response is None else f"HTTP status {error.response.status_code}"
        raise UserError(f"{remote.url} could not be downloaded ({reason}): check the network, or {by_hand}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another folder with --dir") from None
    except ValueError:  # pooch's word for a wrong checksum
        raise UserError(f"{remote.url}: wrong checksum, nothing was kept: try again, or {by_hand}") from None
