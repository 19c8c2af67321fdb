"""The configuration: every key with its default, and the checks that one can make before any data is read."""

import ast
import math

import ml_collections
from ml_collections import ConfigDict, config_dict

from mbjax.types import UserError

SAMPLING_STRATEGIES = ("auto", "majority", "minority", "not majority", "not minority", "all")


def stream(sampler: str, batch_size: int) -> ConfigDict:
    """One stream of batches.

    Args:
      sampler: a name of `mbjax.sampling.SAMPLERS`.
      batch_size: examples a batch.
    """
    return ConfigDict(
        {
            "sampler": sampler,
            "batch_size": batch_size,
            # imbalanced-learn's: a name, a ratio (two classes), or counts "{'class': 100, ...}".
            "sampling_strategy": "auto",
            # The neighbourhood of SMOTE and the nearest-neighbour cleaners; imbalanced-learn's default if None.
            "neighbors": config_dict.placeholder(int),
        }
    )


def base() -> ConfigDict:
    """The defaults. A file in `configs/` takes them and changes what its task needs."""
    return ConfigDict(
        {
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
            },
            "train": stream("natural", 24),  # what plain training (erm and its kin) reads
            "support": stream("natural", 24),
            "query": stream("under", 16),
            "meta": {
                "steps": 80,  # pairs of a support and a query batch per update
                "inner_lr": 0.01,
                "inner_steps": 1,
                "beta": 0.0,
                "grad_mode": "mixed",
                "pairs_per_chunk": 80,
                "model_state_from": "both",
            },
            "optimizer": {
                "lr": 0.02,
                "momentum": 0.9,
                "nesterov": True,
                "weight_decay": 5e-4,
                "schedule": "constant",  # or "cosine"
            },
            # Passes over the train stream (erm) or the query stream (metabalance), as the paper's code counts them...
            "epochs": 100,
            # ...or the number of updates, which then decides.
            "updates": config_dict.placeholder(int),
            "eval_every": 0.1,  # evaluations and checkpoints: a share of the updates, or a number of updates if ≥ 1
            "eval_batch_size": 2048,
            "updates_per_call": 100,  # updates that the device does without returning to the host
            "keep_checkpoints": 3,
        }
    )


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


def validate(config: ConfigDict) -> ml_collections.FrozenConfigDict:
    """Checks ranges and returns the configuration frozen.

    Raises:
      UserError: a value out of its range; the message names the key, the value and what is allowed.
    """

    def check(key: str, ok: bool, wanted: str) -> None:
        if not ok:
            value = config
            for part in key.split("."):
                value = value[part]
            raise UserError(f"config.{key}={value!r}: {wanted}")

    finite = lambda x: isinstance(x, int | float) and math.isfinite(x)  # noqa: E731
    for name in ("train", "support", "query"):
        check(f"{name}.batch_size", config[name].batch_size >= 1, "at least 1 is needed")
        sampling_strategy(config[name].sampling_strategy)
    for key, choices in (
        ("meta.grad_mode", ("mixed", "reverse", "first_order")),
        ("meta.model_state_from", ("both", "support", "query")),
        ("optimizer.schedule", ("constant", "cosine")),
    ):
        section, name = key.split(".")
        check(key, config[section][name] in choices, f"choose one of {', '.join(choices)}")
    for name in ("steps", "inner_steps", "pairs_per_chunk"):
        check(f"meta.{name}", config.meta[name] >= 1, "at least 1 is needed")
    for name in ("inner_lr", "beta"):
        check(f"meta.{name}", finite(config.meta[name]) and config.meta[name] >= 0, "a number of at least 0 is needed")
    check("optimizer.lr", finite(config.optimizer.lr) and config.optimizer.lr > 0, "a number above 0 is needed")
    check("optimizer.momentum", 0 <= config.optimizer.momentum < 1, "a number from 0 to below 1 is needed")
    check("optimizer.weight_decay", config.optimizer.weight_decay >= 0, "a number of at least 0 is needed")
    check("epochs", config.epochs > 0, "a number above 0 is needed")
    check("updates", config.updates is None or config.updates >= 1, "at least 1 is needed")
    check("eval_every", config.eval_every > 0, "a share of the updates or a number of updates above 0 is needed")
    check("eval_batch_size", config.eval_batch_size >= 1, "at least 1 is needed")
    check("updates_per_call", config.updates_per_call >= 1, "at least 1 is needed")
    check("keep_checkpoints", config.keep_checkpoints >= 1, "at least 1 is needed")
    check("seed", config.seed >= 0, "at least 0 is needed")
    return ml_collections.FrozenConfigDict(config)
