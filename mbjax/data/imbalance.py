"""The paper's imbalances, made from balanced data."""

from collections.abc import Mapping, Sequence

import numpy as np

from mbjax.types import UserError


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
