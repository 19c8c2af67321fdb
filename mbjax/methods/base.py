"""What a method is, and what all of them are built from."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jax.sharding import Mesh

from mbjax import augment, losses, models, sampling
from mbjax.devices.parallel import Parallel
from mbjax.options import FLAG, NOT_NEGATIVE, POSITIVE, SHARE_BELOW_1, SHARE_INSIDE, Option, Section, choice, several
from mbjax.state import TrainState
from mbjax.types import Batch, LossFn, Metrics, Params, PyTree

State = TypeVar("State", bound=TrainState)
Sections = Mapping[str, Mapping[str, Any]]
"""The sections of a configuration by their names."""
Shapes = Mapping[str, tuple[int, ...]]
"""What an update takes from each stream: `[batch]` or `[pairs, batch]` examples."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model with its loss and optimiser, before a method says how to train it.

    Attributes:
      model: a linen module, `model.apply(variables, x, train=…) -> logits`.
      loss_fn: its loss on a batch `{"x", "y"}`.
      tx: the optimiser.
      example: inputs of one example, `[1, ...]`, for the shapes of the weights.
      class_counts: training examples of each class, `[classes]`.
      updates: of the whole run.
      parallel: whether and how its work is spread over devices; see `mbjax.devices.parallel`.
      support_loss_fn: the loss of the support loop, if it is another one.
      start: weights and running statistics that replace the first ones of the same names, `{"params": …}`, NumPy
        arrays; None for none.
    """

    model: nn.Module
    loss_fn: LossFn
    tx: optax.GradientTransformation
    example: np.ndarray
    class_counts: Any
    updates: int
    parallel: Parallel = "none"
    support_loss_fn: LossFn | None = None
    start: Mapping[str, PyTree] | None = None

    def variables(self, rng: jax.Array) -> dict[str, PyTree]:
        """The variables that a network of the method starts from: fresh, from a file, or those of `start`."""
        variables = models.init(self.model, rng, self.example)
        return _with(self.start, variables) if self.start else variables

    def init(self, seed: int) -> TrainState:
        """The first weights, fresh or from a file. The same seed gives every method the same ones."""
        weights_rng, rng = jax.random.split(jax.random.key(seed))
        variables = self.variables(weights_rng)
        params = variables.pop("params")
        return TrainState.create(params=params, tx=self.tx, rng=rng, model_state=variables)

    def descend(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, Metrics]:
        """One update of the optimiser down the gradient of the loss on a batch. Metrics hold `loss`."""
        value_and_grad = jax.value_and_grad(self.loss_fn, has_aux=True)
        (loss, (model_state, metrics)), grads = value_and_grad(state.params, state.model_state, batch, rng)
        changes, opt_state = self.tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        state = state.replace(step=state.step + 1, params=params, model_state=model_state, opt_state=opt_state)
        return state, {"loss": loss, **metrics}


def _with(start: PyTree, own: PyTree) -> PyTree:
    """`own`, with the leaves of `start` in place of those that have the same names; copies, as updates donate them."""
    if not isinstance(own, Mapping):
        return jnp.array(start, own.dtype)
    return {name: _with(start[name], value) if name in start else value for name, value in own.items()}


def learning_rate(
    *, lr: float | jax.Array, schedule: str, updates: int, drops: Sequence[float] = ()
) -> optax.ScalarOrSchedule:
    """The optimiser's learning rate: a number, or a function of the updates done so far.

    Args:
      lr: the first one; may be traced.
      schedule: `"constant"`; `"cosine"`, which falls to 0; or `"step"`, a tenth of what it was after each of `drops`.
      updates: of the whole run.
      drops: shares of the updates.
    """
    if schedule == "cosine":
        return optax.cosine_decay_schedule(lr, updates)
    if schedule == "step":
        return lambda step: lr * 0.1 ** sum(jnp.where(jnp.asarray(step) >= drop * updates, 1.0, 0.0) for drop in drops)
    return lr


OPTIMIZER_OPTIONS = (  # of config.optimizer
    Option("name", "sgd", choice(("sgd", "adamw")), "which optimiser"),
    Option("lr", 0.02, POSITIVE, "the learning rate, at first"),
    Option("momentum", 0.9, SHARE_BELOW_1, "of SGD; of AdamW the first β"),
    Option("nesterov", True, FLAG, "whether the momentum is Nesterov's"),
    Option("weight_decay", 5e-4, NOT_NEGATIVE, "added to the gradient, as PyTorch's SGD does; of AdamW to the update"),
    Option("decay_batch_norm", True, FLAG, "whether weight decay acts on BatchNorm's scales and biases"),
    Option("ema", 0.0, SHARE_BELOW_1, "the decay of an average of the weights, which then predicts; 0: none"),
    Option("sam", 0.0, NOT_NEGATIVE,
           "ρ of sharpness-aware minimisation, which takes two updates for a step; 0: plain SGD"),
    Option("schedule", "constant", choice(("constant", "cosine", "step")), "of the learning rate"),
    Option("drops", (), several(SHARE_INSIDE, "shares of the updates, above 0 and below 1, are needed"),
           "of step: shares of the updates after which the learning rate is a tenth of what it was"),
)  # fmt: skip


def make_optimizer(
    *, name: str = "sgd", lr: float, momentum: float, nesterov: bool, weight_decay: float, decay_batch_norm: bool,
    schedule: str, drops: Sequence[float], updates: int, ema: float = 0.0, sam: float = 0.0,
) -> optax.GradientTransformation:  # fmt: skip
    """SGD with momentum and weight decay added to the gradient, as PyTorch's; or AdamW, the decay times the rate.

    With `ema` it keeps an average of the weights; `mbjax.state.predicting_weights` gives it. With `sam`, it is
    sharpness-aware (Foret et al. 2021): the first of two updates goes to `θ + ρ g / ‖g‖`, and the second takes the step
    from `θ` by the gradient there. Each update has its own batch, and the schedule counts steps.
    """
    steps: Any = updates / 2 if sam else updates  # a whole number or not, or traced
    rate = learning_rate(lr=lr, schedule=schedule, updates=steps, drops=drops)
    decay = optax.add_decayed_weights(weight_decay, mask=None if decay_batch_norm else _outside_batch_norm)
    parts = [decay, optax.sgd(rate, momentum=momentum, nesterov=nesterov)]
    if name == "adamw":
        parts = [optax.scale_by_adam(b1=momentum, nesterov=nesterov), decay, optax.scale_by_learning_rate(rate)]
    tx = optax.chain(*parts, *([average_weights(ema)] if ema else []))
    if sam:
        ascent = optax.chain(optax.contrib.normalize(), optax.sgd(sam))
        tx = optax.contrib.sam(tx, ascent, sync_period=2)
        # It keeps the weights that it starts from, which an update takes over the memory of: a copy of them.
        return tx._replace(init=lambda params, init=tx.init: init(jax.tree.map(jnp.copy, params)))
    return tx


class AverageState(NamedTuple):
    """What `average_weights` keeps: how many updates there were, and the average of the weights after each."""

    seen: jax.Array
    average: Params


def average_weights(decay: float) -> optax.GradientTransformation:
    """An exponential moving average of the weights, the last of a chain: it changes no update.

    `a ← d a + (1 − d) θ` after the update number `t`, where `d = min(decay, t / (t + 9))`: the first weights are soon
    forgotten.
    """

    def update(updates: Params, state: Any, params: Params = None) -> tuple[Params, AverageState]:
        seen = state.seen + 1
        d = jnp.minimum(decay, seen / (seen + 9))
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: (d * a + (1 - d) * p).astype(p.dtype), state.average, new)
        return updates, AverageState(seen, average)

    init = lambda params: AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))  # noqa: E731
    return optax.GradientTransformation(init, update)


def _outside_batch_norm(params: Params) -> Params:
    return jax.tree_util.tree_map_with_path(lambda path, _: "BatchNorm" not in jax.tree_util.keystr(path), params)


@dataclasses.dataclass(frozen=True)
class Method:
    """How to train.

    Attributes:
      init: `init(seed) -> state`, a `TrainState` or a subclass of it with what the method keeps besides.
      step: `step(state, {stream: batch}) -> (state, metrics)`, one update, pure; metrics hold `loss`.
      mesh: what the step is spread over, and where `init` puts the state; None for JAX's default device.
      choices: what was left to mbjax to choose, and its choice, by the key of the configuration that overrides it.
    """

    init: Callable[[int], TrainState]
    step: Callable[[Any, Mapping[str, Batch]], tuple[TrainState, Metrics]]
    mesh: Mesh | None = None
    choices: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A method before it is built: all that a file of `mbjax/methods/` says to the rest of mbjax.

    Attributes:
      build: `build(problem, *, section, …) -> Method`. Its keyword-only parameters name the sections of the
        configuration that it takes, each a dict of its own.
      streams: `streams(sections) -> {stream: shape}`, what an update takes from each stream, the last axis a batch. It
        reads the configuration alone. A stream's name is that of its section.
      epoch_stream: the stream whose passes count as epochs.
      sections: the sections of the configuration that the method reads, its streams' among them (`stream_section`). A
        section that others declare, too, has the options of all.
      priors: `priors(sections, shares, class_counts) -> [classes]`, not normalised: the class priors at which the
        trained network's outputs are probabilities, from each stream's shares of the classes. None: those of
        `epoch_stream`, and what the loss makes of them.
    """

    build: Callable[..., Method]
    streams: Callable[[Sections], Shapes]
    epoch_stream: str
    sections: Mapping[str, Section] = dataclasses.field(default_factory=dict)
    priors: Callable[[Sections, Mapping[str, np.ndarray], np.ndarray], np.ndarray] | None = None

    def sampled_priors(
        self, sections: Sections, shares: Mapping[str, np.ndarray], class_counts: np.ndarray
    ) -> np.ndarray:
        """The class priors at which the trained network's outputs are probabilities, `[classes]`, of sum 1.

        Args:
          sections: of the configuration.
          shares: each stream's shares of the classes, `[classes]`.
          class_counts: training examples of each class, `[classes]`.
        """
        if self.priors is None:
            priors = shares[self.epoch_stream] * losses.prior_factor(sections["loss"], class_counts)
        else:
            priors = self.priors(sections, shares, class_counts)
        priors = np.maximum(priors / priors.sum(), 1e-9)
        return priors / priors.sum()


def batch_of(*names: str) -> Callable[[Sections], Shapes]:
    """The `streams` of a method that takes one batch of each of these streams."""
    return lambda sections: {name: (sections[name]["batch_size"],) for name in names}


def stream_section(help: str, sampler: str, batch_size: int, *more: Option) -> Section:
    """The section of a stream: what the samplers and the augmentations declare, with its defaults, and `more`."""
    return Section(help, (*sampling.options(sampler, batch_size), *augment.OPTIONS, *more))


TRAIN = stream_section("what plain training (erm and its kin) reads", "natural", 24)
