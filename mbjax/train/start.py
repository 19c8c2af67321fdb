"""What comes before a method's first update: the start without labels of `config.diet`."""

import dataclasses
import logging
import zlib

import jax
import numpy as np

from mbjax import methods
from mbjax.devices.parallel import Parallel
from mbjax.methods import diet
from mbjax.state import TrainState
from mbjax.train.experiment import Experiment, make_method
from mbjax.train.updates import make_updates
from mbjax.types import UserError

log = logging.getLogger("mbjax")
_SEED = zlib.crc32(b"diet")  # the head and the random views of the start are not those of the method


def first_state(
    experiment: Experiment, seed: int, *, parallel: Parallel = "none", updates_per_call: int = 100
) -> TrainState:
    """The method's state before its first update: after the start, where `config.diet` asks for one.

    The start is a function of the experiment and the seed: it can be done again, and gives the same bits.

    Args:
      experiment: what is trained.
      seed: of the initial weights and the random keys.
      parallel: `config.parallel`.
      updates_per_call: updates that the devices do without returning to the host.

    Returns:
      The state of `experiment.method.init(seed)`, whose head is new, and whose other weights and running statistics
      are those that the start ends with. So are copies of the weights that the method or its optimiser keep.

    Raises:
      UserError: the loss is not finite, or a method that makes its first weights by itself.
    """
    fresh = experiment.method.init(seed)
    if experiment.numbered is None:
        return fresh
    own = jax.device_get({"params": fresh.params, **fresh.model_state})
    updates, sections = experiment.sections["diet"]["updates"], diet.sections(experiment.sections)
    images, keywords = len(experiment.dataset.train), experiment.make_method.keywords
    method = make_method(
        "erm", model=diet.Numbered(keywords["model"], images), example=keywords["example"], sections=sections,
        class_counts=np.ones(images), updates=updates, parallel=parallel, start=diet.of_body(own),
    )  # fmt: skip
    shapes = methods.find("erm").streams(sections)
    apart = dataclasses.replace(experiment, method=method, streams={"train": experiment.numbered}, shapes=shapes)
    state, step = method.init(seed ^ _SEED), 0
    stops = sorted({max(1, updates * tenth // 10) for tenth in range(1, 11)})
    for count, after, metrics in make_updates(apart, updates_per_call)(state, stops):
        state = after
        step, loss = step + count, float(np.asarray(metrics["loss"])[count - 1])
        if not np.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at update {step} of the start that config.diet.updates={updates} asks for: look "
                "at the data, or leave it at 0"
            )
        if step in stops:
            log.info("start on images without labels: update %d of %d: loss %.4f", step, updates, loss)
    learned = jax.device_get({"params": state.params, **state.model_state})
    learned = {collection: own["body"] for collection, own in learned.items() if "body" in own}
    started = experiment.make_method(
        sections=experiment.sections, class_counts=experiment.class_counts, updates=experiment.updates,
        parallel=parallel, start=learned,
    ).init(seed)  # fmt: skip
    if not _holds(jax.device_get(started.params), learned["params"]):
        raise UserError(
            f"config.diet.updates={updates}: the method {experiment.make_method.args[0]!r} does not take its first "
            "weights from problem.init or problem.variables: leave it at 0"
        )
    return started


def _holds(params: dict, learned: dict) -> bool:
    """Whether all that was learned is among the weights."""
    if not isinstance(learned, dict):
        return np.array_equal(params, learned)
    return all(name in params and _holds(params[name], own) for name, own in learned.items())
