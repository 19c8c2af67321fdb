"""Weights of classes: from their frequencies, or given by name; and of the examples that have them."""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mbjax.options import POSITIVE, Kind
from mbjax.types import Batch, UserError


def inverse_weights(class_counts: Any) -> jax.Array:
    """Class weights `n / (C n_c)`, `[classes]`, of which the mean over the `n` training examples is 1.

    They are `sklearn.utils.class_weight.compute_class_weight("balanced")`. So the loss keeps its scale beside weight
    decay. `C` is the number of classes that have examples; the weight of one that has none is as if it had one.
    """
    counts = jnp.asarray(class_counts, jnp.result_type(float))
    classes = (counts > 0).astype(counts.dtype).sum()
    return counts.sum() / (classes * floored(counts))


def effective_weights(class_counts: Any, beta: float | jax.Array) -> jax.Array:
    """Class weights by the effective number of examples, `∝ (1 − β) / (1 − β^n_c)`, summing to the number of classes.

    Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples", with the scale published there: the
    mean over the training examples, among which common classes prevail, is below 1. β = 0 gives equal weights, β → 1
    weights in proportion to `inverse_weights`.

    Args:
      class_counts: training examples of each class, `[classes]`; may be traced.
      beta: from 0 to below 1, may be traced.
    """
    # 1 − β^n = −expm1(n log β), and 1 − β is exact near 1: float32 would lose the difference of β^n from 1.
    weights = -1 / jnp.expm1(floored(class_counts) * jnp.log1p(-(1 - beta)))
    return weights * (weights.shape[0] / weights.sum())


def example_weights(class_weights: jax.Array, labels: jax.Array) -> jax.Array:
    """The class weight of each example, `[n]`; of labels that are shares of classes, the mean by share.

    Args:
      class_weights: `[classes]`.
      labels: class numbers, `[n]`; for two classes, or shares of them, also probabilities of class 1, `[n]` floating
        point, and shares `[n, classes]`.
    """
    if labels.ndim == 2:
        return labels.astype(class_weights.dtype) @ class_weights
    if jnp.issubdtype(labels.dtype, jnp.floating):
        y = labels.astype(class_weights.dtype)
        return (1 - y) * class_weights[0] + y * class_weights[1]
    return class_weights[labels]


def reweighted(batch: Batch, weights: jax.Array) -> Batch:
    """The batch with each example's loss multiplied by `weights`, `[n]`, on top of the weights that it has."""
    return {**batch, "weight": weights * batch["weight"] if "weight" in batch else weights}


def weights_of(class_weight: str | Sequence[float], class_counts: Any, beta: float | jax.Array) -> jax.Array:
    """The weights that `class_weight` names, other than `"none"`, or is, `[classes]`."""
    if not isinstance(class_weight, str):
        return jnp.asarray(class_weight, jnp.result_type(float))
    return inverse_weights(class_counts) if class_weight == "inverse" else effective_weights(class_counts, beta)


def read_class_weight(value: Any, classes: Sequence[str]) -> str | tuple[float, ...]:
    """`config.loss.class_weight`: a name as it is; of a mapping by class names the weights, `[classes]`.

    Args:
      value: such as `"inverse"`, `{"yes": 10, "no": 1}` or this as text. A class that is not in it has the weight 1.
      classes: the class names in the order of the class numbers.

    Raises:
      UserError: what is neither, or an unknown class.
    """
    if isinstance(value, str) and value in CLASS_WEIGHTS:
        return value
    shown = f"config.loss.class_weight={value!r}"
    if not CLASS_WEIGHT.valid(value):
        raise UserError(f"{shown}: {CLASS_WEIGHT.describe()}")
    given = {str(name): float(weight) for name, weight in _weight_mapping(value).items()}
    if unknown := given.keys() - set(classes):
        raise UserError(f"{shown}: there is no class {min(unknown)!r} among {', '.join(classes)}")
    return tuple(given.get(name, 1.0) for name in classes)


def _weight_mapping(value: Any) -> Mapping[Any, Any]:
    """Raises a ValueError or SyntaxError of what is none."""
    value = ast.literal_eval(value) if isinstance(value, str) else value
    if not hasattr(value, "items"):
        raise ValueError(value)
    return value


def _are_class_weights(value: Any) -> bool:
    try:
        return (isinstance(value, str) and value in CLASS_WEIGHTS) or all(
            POSITIVE.valid(weight) for _, weight in _weight_mapping(value).items()
        )
    except (ValueError, SyntaxError):
        return False


def floored(class_counts: Any) -> jax.Array:
    """Counts as floating point, `[classes]`; a class without examples would have an infinite weight."""
    return jnp.maximum(jnp.asarray(class_counts, jnp.result_type(float)), 1)


CLASS_WEIGHTS = ("none", "inverse", "effective")
CLASS_WEIGHT = Kind(
    ", or weights above 0 by class, such as \"{'yes': 10, 'no': 1}\"", _are_class_weights, str, CLASS_WEIGHTS
)
