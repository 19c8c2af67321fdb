"""Empirical risk minimisation: plain training on the batches of any sampler, the paper's "naive" and its resamplers."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mbjax import class_weights, losses
from mbjax.methods.base import TRAIN, Method, Problem, Recipe, Sections, batch_of
from mbjax.options import SHARE, Option, Section
from mbjax.state import TrainState
from mbjax.types import Batch, Metrics, UserError

DRW_OPTIONS = (  # of config.loss
    Option("deferred", 0.8, SHARE, "method drw: class weights start after this share of the updates"),
)


def build(problem: Problem) -> Method:
    """Plain training on the batches of `config.train`."""

    def step(state: TrainState, batches: Mapping[str, Batch]) -> tuple[TrainState, Metrics]:
        return problem.descend(state, batches["train"], jax.random.fold_in(state.rng, state.step))

    return Method(init=problem.init, step=step)


def build_drw(problem: Problem, *, loss: dict[str, Any]) -> Method:
    """Deferred re-weighting: plain training whose class weights start after a share `config.loss.deferred` of it.

    Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", section 3.3. The
    weights are `class_weights.effective_weights` with `config.loss.beta`, and the loss is the weighted mean as
    published, `Σ_i w_i ℓ_i / Σ_i w_i` over a batch, so that a batch of common classes alone counts in full. It works
    with any loss: LDAM-DRW as published is `config.loss.name="ldam"` on `config.model.head="cosine"` with β = 0.9999,
    after 0.8 of the updates.

    Raises:
      UserError: the loss has class weights of its own.
    """
    if loss["class_weight"] != "none":
        raise UserError(
            f"config.loss.class_weight={loss['class_weight']!r}: the method drw brings class weights of its own, "
            'later in training; leave it at "none"'
        )
    plain = build(problem)
    weights_by_class = class_weights.effective_weights(problem.class_counts, loss["beta"])
    start = loss["deferred"] * problem.updates

    def step(state: TrainState, batches: Mapping[str, Batch]) -> tuple[TrainState, Metrics]:
        weights = class_weights.example_weights(weights_by_class, batches["train"]["y"])
        weights = jnp.where(state.step >= start, weights / weights.mean(), 1)
        return plain.step(state, {"train": class_weights.reweighted(batches["train"], weights)})

    return Method(init=plain.init, step=step)


ERM = Recipe(build, streams=batch_of("train"), epoch_stream="train", sections={"train": TRAIN})


def drw_priors(sections: Sections, shares: Mapping[str, np.ndarray], class_counts: np.ndarray) -> np.ndarray:
    """Those of the train stream times the class weights, which are in force when training ends."""
    weights = class_weights.effective_weights(class_counts, sections["loss"]["beta"])
    return shares["train"] * losses.prior_factor(sections["loss"], class_counts) * np.asarray(weights)


DRW = Recipe(
    build_drw,
    streams=batch_of("train"),
    epoch_stream="train",
    priors=drw_priors,
    sections={"train": TRAIN, "loss": Section("the loss", DRW_OPTIONS)},
)
