"""Inputs that a network takes as they are: arrays of one shape, and image files that become such."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from mbjax.data.images import labelled
from mbjax.types import UserError


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Checks that inputs have the shape and the type of those of training.

    Attributes:
      shape: of one example.
      dtype: `"uint8"` for images of 0 to 255, else `"float32"`.
    """

    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def like(cls, x: Any) -> Self:
        """Those of a split's `x`, `[n, ...]`."""
        return cls(tuple(map(int, x.shape[1:])), str(x.dtype))

    @property
    def of_images(self) -> bool:
        """Whether image files can become such inputs."""
        return self.dtype == "uint8" and len(self.shape) == 3 and self.shape[0] == self.shape[1] and self.shape[2] == 3

    def transform(self, x: Any, *, source: str = "the array", start: int = 0) -> np.ndarray:
        """The examples, `[n, *shape]`, of the type that the network takes.

        Args:
          x: an array of them, or image files, which are resized as in training: the shorter side to the network's,
            the middle kept, RGB whatever mode they have.
          source: its name, for messages.
          start: how many rows came before, for messages.

        Raises:
          UserError: another shape or type, a file that is no image, or values that are not finite.
        """
        if isinstance(x, Sequence) and len(x) and isinstance(x[0], str | Path):
            return self.read([Path(file) for file in x])
        x = np.asarray(x)
        if x.shape[1:] != self.shape or x.ndim == 0:
            raise UserError(
                f"{source} has the shape {list(x.shape)}: the model takes {['n', *self.shape]}".replace("'", "")
                + (", or image files, which it resizes itself" if self.of_images else "")
            )
        if self.dtype == "uint8":
            if x.dtype != np.uint8:
                raise UserError(f"{source} is {x.dtype}: the model was trained on images of uint8, from 0 to 255")
            return x
        if x.dtype.kind not in "fiub":
            raise UserError(f"{source} is {x.dtype}: the model takes numbers")
        x = x.astype(self.dtype)
        finite = np.isfinite(x).reshape(len(x), -1).all(1)
        if not finite.all():
            raise UserError(
                f"{source}: {(~finite).sum()} rows have values that are missing or not finite, the first is row "
                f"{start + int(finite.argmin()) + 1}: the model was trained on none"
            )
        return x

    def read(self, files: Sequence[Path]) -> np.ndarray:
        """Image files as the network takes them."""
        if not self.of_images:
            raise UserError(
                f"{files[0]}: this model takes arrays of {self.dtype} {list(self.shape)} and no image files"
            )
        if missing := [file for file in files if not file.is_file()]:
            raise UserError(f"{missing[0]}: no such file")
        return labelled.decode(files, size=self.shape[0])

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold, and `from_dict` reads."""
        return {"kind": "array", **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, about: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, perhaps by way of JSON."""
        return cls(tuple(about["shape"]), about["dtype"])
