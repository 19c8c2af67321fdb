"""`celeba`: CelebA (Liu et al. 2015) in its official layout, with one group scarce in training as in the paper.

TensorFlow Datasets' `celeb_a` has attributes but no identities, so it cannot serve here.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbjax.data.images.labelled import SUFFIXES
from mbjax.data.people.protocol import Listed, Protocol, identification
from mbjax.data.sources import DIR_OPTION, data_dir
from mbjax.options import TEXT, Option
from mbjax.types import Dataset, UserError

ORIGIN = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
IMAGES, IDENTITIES, ATTRIBUTES, PARTITION = (
    "img_align_celeba", "identity_CelebA.txt", "list_attr_celeba.txt", "list_eval_partition.txt"
)  # fmt: skip
_PLACES = ("", "Img", "Anno", "Eval")  # flat, or in the folders of the official download
_AGAIN = f"get it again from {ORIGIN}"


PROTOCOL = Protocol(size=112, test_identities=1000)
OPTIONS = (  # of config.data
    DIR_OPTION,
    Option("group", "Male", TEXT, "the attribute that makes the groups"),
    *PROTOCOL.options(),
)


def load(
    *,
    seed: int,
    dir: str = "",
    group: str = "Male",
    **protocol: Any,
) -> Dataset:
    """Loads CelebA: identities held out for test, and few training images of one group.

    Needed in `celeba/` in the data folder, or in the data folder itself: the folder `img_align_celeba` and the files
    `identity_CelebA.txt` and `list_attr_celeba.txt`, side by side or in `Img` and `Anno` as they are published.
    `list_eval_partition.txt` is checked if it is there; its parts are not used.

    Args:
      seed: of all draws.
      dir: the data folder; see `mbjax.data.sources.data_dir`.
      group: the attribute that makes the groups: `"Male"`, whose groups are female (number 0) and male, or another,
        whose groups are `not X` and `X`. An identity is in the group of most of its images (of a tie, in that of those
        that have the attribute), and all its images with it.
      **protocol: see `mbjax.data.people.protocol.Protocol`. Of the images, 178×218 pixels, the middle is kept. Up to
        `max_bad_share` of the annotated images may also be missing, and of the images in the folder have no annotation.
        They are left out, named and counted.

    Returns:
      As `mbjax.data.people.protocol.identification`; `classes` are the numbers that CelebA gives to its identities.

    Raises:
      UserError: a file that is missing or of another form, files that do not name the same images, or what
        `identification` raises.
    """
    how = dataclasses.replace(PROTOCOL, **protocol)
    return identification(read(_locate(dir), group=group, max_bad_share=how.max_bad_share), how, seed=seed)


class Layout(NamedTuple):
    """Where the parts of CelebA lie; `partition` may be missing."""

    images: Path
    identities: Path
    attributes: Path
    partition: Path | None


def _locate(dir: str) -> Layout:
    folders = [data_dir(dir) / "celeba", data_dir(dir)]
    for folder in folders:
        found = {
            name: next((folder / place / name for place in _PLACES if (folder / place / name).exists()), None)
            for name in (IMAGES, IDENTITIES, ATTRIBUTES, PARTITION)
        }
        images, identities, attributes, partition = found.values()
        if images and identities and attributes:
            return Layout(images, identities, attributes, partition)
        if any(found.values()):
            lacking = [name for name in (IMAGES, IDENTITIES, ATTRIBUTES) if not found[name]]
            raise UserError(f"{folder} has no {', '.join(lacking)}: get it from {ORIGIN}, unpacked, and put it there")
    raise UserError(
        f"no {IMAGES} in {folders[0]} or {folders[1]}: get {IMAGES} (unpacked), {IDENTITIES} and {ATTRIBUTES} from "
        f"{ORIGIN} and put them there, or name their folder with --config.data.dir=DIR or MBJAX_DATA_DIR"
    )


def read(layout: Layout, *, group: str, max_bad_share: float) -> Listed:
    """Lists CelebA; no image is read. See `load`."""
    people, has = read_identities(layout.identities), read_attribute(layout.attributes, group)
    tables: dict[Path, dict[str, int]] = {layout.attributes: has}
    if layout.partition:
        tables[layout.partition] = read_partition(layout.partition)
    for path, table in tables.items():
        if table.keys() != people.keys():
            name = min(table.keys() ^ people.keys())
            one, other = (path, layout.identities) if name in table else (layout.identities, path)
            raise UserError(
                f"{one} names the image {name} and {other.name} does not ({len(table)} and {len(people)} images): "
                f"one of them is not the official file, {_AGAIN}"
            )
    files, note = _present(layout.images, list(people), max_bad_share)
    numbers, identity = np.unique([people[file.name] for file in files], return_inverse=True)
    attribute = np.array([has[file.name] for file in files])
    share = np.bincount(identity, attribute) / np.bincount(identity)
    majority = (share >= 0.5).astype(np.int64)
    mixed, differing = int(((share > 0) & (share < 1)).sum()), int((attribute != majority[identity]).sum())
    notes = (*note, f"{mixed} identities have images with and without {group!r}: they count by the majority of their "
             f"images, {differing} images differ from it") if mixed else note  # fmt: skip
    groups = ("female", "male") if group == "Male" else (f"not {group}", group)
    return Listed(files, identity, tuple(map(str, numbers)), majority, groups, "CelebA", notes)


def _present(folder: Path, names: list[str], max_bad_share: float) -> tuple[list[Path], tuple[str, ...]]:
    """The annotated images that are there, and notes of those that are not and of those without annotation."""
    with os.scandir(folder) as entries:  # one pass over 200,000 names in place of as many questions
        there = {entry.name for entry in entries if Path(entry.name).suffix.lower() in SUFFIXES}
    annotated, notes = set(names), []
    missing, extra = sorted(annotated - there), sorted(there - annotated)
    for what, odd, total in (
        ("annotated images are missing", missing, len(annotated)),
        ("images have no annotation", extra, len(there)),
    ):
        if not odd:
            continue
        note = f"{len(odd)} of {total} {what}: {', '.join(odd[:3])}{', …' if len(odd) > 3 else ''}"
        if len(odd) > max_bad_share * total or len(missing) == len(annotated):
            raise UserError(
                f"{folder}: {note}; more than config.data.max_bad_share={max_bad_share} allows: unpack "
                f"{IMAGES}.zip anew, or raise --config.data.max_bad_share to leave them out"
            )
        notes.append(f"{note}; left out")
    left = annotated & there
    return [folder / name for name in names if name in left], tuple(notes)


def read_identities(path: Path) -> dict[str, int]:
    """Reads `identity_CelebA.txt`: a line `000001.jpg 2880` an image, ends of line as in Unix or Windows."""
    return _pairs(path, _lines(path), "000001.jpg 2880")


def read_partition(path: Path) -> dict[str, int]:
    """Reads `list_eval_partition.txt`: a line `000001.jpg 0` an image; 0 is training, 1 validation, 2 test."""
    return _pairs(path, _lines(path), "000001.jpg 0")


def _pairs(path: Path, lines: list[str], example: str) -> dict[str, int]:
    table: dict[str, int] = {}
    if not lines:
        raise UserError(f"{path} is empty: {_AGAIN}")
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if len(fields) != 2 or not fields[1].isdecimal():
            raise UserError(f"{path} line {number} is {line[:60]!r}, not like {example!r}: {_AGAIN}")
        _add(table, fields[0], int(fields[1]), path, number)
    return table


def read_attribute(path: Path, name: str) -> dict[str, int]:
    """Reads one attribute of `list_attr_celeba.txt`.

    Its first line is the number of images, its second the attributes' names; then comes a line an image: the file and
    1 or -1 for each attribute, padded with spaces.

    Returns:
      1 or 0 for each image.

    Raises:
      UserError: another form of file, or no such attribute.
    """
    lines = _lines(path)
    if len(lines) < 2 or not lines[0].strip().isdecimal():
        raise UserError(f"{path} does not begin with the number of images and the attributes' names: {_AGAIN}")
    count, attributes = int(lines[0]), lines[1].split()
    if name not in attributes:
        raise UserError(
            f"config.data.group={name!r}: {path.name} has no such attribute; it has {', '.join(attributes)}"
        )
    if count != len(lines) - 2:
        raise UserError(f"{path} announces {count} images and has {len(lines) - 2}: it is cut off, {_AGAIN}")
    column, table = 1 + attributes.index(name), {}
    for number, line in enumerate(lines[2:], 3):
        fields = line.split()
        if len(fields) != 1 + len(attributes) or fields[column] not in ("1", "-1"):
            raise UserError(
                f"{path} line {number} is {line[:40]!r}, not an image and {len(attributes)} values of 1 or -1: {_AGAIN}"
            )
        _add(table, fields[0], int(fields[column] == "1"), path, number)
    return table


def _add(table: dict[str, int], image: str, value: int, path: Path, number: int) -> None:
    if image in table:
        raise UserError(f"{path} line {number} names the image {image} a second time: {_AGAIN}")
    table[image] = value


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): {_AGAIN}") from None
