"""Your own CSV or Parquet file: numbers and categories, missing values, two classes or more.

    python -m mbjax.main --config=configs/tabular.py --config.data.path=my.csv --config.data.target=label
    python -m mbjax.main --config=configs/tabular.py:erm --config.data.path=my.csv --config.data.target=label

The second trains plainly, to compare with (`python -m mbjax.report RUN_FOLDER …`). Hardware: any. Result: not measured.
"""

from ml_collections import ConfigDict

from mbjax import config as base
from mbjax.data.tables.csv_dialect import DEFAULTS as CSV


def get_config(method: str = "metabalance") -> ConfigDict:
    _, method = base.parse_name(method, file="configs/tabular.py")
    config = base.base()
    config.task = "tabular"
    config.method = method
    config.data.update(test_share=0.2, validation_share=0.0, stratify=True, drop=(), columns="", group="", time="")
    config.data.update(scaling="standard", encoding="none", bins=48)
    config.data.csv = dict(CSV)
    config.model.hidden = (64, 64)
    config.support.update(sampler="natural", batch_size=24)
    config.query.update(sampler="class_balanced", batch_size=24)
    config.epochs = 50
    return config
