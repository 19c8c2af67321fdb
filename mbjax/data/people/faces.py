"""`faces`: a folder of one's own with one folder of images per identity, or drawn faces."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mbjax.data.images.labelled import SUFFIXES
from mbjax.data.people import drawn_faces
from mbjax.data.people.protocol import Listed, Protocol, identification
from mbjax.data.sources import DIR_OPTION, PATH_OPTION, find_own
from mbjax.options import FLAG, WHOLE, Option
from mbjax.types import Dataset, UserError

PROTOCOL = Protocol(size=32, test_identities=100)
OPTIONS = (  # of config.data
    PATH_OPTION,
    DIR_OPTION,
    Option("synthetic", False, FLAG, "draws faces in place of path"),
    Option("synthetic_identities", 400, WHOLE, "how many people are drawn"),
    Option("synthetic_images", 20, WHOLE, "images of each of them"),
    Option("synthetic_seed", 0, WHOLE, "of the drawn faces"),
    *PROTOCOL.options(),
)


def load(
    *,
    seed: int,
    path: str = "",
    dir: str = "",
    synthetic: bool = False,
    synthetic_identities: int = 400,
    synthetic_images: int = 20,
    synthetic_seed: int = 0,
    **protocol: Any,
) -> Dataset:
    """Loads a folder with one folder of images an identity and a file `groups.csv` with the columns identity and group.

    Args:
      seed: of all draws: who is held out, who is trained on, and which images are removed.
      path: the folder; absolute, or relative to the working directory, else to the data folder.
      dir: the data folder; see `mbjax.data.sources.data_dir`.
      synthetic: loads drawn faces in place of `path`; see `mbjax.data.people.drawn_faces.find_or_draw`. What is drawn
        depends on `synthetic_identities`, `synthetic_images` (of each), `synthetic_seed` and `size`, and not on `seed`,
        so that runs of several seeds share it.
      **protocol: see `mbjax.data.people.protocol.Protocol`.

    Returns:
      As `mbjax.data.people.protocol.identification`.

    Raises:
      UserError: folders and `groups.csv` that disagree, an identity without images, or what `identification` raises.
    """
    how = dataclasses.replace(PROTOCOL, **protocol)
    if synthetic:
        root = drawn_faces.find_or_draw(
            seed=synthetic_seed, identities=synthetic_identities, images=synthetic_images, size=how.size, dir=dir
        )
        source = f"{synthetic_identities} synthetic identities"
    else:
        root = _find(path, dir)
        source = root.name
    return identification(read_folder(root, source), how, seed=seed)


def _find(path: str, dir: str) -> Path:
    place = find_own(path, dir, wanted="a folder of one folder an identity (or draw faces, --config.data.synthetic)")
    if not place.is_dir():
        raise UserError(f"config.data.path={path!r}: {place} is a file, and a folder is needed")
    return place


def read_folder(root: Path, source: str) -> Listed:
    """Lists one folder an identity and `groups.csv`; names that begin with a dot are left out.

    Raises:
      UserError: no `groups.csv` or another form of it, a row without a folder, a folder without a row or an image.
    """
    folders = {p.name: p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")}
    group_of = _read_groups(root / "groups.csv")
    for name in map(str, group_of.index):
        if name not in folders:
            raise UserError(f"{root / 'groups.csv'} names the identity {name!r}, but there is no folder {root / name}")
    files, identity = [], []
    for number, (name, folder) in enumerate(folders.items()):
        if name not in group_of.index:
            raise UserError(f"{root / 'groups.csv'} has no row for the folder {name!r}: add its group, or move it away")
        own = sorted(
            file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        )
        if not own:
            raise UserError(
                f"identity {name!r} has no images: {folder} holds no {' '.join(SUFFIXES)}; add some, or remove the "
                "folder and its row in groups.csv"
            )
        files += own
        identity += [number] * len(own)
    groups, group = np.unique(np.asarray(group_of[list(folders)], str), return_inverse=True)
    return Listed(files, np.array(identity), tuple(folders), group, tuple(groups.tolist()), source)


def _read_groups(path: Path) -> pd.Series:
    """The group of each identity, both strings, from `groups.csv`."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True, encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            f"there is no {path}: write one line identity,group and below it one line an identity"
        ) from None
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path} cannot be read as CSV ({reason})") from None
    if not {"identity", "group"} <= set(table.columns):
        raise UserError(f"{path} has the columns {', '.join(map(repr, table.columns))}: identity and group are needed")
    for name in table.identity[table.identity.duplicated()]:
        raise UserError(f"{path} names the identity {name!r} more than once: keep one row")
    for name in table.identity[table.group == ""]:
        raise UserError(f"{path} has no group for the identity {name!r}: add it")
    return table.set_index("identity").group
