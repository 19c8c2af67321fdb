"""Identities that are held out for test, and training images of which one group has few: the paper's section 5.3.

The protocol of every data set of people, which `mbjax.data.people.celeba` and `mbjax.data.people.faces` list.
"""

import dataclasses
import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mbjax.data.images import host_images
from mbjax.options import FLAG, NUMBER, TEXT, WHOLE, Kind, Option
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


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How identities are held out and one group is made scarce in training.

    1. `test_identities` identities are drawn for test and keep all their images, the only one included. Of the others
       `validation_identities` are drawn and scored alike, so that settings can be chosen without the test people.
    2. All others are trained on, but for those with fewer than `min_images` images; or a draw of `identities` of them.
    3. Of all training images of the scarce group, the share `removed_share` is removed at random, from all its
       identities alike; but `min_images` of each, drawn before, stay. Where these are more than what should be left
       (10% of CelebA's images are about 2 a person), as many are removed as can be.

    Who is drawn does not depend on the share, the group or the images that cannot be read. Who is drawn for test does
    not depend on `validation_identities` either.

    Attributes:
      size: the images become `size`×`size` pixels; see `mbjax.data.images.host_images.decode`.
      test_identities: as above, as are `validation_identities` (0 for no validation split), `identities` (None for
        all), `removed_share` and `min_images`.
      scarce_group: the name of a group; the first if empty.
      prepared: an `.npy` file that holds all listed images in this size, made if it is not there; see
        `mbjax.data.images.host_images.prepare`. Empty for none.
      in_memory_bytes: the images are held in memory, and go to the device whole, if those of all drawn identities take
        at most this many bytes.
      on_host: reads the images from the host in any case.
      max_bad_share: of the images, the share that may be unreadable. They are left out if there is a prepared file, if
        the images are held in memory and in the parts that are scored. Among training images read from their files
        another image of the same person stands in; see `mbjax.data.images.host_images.ImageFiles`.
    """

    size: int = 32
    test_identities: int = 100
    validation_identities: int = 0
    identities: int | None = None
    scarce_group: str = ""
    removed_share: float = 0.9
    min_images: int = 2
    prepared: str = ""
    in_memory_bytes: int = 256 * 2**20
    on_host: bool = False
    max_bad_share: float = 0.01

    def options(self) -> tuple[Option, ...]:
        """The keys of `config.data`, with these values for defaults."""
        declared: dict[str, tuple[Kind, str]] = {
            "size": (WHOLE, "images become so many pixels wide and high"),
            "test_identities": (WHOLE, "how many people are held out for test"),
            "validation_identities": (WHOLE, "more of them, scored as validation: to choose settings by"),
            "identities": (WHOLE, "how many people to train on; all others if unset"),
            "scarce_group": (TEXT, "the group with few training images; the first if empty"),
            "removed_share": (NUMBER, "the share of that group's training images that is removed"),
            "min_images": (WHOLE, "images that each person to train on has, at least"),
            "prepared": (TEXT, "an .npy file that holds all images, made if it is not there; none if empty"),
            "in_memory_bytes": (WHOLE, "images of up to so many bytes together are held in memory"),
            "on_host": (FLAG, "reads images from the host in any case"),
            "max_bad_share": (NUMBER, "the share of images that may be unreadable"),
        }
        return tuple(Option(name, getattr(self, name), kind, help) for name, (kind, help) in declared.items())

    def check(self, listed: Listed) -> int:
        """Raises a UserError for a value out of its range; returns the number of the scarce group."""
        test, validation, train = self.test_identities, self.validation_identities, self.identities
        for name, least in (("size", 1), ("test_identities", 1), ("min_images", 1), ("validation_identities", 0)):
            if getattr(self, name) < least:
                raise UserError(f"config.data.{name}={getattr(self, name)}: at least {least} is needed")
        if train is not None and train < 2:
            raise UserError(f"config.data.identities={train}: at least 2 are needed to train on, or None for all")
        if not 0 <= self.removed_share < 1:
            raise UserError(f"config.data.removed_share={self.removed_share}: a number from 0 to below 1 is needed")
        if not 0 <= self.max_bad_share <= 1:
            raise UserError(f"config.data.max_bad_share={self.max_bad_share}: a number from 0 to 1 is needed")
        if len(listed.groups) < 2:
            raise UserError(f"{listed.source} has only the group {', '.join(map(repr, listed.groups))}: two are needed")
        if self.scarce_group and self.scarce_group not in listed.groups:
            raise UserError(f"config.data.scarce_group={self.scarce_group!r}: choose one of {', '.join(listed.groups)}")
        if test + validation > len(listed.names) - 2:
            held_out = f"config.data.test_identities={test}"
            if validation:
                held_out += f", config.data.validation_identities={validation}"
            raise UserError(
                f"{held_out}: {listed.source} has {len(listed.names)} identities, and at least 2 "
                "must be left to train on; choose fewer"
            )
        return listed.groups.index(self.scarce_group or listed.groups[0])


def identification(listed: Listed, protocol: Protocol, *, seed: int) -> Dataset:
    """Holds identities out and makes one group scarce in training.

    Args:
      listed: the images.
      protocol: how.
      seed: of all draws.

    Returns:
      `kind="identification"`; `x` `[n, size, size, 3]` uint8, an array or a `HostArray`; `y` numbers the identities of
      each split in `listed.names`' order, each split from 0; `group` is that of the identity. `classes` are the
      training identities.

    Raises:
      UserError: a value out of its range, a part without a group, or images that cannot be read.
    """
    scarce = protocol.check(listed)
    people = _draw_people(listed, protocol, seed=seed)
    of_train, *scored = (np.flatnonzero(np.isin(listed.identity, part)) for part in people)
    store = _Store(listed, np.sort(np.concatenate([of_train, *scored])), np.sort(np.concatenate(scored)), protocol)
    of_train = _with_enough(of_train[~np.isin(of_train, store.bad)], listed.identity, protocol.min_images)
    of_validation, of_test = (rows[~np.isin(rows, store.bad)] for rows in scored)
    kept = _thin(of_train, listed, scarce, share=protocol.removed_share, min_images=protocol.min_images, seed=seed)
    parts = {"train": kept, "validation": of_validation, "test": of_test}
    if not protocol.validation_identities:
        del parts["validation"]
    splits, names = {}, {}
    for part, rows in parts.items():
        numbers, y = np.unique(listed.identity[rows], return_inverse=True)
        names[part] = tuple(listed.names[number] for number in numbers)
        group = listed.group[listed.identity[rows]].astype(np.int32)
        files = [] if part == "train" else [listed.files[row] for row in rows.tolist()]  # of those that are scored
        origin = np.array([f"{file.parent.name}/{file.name}" for file in files]) if files else None
        splits[part] = Split(store.images(rows), y.astype(np.int32), group, origin=origin)
    everyone = sorted(name for part in names.values() for name in part)
    for name, other in itertools.pairwise(everyone):
        if name == other:
            raise UserError(f"{listed.source}: the identity {name!r} is listed twice: merge its images")
    notes = (
        *listed.notes, *store.notes, *_notes(listed, of_train, parts, scarce, protocol.size, protocol.min_images),
    )  # fmt: skip
    overlap = len(names["test"]) / max(len(everyone) - len(names["test"]), 1)  # of people, who are other ones at test
    return Dataset(
        splits, names["train"], listed.source, notes=notes, groups=listed.groups, kind="identification",
        overlap=overlap,
    )  # fmt: skip


def _draw_people(listed: Listed, protocol: Protocol, *, seed: int) -> People:
    test, validation, train = protocol.test_identities, protocol.validation_identities, protocol.identities
    order = np.random.default_rng([seed, _PEOPLE]).permutation(len(listed.names))
    counts = np.bincount(listed.identity, minlength=len(listed.names))
    rest = order[test + validation :]
    enough = rest[counts[rest] >= protocol.min_images]
    if train is not None and train > len(enough):
        raise UserError(
            f"config.data.identities={train}: {len(enough)} identities with at least {protocol.min_images} images are "
            "left beside those held out for test; choose fewer, or None for all"
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

    def __init__(self, listed: Listed, pool: np.ndarray, scored: np.ndarray, protocol: Protocol):
        size, max_bad_share = protocol.size, protocol.max_bad_share
        in_memory = not protocol.on_host and len(pool) * size * size * 3 <= protocol.in_memory_bytes
        self._listed, self._size, self._max_bad_share = listed, size, max_bad_share
        self._array: np.ndarray | None = None  # of the rows `self._pool`
        self._pool = pool
        self._prepared: host_images.PreparedImages | None = None
        failed: dict[int, str] = {}
        if protocol.prepared:
            path = Path(protocol.prepared).expanduser()
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
