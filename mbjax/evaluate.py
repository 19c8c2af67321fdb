"""Scores of a model on a whole split: padded to full batches, the padding cut off again, nothing dropped."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mbjax import metrics
from mbjax.state import TrainState
from mbjax.types import PyTree, Split


def make_predict(model: nn.Module, split: Split, *, batch_size: int) -> Callable[[TrainState], np.ndarray]:
    """Makes `predict(state) -> probabilities`, float64 `[n, classes]`, of every example of a split in its order.

    The examples lie on the device, and one call of a compiled function runs all batches.

    Args:
      model: a linen module, `model.apply(variables, x, train=False) -> logits`; one logit means two classes.
      split: the examples.
      batch_size: examples that the device holds activations for at a time.
    """
    count = len(split)
    batch_size = min(batch_size, count)
    padding = -count % batch_size
    x = np.concatenate([split.x, np.repeat(split.x[:1], padding, axis=0)])
    batches = jnp.asarray(x.reshape(-1, batch_size, *x.shape[1:]))

    logits = _make_logits(model)

    def predict(state: TrainState) -> np.ndarray:
        z = logits({"params": state.params, **state.model_state}, batches)
        z = np.asarray(z, np.float64).reshape(count + padding, -1)[:count]
        if z.shape[1] == 1:
            z = np.concatenate([np.zeros_like(z), z], axis=1)
        z -= z.max(1, keepdims=True)
        p = np.exp(z)
        return p / p.sum(1, keepdims=True)

    return predict


@functools.lru_cache(maxsize=32)
def _make_logits(model: nn.Module) -> Callable[[PyTree, jax.Array], jax.Array]:
    """One compiled function a model, whichever split or run it is for."""
    return jax.jit(lambda variables, batches: jax.lax.map(lambda x: model.apply(variables, x, train=False), batches))


def make_evaluate(
    model: nn.Module, split: Split, *, majority_class: int, batch_size: int
) -> Callable[[TrainState], metrics.Scores]:
    """Makes `evaluate(state) -> scores` of a split; see `mbjax.metrics.scores`."""
    predict = make_predict(model, split, batch_size=batch_size)
    return lambda state: metrics.scores(predict(state), split.y, majority_class=majority_class)
