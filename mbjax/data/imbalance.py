"""The paper's imbalances, made from balanced data: counts of each class, and the draw of the examples."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mbjax.data.splits import hold_out
from mbjax.options import FLAG, NUMBER, TEXT, WHOLE, WHOLES, Option
from mbjax.types import UserError

DRAWN = "(drawn by seed)"  # in the note of data whose examples each seed draws anew
_SEVERE = 5  # examples of each minority class


def one_majority(
    classes: int, majority_class: int, minority_count: int, majority_count: int | None = None
) -> dict[int, int]:
    """Counts for `subsample`: one large class, whole if `majority_count` is None, among small ones of equal size.

    The paper's severe imbalance has `minority_count=5`.
    """
    if not 0 <= majority_class < classes:
        raise UserError(f"config.data.majority_class={majority_class}: choose one of 0 to {classes - 1}")
    counts = {number: minority_count for number in range(classes) if number != majority_class}
    return counts if majority_count is None else {**counts, majority_class: majority_count}


def uniform_minorities(
    sizes: Sequence[int], majority_class: int, minority_counts: Sequence[int], *, seed: int | Sequence[int]
) -> list[int]:
    """Counts for `subsample`: one class whole, each other a number drawn uniformly, ends included.

    The paper's moderate imbalance has `minority_counts=(5, 50)`.
    """
    low, high = _ends(minority_counts)
    drawn = np.random.default_rng(seed).integers(low, high, len(sizes), endpoint=True).tolist()
    return [size if i == majority_class else n for i, (size, n) in enumerate(zip(sizes, drawn, strict=True))]


def long_tail(sizes: Sequence[int], ratio: float) -> list[int]:
    """Counts for `subsample` that fall exponentially from the first class to the last.

    `n_i = n_0 · ratio^(-i / (C - 1))`, rounded down but 1 at least (Cui et al. 2019, arXiv:1901.05555). `n_0` is the
    largest number for which every class has enough: of balanced classes their size.
    """
    if not (math.isfinite(ratio) and ratio >= 1):
        raise UserError(f"config.data.ratio={ratio}: a number of at least 1 is needed, the first class over the last")
    share = [ratio ** (-i / (len(sizes) - 1)) for i in range(len(sizes))]
    most = min(size / part for size, part in zip(sizes, share, strict=True))
    return [max(1, math.floor(most * part + 1e-9)) for part in share]  # 5000 · 100^-1 is 50 in spite of rounding


def options(imbalance: str, majority_class: int) -> tuple[Option, ...]:
    """The options of a data set whose training part can be made imbalanced, with these defaults."""
    return (
        Option("imbalance", imbalance, TEXT, "made in the training part: none, severe, moderate, long_tail or counts"),
        Option("majority_class", majority_class, WHOLE, "the number of the class that stays whole"),
        Option("counts", (), WHOLES, "images of each class; of the imbalance counts"),
        Option("ratio", 100.0, NUMBER, "of long_tail: the first class over the last"),
        Option("minority_counts", (5, 50), WHOLES, "of moderate: the smallest and the largest count"),
        Option("first", False, FLAG, "whether the first images of each class are taken, not drawn ones"),
    )


def class_counts(
    imbalance: str,
    y: np.ndarray,
    classes: Sequence[str],
    *,
    seed: int | Sequence[int],
    source: str,
    majority_class: int,
    counts: Sequence[int] = (),
    ratio: float = 100.0,
    minority_counts: Sequence[int] = (5, 50),
    published: Mapping[str, Sequence[int]] | None = None,
) -> list[int]:
    """Counts for `subsample` of a named imbalance.

    Args:
      imbalance: `"none"` (everything), `"severe"` (one class whole, 5 of each other), `"moderate"` (see
        `uniform_minorities`), `"long_tail"` (see `long_tail`), `"counts"` (those given), or a key of `published`.
      y: class numbers of the examples to draw from, `[n]`.
      classes: the class names in the order of the class numbers.
      seed: of the counts that are drawn.
      source: the data's name, for messages.
      majority_class: the number of the class that stays whole.
      counts: of each class, for `"counts"`.
      ratio: of `"long_tail"`: the first class over the last.
      minority_counts: of `"moderate"`: the smallest and the largest count.
      published: counts of more imbalances by their names.

    Raises:
      UserError: an unknown imbalance, a value out of range, or a class with fewer examples than wanted.
    """
    sizes: list[int] = np.bincount(y, minlength=len(classes)).tolist()
    severe = one_majority(len(classes), majority_class, _SEVERE)  # checks the class, whatever the imbalance
    makers: dict[str, Callable[[], Sequence[int]]] = {
        "none": lambda: sizes,
        "severe": lambda: [severe.get(i, size) for i, size in enumerate(sizes)],
        "moderate": lambda: uniform_minorities(sizes, majority_class, minority_counts, seed=seed),
        "long_tail": lambda: long_tail(sizes, ratio),
        "counts": lambda: _given(counts, len(classes)),
        **{name: lambda fixed=fixed: fixed for name, fixed in (published or {}).items()},
    }
    if imbalance not in makers:
        raise UserError(f"config.data.imbalance={imbalance!r}: choose one of {', '.join(makers)}")
    if len(counts) and imbalance != "counts":
        raise UserError(
            f"config.data.counts={tuple(counts)} with config.data.imbalance={imbalance!r}: leave the counts out, or "
            "choose --config.data.imbalance=counts"
        )
    wanted = list(makers[imbalance]())
    for name, count, size in zip(classes, wanted, sizes, strict=True):
        if not 1 <= count <= size:
            raise UserError(
                f"{source}: class {name!r} has {size} training images, config.data.imbalance={imbalance!r} wants "
                f"{count}: choose 1 to {size} of it with --config.data.imbalance=counts, or another imbalance"
            )
    return wanted


def imbalanced_parts(
    y: np.ndarray,
    classes: Sequence[str],
    *,
    seed: int,
    source: str,
    imbalance: str,
    first: bool = False,
    validation_share: float = 0.0,
    **options: Any,
) -> tuple[dict[str, np.ndarray], str]:
    """Draws an imbalanced training part and, if asked for, holds a validation part out of it.

    Args:
      y: class numbers of the training examples, `[n]`.
      classes, source, imbalance, **options: see `class_counts`.
      seed: of all draws.
      first: see `subsample`.
      validation_share: of the imbalanced part, each class's share kept.

    Returns:
      Sorted indices into `y` of `"train"` and `"validation"`, and a note with the counts.
    """
    wanted = class_counts(imbalance, y, classes, seed=[seed, 0], source=source, **options)
    kept = subsample(y, wanted, seed=[seed, 1], first=first)
    listed = ", ".join(f"{name} {count}" for name, count in zip(classes, wanted, strict=True))
    how = "(the first of each class)" if first else DRAWN
    note = f"imbalance {imbalance!r}: {listed}" + ("" if imbalance == "none" else f" {how}")
    if not validation_share:
        return {"train": kept}, note
    rest, held = hold_out(y[kept], validation_share, seed=seed, classes=classes)
    parts = {"train": kept[rest], "validation": kept[held]}
    return parts, f"{note}, of which {validation_share} is the validation part"


def _ends(minority_counts: Sequence[int]) -> tuple[int, int]:
    if len(minority_counts) != 2 or not 1 <= minority_counts[0] <= minority_counts[1]:
        raise UserError(
            f"config.data.minority_counts={tuple(minority_counts)}: the smallest and the largest count are needed, "
            "such as (5, 50)"
        )
    return minority_counts[0], minority_counts[1]


def _given(counts: Sequence[int], classes: int) -> Sequence[int]:
    if len(counts) != classes or not all(isinstance(count, int) for count in counts):
        raise UserError(
            f"config.data.counts={tuple(counts)}: {classes} whole numbers are needed, one for each class in order"
        )
    return counts


def subsample(
    y: np.ndarray,
    counts: Mapping[int, int] | Sequence[int],
    *,
    seed: int | Sequence[int],
    first: bool = False,
) -> np.ndarray:
    """Draws a number of examples of each class.

    Args:
      y: class numbers, `[n]`.
      counts: examples to keep of each class. Classes that a mapping leaves out are kept in full.
      seed: of the draw, without replacement.
      first: takes the first examples of each class instead, as the paper's authors do on CIFAR-10.

    Returns:
      Sorted indices into `y`.

    Raises:
      UserError: a count below 1, or a class with fewer examples than wanted.
    """
    rng = np.random.default_rng(seed)
    wanted = dict(counts) if isinstance(counts, Mapping) else dict(enumerate(counts))
    keep = []
    for number in np.union1d(np.unique(y), list(wanted)):
        index = np.flatnonzero(y == number)
        count = wanted.get(int(number), len(index))
        if not 1 <= count <= len(index):
            raise UserError(f"class {number} has {len(index)} examples, {count} are wanted: choose 1 to {len(index)}")
        keep.append(index[:count] if first else rng.choice(index, count, replace=False))
    return np.sort(np.concatenate(keep))
