"""Runs on tables of different width in one program: the narrow ones get features of zeros.

A feature of zeros has no say and no gradient. If its weights are zero at first they stay so, under weight decay, too.
So a run gives what it would alone, to rounding, if its network starts with the weights that it would have alone.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbjax.models.mlp import MLP
from mbjax.train.experiment import Experiment
from mbjax.types import PyTree


def width(experiment: Experiment) -> tuple[int, ...]:
    """The shape of an example."""
    return experiment.dataset.train.x.shape[1:]


def shapes(experiments: Sequence[Experiment]) -> list[PyTree]:
    """The shapes of each experiment's own state."""
    known: dict[tuple[int, ...], PyTree] = {}
    for experiment in experiments:
        if width(experiment) not in known:
            known[width(experiment)] = jax.eval_shape(experiment.method.init, 0)
    return [known[width(experiment)] for experiment in experiments]


def on_host(states: PyTree) -> PyTree:
    """The leaves as NumPy arrays, which are cut in no time; random keys as they are."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x), states)


def check(experiments: Sequence[Experiment]) -> None:
    """Raises a ValueError if examples differ in shape and the network is not known to bear features of zeros."""
    if len(set(map(width, experiments))) > 1 and not isinstance(experiments[0].model, MLP):
        raise ValueError(f"examples of several shapes: only an MLP and what is made of it, not {experiments[0].model}")


def pad(array: np.ndarray, rows: int, shape: tuple[int, ...]) -> np.ndarray:
    """An array `[n, …]` with zeros after its rows and, if it has features, after these: `[rows, *shape]`."""
    rest = shape if array.ndim > 1 else ()
    return np.pad(array, [(0, end - n) for n, end in zip(array.shape, (rows, *rest), strict=True)])


def widen(tree: PyTree, like: PyTree) -> PyTree:
    """The leaves with zeros after them, up to the shapes of `like`; it may lack the leading axes of `tree`."""

    def one(leaf: jax.Array, wide: Any) -> jax.Array:
        lead = leaf.ndim - len(wide.shape)
        if leaf.shape[lead:] == wide.shape:  # random keys, which cannot be padded, among them
            return leaf
        return jnp.pad(leaf, [(0, 0)] * lead + [(0, w - n) for n, w in zip(leaf.shape[lead:], wide.shape, strict=True)])

    return jax.tree.map(one, tree, like)


def narrow(tree: PyTree, like: PyTree) -> PyTree:
    """The leaves cut to the shapes of `like`."""

    def one(leaf: Any, own: Any) -> Any:
        return leaf if leaf.shape == own.shape else leaf[tuple(slice(n) for n in own.shape)]

    return jax.tree.map(one, tree, like)
