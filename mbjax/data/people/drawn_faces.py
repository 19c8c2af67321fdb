"""Synthetic faces: simple parametric drawings of people who do not exist, for tests and demonstrations.

An identity is a set of numbers: the shape of head, hair, eyes, brows, nose and mouth, and four colours. Its group
shifts the distributions of some of them. Each image of it varies pose, light, expression and noise. Of 100 identities
with 20 images of 32×32, the nearest neighbour of raw pixels is of the same identity for 40% of the images.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from mbjax import atomic
from mbjax.data.sources import data_dir
from mbjax.types import UserError

GROUPS = ("a", "b")
_VERSION = 1  # of the drawing: another one goes into another folder
_FINE = 4  # drawn this much larger, then reduced
_SHIFTS = {"hair_length": 0.35, "jaw": -0.08, "brow_thick": -0.012, "head_height": -0.03}  # group b less group a

# Mean and spread over identities. Lengths in units of half the image's side; x to the right, y down.
_GEOMETRY: dict[str, tuple[float, float]] = {
    "head_width": (0.52, 0.035),
    "head_height": (0.68, 0.035),
    "jaw": (0.80, 0.07),  # the width of the chin's part, of the head's
    "hairline": (-0.38, 0.07),
    "hair_length": (0.0, 0.22),  # how far down the hair goes beside the head
    "hair_volume": (0.09, 0.03),
    "eye_distance": (0.23, 0.022),
    "eye_height": (-0.08, 0.03),
    "eye_size": (0.085, 0.012),
    "brow_gap": (0.15, 0.022),
    "brow_thick": (0.035, 0.01),
    "brow_tilt": (0.0, 0.035),
    "nose_length": (0.24, 0.035),
    "nose_width": (0.085, 0.018),
    "mouth_height": (0.36, 0.03),
    "mouth_width": (0.20, 0.03),
    "mouth_thick": (0.045, 0.012),
}
# Mean colour and spread, of red, green and blue alike and of each alone.
_COLOURS: dict[str, tuple[tuple[int, int, int], float, float]] = {
    "skin": ((190, 145, 120), 28.0, 7.0),
    "hair": ((85, 65, 50), 32.0, 14.0),
    "iris": ((80, 90, 95), 22.0, 20.0),
    "lips": ((170, 90, 90), 16.0, 10.0),
}


class Person(NamedTuple):
    """One identity: `geometry` and `colours` by their names."""

    geometry: dict[str, float]
    colours: dict[str, np.ndarray]


def find_or_draw(*, seed: int, identities: int, images: int, size: int, dir: str = "") -> Path:
    """The folder of a synthetic set, drawn if it is not there: see `draw_set`.

    It is `synthetic_faces-<digest of the arguments>` in the data folder (see `mbjax.data.sources.data_dir`), or, if
    that cannot be written to, in `~/.cache/mbjax`.

    Raises:
      UserError: fewer than two identities, images or pixels, or a folder that cannot be written to.
    """
    for name, value in (("synthetic_identities", identities), ("synthetic_images", images), ("size", size)):
        if value < 2:
            raise UserError(f"config.data.{name}={value}: at least 2 are needed for synthetic faces")
    key = f"{_VERSION} {seed} {identities} {images} {size}"
    name = f"synthetic_faces-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    places = [data_dir(dir), Path("~/.cache/mbjax").expanduser()]
    for place in places:
        if (place / name).is_dir():
            return place / name
    target = next((place for place in places if _writable(place)), places[0]) / name
    try:
        with atomic.making(target) as folder:
            draw_set(folder, seed=seed, identities=identities, images=images, size=size)
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error.strerror}): name another folder with --config.data.dir"
        ) from None
    return target


def _writable(folder: Path) -> bool:
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return os.access(existing, os.W_OK)


def draw_set(folder: Path, *, seed: int, identities: int, images: int, size: int) -> None:
    """Draws a set in the layout that `mbjax.data.people.faces.load` reads: one folder an identity, and `groups.csv`.

    Args:
      folder: where; it must exist.
      seed: the same seed draws the same pixels. An identity's drawings do not depend on how many others there are.
      identities: how many; they take turns between the two groups.
      images: of each identity, PNG files.
      size: pixels of a side.
    """
    lines = ["identity,group"]
    for number in range(identities):
        name, group = f"{number:05}", number % len(GROUPS)
        lines.append(f"{name},{GROUPS[group]}")
        (folder / name).mkdir()
        person = draw_person(np.random.default_rng([seed, number]), group)
        for image in range(images):
            x = draw_image(person, np.random.default_rng([seed, number, image]), size=size)
            Image.fromarray(x).save(folder / name / f"{image:03}.png")
    (folder / "groups.csv").write_text("\n".join(lines) + "\n")


def draw_person(rng: np.random.Generator, group: int) -> Person:
    """Draws an identity of a group, a number of `GROUPS`."""
    geometry = {
        name: mean + group * _SHIFTS.get(name, 0.0) + spread * rng.standard_normal()
        for name, (mean, spread) in _GEOMETRY.items()
    }
    colours = {
        name: np.asarray(mean) + together * rng.standard_normal() + alone * rng.standard_normal(3)
        for name, (mean, together, alone) in _COLOURS.items()
    }
    return Person(geometry, colours)


def draw_image(person: Person, rng: np.random.Generator, *, size: int) -> np.ndarray:
    """Draws an image of an identity, `[size, size, 3]` uint8."""
    canvas = Image.new("RGB", (_FINE * size, _FINE * size), _colour(rng.uniform(95, 160) + rng.normal(0, 8, 3)))
    pose = _Pose(
        shift=rng.normal(0, 0.025, 2), angle=rng.normal(0, 0.06), scale=np.exp(rng.normal(0, 0.04)),
        turn=rng.normal(0, 0.04),
    )  # fmt: skip
    _draw_features(ImageDraw.Draw(canvas), person, pose, rng, _FINE * size / 2)
    x = np.asarray(canvas.resize((size, size), Image.Resampling.BOX), np.float64)
    # Light: from a side, brighter or darker, of a colour, and hard or soft.
    across = np.linspace(-1, 1, size)
    slope = rng.normal(0, 0.10, 2)
    light = np.exp(rng.normal(0, 0.10) + slope[0] * across[None, :] + slope[1] * across[:, None])[..., None]
    x = 128 + (x * light * np.exp(rng.normal(0, 0.03, 3)) - 128) * np.exp(rng.normal(0, 0.10))
    return np.clip(x + rng.normal(0, 8, x.shape), 0, 255).astype(np.uint8)


class _Pose(NamedTuple):
    shift: np.ndarray
    angle: float
    scale: float
    turn: float  # to a side: moves what is nearer to the viewer


class _Pen:
    """Draws closed outlines given in the face's own coordinates."""

    def __init__(self, draw: ImageDraw.ImageDraw, pose: _Pose, half: float):
        cos, sin = pose.scale * np.cos(pose.angle), pose.scale * np.sin(pose.angle)
        self._draw, self._pose, self._half = draw, pose, half
        self._turn = np.array([[cos, sin], [-sin, cos]])

    def fill(self, points: np.ndarray, colour: np.ndarray, *, depth: float = 0.0) -> None:
        """Fills the outline `points`, `[n, 2]`; `depth` says how far it is in front of the head's middle."""
        placed = (points + np.array([depth * self._pose.turn, 0])) @ self._turn + self._pose.shift
        self._draw.polygon([*map(tuple, (self._half * (1 + placed)).tolist())], fill=_colour(colour))

    def ellipse(self, x: float, y: float, width: float, height: float, colour: np.ndarray, *, depth: float) -> None:
        self.fill(_oval(width, height) + np.array([x, y]), colour, depth=depth)


def _draw_features(
    draw: ImageDraw.ImageDraw, person: Person, pose: _Pose, rng: np.random.Generator, half: float
) -> None:
    g, c, pen = person.geometry, person.colours, _Pen(draw, pose, half)
    smile, wide, frown = rng.normal(0, 0.05), np.exp(rng.normal(0, 0.25)), rng.normal(0, 0.02)
    opened = max(rng.normal(0, 0.045), 0)
    width, height = g["head_width"], g["head_height"]
    volume = width + g["hair_volume"]
    pen.ellipse(0, -0.08, volume, height + g["hair_volume"], c["hair"], depth=-1)
    pen.fill(_box(-volume, -0.1, volume, g["hair_length"]), c["hair"], depth=-1)
    pen.fill(_box(-0.2, 0.3, 0.2, 1.2), 0.85 * c["skin"], depth=-0.5)  # the neck, in the shade
    head = _oval(width, height)
    head[:, 0] *= np.where(head[:, 1] > 0, 1 - (1 - g["jaw"]) * head[:, 1] / height, 1)
    pen.fill(head, c["skin"])
    fringe = _oval(width, height)
    fringe[:, 1] = np.minimum(fringe[:, 1], g["hairline"])
    pen.fill(fringe, c["hair"], depth=0.3)
    for side in (-1, 1):
        x, y, eye = side * g["eye_distance"], g["eye_height"], max(g["eye_size"], 0.04)
        pen.ellipse(x, y, 1.3 * eye, 0.75 * eye * wide, np.full(3, 235.0), depth=1)
        pen.ellipse(x, y, 0.65 * eye, 0.65 * eye * min(wide, 1.1), c["iris"], depth=1.1)
        thick = max(g["brow_thick"], 0.012)
        line = np.array([[0.6, frown], [1.6, g["brow_tilt"]], [1.6, g["brow_tilt"] + thick], [0.6, frown + thick]])
        line = line * [side * g["eye_distance"] / 1.1, 1] + [0, y - g["brow_gap"]]
        pen.fill(line, 0.8 * c["hair"], depth=1)
    nose = g["eye_height"] + g["nose_length"]
    pen.fill(np.array([[0, nose - 0.22], [g["nose_width"], nose], [-g["nose_width"], nose]]), 0.82 * c["skin"],
             depth=1.6)  # fmt: skip
    across = np.linspace(-1, 1, 12)
    mouth = max(g["mouth_width"], 0.08)
    curve, thick = smile * (1 - across**2), max(g["mouth_thick"], 0.015) * np.sqrt(1 - across**2)
    for extra, colour in ((opened, c["lips"]), (opened - 0.02, 0.35 * c["lips"])):
        upper, lower = curve - thick, curve + thick + extra
        lips = np.stack([np.r_[across, across[::-1]] * mouth, np.r_[upper, lower[::-1]] + g["mouth_height"]], 1)
        if extra > 0 or colour is c["lips"]:
            pen.fill(lips if colour is c["lips"] else lips * [0.75, 1], colour, depth=1)


def _oval(width: float, height: float) -> np.ndarray:
    """An ellipse around the origin, `[40, 2]`."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack([width * np.cos(angle), height * np.sin(angle)], 1)


def _box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _colour(values: Iterable[float]) -> tuple[int, int, int]:
    red, green, blue = (min(max(round(float(value)), 0), 255) for value in values)
    return red, green, blue
