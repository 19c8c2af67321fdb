"""Every sampler by its name."""

import ast
import collections
import functools
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mbjax.options import COUNT, Kind, Option, choice, unset_or
from mbjax.registry import Registry
from mbjax.sampling import blocked, stream
from mbjax.sampling.resample import RESAMPLERS, resample
from mbjax.sampling.stream import Strategy, Stream
from mbjax.types import Split, UserError

_INDEX_SAMPLERS = {
    "natural": stream.natural,
    "over": stream.over,
    "under": stream.under,
    "class_balanced": stream.class_balanced,
}
_BLOCKED_SAMPLERS = {  # the same, of examples that are read in blocks
    "natural": blocked.natural,
    "over": blocked.over,
    "under": blocked.under,
    "class_balanced": blocked.class_balanced,
}
_STREAM_NUMBERS = {"train": 0, "support": 1, "query": 2, "clean": 3, "pretrain": 4}

SAMPLERS = Registry[Any]("mbjax.samplers", collections.ChainMap(RESAMPLERS, _INDEX_SAMPLERS))
"""Index samplers, as of `mbjax.sampling.stream`, and resamplers: imbalanced-learn's, or a class with its interface."""

_STRATEGIES = ("auto", "majority", "minority", "not majority", "not minority", "all")


def read_strategy(value: Any) -> Any:
    """`sampling_strategy` as imbalanced-learn takes it, also where the command line gave it as text.

    Raises:
      ValueError, SyntaxError: a text that is neither a name of a strategy nor a Python literal.
    """
    if isinstance(value, str) and value not in _STRATEGIES:
        value = ast.literal_eval(value)
    return value.to_dict() if isinstance(value, ConfigDict) else value


def _is_strategy(value: Any) -> bool:
    try:
        value = read_strategy(value)
    except (ValueError, SyntaxError):
        return False
    if isinstance(value, dict):
        return all(isinstance(name, str | int) and isinstance(count, int | float) for name, count in value.items())
    return isinstance(value, str | int | float) and not isinstance(value, bool)


STRATEGY = Kind(
    f"choose one of {', '.join(_STRATEGIES)}, a ratio such as 0.5, or counts such as \"{{'fraud': 500}}\"", _is_strategy
)


def options(sampler: str, batch_size: int) -> tuple[Option, ...]:
    """The options of a stream that decide its order, with these defaults."""
    return (
        Option("sampler", sampler, SAMPLERS.kind, "which sampler or resampler"),
        Option("batch_size", batch_size, COUNT, "examples in a batch"),
        Option("sampling_strategy", "auto", STRATEGY,
               "as imbalanced-learn's: a name, a ratio (two classes), or counts \"{'class': 100, ...}\""),
        Option("neighbors", None, unset_or(COUNT, "None for imbalanced-learn's default"),
               "the neighbourhood of SMOTE and the nearest-neighbour cleaners; imbalanced-learn's default if unset"),
        Option("balance", "class", choice(("class", "group")), "what the sampler balances"),
    )  # fmt: skip


def options_of(name: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """What `make_stream` takes of the section of the stream `name`: its sampler, and what is the sampler's own."""
    own = SAMPLERS.options(section["sampler"], f"config.{name}.sampler")
    keys = {"sampler", "sampling_strategy", "neighbors", "balance"} | {option.name for option in own}
    return {key: value for key, value in section.items() if key in keys}


def make_stream(
    split: Split,
    *,
    sampler: str,
    name: str,
    seed: int,
    sampling_strategy: str | float | dict = "auto",
    neighbors: int | None = None,
    balance: str = "class",
    classes: tuple[str, ...],
    groups: tuple[str, ...] = (),
    cache_dir: Path | None,
    **own: Any,
) -> Stream:
    """The stream of examples that a sampler makes of a split.

    Args:
      split: the training examples.
      sampler: a name of `SAMPLERS`. A resampler's output is read as `"natural"` reads the split.
      name: which stream of the run; each draws its own random numbers, and messages name it.
      seed: the run's seed.
      sampling_strategy: as imbalanced-learn's: a name, the ratio minority / majority (two classes), or counts
        `{class name or number: count}`. `"natural"` has no use for it.
      neighbors: `k_neighbors` of the SMOTE family, `n_neighbors` of ADASYN, NearMiss, AllKNN and
        EditedNearestNeighbours; imbalanced-learn's default if None. Other samplers have no use for it.
      balance: what is balanced, `"class"` or `"group"`; the strategy is then of groups. Resamplers take classes.
      classes: the class names in the order of the class numbers.
      groups: the group names, likewise.
      cache_dir: where resampled data is kept from run to run; None for nowhere. Of a resampler that is no part of mbjax
        it is not kept.
      **own: the sampler's own options.

    Raises:
      UserError: an unknown sampler; a strategy, class or resampler that does not fit the data.
    """
    part = SAMPLERS.find(sampler, f"config.{name}.sampler")
    resamples = sampler in RESAMPLERS or hasattr(part, "fit_resample")
    if balance == "group" and split.group is None:
        raise UserError(f"config.{name}.balance='group': this data has no groups; choose class")
    if resamples and (split.group is not None or not isinstance(split.x, np.ndarray)):
        raise UserError(
            f"config.{name}.sampler={sampler!r} makes new examples of arrays in memory, without groups; for this data "
            f"choose one of {', '.join(_INDEX_SAMPLERS)}"
        )
    if split.weight is not None and sampler in RESAMPLERS:
        raise UserError(
            f"config.{name}.sampler={sampler!r} makes new examples and takes no weights of examples: choose one of "
            f"{', '.join(_INDEX_SAMPLERS)}, or leave the weights out"
        )
    labels, names = (split.group, groups) if split.group is not None and balance == "group" else (split.y, classes)
    strategy = _strategy(sampling_strategy, names, f"config.{name}.sampling_strategy={sampling_strategy!r}")
    try:
        if resamples:
            foreign = {} if sampler in RESAMPLERS else {"cache_dir": None, "factory": functools.partial(part, **own)}
            split = resample(
                split, sampler=sampler, strategy=strategy, neighbors=neighbors, seed=seed, classes=classes,
                config_key=name, **{"cache_dir": cache_dir, **foreign},
            )  # fmt: skip
            labels = split.y
        index_sampler = stream.natural if resamples else functools.partial(part, **own)
        if (block := getattr(split.x, "block", 1)) > 1 and sampler in _BLOCKED_SAMPLERS:
            index_sampler = functools.partial(_BLOCKED_SAMPLERS[sampler], block=block)
        # Streams that are not mbjax's own have numbers far from those above.
        number = _STREAM_NUMBERS.get(name, 2**32 + zlib.crc32(name.encode()))
        epoch_length, take = index_sampler(labels, strategy, (seed, number))
    except (ValueError, RuntimeError) as error:  # imbalanced-learn's and scikit-learn's, sometimes of many lines
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"config.{name}.sampler={sampler!r} with sampling_strategy={sampling_strategy!r} does not fit this data: "
            f"{reason}; change --config.{name}.sampling_strategy, .neighbors or .sampler"
        ) from error
    weight = split.weight
    if weight is not None:
        weight = stream.loss_weights(labels, weight, natural=sampler == "natural")
    return Stream(split.x, split.y, epoch_length, take, split.group, weight)


def _strategy(value: str | float | dict, classes: tuple[str, ...], shown: str) -> Strategy:
    """`sampling_strategy` with classes given by their numbers."""
    if not STRATEGY.valid(value):
        raise UserError(f"{shown}: {STRATEGY.describe()}")
    value = read_strategy(value)
    if not isinstance(value, dict):
        return value
    counts: dict[int, int] = {}
    for label, count in value.items():
        if str(label) in classes:  # a name before a number: labels may themselves be numbers
            number = classes.index(str(label))
        elif isinstance(label, int) and 0 <= label < len(classes):
            number = label
        else:
            raise UserError(f"{shown}: there is no class {label!r} among {', '.join(classes)}")
        if not isinstance(count, int) or count < 1 or number in counts:
            raise UserError(f"{shown}: give class {classes[number]!r} one count, of at least 1")
        counts[number] = count
    return counts
