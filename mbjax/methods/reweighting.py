"""Methods that learn a weight for each training example from a small clean, balanced part of the training data.

Both ask how the clean loss would change with the weights, through one virtual SGD step of the model:

    θ'(w) = θ − η ∇_θ (1/n) Σ_i w_i ℓ_i(θ)        `virtual_loss` is the loss of θ'(w) on the clean batch

L2RW takes the weights straight from the gradient of it, MW-Net trains a small network that maps a loss to a weight.
The clean batch's loss is that of `config.loss`, too, class weights and priors of the training part included.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mbjax.class_weights import reweighted
from mbjax.losses import prior_factor
from mbjax.methods.base import TRAIN, Method, Problem, Recipe, Sections, batch_of, learning_rate, stream_section
from mbjax.options import COUNT, FLAG, NOT_NEGATIVE, POSITIVE, SHARE_BELOW_1, SHARE_INSIDE, Option, Section, choice
from mbjax.state import TrainState
from mbjax.types import Batch, LossFn, Metrics, ModelState, Params, UserError

CLEAN_OPTIONS = (  # of config.clean
    Option("share", 0.1, SHARE_INSIDE, "of the rarest class's examples; as many of each class are kept apart"),
)
WEIGHT_NET_OPTIONS = (  # of config.weight_net; published for imbalance: sgd, lr 1e-5, weight_decay 5e-4, normalize
    Option("hidden", 100, COUNT, "units of its hidden layer"),
    Option("optimizer", "adam", choice(("adam", "sgd")), "its optimiser; sgd has Nesterov's momentum"),
    Option("lr", 1e-3, POSITIVE, "its learning rate"),
    Option("momentum", 0.9, SHARE_BELOW_1, "of sgd"),
    Option("weight_decay", 1e-4, NOT_NEGATIVE, "added to its gradient"),
    Option("normalize", False, FLAG, "whether the mean weight of a batch is made 1"),
)

_MODEL_PASS, _VIRTUAL_PASS, _CLEAN_PASS = range(3)  # what is folded into an update's random key


def example_losses(loss_fn: LossFn, params: Params, model_state: ModelState, batch: Batch, rng: jax.Array) -> jax.Array:
    """The loss of each example, `[n]`, of a loss that is linear in the weights: `ℓ_i = n ∂/∂w_i (1/n) Σ w_j ℓ_j`.

    A weight that the batch has is part of the example's loss. It costs a forward pass, which a compiler shares with a
    gradient of the same batch and random key.
    """
    ones = jnp.ones(len(batch["y"]))
    return len(ones) * jax.grad(lambda w: loss_fn(params, model_state, reweighted(batch, w), rng)[0])(ones)


def virtual_loss(
    loss_fn: LossFn,
    params: Params,
    model_state: ModelState,
    train: Batch,
    weights: jax.Array,
    clean: Batch,
    rng: jax.Array,
    *,
    lr: float | jax.Array,
) -> jax.Array:
    """The clean loss after one virtual SGD step on the weighted training batch; differentiate it by the weights.

    Neither pass feeds the model's running statistics.

    Args:
      loss_fn: see `mbjax.types.LossFn`; it multiplies each example's loss by `batch["weight"]`.
      params: `θ`.
      model_state: the model's state before the update.
      train: the training batch of `n` examples.
      weights: `w`, `[n]`; they multiply those that the batch has.
      clean: the clean batch.
      rng: the update's random key.
      lr: `η`.
    """
    rngs = [jax.random.fold_in(rng, number) for number in (_VIRTUAL_PASS, _CLEAN_PASS)]
    grads = jax.grad(loss_fn, has_aux=True)(params, model_state, reweighted(train, weights), rngs[0])[0]
    virtual = jax.tree.map(lambda p, g: p - (lr * g).astype(p.dtype), params, grads)
    return loss_fn(virtual, model_state, clean, rngs[1])[0]


def l2rw_weights(
    loss_fn: LossFn, params: Params, model_state: ModelState, train: Batch, clean: Batch, rng: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """L2RW's weights: `w_i ∝ max(−∂/∂ε_i L_clean(θ'(ε)), 0)` at `ε = 0`, summing to 1, or all 0 if none helps.

    Without BatchNorm that is `max(⟨∇ℓ_i, ∇L_clean⟩, 0)`. At `ε = 0` the virtual step goes nowhere, so its learning
    rate and the `1/n` of the mean only scale the gradient; they cancel in the normalisation, and the rate is 1 here.

    Returns:
      `(w, L_clean(θ))`; `w` is `[n]` and has no gradient.
    """

    def clean_loss(epsilon):
        return virtual_loss(loss_fn, params, model_state, train, epsilon, clean, rng, lr=1.0)

    loss, grads = jax.value_and_grad(clean_loss)(jnp.zeros(len(train["y"])))
    weights = jnp.maximum(-grads, 0)
    total = weights.sum()
    return weights / jnp.where(total > 0, total, 1), loss


def build_l2rw(problem: Problem) -> Method:
    """Learning to reweight (Ren et al. 2018, "Learning to Reweight Examples for Robust Deep Learning", algorithm 1).

    It trains on the batches of `config.train`, weighted by `l2rw_weights` on the batches of `config.clean`.
    """

    def step(state: TrainState, batches: Mapping[str, Batch]) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(state.rng, state.step)
        weights, clean_loss = l2rw_weights(
            problem.loss_fn, state.params, state.model_state, batches["train"], batches["clean"], rng
        )
        # The loss is a mean; times n, the weights sum the losses as published.
        batch = reweighted(batches["train"], weights * len(weights))
        state, metrics = problem.descend(state, batch, jax.random.fold_in(rng, _MODEL_PASS))
        return state, {**metrics, "clean_loss": clean_loss}

    return Method(init=problem.init, step=step)


class WeightNet(nn.Module):
    """MW-Net's map from the loss of an example to its weight, an MLP 1-hidden-1 with a sigmoid.

    Weights and biases start uniform in ±1/√(inputs), as PyTorch's `Linear` in the published code: the biases spread
    the kinks of the hidden units over the losses, all of which are positive.

    Attributes:
      hidden: units of the hidden layer.
    """

    hidden: int = 100

    @nn.compact
    def __call__(self, losses: jax.Array) -> jax.Array:
        """Weights in (0, 1), `[n]`, of losses `[n]`."""
        hidden = nn.relu(nn.Dense(self.hidden, kernel_init=_uniform(1), bias_init=_uniform(1))(losses[:, None]))
        return nn.sigmoid(nn.Dense(1, kernel_init=_uniform(self.hidden), bias_init=_uniform(self.hidden))(hidden)[:, 0])


def _uniform(inputs: int) -> Callable[..., jax.Array]:
    bound = inputs**-0.5

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def weigh(net: WeightNet, weight_params: Params, losses: jax.Array, *, normalize: bool) -> jax.Array:
    """The weight net's weights of losses `[n]`; normalised, their mean is 1. No gradient goes to the losses."""
    weights = net.apply({"params": weight_params}, jax.lax.stop_gradient(losses))
    assert isinstance(weights, jax.Array)
    if not normalize:
        return weights
    total = weights.sum()
    return weights * (len(weights) / jnp.where(total > 0, total, 1))


class MWNetState(TrainState):
    """The model's state and the weight net's.

    Attributes:
      weight_params: the weight net's weights.
      weight_opt_state: its optimiser's state.
    """

    weight_params: Params
    weight_opt_state: optax.OptState


def build_mw_net(problem: Problem, *, weight_net: dict[str, Any], optimizer: dict[str, Any]) -> Method:
    """Meta-Weight-Net (Shu et al. 2019, "Meta-Weight-Net: Learning an Explicit Mapping For Sample Weighting").

    Each update, on a batch of `config.train` and one of `config.clean`:

    1. a virtual SGD step of the model, whose learning rate is the optimiser's, with the weight net's weights;
    2. an update of the weight net down the gradient of the clean loss of the virtual weights;
    3. an update of the model with the new weight net's weights.

    The loss is `(1/n) Σ_i w_i ℓ_i`. `config.weight_net` has room for both of the authors' recipes:

    | published code | optimizer | lr | momentum | weight_decay | normalize |
    | --- | --- | --- | --- | --- | --- |
    | label noise (the default) | adam | 1e-3 | none | 1e-4 | False |
    | class imbalance | sgd (Nesterov) | 1e-5 | 0.9 | 5e-4 | True: `Σ w_i = n` in every batch |

    Both have batches of 100 and 10 clean examples of each class for imbalance. The code for imbalance lets a gradient
    flow through the weight net's input; this follows the other, and the paper, in detaching it.
    """
    net = WeightNet(weight_net["hidden"])
    weight_tx = make_weight_optimizer(**{k: weight_net[k] for k in ("optimizer", "lr", "momentum", "weight_decay")})
    rate = learning_rate(
        lr=optimizer["lr"], schedule=optimizer["schedule"], updates=problem.updates, drops=optimizer.get("drops", ())
    )

    def init(seed: int) -> MWNetState:
        state = problem.init(seed)
        rng = jax.random.fold_in(state.rng, np.uint32(2**32 - 1))  # no update has this number
        params = net.init(rng, jnp.zeros(1))["params"]
        return MWNetState(**vars(state), weight_params=params, weight_opt_state=weight_tx.init(params))

    def step(state: MWNetState, batches: Mapping[str, Batch]) -> tuple[MWNetState, Metrics]:
        rng = jax.random.fold_in(state.rng, state.step)
        lr = rate(state.step) if callable(rate) else rate
        clean_loss, grads = jax.value_and_grad(weight_net_loss, argnums=1)(
            net, state.weight_params, problem.loss_fn, state.params, state.model_state, batches["train"],
            batches["clean"], rng, lr=lr, normalize=weight_net["normalize"],
        )  # fmt: skip
        changes, weight_opt_state = weight_tx.update(grads, state.weight_opt_state, state.weight_params)
        weight_params = optax.apply_updates(state.weight_params, changes)

        rng = jax.random.fold_in(rng, _MODEL_PASS)
        losses = example_losses(problem.loss_fn, state.params, state.model_state, batches["train"], rng)
        weights = weigh(net, weight_params, losses, normalize=weight_net["normalize"])
        state, metrics = problem.descend(state, reweighted(batches["train"], weights), rng)
        state = state.replace(weight_params=weight_params, weight_opt_state=weight_opt_state)
        return state, {**metrics, "clean_loss": clean_loss, "mean_weight": weights.mean()}

    return Method(init=init, step=step)


def weight_net_loss(
    net: WeightNet,
    weight_params: Params,
    loss_fn: LossFn,
    params: Params,
    model_state: ModelState,
    train: Batch,
    clean: Batch,
    rng: jax.Array,
    *,
    lr: float | jax.Array,
    normalize: bool,
) -> jax.Array:
    """What the weight net minimises, by `weight_params`: the clean loss after a virtual step with its weights."""
    losses = example_losses(loss_fn, params, model_state, train, jax.random.fold_in(rng, _VIRTUAL_PASS))
    weights = weigh(net, weight_params, losses, normalize=normalize)
    return virtual_loss(loss_fn, params, model_state, train, weights, clean, rng, lr=lr)


def make_weight_optimizer(
    *, optimizer: str, lr: float | jax.Array, momentum: float | jax.Array, weight_decay: float | jax.Array
) -> optax.GradientTransformation:
    """The weight net's optimiser, with weight decay added to the gradient as PyTorch's optimisers do.

    Raises:
      UserError: no such optimiser.
    """
    makers = {"adam": lambda: optax.adam(lr), "sgd": lambda: optax.sgd(lr, momentum=momentum, nesterov=True)}
    if optimizer not in makers:
        raise UserError(f"config.weight_net.optimizer={optimizer!r}: choose one of {', '.join(makers)}")
    return optax.chain(optax.add_decayed_weights(weight_decay), makers[optimizer]())


def priors(sections: Sections, shares: Mapping[str, np.ndarray], class_counts: np.ndarray) -> np.ndarray:
    """Those of the clean part, for whose loss the examples are weighted."""
    return shares["clean"] * prior_factor(sections["loss"], class_counts)


CLEAN = stream_section(
    "a balanced part of the training data that l2rw and mw_net keep apart; the other streams read the rest",
    "natural",
    24,
    *CLEAN_OPTIONS,
)
L2RW = Recipe(
    build_l2rw,
    streams=batch_of("train", "clean"),
    epoch_stream="train",
    priors=priors,
    sections={"train": TRAIN, "clean": CLEAN},
)
MW_NET = dataclasses.replace(
    L2RW,
    build=build_mw_net,
    sections={**L2RW.sections, "weight_net": Section("mw_net's network of weights", WEIGHT_NET_OPTIONS)},
)
