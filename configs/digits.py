"""Handwritten digits (scikit-learn's), one class whole and nine with 5 images each; a first look at mbjax.

    launch/local.sh --config=configs/digits.py

Hardware: any; see docs/results.md for its time and result. `configs/digits.py:erm` is plain training.
"""

from ml_collections import ConfigDict

from mbjax import config as base


def get_config(method: str = "metabalance") -> ConfigDict:
    _, method = base.parse_name(method, file="configs/digits.py")
    config = base.base()
    config.task = "digits"
    config.method = method
    config.data.update(majority_class=1, minority_count=5, test_count=50)
    config.model.hidden = (128,)
    config.support.update(sampler="natural", batch_size=20)
    config.query.update(sampler="class_balanced", batch_size=30)
    config.optimizer.lr = 0.05
    config.updates = 300
    config.clean.share = 0.2  # one image of each class, of 5
    if method != "metabalance":
        config.updates = 5000  # of 24 images; the loss is as flat by then
    return config
