"""Types that every part of mbjax shares."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

PyTree = Any
Config = Any
"""An `ml_collections.ConfigDict`, or its frozen form: its attributes are its keys, which no type checker knows."""
Params = PyTree
ModelState = PyTree
Batch = PyTree
Metrics = dict[str, jax.Array]
LossFn = Callable[[Params, ModelState, Batch, jax.Array], tuple[jax.Array, tuple[ModelState, Metrics]]]
"""`loss_fn(params, model_state, batch, rng) -> (scalar loss, (new model_state, metrics))`."""


class UserError(Exception):
    """A mistake that its user can mend: one line that names the value and the way out.

    `main` prints it without a traceback and leaves with a non-zero exit status.
    """


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples and their labels.

    Attributes:
      x: features or images, `[n, ...]`, float32 (or uint8 images).
      y: class numbers, `[n]`, int32.
    """

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.y)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set that is ready to train on.

    Attributes:
      splits: `"train"` and `"test"`, and `"validation"` where one was asked for.
      classes: the class names in the order of the class numbers. Of two classes, number 1 is the positive one.
      source: what was read: a file's path or the name of a built-in data set.
      notes: what the reader of a result must know (imputed columns, dropped rows, what file it was).
    """

    splits: Mapping[str, Split]
    classes: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()

    @property
    def train(self) -> Split:
        return self.splits["train"]

    @property
    def test(self) -> Split:
        return self.splits["test"]

    @property
    def class_counts(self) -> np.ndarray:
        """Training examples of each class, `[classes]`, int64."""
        return np.bincount(self.train.y, minlength=len(self.classes))
