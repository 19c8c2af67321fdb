"""Data sets: `load` reads one by its task's name and checks that one can train and test on it."""

import hashlib
import inspect
from collections.abc import Iterable
from typing import Any

import numpy as np

from mbjax.data import sources
from mbjax.data.images import cifar10, digits
from mbjax.data.images import labelled as images
from mbjax.data.people import celeba, faces
from mbjax.data.tables import fraud, loan, suites, table, table_options, tabular
from mbjax.registry import Registry
from mbjax.types import Dataset, UserError, count_classes

DATASETS = Registry[Any]("mbjax.datasets", {
    "digits": digits.load,
    "fraud": fraud.load,
    "loan": loan.load,
    "tabular": tabular.load,
    "table": table.load,
    **suites.SUITES,
    "cifar10": cifar10.load,
    "images": images.load,
    "celeba": celeba.load,
    "faces": faces.load,
})  # fmt: skip
"""Each task's loader, `load(*, seed, …) -> Dataset`; its options are the keys of `config.data`."""
COMMON_OPTIONS = (sources.DIR_OPTION, sources.PATH_OPTION, table_options.TARGET_OPTION)
"""What every section `data` has, whether its task uses it or not."""


def load(task: str, *, seed: int, **options: Any) -> Dataset:
    """Loads a data set.

    Args:
      task: a name of `DATASETS`.
      seed: of the split and of every draw.
      **options: `config.data`. Options that are unset (`""`, `None` or `()`) are left to the loader's default.

    Returns:
      The data set: two classes or more, each with an example in every split, and finite features. For identification,
      two people or more to train on, each with an example, and no split without a group.

    Raises:
      UserError: an unknown task, an option that the task does not take, or data that one cannot train and test on.
    """
    loader = DATASETS.find(task, "config.task")
    declared = [option.name for option in DATASETS.options(task, "config.task")]
    own = [p.name for p in inspect.signature(loader).parameters.values() if p.kind is p.KEYWORD_ONLY]
    known = [name for name in dict.fromkeys([*own, *declared]) if name != "seed"]
    options = {name: value for name, value in options.items() if value is not None and value not in ("", ())}
    if "dir" not in known:  # data that ships with a library is found whatever folder is named
        options.pop("dir", None)
    for name, value in options.items():
        if name not in known:
            raise UserError(
                f"config.data.{name}={value!r}: task {task!r} takes no such option; it takes {', '.join(known)}"
            )
    dataset = loader(seed=seed, **options)
    check(dataset)
    return dataset


def check(dataset: Dataset) -> None:
    """Raises a UserError if one cannot train and test on the data.

    That is: a split is missing or has another number of labels than of examples, a label is not a class number, a class
    is missing from a split, or a feature is not finite.
    """
    for part in ("train", "test"):
        if part not in dataset.splits:
            raise UserError(f"{dataset.source}: there is no {part!r} split among {', '.join(dataset.splits) or 'none'}")
    for part, split in dataset.splits.items():
        if len(split.x) != len(split.y):
            raise UserError(f"{dataset.source}: the {part} split has {len(split.x)} examples and {len(split.y)} labels")
        numbered = part == "train" or dataset.kind == "classification"  # people of the other splits have numbers apart
        if numbered and not (np.issubdtype(split.y.dtype, np.integer) and _within(split.y, len(dataset.classes))):
            raise UserError(
                f"{dataset.source}: the {part} labels must be class numbers, whole numbers from 0 to "
                f"{len(dataset.classes) - 1}"
            )
    if len(dataset.classes) < 2:
        only = f"only {dataset.classes[0]!r}" if dataset.classes else "none"
        raise UserError(f"{dataset.source}: at least two classes are needed, the labels hold {only}")
    if dataset.kind == "identification":
        _check_identification(dataset)
        return
    counts = {part: count_classes(split.y, len(dataset.classes)) for part, split in dataset.splits.items()}
    for part, split in dataset.splits.items():
        for number in np.flatnonzero(counts[part] == 0):
            share = "validation_share" if part == "validation" else "test_share"
            raise UserError(
                f"{dataset.source}: class {dataset.classes[number]!r} has no {part} example "
                f"({', '.join(f'{name} {count[number]}' for name, count in counts.items())}): merge it with another "
                f"class, drop its rows, or change the split with --config.data.{share} or --config.seed"
            )
        in_memory = isinstance(split.x, np.ndarray)  # what is read by index its loader has checked
        if in_memory and np.issubdtype(split.x.dtype, np.floating) and not np.isfinite(split.x).all():
            raise UserError(f"{dataset.source}: the {part} features are not all finite; are there values beyond 1e38?")


def _within(y: np.ndarray, classes: int) -> bool:
    return len(y) == 0 or (int(y.min()) >= 0 and int(y.max()) < classes)


def _check_identification(dataset: Dataset) -> None:
    """Raises a UserError if a split lacks a group, or a training identity an image."""
    for number in np.flatnonzero(dataset.class_counts == 0):
        raise UserError(f"{dataset.source}: the identity {dataset.classes[number]!r} has no training image: remove it")
    for part, split in dataset.splits.items():
        groups = np.zeros(len(split), np.int32) if split.group is None else split.group
        counts = np.bincount(groups, minlength=len(dataset.groups))
        held_out = "validation_identities" if part == "validation" else "test_identities"
        for number in np.flatnonzero(counts == 0):
            raise UserError(
                f"{dataset.source}: group {dataset.groups[number]!r} has no {part} image "
                f"({', '.join(f'{name} {count}' for name, count in zip(dataset.groups, counts, strict=True))}): change "
                f"--config.data.{held_out}, --config.data.identities or --config.seed, or add people of that group"
            )


def describe(dataset: Dataset) -> dict[str, Any]:
    """What a result says of its data: source, notes, and training and test examples of each class, or of each group."""
    names, key = (dataset.classes, "class") if dataset.kind == "classification" else (dataset.groups, "group")
    numbers = {part: s.y if key == "class" else s.group for part, s in dataset.splits.items()}
    counts = {part: count_classes(n, len(names)).tolist() for part, n in numbers.items() if n is not None}
    plural = "classes" if key == "class" else "groups"
    return {
        "source": dataset.source, "notes": list(dataset.notes), plural: list(names), f"{key}_counts": counts,
        "overlap": dataset.overlap,
    }  # fmt: skip


def digest(dataset: Dataset, parts: Iterable[str] = ("train", "validation", "test")) -> str:
    """A digest of the examples of these parts, as far as the data set has them."""
    sha = hashlib.sha256()
    for split in (dataset.splits[part] for part in parts if part in dataset.splits):
        arrays = [split.y] if split.weight is None else [split.y, split.weight]
        if isinstance(split.x, np.ndarray):
            arrays.insert(0, split.x)
        else:
            sha.update(split.x.digest.encode())
        for array in arrays:
            sha.update(f"{array.dtype}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
