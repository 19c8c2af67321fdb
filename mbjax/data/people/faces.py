"""`faces`: identities that are held out for test, and training images of which one group has few.

The protocol of the paper's section 5.3, for `mbjax.data.people.celeba` and for any folder of images.
"""

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mbjax.data.images import host_images
from mbjax.data.images.labelled import SUFFIXES
from mbjax.data.people import drawn_faces
from mbjax.data.sources import DIR_OPTION, PATH_OPTION, find_own
from mbjax.options import FLAG, NUMBER, TEXT, WHOLE, Option
from mbjax.types import Dataset, HostArray, Split, UserError

log = logging.getLogger("mbjax")
_PEOPLE, _REMOVAL = 2000, 2001  # keep their random numbers apart from those of the streams, which are counted from 0


class Listed(NamedTuple):
    """What a layout holds, before any image is read.

    Attributes:
      files: the images.
      identity: of each image, a number of `names`, `[n]` int64.
      names: the identities.
      group: of each identity, a number of `groups`, `[identities]` int64.
      groups: the group names.
      source: what was read.
      notes: for the reader of a result.
    """

    files: Sequence[Path]
    identity: np.ndarray
    names: Sequence[str]
    group: np.ndarray
    groups: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()


class People(NamedTuple):
    """Who is in which part: sorted numbers of identities, disjoint."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def options(size: int, test_identities: int) -> tuple[Option, ...]:
    """The options of `identification`, with these defaults."""
    return (
        Option("size", size, WHOLE, "images become so many pixels wide and high"),
        Option("test_identities", test_identities, WHOLE, "how many people are held out for test"),
        Option("validation_identities", 0, WHOLE, "more of them, scored as validation: to choose settings by"),
        Option("identities", None, WHOLE, "how many people to train on; all others if unset"),
        Option("scarce_group", "", TEXT, "the group with few training images; the first if empty"),
        Option("removed_share", 0.9, NUMBER, "the share of that group's training images that is removed"),
        Option("min_images", 2, WHOLE, "images that each person to train on has, at least"),
        Option("prepared", "", TEXT, "an .npy file that holds all images, made if it is not there; none if empty"),
        Option("in_memory_bytes", 256 * 2**20, WHOLE, "images of up to so many bytes together are held in memory"),
        Option("on_host", False, FLAG, "reads images from the host in any case"),
        Option("max_bad_share", 0.01, NUMBER, "the share of images that may be unreadable"),
    )


OPTIONS = (  # of config.data
    PATH_OPTION,
    DIR_OPTION,
    Option("synthetic", False, FLAG, "draws faces in place of path"),
    Option("synthetic_identities", 400, WHOLE, "how many people are drawn"),
    Option("synthetic_images", 20, WHOLE, "images of each of them"),
    Option("synthetic_seed", 0, WHOLE, "of the drawn faces"),
    *options(size=32, test_identities=100),
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
    size: int = 32,
    test_identities: int = 100,
    validation_identities: int = 0,
    identities: int | None = None,
    scarce_group: str = "",
    removed_share: float = 0.9,
    min_images: int = 2,
    prepared: str = "",
    in_memory_bytes: int = 256 * 2**20,
    on_host: bool = False,
    max_bad_share: float = 0.01,
) -> Dataset:
    """Loads a folder with one folder of images an identity and a file `groups.csv` with the columns identity and group.

    Args:
      seed: of all draws: who is held out, who is trained on, and which images are removed.
      path: the folder; absolute, or relative to the working directory, else to the data folder.
      dir: the data folder; see `mbjax.data.sources.data_dir`.
      synthetic: loads drawn faces in place of `path`; see `mbjax.data.people.drawn_faces.find_or_draw`. What is drawn
        depends on `synthetic_identities`, `synthetic_images` (of each), `synthetic_seed` and `size`, and not on `seed`,
        so that runs of several seeds share it.
      size: the images become `size`×`size` pixels.
      test_identities: see `identification`, as are all the others.

    Returns:
      As `identification`.

    Raises:
      UserError: folders and `groups.csv` that disagree, an identity without images, or what `identification` raises.
    """
    if synthetic:
        root = drawn_faces.find_or_draw(
            seed=synthetic_seed, identities=synthetic_identities, images=synthetic_images, size=size, dir=dir
        )
        source = f"{synthetic_identities} synthetic identities"
    else:
        root = _find(path, dir)
        source = root.name
    return identification(
        read_folder(root, source), seed=seed, size=size, test_identities=test_identities,
        validation_identities=validation_identities, identities=identities, scarce_group=scarce_group,
        removed_share=removed_share, min_images=min_images, prepared=prepared, in_memory_bytes=in_memory_bytes,
        on_host=on_host, max_bad_share=max_bad_share,
    )  # fmt: skip


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


def identification(
    listed: Listed,
    *,
    seed: int,
    size: int,
    test_identities: int,
    validation_identities: int,
    identities: int | None,
    scarce_group: str,
    removed_share: float,
    min_images: int,
    prepared: str,
    in_memory_bytes: int,
    on_host: bool,
    max_bad_share: float,
) -> Dataset:
    """Holds identities out and makes one group scarce in training, as in the paper's section 5.3.

    1. `test_identities` identities are drawn for test and keep all their images, the only one included. Of the others
       `validation_identities` are drawn and scored alike, so that settings can be chosen without the test people.
    2. All others are trained on, but for those with fewer than `min_images` images; or a draw of `identities` of them.
    3. Of all training images of the scarce group, the share `removed_share` is removed at random, from all its
       identities alike; but `min_images` of each, drawn before, stay. Where these are more than what should be left
       (10% of CelebA's images are about 2 a person), as many are removed as can be.

    Who is drawn does not depend on the share, the group or the images that cannot be read. Who is drawn for test does
    not depend on `validation_identities` either.

    Args:
      listed: the images.
      seed: of all draws.
      size: the images become `size`×`size` pixels; see `mbjax.data.images.host_images.decode`.
      test_identities: as above, as are `validation_identities` (0 for no validation split), `identities` (None for
        all), `removed_share` and `min_images`.
      scarce_group: a name of `listed.groups`; the first if empty.
      prepared: an `.npy` file that holds all listed images in this size, made if it is not there; see
        `mbjax.data.images.host_images.prepare`. Empty for none.
      in_memory_bytes: the images are held in memory, and go to the device whole, if those of all drawn identities take
        at most this many bytes.
      on_host: reads the images from the host in any case.
      max_bad_share: of the images, the share that may be unreadable. They are left out if there is a prepared file, if
        the images are held in memory and in the parts that are scored. Among training images read from their files
        another image of the same person stands in; see `mbjax.data.images.host_images.ImageFiles`.

    Returns:
      `kind="identification"`; `x` `[n, size, size, 3]` uint8, an array or a `HostArray`; `y` numbers the identities of
      each split in `listed.names`' order, each split from 0; `group` is that of the identity. `classes` are the
      training identities.

    Raises:
      UserError: a value out of its range, a part without a group, or images that cannot be read.
    """
    scarce = _check(
        listed, size, test_identities, validation_identities, identities, scarce_group, removed_share, min_images,
        max_bad_share,
    )  # fmt: skip
    people = _draw_people(
        listed, seed=seed, test=test_identities, validation=validation_identities, train=identities,
        min_images=min_images,
    )  # fmt: skip
    of_train, *scored = (np.flatnonzero(np.isin(listed.identity, part)) for part in people)
    pool = np.sort(np.concatenate([of_train, *scored]))
    in_memory = not on_host and len(pool) * size * size * 3 <= in_memory_bytes
    store = _Store(listed, pool, np.sort(np.concatenate(scored)), size, prepared, in_memory, max_bad_share)
    of_train = _with_enough(of_train[~np.isin(of_train, store.bad)], listed.identity, min_images)
    of_validation, of_test = (rows[~np.isin(rows, store.bad)] for rows in scored)
    kept = _thin(of_train, listed, scarce, share=removed_share, min_images=min_images, seed=seed)
    parts = {"train": kept, "validation": of_validation, "test": of_test}
    if not validation_identities:
        del parts["validation"]
    splits, names = {}, {}
    for part, rows in parts.items():
        numbers, y = np.unique(listed.identity[rows], return_inverse=True)
        names[part] = tuple(listed.names[number] for number in numbers)
        group = listed.group[listed.identity[rows]].astype(np.int32)
        splits[part] = Split(store.images(rows), y.astype(np.int32), group)
    everyone = sorted(name for part in names.values() for name in part)
    for name, other in itertools.pairwise(everyone):
        if name == other:
            raise UserError(f"{listed.source}: the identity {name!r} is listed twice: merge its images")
    notes = (*listed.notes, *store.notes, *_notes(listed, of_train, parts, scarce, size, min_images))
    overlap = len(names["test"]) / max(len(everyone) - len(names["test"]), 1)  # of people, who are other ones at test
    return Dataset(
        splits, names["train"], listed.source, notes=notes, groups=listed.groups, kind="identification",
        overlap=overlap,
    )  # fmt: skip


def _check(
    listed: Listed, size: int, test: int, validation: int, train: int | None, scarce: str, share: float, least: int,
    bad_share: float,
) -> int:  # fmt: skip
    """Raises a UserError for a value out of its range; returns the number of the scarce group."""
    for name, value in (("size", size), ("test_identities", test), ("min_images", least)):
        if value < 1:
            raise UserError(f"config.data.{name}={value}: at least 1 is needed")
    if validation < 0:
        raise UserError(f"config.data.validation_identities={validation}: at least 0 is needed")
    if train is not None and train < 2:
        raise UserError(f"config.data.identities={train}: at least 2 are needed to train on, or None for all")
    if not 0 <= share < 1:
        raise UserError(f"config.data.removed_share={share}: a number from 0 to below 1 is needed")
    if not 0 <= bad_share <= 1:
        raise UserError(f"config.data.max_bad_share={bad_share}: a number from 0 to 1 is needed")
    if len(listed.groups) < 2:
        raise UserError(f"{listed.source} has only the group {', '.join(map(repr, listed.groups))}: two are needed")
    if scarce and scarce not in listed.groups:
        raise UserError(f"config.data.scarce_group={scarce!r}: choose one of {', '.join(listed.groups)}")
    if test + validation > len(listed.names) - 2:
        held_out = f"config.data.test_identities={test}"
        if validation:
            held_out += f", config.data.validation_identities={validation}"
        raise UserError(
            f"{held_out}: {listed.source} has {len(listed.names)} identities, and at least 2 "
            "must be left to train on; choose fewer"
        )
    return listed.groups.index(scarce or listed.groups[0])


def _draw_people(
    listed: Listed, *, seed: int, test: int, validation: int, train: int | None, min_images: int
) -> People:  # fmt: skip
    order = np.random.default_rng([seed, _PEOPLE]).permutation(len(listed.names))
    counts = np.bincount(listed.identity, minlength=len(listed.names))
    rest = order[test + validation :]
    enough = rest[counts[rest] >= min_images]
    if train is not None and train > len(enough):
        raise UserError(
            f"config.data.identities={train}: {len(enough)} identities with at least {min_images} images are left "
            "beside those held out for test; choose fewer, or None for all"
        )
    return People(*(np.sort(part) for part in (enough[:train], order[test : test + validation], order[:test])))


def _with_enough(rows: np.ndarray, identity: np.ndarray, least: int) -> np.ndarray:
    """Those of the images `rows` whose identity has at least `least` of them."""
    own = identity[rows]
    return rows[np.bincount(own)[own] >= least] if len(rows) else rows


def _thin(
    rows: np.ndarray, listed: Listed, scarce: int, *, share: float, min_images: int, seed: int
) -> np.ndarray:  # fmt: skip
    """Removes images of one group; see `identification`. Returns those of `rows` that stay."""
    few = rows[listed.group[listed.identity[rows]] == scarce]
    rng = np.random.default_rng([seed, _REMOVAL])
    order = rng.permutation(few)
    place = pd.Series(listed.identity[order]).groupby(listed.identity[order]).cumcount().to_numpy()
    # Drawn anew: in `order`, those that may go come sooner the more images their identity has.
    free = rng.permutation(order[place >= min_images])
    return np.setdiff1d(rows, free[: round(share * len(few))])


class _Store:
    """Where the images come from: memory, a prepared file, or their own files.

    Attributes:
      bad: rows of `listed.files` that are known to be unreadable.
      notes: for the reader of a result.
    """

    def __init__(
        self, listed: Listed, pool: np.ndarray, scored: np.ndarray, size: int, prepared: str, in_memory: bool,
        max_bad_share: float,
    ):  # fmt: skip
        self._listed, self._size, self._max_bad_share = listed, size, max_bad_share
        self._array: np.ndarray | None = None  # of the rows `self._pool`
        self._pool = pool
        self._prepared: host_images.PreparedImages | None = None
        failed: dict[int, str] = {}
        if prepared:
            path = Path(prepared).expanduser()
            path = path if path.suffix == ".npy" else path.with_name(f"{path.name}.npy")
            options = {"size": size, "max_bad_share": max_bad_share}
            self._prepared = host_images.open_prepared(listed.files, path, **options)
            failed = dict.fromkeys(self._prepared.bad, "found when the file was prepared")
            self._array = self._prepared[pool] if in_memory else None
        else:
            read = pool if in_memory else scored
            files = [listed.files[row] for row in read.tolist()]
            if in_memory:
                self._array, bad = host_images.decode(files, size=size)
            else:
                bad = host_images.unreadable(files, size=size)
            failed = {int(read[number]): why for number, why in bad.items()}
            shown = {str(listed.files[row]): why for row, why in failed.items()}
            host_images.check_share(shown, len(read), max_bad_share)
        self.bad = np.array(sorted(failed), np.int64)
        self.notes = ()
        if failed:
            names = ", ".join(f"{listed.files[row].parent.name}/{listed.files[row].name}" for row in self.bad[:5])
            more = ", …" if len(failed) > 5 else ""
            self.notes = (f"{len(failed)} images that cannot be read are left out: {names}{more}",)
            log.warning("%s", self.notes[0])

    def images(self, rows: np.ndarray) -> np.ndarray | HostArray:
        """The images at `rows`, sorted, of `listed.files`."""
        if self._array is not None:
            return self._array[np.searchsorted(self._pool, rows)]
        if self._prepared is not None:
            return host_images.Rows(self._prepared, rows)
        files = [self._listed.files[row] for row in rows.tolist()]
        return host_images.ImageFiles(
            files, size=self._size, identity=self._listed.identity[rows], max_bad_share=self._max_bad_share
        )


def _notes(
    listed: Listed, before: np.ndarray, parts: Mapping[str, np.ndarray], scarce: int, size: int, least: int
) -> tuple[str, ...]:
    """Of the images `before` any are removed, and of each part."""

    def counts(rows: np.ndarray) -> str:
        people = np.unique(listed.identity[rows])
        of_image = np.bincount(listed.group[listed.identity[rows]], minlength=len(listed.groups))
        of_person = np.bincount(listed.group[people], minlength=len(listed.groups))
        return ", ".join(
            f"{name} {i} images of {p}" for name, i, p in zip(listed.groups, of_image, of_person, strict=True)
        )

    after = parts["train"]
    removed = len(before) - len(after)
    few = int((listed.group[listed.identity[before]] == scarce).sum())
    people = {part: len(np.unique(listed.identity[rows])) for part, rows in parts.items()}
    held_out = ", ".join(f"{people[p]} identities held out for {p} ({counts(parts[p])})" for p in parts if p != "train")
    share = removed / max(few, 1)
    notes = [
        f"{held_out}, {people['train']} to train on ({counts(before)}), {size}×{size} pixels",
        f"{removed} of the {few} training images of group {listed.groups[scarce]!r} removed ({share:.1%}; at least "
        f"{least} of each identity stay): {counts(after)}",
    ]
    if left := len(listed.names) - sum(people.values()):
        notes.append(f"{left} identities are in no part: fewer than {least} images, or more than were asked for")
    return tuple(notes)
