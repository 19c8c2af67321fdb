"""A table of a suite: `keel` (the imbalanced tables of the KEEL repository), `imblearn`, or tables of your own.

    python -m mbjax.compare --suite=keel --out=runs/keel
    python -m mbjax.main --config=configs/suite.py --config.data.table=yeast4
    python -m mbjax.compare --suite=own --config.data.path=FOLDER --out=runs/mine

`mbjax.data.tables.suites` says what a folder of your own holds. Hardware: any. Result: not measured.
"""

from ml_collections import ConfigDict

from mbjax import config as base


def get_config(method: str = "metabalance") -> ConfigDict:
    _, method = base.parse_name(method, file="configs/suite.py")
    config = base.base()
    base.change(config, {"task": "keel", "method": method})
    config.data.update(test_share=0.3, validation_share=0.25)
    config.model.hidden = (64, 64)
    config.train.batch_size = 64
    config.support.update(sampler="natural", batch_size=24)
    config.query.update(sampler="class_balanced", batch_size=24)
    config.meta.steps = 8
    config.updates = 500
    config.optimizer.lr = 0.05
    return config
