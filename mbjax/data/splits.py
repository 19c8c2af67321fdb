"""Class numbers from labels, and seeded splits into train, validation and test."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold, train_test_split

from mbjax.options import FLAG, NUMBER, TEXT, Option
from mbjax.types import UserError

_BALANCED_PART = 1000  # keeps its random numbers apart from those of the streams, which are counted from 0


def encode_labels(labels: pd.Series) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Numbers the classes: in sorted order, but of two the rarer is number 1, the positive one.

    Args:
      labels: strings, integers, bools or whole floats, `[n]`, none missing.

    Returns:
      `(y, classes, notes)`: class numbers, `[n]` int32; class names; a note if number 1 is not the second in order.
    """
    values = labels.to_numpy()
    if values.dtype == object:
        try:
            values = values.astype(str)
        except UnicodeDecodeError:  # bytes that are no text
            values = np.array([str(value) for value in values])
    elif values.dtype.kind == "f" and (values % 1 == 0).all():
        values = values.astype(np.int64)
    names, y, counts = np.unique(values, return_inverse=True, return_counts=True)
    notes = ()
    if len(names) == 2 and counts[1] > counts[0]:
        names, y = names[::-1], 1 - y
        notes = (f"the positive class (number 1) is {str(names[1])!r}, the rarer of the two",)
    return y.astype(np.int32), tuple(str(name) for name in names), notes


def hold_out(
    y: np.ndarray,
    share: float,
    *,
    seed: int,
    stratify: bool = True,
    classes: Sequence[str] = (),
    option: str = "validation_share",
) -> tuple[np.ndarray, np.ndarray]:
    """Splits off a share of the examples: `sklearn.model_selection.train_test_split` with clear errors.

    The arguments are those of `split_indices`; `option` is the name of `share` in `config.data`, for messages.

    Returns:
      `(rest, held)`: sorted indices into `y`.

    Raises:
      UserError: a share out of range, or a class with too few examples to stand on both sides.
    """
    _check_share(share, option)
    counts = np.bincount(y)
    for number in np.flatnonzero(counts == 1).tolist():
        raise UserError(
            f"class {classes[number] if classes else str(number)!r} has only 1 example (copies count once) where "
            f"config.data.{option}={share} splits: merge it with another class or drop its row"
        )
    held = math.ceil(share * len(y))  # as scikit-learn rounds
    if min(held, len(y) - held) < np.count_nonzero(counts):
        raise UserError(
            f"config.data.{option}={share} splits {len(y)} examples into {len(y) - held} and {held}: "
            f"too few on one side for {np.count_nonzero(counts)} classes; choose another share or add examples"
        )
    of_class = y if stratify else None
    rest, out = train_test_split(np.arange(len(y)), test_size=share, stratify=of_class, random_state=seed % 2**32)
    return np.sort(rest), np.sort(out)


def balanced_part(y: np.ndarray, share: float, *, seed: int, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Draws a balanced part: `share` of the rarest class's examples, and as many of each other class.

    Args:
      y: class numbers, `[n]`.
      share: above 0 and below 1. The number is rounded to the nearest, but one example of each class is drawn at
        least, and one at least is left.
      seed: of the draw.
      classes: the class names in the order of the class numbers.

    Returns:
      `(rest, part)`: sorted indices into `y`.

    Raises:
      UserError: a class has fewer than two examples.
    """
    counts = np.bincount(y, minlength=len(classes))
    rarest = int(counts.argmin())
    if counts[rarest] < 2:
        raise UserError(
            f"class {classes[rarest]!r} has {counts[rarest]} training examples: methods with a clean part "
            "(config.clean) need 2 at least; add examples, merge the class with another, or choose another "
            "--config.method"
        )
    each = min(max(math.floor(share * counts[rarest] + 0.5), 1), counts[rarest] - 1)
    rng = np.random.default_rng([seed, _BALANCED_PART])
    drawn = [rng.choice(np.flatnonzero(y == number), each, replace=False) for number in range(len(classes))]
    part = np.sort(np.concatenate(drawn))
    return np.setdiff1d(np.arange(len(y)), part), part


TEST_SHARE = Option("test_share", 0.2, NUMBER, "the share that is held out for test")
VALIDATION_SHARE = Option("validation_share", 0.0, NUMBER, "the share of the training part that is held out; 0: none")
STRATIFY = Option("stratify", True, FLAG, "whether every part has each class's share")
GROUP = Option("group", "", TEXT, "a column, such as the customer: rows of one value are never in two parts")
TIME = Option("time", "", TEXT, "a column of dates or numbers: the test part is the latest, then validation")


def split_indices(
    y: np.ndarray,
    *,
    seed: int,
    test_share: float = 0.2,
    validation_share: float = 0.0,
    stratify: bool = True,
    groups: np.ndarray | None = None,
    classes: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Splits examples into train, test and, if asked for, validation.

    Args:
      y: class numbers, `[n]`.
      seed: of the draw. The test part does not depend on `validation_share`.
      test_share: of all examples.
      validation_share: of the training part; 0 for no validation part.
      stratify: keeps each class's share in every part.
      groups: `[n]`; examples of equal value (copies of one row) stay together, and shares count groups.
      classes: class names for messages; else the class numbers.

    Returns:
      Sorted indices of each part: disjoint, and together all of `range(n)`.

    Raises:
      UserError: see `hold_out`.
    """
    group = pd.factorize(np.arange(len(y)) if groups is None else groups)[0]
    first = np.unique(group, return_index=True)[1]  # one example stands for its group
    options = {"seed": seed, "stratify": stratify, "classes": classes}
    train, test = hold_out(y[first], test_share, option="test_share", **options)
    parts = {"train": train, "test": test}
    if validation_share:
        rest, held = hold_out(y[first[train]], validation_share, **options)
        parts = {"train": train[rest], "validation": train[held], "test": test}
    return {name: np.flatnonzero(np.isin(group, part)) for name, part in parts.items()}


def split_by_group(
    y: np.ndarray,
    groups: np.ndarray,
    *,
    seed: int,
    test_share: float = 0.2,
    validation_share: float = 0.0,
    stratify: bool = True,
) -> dict[str, np.ndarray]:
    """Splits examples so that those of one group are all in one part.

    With `stratify` a part is so many folds of `sklearn.model_selection.StratifiedGroupKFold` as come near its share:
    classes and sizes are as near as whole groups allow. Without, it is `GroupShuffleSplit`, whose shares count groups.

    Args:
      y: class numbers, `[n]`.
      groups: the group of each example, `[n]`; of any type that can be told apart.
      seed: of the draw. The test part does not depend on `validation_share`.
      test_share: of all examples.
      validation_share: of the training part; 0 for no validation part.
      stratify: whether classes have their shares in every part, as far as that goes.

    Returns:
      See `split_indices`.

    Raises:
      UserError: a share out of range, or too few groups.
    """
    group = pd.factorize(groups)[0]
    train, test = _hold_out_groups(y, group, test_share, seed, stratify, "test_share")
    if not validation_share:
        return {"train": train, "test": test}
    rest, held = _hold_out_groups(y[train], group[train], validation_share, seed, stratify, "validation_share")
    return {"train": train[rest], "validation": train[held], "test": test}


def _hold_out_groups(
    y: np.ndarray, group: np.ndarray, share: float, seed: int, stratify: bool, option: str
) -> tuple[np.ndarray, np.ndarray]:
    _check_share(share, option)
    count, seed = len(np.unique(group)), seed % 2**32
    if count < 2:
        raise UserError(f"config.data.group: there is only {count} group where config.data.{option}={share} splits")
    if not stratify:
        shuffled = GroupShuffleSplit(n_splits=1, test_size=share, random_state=seed)
        rest, held = next(shuffled.split(y, y, group))
        return np.sort(rest), np.sort(held)
    folds = max(min(10, count, int(np.bincount(y).max())), 2)
    with warnings.catch_warnings(action="ignore"):  # of classes with fewer examples than folds
        parts = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed).split(y, y, group)
        chosen = [held for _, held in parts][: min(max(round(share * folds), 1), folds - 1)]
    held = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(y)), held), held


def split_by_time(
    times: np.ndarray, *, test_share: float = 0.2, validation_share: float = 0.0
) -> dict[str, np.ndarray]:
    """Splits examples by time: the latest are the test part, those before it validation. Equal times stay together.

    Args:
      times: `[n]`, floating point, none missing.
      test_share: of all examples.
      validation_share: of the training part; 0 for no validation part.

    Returns:
      See `split_indices`.

    Raises:
      UserError: a share out of range, or fewer distinct times than parts.
    """
    train, test = _hold_out_latest(times, test_share, "test_share")
    if not validation_share:
        return {"train": train, "test": test}
    rest, held = _hold_out_latest(times[train], validation_share, "validation_share")
    return {"train": train[rest], "validation": train[held], "test": test}


def _hold_out_latest(times: np.ndarray, share: float, option: str) -> tuple[np.ndarray, np.ndarray]:
    _check_share(share, option)
    values, counts = np.unique(times, return_counts=True)
    if len(values) < 2:
        raise UserError(f"config.data.time: all examples that config.data.{option} splits are of one time")
    later = np.cumsum(counts[::-1])[::-1][1:]  # examples from each time on, but the first
    from_on = values[1:][np.abs(later - share * len(times)).argmin()]
    return np.flatnonzero(times < from_on), np.flatnonzero(times >= from_on)


def _check_share(share: float, option: str) -> None:
    if not 0 < share < 1:
        raise UserError(f"config.data.{option}={share}: a number above 0 and below 1 is needed")
