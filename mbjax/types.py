"""Types that every part of mbjax shares."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

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


def first_line(error: BaseException) -> str:
    """The first line of another library's error, or its name where it says nothing."""
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split())[:200] if lines else type(error).__name__


class HostArray(Protocol):
    """Examples that stay on the host and are read by index: image files, a memory-mapped array.

    Attributes:
      shape: `(n, ...)`.
      dtype: of what is read.
      digest: names the content, without reading all of it.
      block: examples that lie together, so that reading all of them costs little more than one. Samplers go through
        the examples block by block where it is more than 1.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    digest: str
    block: int

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """The examples at `rows`, integers of any shape, `[*rows.shape, ...]`; safe to call from several threads."""
        ...


def count_classes(y: np.ndarray, classes: int = 0) -> np.ndarray:
    """Examples of each class, `[classes or more]`, int64: `np.bincount`, which would first copy all labels as int64.

    Args:
      y: class numbers, `[n]`, of any integer type.
      classes: how many there are, at least.
    """
    chunk = 2**20
    classes = max(classes, int(y.max()) + 1 if len(y) else 0)
    chunks = (np.bincount(y[start : start + chunk], minlength=classes) for start in range(0, len(y), chunk))
    return sum(chunks, np.zeros(classes, np.int64))


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples and their labels.

    Attributes:
      x: features or images, `[n, ...]`, float32 (or uint8 images). An array goes to the device whole; a `HostArray`
        is read batch by batch.
      y: class numbers, `[n]`, int32; of a table of many millions any integers.
      group: numbers of the groups that a method may balance and a score may compare, `[n]`, int32, if there are any.
      weight: how many examples each one stands for, `[n]`, float32, above 0; one each if None. Of the training part
        only: samplers that read examples by index take it into account, resamplers refuse it.
      origin: where a reader finds each example, `[n]`: the data row of its file, counted from 1, or an image's file;
        None where nobody said.
    """

    x: Any  # np.ndarray | HostArray, which no type checker can tell apart where only arrays come
    y: np.ndarray
    group: np.ndarray | None = None
    weight: np.ndarray | None = None
    origin: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    def count_classes(self, classes: int) -> np.ndarray:
        """How many examples of each class there are, `[classes]` int64; with weights what they sum to, float64."""
        if self.weight is None:
            return count_classes(self.y, classes)
        return np.bincount(self.y, weights=self.weight, minlength=classes)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set that is ready to train on.

    Attributes:
      splits: `"train"` and `"test"`, and `"validation"` where one was asked for.
      classes: the class names in the order of the class numbers. Of two classes, number 1 is the positive one.
      source: what was read: a file's path or the name of a built-in data set.
      notes: what the reader of a result must know (imputed columns, dropped rows, what file it was).
      groups: the group names in the order of the group numbers, if there are any.
      kind: in `"classification"` every split has all classes. In `"identification"` a class is a person, and those of
        the other splits do not occur in training: the classes are the training split's, the others have numbers of
        their own.
      scored: what is scored in place of the split of that name: a part of a training split of many millions.
      overlap: where the seed draws the test part: its size over that of the pool that the other parts are drawn from;
        0 where the test part is the same for every seed. Scores of seeds whose parts overlap are correlated, and
        `mbjax.report.tables.paired_difference` widens its intervals by this.
      preprocessing: what was learned of the inputs and makes features of raw ones: `mbjax.data.preprocessing` has the
        kinds. None where the examples are taken as they are.
    """

    splits: Mapping[str, Split]
    classes: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    kind: Literal["classification", "identification"] = "classification"
    scored: Mapping[str, Split] = dataclasses.field(default_factory=dict)
    overlap: float = 0.0
    preprocessing: Any = None

    @property
    def train(self) -> Split:
        return self.splits["train"]

    @property
    def test(self) -> Split:
        return self.splits["test"]

    @property
    def class_counts(self) -> np.ndarray:
        """Training examples of each class, `[classes]`, int64; by weight, float64, if they have any."""
        return self.train.count_classes(len(self.classes))
