"""Losses per example, reduced by the caller, and the step from a flax model to a `LossFn`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mbjax.types import Batch, LossFn, Metrics, ModelState, Params, UserError

PerExampleLoss = Callable[[jax.Array, jax.Array], jax.Array]
"""`loss(logits [n, outputs], labels) -> [n]`."""


def sigmoid_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Binary cross-entropy, `−y log σ(z) − (1 − y) log(1 − σ(z))`, as `optax.sigmoid_binary_cross_entropy` has it.

    Args:
      logits: `z`, `[n]` or `[n, 1]`.
      labels: `y`, `[n]`: 0 or 1 of any dtype, or probabilities of class 1.

    Returns:
      `[n]`, nats, of the logits' dtype.

    Raises:
      ValueError: shapes that do not fit.
    """
    if logits.ndim == 2 and logits.shape[1] == 1:
        logits = logits[:, 0]
    if logits.shape != labels.shape:
        raise ValueError(f"logits of shape {logits.shape} do not fit labels of shape {labels.shape}")
    return optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy, `−Σ_c y_c log softmax(z)_c`, as optax has it.

    Args:
      logits: `z`, `[n, classes]`.
      labels: class numbers `[n]`, or probabilities `[n, classes]`.

    Returns:
      `[n]`, nats, of the logits' dtype.

    Raises:
      ValueError: shapes that do not fit.
    """
    if labels.shape == logits.shape[:1]:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if labels.shape == logits.shape:
        return optax.softmax_cross_entropy(logits, labels.astype(logits.dtype))
    raise ValueError(f"logits of shape {logits.shape} do not fit labels of shape {labels.shape}")


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """`sigmoid_cross_entropy` of a model with one output, `softmax_cross_entropy` of one with several."""
    binary = logits.ndim == 1 or logits.shape[-1] == 1
    return sigmoid_cross_entropy(logits, labels) if binary else softmax_cross_entropy(logits, labels)


def build(name: str, *, class_counts: Any) -> PerExampleLoss:
    """The loss of `config.loss`.

    Args:
      name: a key of `LOSSES`.
      class_counts: training examples of each class, `[classes]`; may be traced.

    Raises:
      UserError: no such loss.
    """
    if name not in LOSSES:
        raise UserError(f"config.loss.name={name!r}: choose one of {', '.join(LOSSES)}")
    return LOSSES[name]


LOSSES: dict[str, PerExampleLoss] = {"cross_entropy": cross_entropy}


def predicted_class(logits: jax.Array) -> jax.Array:
    """The most probable class number, `[n]` int32, of logits `[n]`, `[n, 1]` or `[n, classes]`."""
    if logits.ndim == 1 or logits.shape[-1] == 1:
        return (logits.reshape(-1) > 0).astype(jnp.int32)
    return logits.argmax(-1).astype(jnp.int32)


def supervised_loss(apply: Callable, per_example_loss: PerExampleLoss = cross_entropy) -> LossFn:
    """The mean loss over a batch of a flax.linen module in training mode.

    The batch is a dict of `"x"`, `"y"` and, if wanted, `"weight"` `[n]`. The loss is `Σ_i w_i ℓ_i / n`: divided by the
    number of examples, not by the weights' sum, so that a weight keeps its meaning whatever else is in the batch, and
    so that a weighted sample of the data gives an unbiased estimate of the weighted loss over all of it.

    Args:
      apply: `module.apply` of a module that is called as `module(x, train=True)`.
      per_example_loss: `(logits, labels) -> [n]`.

    Returns:
      A `LossFn`. `model_state` holds the module's collections other than `"params"` (`batch_stats`), which the pass
      updates. The random key feeds dropout. The metric `accuracy` is the share of examples whose most probable class
      is the label's, unweighted.
    """

    def loss_fn(
        params: Params, model_state: ModelState, batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        logits, model_state = apply(
            {"params": params, **model_state}, batch["x"], train=True, mutable=list(model_state), rngs={"dropout": rng}
        )
        losses = per_example_loss(logits, batch["y"])
        if "weight" in batch:
            losses = losses * batch["weight"]
        labels = batch["y"].argmax(-1) if batch["y"].ndim == 2 else batch["y"]
        accuracy = (predicted_class(logits) == labels.astype(jnp.int32)).astype(losses.dtype).mean()
        return losses.mean(), (model_state, {"accuracy": accuracy})

    return loss_fn
