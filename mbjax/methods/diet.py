"""A start without labels, for any method: the network first learns to tell the training images apart.

DIET (Ibrahim, Balestriero et al. 2023, "The Simplest Self-Supervised Learning Method"): every training image is a class
of its own, whose examples are its random views. A linear head of as many outputs as there are images is trained with
the network, by cross-entropy of smoothed labels; then it is dropped. `mbjax.train.start` runs it.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mbjax import sampling
from mbjax.methods.base import OPTIMIZER_OPTIONS, TRAIN, Sections
from mbjax.options import COUNT, WHOLE_NOT_NEGATIVE, Option, Section
from mbjax.types import Dataset, PyTree, Split, UserError

SMOOTHING = 0.8  # as published: of thousands of outputs, each view says little about its own
SECTION = Section(
    "a start without labels, which tells the training images apart by random views of them (DIET)",
    (
        Option("updates", 0, WHOLE_NOT_NEGATIVE, "updates of it, before those of the method; 0 for none"),
        Option("batch_size", 256, COUNT, "images in a batch of it"),
    ),
)


class Numbered(nn.Module):
    """A network up to its head, and a linear head of an output for each training image.

    Attributes:
      body: a module that takes `features=True`.
      images: how many there are.
    """

    body: nn.Module
    images: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Logits `[n, images]` of examples `[n, ...]`."""
        return nn.Dense(self.images, name="head")(self.body(x, train=train, features=True))


def sections(given: Sections) -> Sections:
    """The sections of plain training (`erm`) that are the start, of a run's own.

    The optimiser is the published one but for its ten epochs of warm-up: AdamW, whose rate falls to 0 as a cosine.
    """
    optimizer = {option.name: option.default for option in OPTIMIZER_OPTIONS}
    optimizer |= {"name": "adamw", "lr": 1e-3, "momentum": 0.9, "nesterov": False, "weight_decay": 0.05,
                  "schedule": "cosine"}  # fmt: skip
    train = {option.name: option.default for option in TRAIN.options}
    train |= {name: given["diet"][name] for name in ("augment", "batch_size")}
    return {
        **given,
        "optimizer": optimizer,
        "loss": {"name": "cross_entropy", "smoothing": SMOOTHING, "class_weight": "none", "margin_warmup": 0.0},
        "support": {**given["support"], "loss": ""},
        "train": train,
    }


def stream(dataset: Dataset, *, updates: int, augment: str, main: str, seed: int) -> sampling.Stream:
    """The training part, shuffled anew each epoch; the class of an image is its number. No label is read.

    Args:
      dataset: what is trained on.
      updates: `config.diet.updates`, for messages.
      augment: what makes the views, of the stream `main`.
      main: its name, for messages.
      seed: of the order.

    Raises:
      UserError: data of people, examples that are read by index, or no augmentation.
    """
    out = f"or leave config.diet.updates={updates} at 0"
    if dataset.kind != "classification":
        raise UserError(f"config.diet.updates: the start is for classes, and {dataset.source} is of people: choose "
                        f"another config.task, {out}")  # fmt: skip
    x = dataset.train.x
    if not isinstance(x, np.ndarray):
        raise UserError(
            "config.diet.updates: the start has an output for each training image and wants them in memory, and these "
            f"are read by index: choose data that fits into memory, {out}"
        )
    if augment == "none":
        raise UserError(
            "config.diet.updates: the start tells random views of the images apart, and "
            f"config.{main}.augment='none' makes none: set it to crop_flip, say, {out}"
        )
    numbered = Split(x, np.arange(len(x), dtype=np.int32))
    return sampling.make_stream(numbered, sampler="natural", name="diet", seed=seed, classes=(), cache_dir=None)


def check(model: nn.Module, name: str, example: np.ndarray) -> None:
    """Raises a UserError for a network that has nothing to start.

    Args:
      model: what the method trains.
      name: `config.model.name`.
      example: inputs of one example, `[1, ...]`.
    """
    if "features" not in inspect.signature(type(model).__call__).parameters:
        raise UserError(
            f"config.diet.updates: the start trains what is before the head, which the model {name!r} does not give "
            "(features=True): choose another config.model.name, or leave config.diet.updates at 0"
        )
    zeros = np.zeros(example.shape, np.float32)
    body: Any = lambda: model.init(jax.random.key(0), zeros, train=False, features=True)  # noqa: E731
    if not jax.eval_shape(body).get("params"):
        raise UserError(
            f"config.diet.updates: the start trains what is before the head, where the model {name!r} has no weights: "
            "give it layers (config.model.blocks, config.model.hidden), or leave config.diet.updates at 0"
        )


def of_body(variables: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """A network's variables under the names that `Numbered` has for them."""
    return {collection: {"body": own} for collection, own in variables.items()}
