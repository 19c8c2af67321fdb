"""The configuration: every key with its default, and the checks that one can make before any data is read."""

import ast
import math
from collections.abc import Callable
from typing import Any

import ml_collections
from ml_collections import ConfigDict, config_dict

from mbjax.types import Config, UserError

STREAMS = ("train", "support", "query", "clean", "pretrain")
CHOICES = {
    "model.head": ("linear", "cosine"),
    "loss.class_weight": ("none", "inverse", "effective"),
    "meta.grad_mode": ("mixed", "reverse", "first_order"),
    "meta.model_state_from": ("both", "support", "query"),
    "optimizer.schedule": ("constant", "cosine", "step"),
    "eval.protocol": ("clean", "authors"),
    **{f"{name}.balance": ("class", "group") for name in STREAMS},
    "parallel": ("auto", "shard_map", "pmap", "none"),
    "weight_net.optimizer": ("adam", "sgd"),
}
SAMPLING_STRATEGIES = ("auto", "majority", "minority", "not majority", "not minority", "all")


def stream(sampler: str, batch_size: int, **more: Any) -> ConfigDict:
    """One stream of batches.

    Args:
      sampler: a name of `mbjax.sampling.SAMPLERS`.
      batch_size: examples a batch.
      **more: keys that this stream has besides.
    """
    return ConfigDict(
        {
            "sampler": sampler,
            "batch_size": batch_size,
            # imbalanced-learn's: a name, a ratio (two classes), or counts "{'class': 100, ...}".
            "sampling_strategy": "auto",
            # The neighbourhood of SMOTE and the nearest-neighbour cleaners; imbalanced-learn's default if None.
            "neighbors": config_dict.placeholder(int),
            "balance": "class",  # what the sampler balances; or "group", where the data has groups
            "sum_groups": False,  # whether the loss is the sum of the groups' mean losses, not the mean
            "augment": "none",  # of images: a name of mbjax.augment.AUGMENTATIONS
            "mix": "none",  # a name of mbjax.augment.MIXES: examples and labels of a batch mixed with one another
            "mix_alpha": 1.0,  # the mixing share is drawn from Beta(α, α)
            "mix_probability": 1.0,  # of a batch to be mixed; the others stay as they are
            **more,
        }
    )


def base() -> Config:
    """The defaults. A file in `configs/` takes them and changes what its task needs."""
    defaults: dict[str, Any] = {
        "task": "digits",  # a name of mbjax.data.DATASETS
        "method": "metabalance",  # a name of mbjax.methods.METHODS
        "seed": 0,  # of the split, the samplers, the initial weights and dropout
        "data": {  # options of the task's loader; a task's config adds its own
            "dir": "",  # where files are looked for; else $MBJAX_DATA_DIR; else ~/.cache/mbjax
            "path": "",  # a file of one's own (task "tabular")
            "target": "",  # its column of labels
        },
        "model": {
            "name": "mlp",  # a name of mbjax.models.MODELS
            "hidden": (64,),
            "dropout": (),  # a rate after each hidden layer; none if empty
            "head": "linear",  # the last layer; or "cosine", as LDAM's
        },
        "train": stream("natural", 24),  # what plain training (erm and its kin) reads
        "support": stream("natural", 24, loss=""),  # the name of the support loop's loss, that of config.loss if empty
        "query": stream("under", 16),
        # A balanced part of the training data that l2rw and mw_net keep apart: of each class, this share of the rarest
        # class's examples (1 at least, and 1 is left at least). The other streams read the rest.
        "clean": stream("natural", 24, share=0.1),
        # What m2m's first classifier, and its own training before it translates images, read.
        "pretrain": stream("natural", 24),
        "meta": {
            "steps": 80,  # pairs of a support and a query batch per update
            "inner_lr": 0.01,
            "inner_steps": 1,
            "beta": 0.0,
            "grad_mode": "mixed",
            # Pairs that are vmapped together; None: all, but one at a time where the model has convolutions.
            "pairs_per_chunk": config_dict.placeholder(int),
            "model_state_from": "both",
            "warmup": 0.0,  # the share of the updates, at first, that train plainly on the support batches
        },
        "weight_net": {  # mw_net's; published for imbalance: sgd, lr 1e-5, weight_decay 5e-4, normalize
            "hidden": 100,
            "optimizer": "adam",  # or "sgd" (Nesterov)
            "lr": 1e-3,
            "momentum": 0.9,  # of sgd
            "weight_decay": 1e-4,
            "normalize": False,  # whether the mean weight of a batch is made 1
        },
        "m2m": {  # as published for CIFAR
            "pretrain": 0.5,  # the share of the updates that train the classifier g, which then translates images
            "deferred": 0.8,  # of the others, the share that is plain training, before translated images come in
            "beta": 0.999,
            "lambda": 0.5,
            "gamma": 0.9,  # the least probability of its class, by g, of a translated image that is kept
            "steps": 10,
            "step_size": 0.1,
        },
        "loss": {
            "name": "cross_entropy",  # a name of mbjax.losses.LOSSES
            "class_weight": "none",  # or "inverse" (of the frequency), or "effective" (number of examples)
            "beta": 0.999,  # of the effective number; published with LDAM: 0.9999
            "gamma": 2.0,  # of focal and cosface
            "tau": 1.0,  # of logit_adjustment
            "max_margin": 0.5,  # of ldam
            "margin": 0.35,  # of cosface
            "margin_warmup": 0.0,  # the share of the updates in which the margin of ldam and cosface grows from 0
            "scale": 30.0,  # of ldam and cosface
            "deferred": 0.8,  # method drw: class weights start after this share of the updates
        },
        "optimizer": {
            "lr": 0.02,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 5e-4,
            "decay_batch_norm": True,  # whether weight decay acts on BatchNorm's scales and biases
            "schedule": "constant",  # or "cosine", or "step"
            "drops": (),  # of "step": shares of the updates after which the learning rate is a tenth of what it was
        },
        # Passes over the train stream (erm) or the query stream (metabalance), as the paper's code counts them...
        "epochs": 100,
        # ...or the number of updates, which then decides.
        "updates": config_dict.placeholder(int),
        "eval": {
            "every": 0.1,  # evaluations and checkpoints: a share of the updates, or a number of updates if ≥ 1
            "batch_size": 2048,
            "protocol": "clean",  # or "authors": test images are cropped and flipped at random, as their code does
        },
        "updates_per_call": 100,  # updates that the device does without returning to the host
        "keep_checkpoints": 3,
        # Several runs in one command, each in a folder of its name: {"row": {what it changes}}; one run if empty.
        "rows": {},
        # Work spread over all devices (of a CPU: its cores), pairs by "shard_map" or "pmap", or not ("none"); see
        # mbjax.devices.parallel.choose_mesh for "auto". It changes no result but by rounding.
        "parallel": "auto",
    }
    return ConfigDict(defaults)


# How training goes on faces; MetaBalance is what `identification` has.
FACES_ROWS: dict[str, dict[str, Any]] = {
    "metabalance": {},
    "naive": {"method": "erm", "optimizer": {"drops": (35 / 120, 65 / 120, 95 / 120)}},
    "over": {
        "method": "erm", "optimizer": {"drops": (35 / 120, 65 / 120, 95 / 120)},
        "train": {"sampler": "over", "balance": "group"},
    },
    "first_order": {"meta": {"grad_mode": "first_order"}},
    "no_adaptation": {"meta": {"inner_lr": 0.0}},
    "no_adaptation_query": {"meta": {"inner_lr": 0.0, "model_state_from": "query"}},
    # As many query images an update, drawn and weighed as they are, and as many updates, as MetaBalance.
    "large_batch": {
        "method": "erm",
        "train": {"sampler": "class_balanced", "balance": "group", "sum_groups": True, "batch_size": 4 * 128},
    },
}  # fmt: skip


def identification() -> Config:
    """What `configs/celeba.py` and `configs/faces.py` share: section 5.4 and appendix A.4 of the paper.

    The query batch is 64 images of either group, and its loss the sum of the groups' mean losses.
    """
    config: Config = base()
    config.model = {
        "name": "resnet18", "width": 64, "stages": (2, 2, 2, 2), "dtype": "float32", "conv": "auto", "head": "cosine",
        "embedding": 512, "stem_stride": 1,
    }  # fmt: skip
    config.loss.update(name="cosface", scale=64.0, margin=0.35, gamma=2.0)
    config.train.batch_size = config.support.batch_size = config.query.batch_size = 128
    config.query.update(sampler="class_balanced", balance="group", sum_groups=True)
    for name in STREAMS:
        config[name].augment = "crop_flip"
    config.meta.update(steps=4, inner_lr=0.01, beta=0.0)
    config.optimizer.update(
        lr=0.1, momentum=0.9, nesterov=False, weight_decay=5e-4, decay_batch_norm=False, schedule="step",
        drops=(50 / 120, 100 / 120),
    )  # fmt: skip
    config.epochs = 120
    config.eval.update(every=0.1, batch_size=256)
    config.updates_per_call = 4
    return config


def sampling_strategy(value: str | float | dict) -> str | float | dict:
    """Reads `sampling_strategy` as imbalanced-learn takes it, also where the command line gave it as text."""
    if isinstance(value, str) and value not in SAMPLING_STRATEGIES:
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise UserError(
                f"sampling_strategy={value!r}: choose one of {', '.join(SAMPLING_STRATEGIES)}, a ratio such as 0.5, "
                "or counts such as \"{'fraud': 500}\""
            ) from None
    return value.to_dict() if isinstance(value, ConfigDict) else value


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for key, sub in tree.items() for k, v in flatten(sub, f"{prefix}.{key}" if prefix else key).items()}


def validate(config: Config) -> Config:
    """Checks ranges and returns the configuration frozen.

    Raises:
      UserError: a value out of its range; the message names the key, the value and what is allowed.
    """

    values = flatten(config.to_dict())

    def check(key: str, wanted: str, valid: Callable[[Any], bool]) -> None:
        if not valid(values[key]):
            raise UserError(f"config.{key}={values[key]!r}: {wanted}")

    for key in (
        *(f"{name}.batch_size" for name in STREAMS),
        *(f"meta.{name}" for name in ("steps", "inner_steps")),
        *("eval.batch_size", "updates_per_call", "keep_checkpoints", "weight_net.hidden", "m2m.steps"),
    ):
        check(key, "at least 1 is needed", lambda x: x >= 1)
    for key in (
        *("meta.inner_lr", "meta.beta", "optimizer.weight_decay", "weight_net.weight_decay", "seed"),
        *(f"loss.{name}" for name in ("gamma", "tau", "max_margin", "margin")),
    ):
        check(key, "a number of at least 0 is needed", lambda x: math.isfinite(x) and x >= 0)
    for key in (
        *("optimizer.lr", "epochs", "eval.every", "loss.scale", "weight_net.lr", "m2m.step_size"),
        *(f"{name}.mix_alpha" for name in STREAMS),
    ):
        check(key, "a number above 0 is needed", lambda x: math.isfinite(x) and x > 0)
    for key in ("optimizer.momentum", "weight_net.momentum", "loss.beta", "m2m.beta"):
        check(key, "a number from 0 to below 1 is needed", lambda x: 0 <= x < 1)
    check("clean.share", "a number above 0 and below 1 is needed", lambda x: 0 < x < 1)
    shares = ("loss.deferred", "loss.margin_warmup", "m2m.deferred", "m2m.gamma")
    for key in (*shares, *(f"{name}.mix_probability" for name in STREAMS)):
        check(key, "a number from 0 to 1 is needed", lambda x: 0 <= x <= 1)
    check("meta.warmup", "a number from 0 to below 1 is needed", lambda x: 0 <= x < 1)
    check(
        "optimizer.drops", "shares of the updates, above 0 and below 1, are needed", lambda x: all(0 < d < 1 for d in x)
    )
    check("m2m.pretrain", "a number above 0 and below 1 is needed", lambda x: 0 < x < 1)
    check("m2m.lambda", "a number of at least 0 is needed", lambda x: math.isfinite(x) and x >= 0)
    check("updates", "at least 1 is needed, or None for config.epochs to decide", lambda x: x is None or x >= 1)
    check("meta.pairs_per_chunk", "at least 1 is needed, or None to leave it to mbjax", lambda x: x is None or x >= 1)
    for key, choices in CHOICES.items():
        check(key, f"choose one of {', '.join(choices)}", choices.__contains__)
    for name in STREAMS:
        sampling_strategy(config[name].sampling_strategy)  # pyright: ignore
    return ml_collections.FrozenConfigDict(config)
