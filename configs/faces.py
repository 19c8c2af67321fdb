"""Face identification with one group scarce in training: a folder of one's own, or drawn faces (`:synthetic`).

    python -m mbjax.main --config=configs/faces.py:synthetic        # several rows and a table; `:synthetic,ROW` is one
    python -m mbjax.main --config=configs/faces.py --config.data.path=my_faces --config.data.scarce_group=GROUP

The folder has one folder of images an identity and a file `groups.csv` with the columns identity and group. The first
command draws its faces, of people who do not exist: 12 minutes on two CPU cores, result in README.md.
"""

from typing import Any

from ml_collections import config_dict

from mbjax import config as base
from mbjax.types import Config

ROWS = ("naive", "over", "metabalance", "no_adaptation", "large_batch")  # of `:synthetic`, in one command


def get_config(name: str = "folder") -> Config:
    scenarios = ("folder", "synthetic")
    scenario, row = base.parse_name(name, file="configs/faces.py", scenarios=scenarios, rows=base.FACES_ROWS)
    config = base.identification()
    config.task = "faces"
    config.data.update(
        synthetic=scenario == "synthetic",
        synthetic_identities=400,
        synthetic_images=20,
        synthetic_seed=0,
        size=32,
        test_identities=100,
        identities=config_dict.placeholder(int),  # how many to train on; all others if None
        scarce_group="",  # the first in sorted order
        removed_share=0.9,
        min_images=2,
        prepared="",
        in_memory_bytes=256 * 2**20,
        on_host=False,
        max_bad_share=0.01,
    )
    config.model.update(width=16, stages=(1, 1, 1), embedding=128)
    changes = base.FACES_ROWS.get(row, {"method": row} if row else {})
    if scenario == "synthetic":  # sized for a CPU; all rows read as many images, MetaBalance in its query loop
        config.train.batch_size = config.support.batch_size = config.query.batch_size = 64
        config.updates, config.eval.every = 300, 0.25
        config.rows = {} if row else {name: _sized(base.FACES_ROWS[name]) for name in ROWS}
        changes = _sized(changes) if row else {}
    config.update(changes)
    return config


def _sized(changes: dict[str, Any]) -> dict[str, Any]:
    if changes.get("method") != "erm":
        return changes
    if "batch_size" in changes.get("train", {}):
        return changes | {"train": {**changes["train"], "batch_size": 4 * 64}}
    return changes | {"updates": 4 * 300, "updates_per_call": 50}
