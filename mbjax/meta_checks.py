"""What a loss and the batches that `mbjax.meta` is given must be: checked while it is traced, at no cost after that."""

import contextlib
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbjax.types import Batch, LossFn, ModelState, Params


def checked(loss_fn: LossFn, name: str) -> LossFn:
    """The same function, which raises an error that states the right form where it has another.

    Args:
      loss_fn: see `mbjax.types.LossFn`.
      name: the argument that it was given as.

    Raises:
      TypeError: it is no function of four arguments. The function that is returned raises it for a loss that is no
        scalar of floats, for what is not `(loss, (new model_state, metrics))`, and for a new `model_state` that has
        other leaves, shapes or dtypes than it started from, or random keys.
    """
    needed = f"{name}(params, model_state, batch, rng) -> (scalar loss, (new model_state, metrics dict)) is needed"
    if not callable(loss_fn):
        raise TypeError(f"{name} is {type(loss_fn).__name__}: {needed}")
    with contextlib.suppress(ValueError):  # what is written in C may not tell its arguments
        try:
            inspect.signature(loss_fn).bind(None, None, None, None)
        except TypeError as error:
            raise TypeError(f"{name} takes other arguments ({error}): {needed}") from None

    @functools.wraps(loss_fn)
    def same(params: Params, model_state: ModelState, batch: Batch, rng: jax.Array) -> Any:
        result = loss_fn(params, model_state, batch, rng)
        if problem := _problem(result, model_state):
            raise TypeError(f"{name} {problem}: {needed}")
        return result

    return same


def count_pairs(support: Batch, query: Batch, weights: Any = None) -> int:
    """How many pairs there are: the length of the leading axis, which all leaves share.

    Raises:
      ValueError: leaves without that axis or of another length, `weights` of another shape, or no pair.
    """
    shapes = {
        f"{name}{jax.tree_util.keystr(path)}": np.shape(leaf)
        for name, batch in (("support", support), ("query", query))
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch)
    }
    if not shapes:
        raise ValueError("support and query hold no array")
    needed = "the first axis of every leaf of support and query must be that of pairs, as many in all"
    first, *_ = shapes
    for name, shape in shapes.items():
        if not shape:
            raise ValueError(f"{name} is a scalar: {needed}")
        if shape[0] != shapes[first][0]:
            raise ValueError(f"{first} is {list(shapes[first])} and {name} is {list(shape)}: {needed}")
    pairs = shapes[first][0]
    if not pairs:
        raise ValueError(f"{first} is {list(shapes[first])}: there are no pairs")
    if weights is not None and np.shape(weights) != (pairs,):
        raise ValueError(f"weights is {list(np.shape(weights))} for {pairs} pairs: [{pairs}] is needed")
    return pairs


def _problem(result: Any, start: ModelState) -> str:
    """What is wrong with what a loss function returned, if anything is."""
    if not _is_pair(result):
        return f"returned {_described(result)}"
    loss, aux = result
    if not _is_array(loss) or np.shape(loss) or not jnp.issubdtype(jax.typeof(loss).dtype, jnp.floating):
        return f"returned a loss {_described(loss)}"
    if not _is_pair(aux):
        return f"returned (loss, {_described(aux)})"
    state, metrics = aux
    if not isinstance(metrics, Mapping):
        return f"returned metrics {_described(metrics)}"
    before, after = _leaves(start), _leaves(state)
    for path in {**before, **after}:
        old, new = before.get(path, "nothing"), after.get(path, "nothing")
        if "key<" in new:
            return f"returned a model_state whose {path} is a random key, which has no mean over pairs"
        if old != new:
            return f"returned another model_state: {path} is {old} at first and came back as {new}"
    if (tree := jax.tree.structure(state)) != jax.tree.structure(start):
        return f"returned another model_state: {jax.tree.structure(start)} at first, it came back as {tree}"
    return ""


def _is_pair(x: Any) -> bool:
    return isinstance(x, tuple | list) and len(x) == 2


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | np.generic | int | float)


def _described(x: Any) -> str:
    """`float32[24]` of an array, else its type."""
    if _is_array(x):
        return f"{jax.typeof(x).dtype}{list(np.shape(x))}"
    return f"a tuple of {len(x)}" if type(x) is tuple else type(x).__name__


def _leaves(state: ModelState) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {f"model_state{jax.tree_util.keystr(path)}": _described(leaf) for path, leaf in leaves}
