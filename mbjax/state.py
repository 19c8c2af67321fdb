"""What training carries from one update to the next."""

from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mbjax.types import ModelState, Params


class TrainState(flax.struct.PyTreeNode):
    """The whole state of a training run: saving it, and the step in it, is enough to resume.

    Attributes:
      step: updates done so far, int32 scalar.
      params: the trained weights, any pytree.
      model_state: what the model keeps beside its weights (BatchNorm's running statistics), any pytree.
      opt_state: the optimiser's state.
      rng: the run's random key; updates derive theirs from it and `step`, so it never changes.
    """

    step: jax.Array
    params: Params
    model_state: ModelState
    opt_state: optax.OptState
    rng: jax.Array

    @classmethod
    def create(
        cls, *, params: Params, tx: optax.GradientTransformation, rng: jax.Array, model_state: ModelState | None = None
    ) -> Self:
        """The state before the first update.

        Args:
          params: initial weights, any pytree of arrays.
          tx: the optax optimiser that the step function was made with.
          rng: a key of `jax.random.key`.
          model_state: initial running statistics; none by default.
        """
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state={} if model_state is None else model_state,
            opt_state=tx.init(params),
            rng=rng,
        )


def predicting_weights(state: TrainState) -> Params:
    """The weights to predict with: their average, where the optimiser keeps one; else the trained ones.

    Between the two updates of a sharpness-aware step, these are the ones that it started from.
    """
    average = optax.tree_utils.tree_get(state.opt_state, "average")
    if average is not None:
        return average
    start = optax.tree_utils.tree_get(state.opt_state, "cache")
    if start is None:
        return state.params
    between = optax.tree_utils.tree_get(state.opt_state, "steps_since_sync") > 0
    return jax.tree.map(lambda old, new: jnp.where(between, old, new), start, state.params)
