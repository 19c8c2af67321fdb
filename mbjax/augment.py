"""What happens to batches on the device before a method reads them: images to numbers, crops, flips, mixup and more.

It runs inside the compiled update, on its own random keys, and is a pure function of the run's key, the step and the
stream. So nothing of it is stored, and a resumed run repeats it.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mbjax.options import FLAG, POSITIVE, SHARE, Option, choice
from mbjax.state import TrainState
from mbjax.trivial_augment import trivial_augment
from mbjax.types import Batch, Metrics, UserError

Step = Callable[[Any, Mapping[str, Batch]], tuple[Any, Metrics]]
_KEYS = 2**32 - 1  # folded into the run's key in place of a step, which never gets there


def to_float(x: jax.Array) -> jax.Array:
    """uint8 images as float32 from −1 to 1; other inputs as they are."""
    return x.astype(jnp.float32) / 127.5 - 1 if x.dtype == jnp.uint8 else x


def crop(rng: jax.Array, images: jax.Array, *, size: int, pad: int = 0) -> jax.Array:
    """Crops each image at a random place of its own, all places equally likely.

    Args:
      rng: a random key.
      images: `[n, height, width, channels]`.
      size: height and width of the crops.
      pad: zeros put around the image first.

    Returns:
      `[n, size, size, channels]`.
    """
    if pad:
        images = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    n, height, width, channels = images.shape
    top_rng, left_rng = jax.random.split(rng)
    places = (
        jax.random.randint(top_rng, (n,), 0, height - size + 1),
        jax.random.randint(left_rng, (n,), 0, width - size + 1),
    )
    cut = lambda image, top, left: jax.lax.dynamic_slice(image, (top, left, 0), (size, size, channels))  # noqa: E731
    return jax.vmap(cut)(images, *places)


def flip(rng: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability ½. `images` is `[n, height, width, channels]`."""
    mirrored = jax.random.bernoulli(rng, shape=(len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def resized_crop(rng: jax.Array, images: jax.Array, *, least_area: float = 0.08) -> jax.Array:
    """Cuts a box of random area and shape out of each image and stretches it to the image's size, bilinearly.

    torchvision's `RandomResizedCrop` (Szegedy et al. 2014); at the box's edges neighbours outside of it count, as in
    Pillow's `resize(…, box=…)`.

    Args:
      rng: a random key.
      images: `[n, size, size, channels]`.
      least_area: of a box, as a share of the image's.

    Returns:
      Images of the same shape and type.
    """
    _, height, width, _ = images.shape

    def stretch(image: jax.Array, box: jax.Array) -> jax.Array:
        scale = jnp.array([height, width]) / box[2:]
        return jax.image.scale_and_translate(
            image.astype(jnp.float32), image.shape, (0, 1), scale, -scale * box[:2], method="linear", antialias=False
        )

    out = jax.vmap(stretch)(images, crop_boxes(rng, len(images), (height, width), least_area=least_area))
    return jnp.clip(jnp.round(out), 0, 255).astype(jnp.uint8) if images.dtype == jnp.uint8 else out


_TRIES = 10


def crop_boxes(rng: jax.Array, n: int, size: tuple[int, int], *, least_area: float) -> jax.Array:
    """Boxes of random area and shape, `[n, 4]` float32 whole numbers: top, left, height, width.

    The area is uniform from `least_area` to 1 of the image's, the logarithm of width over height uniform between those
    of 3/4 and 4/3. What does not fit into the image is drawn again; after 10 times the box is the whole image, as
    torchvision's is of square ones.
    """
    area_rng, ratio_rng, top_rng, left_rng = jax.random.split(rng, 4)
    area = size[0] * size[1] * jax.random.uniform(area_rng, (n, _TRIES), minval=least_area, maxval=1.0)
    limit = math.log(4 / 3)
    ratio = jnp.exp(jax.random.uniform(ratio_rng, (n, _TRIES), minval=-limit, maxval=limit))
    sides = jnp.stack([jnp.round(jnp.sqrt(area / ratio)), jnp.round(jnp.sqrt(area * ratio))], axis=-1)
    whole = jnp.array(size, jnp.float32)
    fits = ((sides >= 1) & (sides <= whole[None, None])).all(-1)
    first = jnp.take_along_axis(sides, fits.argmax(1)[:, None, None], axis=1)[:, 0]
    sides = jnp.where(fits.any(1)[:, None], first, whole[None])
    places = jnp.stack([jax.random.uniform(key, (n,)) for key in (top_rng, left_rng)], axis=1)
    return jnp.concatenate([jnp.floor(places * (whole[None] - sides + 1)), sides], axis=1)


def _crop_flip(rng: jax.Array, images: jax.Array) -> jax.Array:
    size = images.shape[1]
    return flip(jax.random.fold_in(rng, 1), crop(jax.random.fold_in(rng, 0), images, size=size, pad=size // 8))


def _crop28_flip(rng: jax.Array, images: jax.Array) -> jax.Array:
    return flip(jax.random.fold_in(rng, 1), crop(jax.random.fold_in(rng, 0), images, size=28))


def _resized_crop_flip(rng: jax.Array, images: jax.Array) -> jax.Array:
    return flip(jax.random.fold_in(rng, 1), resized_crop(jax.random.fold_in(rng, 0), images))


def _then_trivial(first: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return lambda rng, images: trivial_augment(jax.random.fold_in(rng, 2), first(rng, images))


AUGMENTATIONS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "none": lambda rng, images: images,
    "flip": flip,
    "crop_flip": _crop_flip,
    "crop28_flip": _crop28_flip,
    "crop_flip_trivial": _then_trivial(_crop_flip),
    "resized_crop_flip": _resized_crop_flip,
    "resized_crop_flip_trivial": _then_trivial(_resized_crop_flip),
}
"""`augmentation(rng, images [n, height, width, channels]) -> images`.

`"crop_flip"` pads an eighth of the size (4 pixels of 32) with zeros and keeps the size; `"crop28_flip"` is what the
paper's authors do, 28×28 pixels without padding; `"resized_crop_flip"` is usual for natural images. Those that end with
`trivial` apply `mbjax.trivial_augment` after it, to uint8 images.
"""


def mixup(rng: jax.Array, x: jax.Array, y: jax.Array, *, alpha: float | jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mixes each example with another one of its batch, `λ x_i + (1 − λ) x_j`, and the labels alike.

    Zhang et al. 2017, "mixup: Beyond Empirical Risk Minimization": one `λ ~ Beta(α, α)` a batch, `j` a permutation.

    Args:
      rng: a random key.
      x: examples, `[n, ...]`, floating point.
      y: shares of the classes, `[n, classes]`, or probabilities of class 1, `[n]`.
      alpha: `α > 0`.
    """
    share, other = jax.random.beta(jax.random.fold_in(rng, 0), alpha, alpha, dtype=x.dtype), _partners(rng, len(x))
    return share * x + (1 - share) * x[other], _mixed_labels(share, y, other)


def cutmix(rng: jax.Array, x: jax.Array, y: jax.Array, *, alpha: float | jax.Array) -> tuple[jax.Array, jax.Array]:
    """Replaces a box of each image by that of another one of its batch; labels by the area that is left.

    Yun et al. 2019, "CutMix": `λ ~ Beta(α, α)`, the box has `√(1 − λ)` of either side and a uniform centre, and what
    lies outside of the image is cut off. One box a batch, as published.

    Args:
      rng: a random key.
      x: images, `[n, height, width, channels]`.
      y: shares of the classes, `[n, classes]`, or probabilities of class 1, `[n]`.
      alpha: `α > 0`.
    """
    wanted, other = jax.random.beta(jax.random.fold_in(rng, 0), alpha, alpha, dtype=x.dtype), _partners(rng, len(x))
    inside = [
        box_axis(jax.random.fold_in(rng, 2 + axis), size, jnp.sqrt(1 - wanted))
        for axis, size in enumerate(x.shape[1:3])
    ]
    box = inside[0][:, None] & inside[1][None, :]
    share = 1 - box.astype(x.dtype).mean()
    return jnp.where(box[None, :, :, None], x[other], x), _mixed_labels(share, y, other)


def box_axis(rng: jax.Array, size: int, side: jax.Array) -> jax.Array:
    """Which of `size` pixels lie in CutMix's box, `[size]` bool: `⌊side · size⌋` around a uniform centre, cut off."""
    half = (side * size).astype(jnp.int32) // 2
    centre, pixels = jax.random.randint(rng, (), 0, size), jnp.arange(size)
    return (pixels >= centre - half) & (pixels < centre + half)


def _partners(rng: jax.Array, n: int) -> jax.Array:
    return jax.random.permutation(jax.random.fold_in(rng, 1), n)


def _mixed_labels(share: jax.Array, y: jax.Array, other: jax.Array) -> jax.Array:
    share = share.astype(y.dtype)
    return share * y + (1 - share) * y[other]


MIXES: dict[str, Callable[..., tuple[jax.Array, jax.Array]] | None] = {"none": None, "mixup": mixup, "cutmix": cutmix}

OPTIONS = (  # of every stream
    Option("sum_groups", False, FLAG, "whether the loss is the sum of the groups' mean losses, not the mean"),
    Option("augment", "none", choice(AUGMENTATIONS), "random crops and flips of images, and TrivialAugment"),
    Option("mix", "none", choice(MIXES), "mixes examples and labels of a batch with one another"),
    Option("mix_alpha", 1.0, POSITIVE, "the mixing share is drawn from Beta(α, α)"),
    Option("mix_probability", 1.0, SHARE, "of a batch to be mixed; the others stay as they are"),
)


def transform(
    batch: Batch,
    rng: jax.Array,
    *,
    augment: str,
    mix: str,
    mix_alpha: float | jax.Array,
    mix_probability: float | jax.Array,
    sum_groups: bool,
    classes: int,
) -> Batch:
    """A batch, or many, as a method reads them.

    Args:
      batch: `"x"` `[..., n, *shape]`, class numbers `"y"` `[..., n]` and, if there are groups, their numbers `"group"`
        `[..., n]`; the axes before `n` are of separate batches.
      rng: a random key.
      augment: a name of `AUGMENTATIONS`; all but `"none"` want images, `shape` of three axes.
      mix: a name of `MIXES`. Labels then become shares, `[..., n, classes]`, of two classes `[..., n]`.
      mix_alpha: the mixture's `α`.
      mix_probability: of each batch to be mixed. Others stay whole, their labels shares of 0 and 1.
      sum_groups: gives examples the `"weight"` `n / n_g`, `n_g` those of their group in the batch: the weighted mean
        loss is then the sum of the groups' mean losses.
      classes: how many there are.
    """
    x, y = batch["x"], batch["y"]
    if augment != "none":
        images = x.reshape(-1, *x.shape[y.ndim :])
        images = AUGMENTATIONS[augment](jax.random.fold_in(rng, 0), images)
        x = images.reshape(*y.shape, *images.shape[1:])
    x = to_float(x)
    mixed = MIXES[mix]
    if mixed is not None:
        y = y.astype(x.dtype) if classes == 2 else jax.nn.one_hot(y, classes, dtype=x.dtype)
        lead = batch["y"].shape[:-1]
        rngs = jax.random.split(jax.random.fold_in(rng, 1), math.prod(lead))
        one = lambda rng, x, y: mixed(rng, x, y, alpha=mix_alpha)  # noqa: E731
        flat = [array.reshape(len(rngs), *array.shape[len(lead) :]) for array in (x, y)]
        chosen = jax.random.bernoulli(jax.random.fold_in(rng, 2), mix_probability, (len(rngs),))
        x, y = (
            jnp.where(chosen.reshape(-1, *[1] * (whole.ndim - 1)), mixed, whole).reshape(*lead, *whole.shape[1:])
            for mixed, whole in zip(jax.vmap(one)(rngs, *flat), flat, strict=True)
        )
    out = {**batch, "x": x, "y": y}
    if sum_groups:
        group = batch["group"]
        same = (group[..., :, None] == group[..., None, :]).astype(x.dtype)
        weight = group.shape[-1] / same.sum(-1)
        out["weight"] = weight * batch["weight"] if "weight" in batch else weight
    return out


def before(
    step: Step,
    sections: Mapping[str, Mapping[str, Any]],
    *,
    classes: int,
    image: bool,
    eight_bits: bool = True,
    groups: bool = False,
    with_margin: Collection[str] = (),
    margin_updates: Any = 0,
) -> Step:
    """A method's step on batches that are transformed first.

    Args:
      step: `step(state, {stream: batch}) -> (state, metrics)`.
      sections: the configuration of each stream that it reads.
      classes: how many there are.
      image: whether the examples are images, `[height, width, channels]`.
      eight_bits: whether they are uint8.
      groups: whether they have groups.
      with_margin: the streams whose loss has a margin that grows. Their examples get the `"margin_share"` that it has
        reached, `min(step / margin_updates, 1)`.
      margin_updates: in how many updates, above 0; may be traced.

    Raises:
      UserError: an unknown name, or what is for images or groups where there are none.
    """
    options = {}
    for name, section in sections.items():
        options[name] = {option.name: section[option.name] for option in OPTIONS}
        for key, choices in (("augment", AUGMENTATIONS), ("mix", MIXES)):
            value = section[key]
            if value not in choices:
                raise UserError(f"config.{name}.{key}={value!r}: choose one of {', '.join(choices)}")
            if value not in ("none", "mixup") and not image:
                raise UserError(f"config.{name}.{key}={value!r} is for images, and these examples are none")
            if value.endswith("trivial") and not eight_bits:
                raise UserError(f"config.{name}.{key}={value!r} is for images of 8 bits, and these are not uint8")
        if section["sum_groups"] and not groups:
            raise UserError(f"config.{name}.sum_groups=True: this data has no groups")

    def transformed(state: TrainState, batches: Mapping[str, Batch]) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.fold_in(state.rng, _KEYS), state.step)
        out = {
            name: transform(batches[name], jax.random.fold_in(rng, number), **options[name], classes=classes)
            for number, name in enumerate(sorted(options))
        }
        for name in with_margin:
            share = jnp.minimum(state.step / margin_updates, 1)  # of each example, as the axes before are split later
            out[name] = {**out[name], "margin_share": jnp.full(batches[name]["y"].shape, share)}
        return step(state, out)

    return transformed
