"""`digits`: scikit-learn's 1,797 handwritten digits of 8×8 pixels, made as imbalanced as the paper's CIFAR-10."""

import numpy as np
from sklearn.datasets import load_digits

from mbjax.data.imbalance import one_majority, subsample
from mbjax.data.splits import VALIDATION_SHARE, hold_out
from mbjax.options import WHOLE, Option
from mbjax.types import Dataset, Split

OPTIONS = (  # of config.data
    Option("majority_class", 1, WHOLE, "the class that keeps all its training images"),
    Option("minority_count", 5, WHOLE, "training images of each other class"),
    Option("test_count", 50, WHOLE, "test images of each class"),
    VALIDATION_SHARE,
)


def load(
    *,
    seed: int,
    majority_class: int = 1,
    minority_count: int = 5,
    test_count: int = 50,
    validation_share: float = 0.0,
) -> Dataset:
    """Loads the digits with one majority class and nine minorities, and a balanced test part.

    Args:
      seed: of all draws.
      majority_class: the class that keeps all its training images (124 to 133 with `test_count=50`).
      minority_count: training images of each other class; 5 is the paper's severe imbalance.
      test_count: test images of each class.
      validation_share: of the training images of each class.

    Returns:
      `x` `[n, 8, 8, 1]` float32 in [0, 1].

    Raises:
      UserError: more images wanted than there are.
    """
    images, labels = map(np.asarray, load_digits(return_X_y=True))
    x = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    y = labels.astype(np.int32)
    test = subsample(y, [test_count] * 10, seed=[seed, 0])
    rest = np.setdiff1d(np.arange(len(y)), test)
    train = rest[subsample(y[rest], one_majority(10, majority_class, minority_count), seed=[seed, 1])]
    index = {"train": train, "test": test}
    if validation_share:
        kept, held = hold_out(y[train], validation_share, seed=seed)
        index = {"train": train[kept], "validation": train[held], "test": test}
    return Dataset(
        splits={name: Split(x[i], y[i]) for name, i in index.items()},
        classes=tuple(str(digit) for digit in range(10)),
        source="scikit-learn digits",
        overlap=len(test) / len(rest),
        notes=(f"class {majority_class} in full, {minority_count} images of each other; test: {test_count} of each",),
    )
