"""Tables larger than memory: Parquet or CSV of any size, or arrays on disk, read in blocks while training goes on.

    python -m mbjax.main --config=configs/table.py --config.data.path=ARRAYS
    python -m mbjax.main --config=configs/table.py --config.data.path=my.parquet --config.data.target=label \\
        --config.data.prepared=ARRAYS
    python -m mbjax.main --config=configs/table.py:erm --config.data.path=ARRAYS

ARRAYS is a folder with `x.npy` ([rows, features], float32) and `y.npy`; of Parquet or CSV the second command makes it,
once. `mbjax/data/tables/table.py` says more. Hardware: any, with as much disk as the arrays take. Memory, and the speed
beside data in memory: benchmarks/README.md. Result: not measured.
"""

from ml_collections import ConfigDict, config_dict

from mbjax import config as base
from mbjax.data.tables.csv_dialect import DEFAULTS as CSV


def get_config(method: str = "metabalance") -> ConfigDict:
    _, method = base.parse_name(method, file="configs/table.py")
    config = base.base()
    config.task = "table"
    config.method = method
    config.data.update(drop=(), columns="", prepared="", validation_share=0.0, kept_mb=256)
    config.data.csv = dict(CSV)
    config.data.test_share = config_dict.placeholder(float)  # 0.2, but a million rows at most
    config.model.hidden = (64, 64)
    config.train.batch_size = 24
    config.support.update(sampler="natural", batch_size=24)
    config.query.update(sampler="under", batch_size=16)
    config.updates = 10_000 if method == "metabalance" else 800_000  # 19 million rows of the support or train stream
    config.updates_per_call = 50  # memory holds the rows of five calls or so, some of them twice
    return config
