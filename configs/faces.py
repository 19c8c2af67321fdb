"""Face identification with one group scarce in training: a folder of one's own, or drawn faces (`:synthetic`).

    python -m mbjax.main --config=configs/faces.py --config.data.path=my_faces --config.data.scarce_group=GROUP
    python -m mbjax.main --config=configs/faces.py:synthetic,naive    # one row, about a minute on one CPU core
    launch/table3.sh                                  # every row, each with a learning rate of its own, 3 seeds

The folder has one folder of images an identity and a file `groups.csv` with the columns identity and group. The others
draw their faces, of people who do not exist; docs/results.md has the result.

An update of `:synthetic` reads 4 · 32 query images in MetaBalance, and as many images in every other row (equal
updates). MetaBalance and no_adaptation read as many support images besides; `TWICE` are the plain rows with twice as
many updates, which have seen as many images (equal images). Nothing else differs, the schedule's shape included.
"""

from ml_collections import config_dict

from mbjax import config as base
from mbjax.types import Config, UserError

TWICE = {f"{row}_twice": base.FACES_ROWS[row] for row in ("naive", "over", "large_batch")}
ROWS = {**base.FACES_ROWS, **TWICE}
GRID = {"optimizer.lr": (0.01, 0.03, 0.1, 0.3)}
_UPDATES, _STEPS, _BATCH = 160, 4, 32


def get_config(name: str = "folder") -> Config:
    scenario, row = base.parse_name(name, file="configs/faces.py", scenarios=("folder", "synthetic"), rows=ROWS)
    row = row or "metabalance"
    if scenario == "folder" and row in TWICE:
        raise UserError(f"configs/faces.py:{name}: {row} is a row of synthetic alone")
    config = base.identification(row.removesuffix("_twice"))
    config.task = "faces"
    config.data.update(
        synthetic=scenario == "synthetic",
        synthetic_identities=360,
        synthetic_images=20,
        synthetic_seed=1,  # people of 0 were in view when the sizes, scale and warm-up were picked
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
        return config
    config.data.validation_identities = 40
    config.model.stem_stride = 2
    config.support.batch_size = config.query.batch_size = _BATCH
    config.train.batch_size = _STEPS * _BATCH
    config.meta.steps = _STEPS
    config.loss.update(scale=30.0, margin_warmup=0.5)  # from the first update on, the margin costs short runs dearly
    config.optimizer.drops = (50 / 120, 100 / 120)  # for every row
    config.updates, config.updates_per_call, config.eval.every = _UPDATES * (2 if row in TWICE else 1), 20, 0.5
    return config
