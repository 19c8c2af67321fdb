"""CIFAR-10, one large class and nine tiny ones (section 5.1; settings of appendix A.1): `SCENARIO` or `SCENARIO,ROW`.

    python -m mbjax.main --config=configs/cifar10.py:severe              # 5 images of each small class; MetaBalance
    python -m mbjax.main --config=configs/cifar10.py:moderate,over       # 5 to 50; over-sampling
    python -m mbjax.main --config=configs/cifar10.py:small,naive         # severe, with a narrow ResNet, for a CPU
    python -m mbjax.main --config=configs/cifar10.py:scatter,balanced    # severe, behind a scattering transform
    python -m mbjax.main --config=configs/cifar10.py:scatter_moderate,balanced

`ROWS` lists the rows, and `configs/few_images.py` takes `scatter,balanced` apart. Needs CIFAR-10 in the data folder
(mbjax/data/images/cifar10.py says in what forms). `small` takes about one minute of one CPU core; results:
docs/results.md. `severe` and `moderate` are for a GPU, not measured. `scatter` and `scatter_moderate` are for a CPU:
docs/few-images.md. The paper: MetaBalance 29.88% (severe) and 40.59% (moderate), naive training 16.14% and 31.52%.
"""

from typing import Any

from ml_collections import ConfigDict

from mbjax import config as base
from mbjax.types import Config

PLAIN = {"method": "erm"}
OVER = PLAIN | {"train.sampler": "over"}
BALANCED = PLAIN | {"train.sampler": "class_balanced", "train.batch_size": 30}
CUTMIX = {"train.mix": "cutmix", "train.mix_probability": 0.5}  # of its authors' command for CIFAR
ROWS: dict[str, dict[str, Any]] = {
    "metabalance": {},
    # The rows of Table 1.
    "naive": PLAIN,
    "over": OVER,
    "under": PLAIN | {"train.sampler": "under"},
    "mixup": PLAIN | {"train.mix": "mixup"},
    "cutmix": PLAIN | CUTMIX,
    "over_mixup": OVER | {"train.mix": "mixup"},
    "over_cutmix": OVER | CUTMIX,
    # One image of each class apart, of 5 of the rarest.
    "mw_net": {"method": "mw_net", "clean.share": 0.2, "clean.batch_size": 10, "optimizer.lr": 0.02},
    "l2rw": {"method": "l2rw", "clean.share": 0.2, "clean.batch_size": 10},
    "inverse_frequency": PLAIN | {"loss.class_weight": "inverse"},
    "class_balanced": PLAIN | {"loss.class_weight": "effective", "loss.beta": 0.99, "optimizer.lr": 0.02},
    "m2m": {"method": "m2m", "train.sampler": "over"},
    # Not in the paper.
    "logit_adjustment": PLAIN | {"loss.name": "logit_adjustment"},
    "balanced_softmax": PLAIN | {"loss.name": "balanced_softmax"},
    "ldam_drw": {"method": "drw", "loss.name": "ldam", "loss.beta": 0.9999, "model.head": "cosine"},
    "balanced": BALANCED,
    "balanced_large_batch": BALANCED | {"train.batch_size": 240},  # as many images as the queries of 8 pairs
    # What MetaBalance is made of.
    "first_order": {"meta.grad_mode": "first_order"},
    "no_adaptation": {"meta.inner_lr": 0.0},
    "no_adaptation_query": {"meta.inner_lr": 0.0, "meta.model_state_from": "query"},
    "statistics_from_query": {"meta.model_state_from": "query"},
    "statistics_from_support": {"meta.model_state_from": "support"},
}

GRID = {}  # the paper's settings: five images leave none to choose others on


def get_config(name: str = "severe") -> Config:
    scenarios = ("severe", "moderate", "small", "scatter", "scatter_moderate")
    scenario, row = base.parse_name(name, file="configs/cifar10.py", scenarios=scenarios, rows=ROWS)
    row = row or "metabalance"
    config: Config = base.base()
    config.task = "cifar10"
    config.data.update(
        source="auto", imbalance="moderate" if scenario.endswith("moderate") else "severe", majority_class=1, counts=(),
        ratio=100.0, first=False, validation_share=0.0,
    )  # fmt: skip
    config.model = ConfigDict({"name": "resnet18", "width": 64, "stages": (2, 2, 2, 2), "dtype": "float32"})
    config.model.update(conv="auto", head="linear", stem_stride=1)
    config.train.update(sampler="natural", batch_size=20)
    config.pretrain.update(sampler="natural", batch_size=20)
    config.support.update(sampler="natural", batch_size=20)
    config.query.update(sampler="over", batch_size=30)
    for stream in base.STREAMS:
        config[stream].augment = "crop_flip"
    config.meta.update(steps=80, inner_lr=0.01, beta=0.0)
    config.optimizer.update(lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, schedule="cosine")
    config.epochs = 350
    config.eval.update(every=0.05, batch_size=500)
    config.updates_per_call = 10
    overrides = ROWS.get(row, {"method": row})
    if overrides.get("method", "metabalance") != "metabalance":
        config.updates_per_call = 200
    if overrides.get("method") == "m2m":
        config.epochs *= 2  # its first classifier and its own training
    config.update_from_flattened_dict(overrides)
    if scenario in ("small", "scatter", "scatter_moderate"):
        (small if scenario == "small" else scatter)(config)
    return config


def small(config: Config) -> None:
    """The severe scenario for a CPU: a narrow, shallow ResNet, and few updates."""
    config.model.update(width=16, stages=(1, 1, 1), stem_stride=2)
    config.eval.every = 0.5
    config.optimizer.lr = 0.05
    read_few_images(config)


def scatter(config: Config) -> None:
    """Either scenario for a CPU: a linear classifier behind a scattering transform, of the images and mirror images.

    Weight decay and views were chosen for balanced training, on validation data that was made from training images.
    """
    config.model = ConfigDict({"name": "scattering", "blocks": 0, "whiten": 256, "patches": 0, "width": 64})
    config.model.update(norm="batch", views=4, conv="auto", head="cosine" if config.loss.name == "ldam" else "linear")
    for stream in base.STREAMS:
        config[stream].augment = "flip"
    config.optimizer.update(lr=0.1, weight_decay=0.08 if config.data.imbalance == "severe" else 0.04)
    config.meta.inner_lr = config.meta.inner_lr and 0.1
    config.query.sampler = "class_balanced"
    read_few_images(config)
    config.eval.every = float(config.updates)  # once: whole images are predicted, stem and all


def read_few_images(config: Config) -> None:
    """48,000 images read in every row.

    MetaBalance reads 120 · 8 · (20 + 30), support and query; mw_net and l2rw 1,600 · (20 + 10), training and clean; the
    others 2,400 · 20.
    """
    config.meta.steps = 8
    config.updates = 120
    if config.method != "metabalance":
        clean = config.clean.batch_size if config.method in ("mw_net", "l2rw") else 0
        config.updates = 48_000 // (config.train.batch_size + clean)
