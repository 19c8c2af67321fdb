"""Face identification on CelebA with few images of women in training (section 5.3; Table 3).

    python -m mbjax.main --config=configs/celeba.py             # MetaBalance
    python -m mbjax.main --config=configs/celeba.py:naive       # and so mbjax.config.FACES_ROWS

Needs CelebA in the data folder, in its official layout (mbjax/data/people/celeba.py says where); 1,000 identities are
held out for test, 90% of the training images of women removed. The images are decoded as they are read;
`--config.data.prepared=FILE.npy` writes them once into a file of 7.6 GB, which later runs read in place of that.
Hardware, time and result: not measured.
"""

from ml_collections import config_dict

from mbjax import config as base
from mbjax.types import Config

ROWS = base.FACES_ROWS
GRID = {}  # the paper's settings; no part of the training identities is kept apart to choose others on


def get_config(row: str = "metabalance") -> Config:
    _, row = base.parse_name(row, file="configs/celeba.py", rows=base.FACES_ROWS)
    config = base.identification(row or "metabalance")
    config.task = "celeba"
    config.data.update(
        size=112,
        group="Male",  # the attribute that makes the groups
        test_identities=1000,
        validation_identities=0,  # more of them, scored as "validation": to choose settings by
        identities=config_dict.placeholder(int),  # how many to train on; all others if None
        scarce_group="female",
        removed_share=0.9,
        min_images=2,
        prepared="",
        in_memory_bytes=256 * 2**20,
        on_host=False,
        max_bad_share=0.01,
    )
    config.model.stem_stride = 2
    return config
