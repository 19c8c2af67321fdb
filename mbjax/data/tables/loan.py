"""`loan`: which LendingClub loans were not fully paid back (the paper's section 5.2).

Source: https://www.kaggle.com/datasets/sarahvch/predicting-who-pays-back-loans, 9,578 loans, 1,533 of them not paid.
"""

from typing import Any

from mbjax.data.sources import DIR_OPTION, find
from mbjax.data.splits import STRATIFY, TEST_SHARE, VALIDATION_SHARE
from mbjax.data.tables import numbers
from mbjax.data.tables.tabular import from_frame, read_official
from mbjax.types import Dataset

TARGET = "not.fully.paid"
# All but `purpose`, the one that is not a number.
# fmt: off
FEATURES = (
    "credit.policy", "int.rate", "installment", "log.annual.inc", "dti", "fico", "days.with.cr.line", "revol.bal",
    "revol.util", "inq.last.6mths", "delinq.2yrs", "pub.rec",
)
# fmt: on


OPTIONS = (DIR_OPTION, *numbers.OPTIONS, TEST_SHARE, VALIDATION_SHARE, STRATIFY)  # of config.data


def load(
    *, seed: int, dir: str = "", scaling: str = "standard", encoding: str = "none", bins: int = numbers.BINS.default,
    test_share: float = 0.2, validation_share: float = 0.0, stratify: bool = True,
) -> Dataset:  # fmt: skip
    """Loads `loan_data.csv`; the arguments are those of `mbjax.data.tables.tabular.load`.

    Returns:
      `x` `[n, 12]` float32: `FEATURES`, scaled by the training part's mean and deviation.

    Raises:
      UserError: no such file, or one without the official columns.
    """
    path = find("loan_data.csv", dir)
    frame = read_official(path, [*FEATURES, TARGET])
    options: dict[str, Any] = {
        "scaling": scaling, "encoding": encoding, "bins": bins, "test_share": test_share,
        "validation_share": validation_share, "stratify": stratify,
    }  # fmt: skip
    return from_frame(frame, TARGET, source=path.name, seed=seed, dropped=["purpose"], **options)
