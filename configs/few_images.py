"""What each ingredient of the recipe for few images is worth: `SCENARIO` or `SCENARIO,ROW` (docs/few-images.md).

    launch/recipe.sh --ablation                                      # every row, both scenarios, five draws
    python -m mbjax.main --config=configs/few_images.py:severe,no_whitening

`recipe` is `balanced` of `configs/cifar10.py:scatter` (severe) or `scatter_moderate`, and each other row changes what
its name says; 48,000 images are read in each. Rows from `blocks` on have a small residual network behind the stem in
place of the linear classifier, and `diet` a start without labels besides, of 1,000 updates. Needs CIFAR-10 in the data
folder. Hardware: a CPU; on one core about 10 s a run of a linear classifier. Result: docs/results.md.
"""

from typing import Any

from mbjax import config as base
from mbjax.config_files import load
from mbjax.types import Config

BLOCKS = {"model.blocks": 2, "model.width": 32, "model.views": 2, "optimizer.weight_decay": 5e-3}
PAIRS = {"method": "metabalance"} | BLOCKS
ROWS: dict[str, dict[str, Any]] = {
    "recipe": {"method": "erm"},
    # Without one of its parts.
    "no_whitening": {"method": "erm", "model.whiten": 0},
    "no_mirror_images": {"method": "erm", "train.augment": "none"},
    "weight_decay_5e-4": {"method": "erm", "optimizer.weight_decay": 5e-4},
    "natural_batches": {"method": "erm", "train.sampler": "natural", "train.batch_size": 20},
    # With one more.
    "random_crops": {"method": "erm", "train.augment": "crop_flip", "model.views": 4},
    "small_batches": {"method": "erm", "train.batch_size": 10},
    "mixup": {"method": "erm", "train.mix": "mixup"},
    "average_of_weights": {"method": "erm", "optimizer.ema": 0.99},
    "sharpness_aware": {"method": "erm", "optimizer.sam": 0.05},
    "t_vmf_head": {"method": "erm", "model.head": "tvmf"},
    "cosine_head": {"method": "erm", "model.head": "cosine"},
    "label_smoothing": {"method": "erm", "loss.smoothing": 0.1},
    # A residual network.
    "blocks": {"method": "erm"} | BLOCKS,
    "blocks_group_norm": {"method": "erm", "model.norm": "group"} | BLOCKS,
    "blocks_diet": {"method": "erm", "diet.updates": 1000, "diet.batch_size": 64, "train.augment": "crop_flip"}
    | BLOCKS
    | {"model.views": 4},
    "blocks_metabalance": PAIRS,
    "blocks_no_adaptation": PAIRS | {"meta.inner_lr": 0.0},
    "blocks_no_adaptation_query": PAIRS | {"meta.inner_lr": 0.0, "meta.model_state_from": "query"},
    "blocks_adapt_head": PAIRS | {"meta.adapt": ("Dense_*",)},
}
GRID = {}


def get_config(name: str = "severe") -> Config:
    scenario, row = base.parse_name(name, file="configs/few_images.py", scenarios=("severe", "moderate"), rows=ROWS)
    changes = ROWS.get(row or "recipe", {"method": row})
    of = "balanced" if changes["method"] == "erm" else "metabalance"
    config = load(f"cifar10:{'scatter' if scenario == 'severe' else 'scatter_moderate'},{of}")
    config.update_from_flattened_dict(changes)
    if config.method == "erm":
        config.updates = 48_000 // config.train.batch_size
        config.eval.every = float(config.updates)
    return config
