"""From a configuration to what one trains: data, samplers, model and method, built."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from mbjax import augment, class_weights, data, losses, methods, models, sampling
from mbjax.data import splits
from mbjax.devices import parallel as parallel_lib
from mbjax.train import frozen
from mbjax.types import Config, Dataset, LossFn, PyTree, Split, UserError


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All that a configuration describes, built.

    Attributes:
      dataset: what is trained and tested on.
      model: the network, of the data set's examples. Of one with a frozen part the method trains what is behind it.
      sections: the configuration's, as dicts.
      make_method: `make_method` below, but for the arguments that this run decides.
      class_counts: training examples of each class, `[classes]`, of what the method reads; by weight if they have any.
      method: the method.
      streams: where its batches come from.
      shapes: what an update takes from each stream.
      updates: of the whole run.
      recipe: what the method was built from.
      platform: what it is compiled for, by JAX's name: `"cpu"`, `"gpu"` or `"cuda"`, `"tpu"`. All that mbjax chooses
        by platform it chooses by this.
      numbered: what the start of `config.diet` reads, the training images with their numbers for classes; None where
        there is none. `mbjax.train.start` does it.
    """

    dataset: Dataset
    model: nn.Module
    sections: methods.Sections
    make_method: functools.partial[methods.Method]
    class_counts: np.ndarray
    method: methods.Method
    streams: Mapping[str, sampling.Stream]
    shapes: methods.Shapes
    updates: int
    recipe: methods.Recipe
    platform: str
    numbered: sampling.Stream | None = None


def make_method(
    name: str, *, model: nn.Module, example: np.ndarray, sections: methods.Sections, class_counts: Any, updates: int,
    groups: bool = False, parallel: parallel_lib.Parallel = "none", start: Mapping[str, PyTree] | None = None,
) -> methods.Method:  # fmt: skip
    """Builds a method with its loss and optimiser.

    Args:
      name: of `mbjax.methods.METHODS`.
      model: what it trains.
      example: inputs of one example, `[1, ...]`.
      sections: the sections of a configuration by name. Their learning rates, weights and the like may be traced, and
        so may `class_counts`: a population of runs shares one compiled program (`mbjax.train.population`).
      class_counts: training examples of each class, `[classes]`.
      updates: of the whole run.
      groups: whether the examples have groups.
      parallel: `config.parallel`; one device if not given.
      start: weights and running statistics to start from, where the network has those names; NumPy arrays.
    """

    def loss_fn(loss: Mapping[str, Any]) -> LossFn:
        own = {key: loss[key] for key in ("name", *losses.options_of(loss["name"])) if key in loss}
        return losses.supervised_loss(model.apply, losses.build(**own, class_counts=class_counts))

    tx = methods.make_optimizer(**sections["optimizer"], updates=updates)
    support_loss = sections["support"]["loss"]
    zeros = np.zeros(example.shape, np.float32 if example.dtype == np.uint8 else example.dtype)
    problem = methods.Problem(
        model, loss_fn(sections["loss"]), tx, zeros, class_counts, updates, parallel,
        loss_fn({**sections["loss"], "name": support_loss}) if support_loss else None, start,
    )  # fmt: skip
    method = methods.build(name, problem, sections)
    streams = {stream: sections[stream] for stream in methods.find(name).streams(sections)}
    warmup, main_loss = sections["loss"]["margin_warmup"], sections["loss"]["name"]
    loss_names = {stream: (stream == "support" and support_loss) or main_loss for stream in streams}
    step = augment.before(
        method.step, streams, classes=len(class_counts), image=example.ndim == 4,
        eight_bits=example.dtype == np.uint8, groups=groups,
        with_margin=[name for name, loss in loss_names.items() if warmup and losses.has_margin(loss)],
        margin_updates=warmup * updates,
    )  # fmt: skip
    return dataclasses.replace(method, step=step)


def build(config: Config, dataset: Dataset | None = None, *, platform: str | None = None) -> Experiment:
    """Builds the samplers, the model and the method of a valid configuration, each once.

    Args:
      config: of `mbjax.config.validate`.
      dataset: what is trained and tested on; `config.task` is then only its name, and `config.data` has no say. If
        None, it is what these two name.
      platform: what it is compiled for; JAX's default backend if None. Another one is for lowering alone.

    Raises:
      UserError: a mistake in the configuration or the data.
    """
    if dataset is None:
        dataset = data.load(config.task, seed=config.seed, **config.data)
    else:
        data.check(dataset)
    try:
        cache_dir = pathlib.Path("~/.cache/mbjax/resampled").expanduser()  # a data folder may be read-only
    except RuntimeError:  # there is no home
        cache_dir = None
    return assemble(config, dataset, cache_dir=cache_dir, platform=platform)


def assemble(
    config: Config, dataset: Dataset, *, cache_dir: pathlib.Path | None = None, platform: str | None = None
) -> Experiment:
    """`build` of data that was checked, of which only the training part need be there.

    Args:
      config: of `mbjax.config.validate`.
      dataset: what is trained on. A class may have no training example.
      cache_dir: where resampled data is kept from run to run; None for nowhere.
      platform: see `build`.

    Raises:
      UserError: a mistake in the configuration, or data that the method or a sampler cannot use.
    """
    recipe = methods.find(config.method)
    main = recipe.epoch_stream
    sections = {
        key: value.to_dict() for key, value in config.items() if isinstance(value, ml_collections.FrozenConfigDict)
    }
    loss = sections["loss"]
    loss["class_weight"] = class_weights.read_class_weight(loss["class_weight"], dataset.classes)
    platform = platform or jax.default_backend()
    outputs = 1 if len(dataset.classes) == 2 else len(dataset.classes)
    model = models.build(**sections["model"], outputs=outputs, platform=platform)
    # What the method reads decides its class counts and, it may be, the number of its updates.
    shapes = recipe.streams(sections)
    parts = cut(dataset, shapes, sections["clean"]["share"], seed=config.seed)
    class_counts = parts[main].count_classes(len(dataset.classes))
    streams = _make_streams(parts, sections, dataset, seed=config.seed, cache_dir=cache_dir)
    updates = config.updates
    if updates is None:
        epoch = streams[main].epoch_length
        updates = math.ceil(config.epochs * epoch / math.prod(shapes[main]))
    if starts := sections["diet"]["updates"]:
        own = {"augment": sections[main]["augment"]}
        streams["diet"] = methods.diet.stream(dataset, updates=starts, main=main, seed=config.seed, **own)
        sections["diet"] |= own
    behind, streams, sections = frozen.split(model, streams, sections, main=main, seed=config.seed)
    streams = dict(streams)
    numbered = streams.pop("diet", None)  # no stream of the method
    x = streams[main].x
    example = np.zeros((1, *x.shape[1:]), x.dtype)
    if starts:
        methods.diet.check(behind, config.model.name, example)
    make = functools.partial(make_method, config.method, model=behind, example=example, groups=bool(dataset.groups))
    method = make(sections=sections, class_counts=class_counts, updates=updates, parallel=config.parallel)
    return Experiment(
        dataset, model, sections, make, class_counts, method, streams, shapes, updates, recipe, platform, numbered
    )


def cut(dataset: Dataset, streams: Iterable[str], clean_share: float, *, seed: int) -> dict[str, Split]:
    """What each stream reads of the training data: the stream `clean` a balanced part of its own, the others the rest.

    Raises:
      UserError: a class has too few examples; see `mbjax.data.splits.balanced_part`.
    """
    train = dataset.train
    if "clean" not in streams:
        return dict.fromkeys(streams, train)
    rows = splits.balanced_part(train.y, clean_share, seed=seed, classes=dataset.classes)
    if not isinstance(train.x, np.ndarray):
        raise UserError("the clean part of l2rw and mw_net is cut from data in memory, and this data is read by index")
    pick = lambda array, r: None if array is None else array[r]  # noqa: E731
    rest, clean = (Split(train.x[r], train.y[r], pick(train.group, r), pick(train.weight, r)) for r in rows)
    return {name: clean if name == "clean" else rest for name in streams}


def _make_streams(
    parts: Mapping[str, Split], sections: methods.Sections, dataset: Dataset, *, seed: int,
    cache_dir: pathlib.Path | None,
) -> dict[str, sampling.Stream]:  # fmt: skip
    options = {"seed": seed, "classes": dataset.classes, "groups": dataset.groups, "cache_dir": cache_dir}
    read = {name: sampling.options_of(name, sections[name]) for name in parts}
    return {name: sampling.make_stream(parts[name], name=name, **read[name], **options) for name in parts}


def chosen(experiment: Experiment) -> dict[str, Any]:
    """What mbjax chose for this model and these devices, by the configuration's key that overrides it."""
    choices = {f"config.{key}": value for key, value in experiment.method.choices.items()}
    if experiment.sections["model"].get("conv") == "auto":
        choices["config.model.conv"] = getattr(experiment.model, "conv", "auto")
    return {**choices, "config.parallel": parallel_lib.describe(experiment.method.mesh)}
