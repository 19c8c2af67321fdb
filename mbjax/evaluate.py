"""What a model predicts on a whole split: padded to full batches, the padding cut off again, nothing dropped."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mbjax import augment
from mbjax.state import TrainState
from mbjax.types import PyTree, Split, UserError


def make_predict(
    model: nn.Module, split: Split, *, batch_size: int, protocol: str = "clean"
) -> Callable[[TrainState], np.ndarray]:
    """Makes `predict(state) -> probabilities`, float64 `[n, classes]`, of every example of a split in its order.

    The examples lie on the device, and one call of a compiled function runs all batches.

    Args:
      model: a linen module, `model.apply(variables, x, train=False) -> logits`; one logit means two classes.
      split: the examples.
      batch_size: examples that the device holds activations for at a time.
      protocol: `"clean"` takes the examples as they are. `"authors"` crops images to 28×28 and flips them at random,
        with the same random numbers in every call, as the code of the paper's authors does at test.

    Raises:
      UserError: the authors' protocol for what are no images.
    """
    if protocol == "authors" and (split.x.ndim != 4 or min(split.x.shape[1:3]) < 28):
        raise UserError(f"config.eval.protocol={protocol!r} is for images of 28×28 pixels or more")
    count = len(split)
    batch_size = min(batch_size, count)
    padding = -count % batch_size
    x = np.concatenate([split.x, np.repeat(split.x[:1], padding, axis=0)])
    batches = jnp.asarray(x.reshape(-1, batch_size, *x.shape[1:]))

    logits = _make_logits(model, "crop28_flip" if protocol == "authors" else "none")

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
def _make_logits(model: nn.Module, augmentation: str) -> Callable[[PyTree, jax.Array], jax.Array]:
    """One compiled function a model, whichever split or run it is for."""

    @jax.jit
    def logits(variables: PyTree, batches: jax.Array) -> jax.Array:
        def one(number_and_batch):
            number, x = number_and_batch
            x = augment.AUGMENTATIONS[augmentation](jax.random.fold_in(jax.random.key(0), number), x)
            return model.apply(variables, augment.to_float(x), train=False)

        return jax.lax.map(one, (jnp.arange(len(batches)), batches))

    return logits
