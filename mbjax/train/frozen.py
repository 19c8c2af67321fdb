"""The features of a model's frozen part, computed once: the method then trains what is behind it, on these."""

import zlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mbjax import augment, methods, sampling
from mbjax.models import stem
from mbjax.types import UserError

_KEPT = np.float16  # what features are kept in: half the memory, and a logarithm to 0.004 at least


def split(
    model: nn.Module, streams: Mapping[str, sampling.Stream], sections: methods.Sections, *, main: str, seed: int
) -> tuple[nn.Module, Mapping[str, sampling.Stream], methods.Sections]:
    """What the method trains of a model, and what it reads: of a model without a frozen part all as it is.

    Of one that has `frozen_stem` and `behind` (see `mbjax.models.MODELS`), the streams are of features. A stream that
    augments its images reads `model.views` of each: the image itself, and random ones, drawn once; the same for all
    streams of one augmentation. Of `flip` there are two: the image and its mirror image. The streams are then done with
    augmentation, which the sections that are returned say.

    Args:
      model: the network, of the data set's examples.
      streams: of these examples.
      sections: of the configuration.
      main: the stream whose examples' features the part behind may learn of.
      seed: of the random views.

    Raises:
      UserError: examples that are read by index, or an augmentation of what are no images, or that changes their size.
    """
    if not hasattr(model, "frozen_stem"):
        return model, streams, sections
    if not all(isinstance(stream.x, np.ndarray) for stream in streams.values()):
        raise UserError(
            "config.model.name: this model computes the features of its training images once and keeps them; it "
            "needs images in memory, and these are read by index: choose another model"
        )
    frozen: Any = model
    known = frozen.learn_stem(streams[main].x, streams[main].labels["y"])
    features = _Features(frozen, known, seed)
    new = {name: features.of(stream, name, sections[name]["augment"]) for name, stream in streams.items()}
    done = {name: {**sections[name], "augment": "none"} for name in new}
    return frozen.behind(new[main].x, new[main].y, known), new, {**sections, **done}


class _Features:
    """The features of each array and augmentation, computed once whichever streams share them."""

    def __init__(self, model: Any, known: Mapping[str, np.ndarray], seed: int):
        self._model, self._known, self._seed = model, known, seed
        self._views: int = model.views
        self._kept: dict[tuple[int, str], np.ndarray] = {}

    def of(self, stream: sampling.Stream, name: str, augmentation: str) -> sampling.Stream:
        """The stream of the features of a stream's images."""
        if augmentation != "none" and stream.x.ndim != 4:
            raise UserError(f"config.{name}.augment={augmentation!r} is for images, and these examples are none")
        change, like = augment.AUGMENTATIONS[augmentation], jax.ShapeDtypeStruct(stream.x.shape, stream.x.dtype)
        if jax.eval_shape(change, jax.eval_shape(jax.random.key, 0), like).shape != stream.x.shape:
            raise UserError(
                f"config.{name}.augment={augmentation!r} changes the size of the images, of which this model computes "
                "features once: choose flip or crop_flip"
            )
        views = {"none": 1, "flip": 2}.get(augmentation, self._views)
        key = (id(stream.x), augmentation)
        if key not in self._kept:
            self._kept[key] = stem.features(
                self._model,
                stream.x,
                self._known,
                augmentation=augmentation,
                views=views,
                seed=self._seed,
                dtype=_KEPT,
            )
        return sampling.with_views(stream, self._kept[key], views, (self._seed, 2**33 + zlib.crc32(name.encode())))
