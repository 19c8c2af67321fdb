"""Face identification with one group scarce in training: a folder of one's own, or drawn faces (`:synthetic`).

    python -m mbjax.main --config=configs/faces.py --config.data.path=my_faces --config.data.scarce_group=GROUP
    python -m mbjax.main --config=configs/faces.py:synthetic,naive    # one row, about a minute on one CPU core
    python -m mbjax.main --config=configs/faces.py:synthetic          # `ROWS` one after another, and a table
    launch/table3.sh                            # each row with a learning rate of its own, several seeds, two tables

The folder has one folder of images an identity and a file `groups.csv` with the columns identity and group. The others
draw their faces, of people who do not exist; docs/results.md has the result.

An update of `:synthetic` reads 4 · 32 query images in MetaBalance, and as many images in every other row (`ROWS`: equal
updates). MetaBalance and no_adaptation read as many support images besides; `TWICE` are the plain rows with twice as
many updates, which have seen as many images (equal images). Nothing else differs, the schedule's shape included.
"""

from typing import Any

from ml_collections import config_dict

from mbjax import config as base
from mbjax.types import Config, UserError

ROWS = ("naive", "over", "large_batch", "metabalance", "no_adaptation", "no_adaptation_query")
TWICE = ("naive_twice", "over_twice", "large_batch_twice")
_UPDATES, _STEPS, _BATCH = 160, 4, 32


def get_config(name: str = "folder") -> Config:
    scenarios, rows = ("folder", "synthetic"), (*base.FACES_ROWS, *TWICE)
    scenario, row = base.parse_name(name, file="configs/faces.py", scenarios=scenarios, rows=rows)
    if scenario == "folder" and row in TWICE:
        raise UserError(f"configs/faces.py:{name}: {row} is a row of synthetic alone")
    config = base.identification()
    config.task = "faces"
    config.data.update(
        synthetic=scenario == "synthetic",
        synthetic_identities=360,
        synthetic_images=20,
        synthetic_seed=0,
        size=32,
        test_identities=80,
        validation_identities=0,  # more of them, scored as "validation": to choose settings by
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
    if scenario == "folder":
        config.update(base.FACES_ROWS.get(row, {"method": row} if row else {}))
        return config
    config.data.validation_identities = 40
    config.model.stem_stride = 2
    config.support.batch_size = config.query.batch_size = _BATCH
    config.meta.steps = _STEPS
    config.loss.update(scale=30.0, margin_warmup=0.5)  # from the first update on, the margin costs short runs dearly
    config.updates, config.updates_per_call, config.eval.every = _UPDATES, 20, 0.5
    if row:
        config.update(_synthetic(row))
    else:
        config.rows = {name: _synthetic(name) for name in ROWS}
    return config


def _synthetic(row: str) -> dict[str, Any]:
    """What a row changes; see above."""
    name = row.removesuffix("_twice")
    changes = dict(base.FACES_ROWS[name])
    changes.pop("optimizer", None)  # naive and over have drops of their own in the paper
    if changes.get("method") == "erm":
        changes["train"] = {**changes.get("train", {}), "batch_size": _STEPS * _BATCH}
    return changes if name == row else changes | {"updates": 2 * _UPDATES}
