"""Face identification with one group scarce in training: a folder of one's own, or drawn faces (`:synthetic`).

    python -m mbjax.main --config=configs/faces.py:synthetic
    python -m mbjax.main --config=configs/faces.py --config.data.path=my_faces --config.data.scarce_group=GROUP

The folder has one folder of images an identity and a file `groups.csv` with the columns identity and group. The first
command draws its faces, of people who do not exist. Hardware, time and result: not measured.
"""

from typing import Any

from ml_collections import config_dict

from mbjax import config as base
from mbjax.types import Config, UserError


def get_config(name: str = "folder") -> Config:
    scenario, _, row = name.partition(",")
    for value, choices in ((scenario, ("folder", "synthetic")), (row or "metabalance", tuple(base.FACES_ROWS))):
        if value not in choices:
            raise UserError(f"configs/faces.py:{name}: {value!r} is none of {', '.join(choices)}")
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
    if scenario == "synthetic":  # sized for a CPU; plain rows see as many images as the query loop
        config.train.batch_size = config.support.batch_size = config.query.batch_size = 64
        config.updates, config.eval.every = 300, 0.25
    if scenario == "synthetic" and not row:
        config.rows = {name: _changes(name, scenario) for name in ("naive", "over", "metabalance")}
        return config
    config.update(_changes(row or "metabalance", scenario))
    return config


def _changes(row: str, scenario: str) -> dict[str, Any]:
    changes = dict(base.FACES_ROWS[row])
    if scenario == "synthetic" and changes.get("method") == "erm":
        changes.update(updates=300 * 4, updates_per_call=50)
    return changes
