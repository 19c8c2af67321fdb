"""Weights and images of fixed seeds, in torchvision's names and layout: what `expected.npz` was computed from."""

from collections.abc import Iterable

import numpy as np

CLASSES = 7


def weights(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    """A tensor for each name, in the order of the names; of BatchNorms so that none is the identity."""
    rng = np.random.default_rng(0)
    made = {}
    for name, shape in sorted(shapes):
        draw = rng.standard_normal(shape, np.float32)
        if len(shape) > 1:
            made[name] = draw * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        elif name.endswith(("running_var", "weight")):
            made[name] = 1 + 0.5 * np.tanh(draw)
        else:
            made[name] = 0.2 * draw
    return made


def pixels() -> np.ndarray:
    """Two images whose sides are odd and differ, uint8 `[2, 45, 70, 3]`."""
    return np.random.default_rng(1).integers(0, 256, (2, 45, 70, 3), dtype=np.uint8)
