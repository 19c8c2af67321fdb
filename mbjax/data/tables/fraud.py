"""`fraud`: card payments, a few of them fraudulent (the paper's section 5.3).

Source: Dal Pozzolo et al. 2014, https://www.kaggle.com/datasets/mlg-ulb/creditcardfraud, 284,807 payments, 492 frauds;
`python -m mbjax.data fetch fraud` gets it.
"""

from typing import Any

import numpy as np
from pandas.util import hash_pandas_object

from mbjax.data.sources import DIR_OPTION, find
from mbjax.data.splits import STRATIFY, TEST_SHARE, VALIDATION_SHARE
from mbjax.data.tables import numbers
from mbjax.data.tables.tabular import from_frame, read_official
from mbjax.types import Dataset

FILES = ("creditcard.csv", "creditcard.parquet", "creditcard_subset.parquet")
TARGET = "Class"
FEATURES = (*(f"V{i}" for i in range(1, 29)), "Amount")  # all but `Time`
ROWS, FRAUDS = 284_807, 492


OPTIONS = (DIR_OPTION, *numbers.OPTIONS, TEST_SHARE, VALIDATION_SHARE, STRATIFY)  # of config.data


def load(
    *, seed: int, dir: str = "", scaling: str = "standard", encoding: str = "none", bins: int = numbers.BINS.default,
    test_share: float = 0.2, validation_share: float = 0.0, stratify: bool = True,
) -> Dataset:  # fmt: skip
    """Loads the first of `FILES` that is there; the arguments are those of `mbjax.data.tables.tabular.load`.

    Payments that are equal in all but `Time`, as far as float32 can tell, stay on one side of a split.

    Returns:
      `x` `[n, 29]` float32: `FEATURES`; V1 to V28 as they are (principal components), the amount scaled by the
      training part's mean and deviation. The first note says what was read, and whether it is only a subset.

    Raises:
      UserError: no such file, or one without the official columns.
    """
    path = find(FILES, dir)
    frame = read_official(path, [*FEATURES, TARGET])
    rows, frauds = len(frame), np.count_nonzero(frame[TARGET] == 1)
    groups = np.asarray(hash_pandas_object(frame.astype(np.float32), index=False))  # pyright: ignore[reportCallIssue]
    part = "" if (rows, frauds) == (ROWS, FRAUDS) else f": a subset, not the original's {ROWS:,} and {FRAUDS}"
    options: dict[str, Any] = {
        "scaling": scaling, "encoding": encoding, "bins": bins, "test_share": test_share,
        "validation_share": validation_share, "stratify": stratify,
    }  # fmt: skip
    return from_frame(
        frame,
        TARGET,
        source=path.name,
        seed=seed,
        scale=["Amount"],
        dropped=["Time"],
        groups=groups,
        notes=[f"{path.name}, {rows:,} rows, {frauds} frauds{part}"],
        **options,
    )
