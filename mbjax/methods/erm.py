"""Empirical risk minimisation: plain training on the batches of any sampler, the paper's "naive" and its resamplers."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from mbjax.methods.base import Method, Problem
from mbjax.state import TrainState
from mbjax.types import Batch, Metrics


def build(problem: Problem, *, train: dict[str, Any]) -> Method:
    """Plain training with the settings of `config.train`."""

    def step(state: TrainState, batches: Mapping[str, Batch]) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(state.rng, state.step)
        value_and_grad = jax.value_and_grad(problem.loss_fn, has_aux=True)
        (loss, (model_state, metrics)), grads = value_and_grad(state.params, state.model_state, batches["train"], rng)
        updates, opt_state = problem.tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = state.replace(step=state.step + 1, params=params, model_state=model_state, opt_state=opt_state)
        return state, {"loss": loss, **metrics}

    return Method(init=problem.init, step=step, streams={"train": (train["batch_size"],)}, epoch_stream="train")
