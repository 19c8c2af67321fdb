"""The recipe for few images, and what each of its ingredients is worth: `SCENARIO` or `SCENARIO,ROW`.

    python -m mbjax.main --config=configs/few_images.py:severe
    launch/recipe.sh                                                 # five draws of either scenario, and MetaBalance
    launch/recipe.sh --ablation                                      # every row
    python -m mbjax.main --config=configs/few_images.py:moderate,no_patches

`recipe` is plain training of `configs/cifar10.py:scatter` (severe) or `scatter_moderate` on class-balanced batches,
with patches of training images beside the wavelets, features that are the same for an image and its mirror image, and a
little logit adjustment. Each other row changes what its name says; 48,000 images are read in each. Rows from `blocks`
on have a small residual network behind the wavelets in place of the linear classifier, and `diet` a start without
labels besides, of 1,000 updates. Needs CIFAR-10 in the data folder. Hardware: a CPU; docs/few-images.md says how long
it takes. Result: docs/results.md.
"""

from typing import Any

from mbjax import config as base
from mbjax.config_files import load
from mbjax.types import Config

RECIPE = {"model.patches": 256, "model.symmetric": True, "loss.name": "logit_adjustment", "loss.tau": 0.1}
RECIPE |= {f"{stream}.augment": "none" for stream in base.STREAMS}  # a mirror image has the same features
LINEAR = {"method": "erm"} | RECIPE
PAIRS = {"method": "metabalance"} | RECIPE
RESIDUAL = {"model.blocks": 2, "model.width": 32, "model.views": 2, "optimizer.weight_decay": 5e-3}
BLOCKS = {"method": "erm"} | RESIDUAL
BLOCK_PAIRS = {"method": "metabalance"} | RESIDUAL
ROWS: dict[str, dict[str, Any]] = {
    "recipe": LINEAR,
    # What the inner step adds.
    "recipe_metabalance": PAIRS,
    "recipe_no_adaptation": PAIRS | {"meta.inner_lr": 0.0},
    "recipe_no_adaptation_query": PAIRS | {"meta.inner_lr": 0.0, "meta.model_state_from": "query"},
    # Without one of its parts.
    "no_patches": LINEAR | {"model.patches": 0},
    "no_adjustment": LINEAR | {"loss.name": "cross_entropy"},
    "no_patches_no_adjustment": LINEAR | {"model.patches": 0, "loss.name": "cross_entropy"},
    "no_whitening": LINEAR | {"model.whiten": 0},
    "not_symmetric": LINEAR | {"model.symmetric": False, "train.augment": "flip"},
    "no_mirror_images": LINEAR | {"model.symmetric": False},
    "weight_decay_5e-4": LINEAR | {"optimizer.weight_decay": 5e-4},
    "natural_batches": LINEAR | {"train.sampler": "natural", "train.batch_size": 20},
    # With one more.
    "random_crops": LINEAR | {"train.augment": "crop_flip", "model.views": 4},
    "small_batches": LINEAR | {"train.batch_size": 10},
    "mixup": LINEAR | {"train.mix": "mixup"},
    "average_of_weights": LINEAR | {"optimizer.ema": 0.99},
    "sharpness_aware": LINEAR | {"optimizer.sam": 0.05},
    "t_vmf_head": LINEAR | {"model.head": "tvmf"},
    "cosine_head": LINEAR | {"model.head": "cosine"},
    "label_smoothing": LINEAR | {"loss.smoothing": 0.1},
    # A residual network.
    "blocks": BLOCKS,
    "blocks_group_norm": BLOCKS | {"model.norm": "group"},
    "blocks_diet": BLOCKS
    | {"diet.updates": 1000, "diet.batch_size": 64, "train.augment": "crop_flip", "model.views": 4},
    "blocks_metabalance": BLOCK_PAIRS,
    "blocks_no_adaptation": BLOCK_PAIRS | {"meta.inner_lr": 0.0},
    "blocks_no_adaptation_query": BLOCK_PAIRS | {"meta.inner_lr": 0.0, "meta.model_state_from": "query"},
    "blocks_adapt_head": BLOCK_PAIRS | {"meta.adapt": ("Dense_*",)},
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
