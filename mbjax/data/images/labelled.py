"""`images`: a person's own images, from folders or from an `.npz` file."""

import errno
import math
import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from mbjax.data import imbalance as imbalance_lib
from mbjax.data.imbalance import imbalanced_parts
from mbjax.data.sources import DIR_OPTION, PATH_OPTION, find_own
from mbjax.data.splits import TEST_SHARE, VALIDATION_SHARE, encode_labels, split_indices
from mbjax.options import WHOLE, Option
from mbjax.types import Dataset, Split, UserError, first_line

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


OPTIONS = (  # of config.data
    PATH_OPTION,
    DIR_OPTION,
    Option("size", 32, WHOLE, "images of a folder become so many pixels wide and high"),
    TEST_SHARE,
    VALIDATION_SHARE,
    *imbalance_lib.options("none", majority_class=0),
)


def load(
    *,
    seed: int,
    path: str = "",
    dir: str = "",
    size: int = 32,
    test_share: float = 0.2,
    validation_share: float = 0.0,
    imbalance: str = "none",
    majority_class: int = 0,
    counts: Sequence[int] = (),
    ratio: float = 100.0,
    minority_counts: Sequence[int] = (5, 50),
    first: bool = False,
) -> Dataset:
    """Loads images of one's own.

    Args:
      seed: of the split and of every draw.
      path: a folder with one folder of images a class, or with `train/` and `test/` folders of such; or an `.npz` file
        (see `read_npz`). Absolute, or relative to the working directory, else to the data folder.
      dir: the data folder; see `mbjax.data.sources.data_dir`.
      size: the images of a folder become `size`×`size` pixels; those of an `.npz` file stay as they are.
      test_share: of all images, held out with each class's share kept, unless the data names its test images.
      validation_share: of the training part, after it was made imbalanced.
      imbalance: made in the training part alone: `"none"` (as it is), `"severe"`, `"moderate"`, `"long_tail"` or
        `"counts"`; what they are and what `majority_class`, `counts`, `ratio` and `minority_counts` do says
        `mbjax.data.imbalance.class_counts`.
      first: takes the first images of each class instead of drawn ones.

    Returns:
      `x` `[n, size, size, 3]` uint8, or as the `.npz` file has it. Classes are numbered in sorted order, but of two
      the rarer is number 1 (see `mbjax.data.splits.encode_labels`).

    Raises:
      UserError: a missing path, files that are no images, labels that do not fit, or a class too small.
    """
    place = _find(path, dir)
    data = read_npz(place) if place.is_file() else read_folder(place, size=size)
    y, classes, notes = encode_labels(pd.Series(data.labels))
    if data.classes:
        classes = tuple(data.classes[int(number)] for number in classes)
        notes = tuple(f"the positive class (number 1) is {classes[1]!r}, the rarer of the two" for _ in notes)
    if len(classes) < 2:
        raise UserError(f"{place} has only the class {', '.join(classes)!r}: at least two are needed")
    given = len(y) - data.tests
    index = {"train": np.arange(given), "test": np.arange(given, len(y))}
    if not data.tests:
        index = split_indices(y, seed=seed, test_share=test_share, classes=classes)
    for number in np.setdiff1d(y, y[index["train"]]).tolist():
        raise UserError(
            f"{place}: class {classes[number]!r} has test images and no training image: add some, or take its test "
            "images away"
        )
    train = index["train"]
    parts, note = imbalanced_parts(
        y[train], classes, seed=seed, source=place.name, imbalance=imbalance, majority_class=majority_class,
        counts=counts, ratio=ratio, minority_counts=minority_counts, first=first, validation_share=validation_share,
    )  # fmt: skip
    index = {**{part: train[kept] for part, kept in parts.items()}, "test": index["test"]}
    splits = {part: Split(data.x[i], y[i], origin=data.origin[i]) for part, i in index.items()}
    overlap = 0.0 if data.tests else len(index["test"]) / len(train)
    return Dataset(splits, classes, source=place.name, notes=(*data.notes, *notes, note), overlap=overlap)


class Labelled(NamedTuple):
    """What a folder or a file holds.

    Attributes:
      x: images, `[n, height, width, channels]`.
      labels: `[n]`, strings or numbers.
      tests: how many at the end are test images; 0 if the data does not say.
      classes: names of the numbers in `labels`, or none if `labels` holds the names.
      notes: for the reader of a result.
      origin: each image's file, below the folder, or its number in the `.npz` file, from 1.
    """

    x: np.ndarray
    labels: np.ndarray
    tests: int
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    origin: np.ndarray


def read_folder(root: Path, *, size: int) -> Labelled:
    """Reads the images below `root` as RGB of `size`×`size` pixels; names that begin with a dot are left out.

    The shorter side becomes `size` pixels and the middle is kept. Transparency is dropped, a camera's note of its
    orientation heeded.

    Raises:
      UserError: no folder a class, a folder without images, or a file that is no readable image.
    """
    if size < 1:
        raise UserError(f"config.data.size={size}: at least 1 pixel is needed")
    names = [folder.name for folder in _folders(root)]
    given = {"train", "test"} <= set(names)
    files = [[*_files(root / part)] for part in ("train", "test")] if given else [[*_files(root)], []]
    listed = [file for part in files for file in part]
    x = decode([file for _, file in listed], size=size)
    notes = [f"{len(x)} images made {size}×{size} pixels"]
    if given and (others := [name for name in names if name not in ("train", "test")]):
        notes.append(f"folders beside train and test left out: {', '.join(others)}")
    origin = np.array([str(file.relative_to(root)) for _, file in listed])
    return Labelled(x, np.array([label for label, _ in listed]), len(files[1]), (), tuple(notes), origin)


def decode(files: Sequence[Path], *, size: int) -> np.ndarray:
    """Reads image files, `[n, size, size, 3]` uint8: RGB, the shorter side resized to `size`, the middle kept.

    Raises:
      UserError: a file that is no readable image; the message names the first and counts the others.
    """
    x = np.empty((len(files), size, size, 3), np.uint8)

    def read(number: int) -> str:
        try:
            x[number] = decode_one(files[number], size)
            return ""
        except BadImage as error:
            return f"{files[number]} is no readable image ({error})"

    with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes without the interpreter's lock
        failed = [message for message in pool.map(read, range(len(files))) if message]
    if failed:
        more = f", and {len(failed) - 1} more are not" if len(failed) > 1 else ""
        raise UserError(f"{failed[0]}{more}: repair, replace or remove it")
    return x


class BadImage(Exception):
    """An image file that cannot be decoded."""


def decode_one(file: Path, size: int) -> np.ndarray:
    """Reads one image, `[size, size, 3]` uint8, as `decode` does.

    Raises:
      BadImage: it cannot be decoded; its message is the name of what Pillow raised.
      OSError: no file can be opened for now.
    """
    try:
        return _decode(file, size)
    except Exception as error:  # which errors a damaged file makes Pillow raise depends on the format
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        raise BadImage(type(error).__name__) from None


def _decode(file: Path, size: int) -> np.ndarray:
    with Image.open(file) as image:
        image.draft("RGB", (2 * size, 2 * size))  # a JPEG much larger than this is decoded at a fraction of its size
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.has_transparency_data:
            image = image.convert("RGBA")  # a palette's transparency ends here; else Pillow warns of it
        return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC))


def read_npz(path: Path) -> Labelled:
    """Reads images and labels from an `.npz` file.

    Its arrays: `x` `[n, side, side]` or `[n, side, side, channels]`, uint8 or floating (taken as they are); `y` `[n]`,
    strings or whole numbers; if there, `x_test` and `y_test` of the same form, and `classes`, the names of the numbers
    in `y`.

    Raises:
      UserError: arrays that are missing or of another form.
    """
    arrays = read_arrays(path)
    needed = ["x", "y"] + (["x_test", "y_test"] if {"x_test", "y_test"} & set(arrays) else [])
    if lacking := [name for name in needed if name not in arrays]:
        raise UserError(
            f"{path} has no array {', '.join(lacking)} (it has {', '.join(arrays)}): save it under this name"
        )
    x, y = _images_and_labels(arrays, "x", "y", path)
    tests = 0
    if "x_test" in arrays:
        x_test, y_test = _images_and_labels(arrays, "x_test", "y_test", path)
        if x_test.shape[1:] != x.shape[1:] or x_test.dtype != x.dtype or y_test.dtype.kind != y.dtype.kind:
            raise UserError(
                f"{path}: x_test and y_test are {x_test.dtype} {x_test.shape} and {y_test.dtype}, x and y are "
                f"{x.dtype} {x.shape} and {y.dtype}: save both in one form"
            )
        x, y, tests = np.concatenate([x, x_test]), np.concatenate([y, y_test]), len(y_test)
    classes = tuple(str(name) for name in arrays.get("classes", np.empty(0)).ravel())
    if classes and (y.dtype.kind not in "iu" or np.unique(y).tolist() != list(range(len(classes)))):
        raise UserError(
            f"{path}: classes names {len(classes)} classes, so y must hold the numbers 0 to {len(classes) - 1}, "
            f"each at least once; it holds {', '.join(map(str, np.unique(y)[:20]))}: correct one of them"
        )
    return Labelled(x, y, tests, classes, (), np.arange(len(y)) + 1)


def _images_and_labels(
    arrays: dict[str, np.ndarray], images: str, labels: str, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    x, y = arrays[images], arrays[labels]
    if x.ndim == 3:
        x = x[..., np.newaxis]
    if x.ndim != 4 or x.shape[1] != x.shape[2] or 0 in x.shape:
        raise UserError(
            f"{path}: {images} is {arrays[images].shape}, square images [n, side, side] or [n, side, side, channels] "
            "are needed: crop or pad them"
        )
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise UserError(f"{path}: {images} is {x.dtype}: save it as uint8 (0 to 255) or floating")
    if y.shape == (len(x), 1):  # as Keras has it
        y = y[:, 0]
    if y.shape != (len(x),):
        raise UserError(f"{path}: {images} has {len(x)} images and {labels} is {y.shape}: a label for each is needed")
    if y.dtype.kind not in "iubUf" or (y.dtype.kind == "f" and not (y % 1 == 0).all()):
        raise UserError(f"{path}: {labels} is {y.dtype}: strings or whole numbers are needed")
    if x.dtype == np.uint8:
        return x, y
    finite = np.isfinite(x).reshape(len(x), -1).all(1)
    if not finite.all():
        raise UserError(
            f"{path}: {(~finite).sum()} images in {images} have values that are not finite, the first is number "
            f"{finite.argmin()}: replace or remove them"
        )
    return x.astype(np.float32), y


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of an `.npz` file, unless they hold Python objects.

    Raises:
      UserError: a file that is no `.npz` or is damaged, or arrays of objects.
    """
    try:
        _check_sizes(path)
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # whatever a damaged archive, its compression or a hostile header makes them raise
        why = first_line(error)
        if "not a zip" in why or "allow_pickle" in why:  # what NumPy advises runs code
            why = "it is no .npz file, or holds Python objects: save strings and numbers with np.savez"
        raise UserError(f"{path} cannot be read as arrays: {why}") from None


def _check_sizes(path: Path) -> None:
    """Refuses an `.npz` file whose arrays are not as large as the file says, or larger than the memory; reads no array.

    Raises:
      ValueError, zipfile.BadZipFile: one of these, or no archive of arrays.
    """
    total, memory = 0, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(member)
                held = info.file_size - member.tell()
            if not dtype.hasobject and held != (claimed := math.prod(shape) * dtype.itemsize):
                raise ValueError(f"its array {info.filename} claims {claimed:,} bytes and has {held:,}")
            total += info.file_size
    if total > memory:
        raise ValueError(f"its arrays take {total / 2**30:.1f} GiB, the memory has {memory / 2**30:.1f} GiB")


def _find(path: str, dir: str) -> Path:
    place = find_own(path, dir, wanted="a folder of images or an .npz file")
    if place.is_file() and place.suffix != ".npz":
        raise UserError(f"config.data.path={path!r}: a folder of images or an .npz file is needed")
    return place


def _folders(root: Path) -> list[Path]:
    return sorted(place for place in root.iterdir() if place.is_dir() and not place.name.startswith("."))


def _files(root: Path) -> list[tuple[str, Path]]:
    """The images below each class's folder, with the class's name, in sorted order."""
    folders = _folders(root)
    if not folders:
        raise UserError(f"{root} has no folder for a class: put the images of each class into a folder of its name")
    files = []
    for folder in folders:
        found = sorted(
            file
            for file in folder.rglob("*")
            if file.suffix.lower() in SUFFIXES
            and file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        )
        if not found:
            raise UserError(f"{folder} holds no image ({' '.join(SUFFIXES)}): add some or remove the folder")
        files += [(folder.name, file) for file in found]
    return files
