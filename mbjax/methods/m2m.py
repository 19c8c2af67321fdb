"""Major-to-minor translation: images of large classes, moved by gradients until a classifier sees a rare class in them.

Kim, Jeong and Shin 2020, "M2m: Imbalanced Classification via Major-to-minor Translation" (CVPR). `g` is a classifier
trained before, `f` the one that is wanted, `N_k` the number of training examples of class `k`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mbjax import losses
from mbjax.methods.base import TRAIN, Method, Problem, Recipe, batch_of, make_optimizer, stream_section
from mbjax.options import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, SHARE_BELOW_1, SHARE_INSIDE, Option, Section
from mbjax.state import TrainState
from mbjax.types import Batch, Metrics, ModelState, Params, UserError

OPTIONS = (  # of config.m2m; defaults as published for CIFAR
    Option("pretrain", 0.5, SHARE_INSIDE, "the share of the updates that train the classifier g, which translates"),
    Option("deferred", 0.8, SHARE, "of the others, the share that is plain training, before translated images come in"),
    Option(
        "beta",
        0.999,
        SHARE_BELOW_1,
        "β: a translation from a class of n more examples is kept with 1 − β^n",
    ),
    Option("logit_weight", 0.5, NOT_NEGATIVE, "λ, the weight of the logit of the image's old class"),
    Option("gamma", 0.9, SHARE, "γ, the least probability of its class, by g, of a translated image that is kept"),
    Option("steps", 10, COUNT, "gradient steps of a translation"),
    Option("step_size", 0.1, POSITIVE, "their length, an L2 norm of pixels from 0 to 1"),
)

Logits = Callable[[jax.Array], jax.Array]
"""`f(images [n, height, width, channels]) -> logits [n, classes]`."""

# Of pixels, as mbjax.augment.to_float makes them of uint8 images; floating images must keep to this range.
LOW, HIGH = -1.0, 1.0
_UNIT = HIGH - LOW  # lengths are published for pixels from 0 to 1
_NOISE = 0.5  # of the start, published
_TRY, _SEED, _NOISE_KEY, _ACCEPT, _MODEL_PASS = range(5)  # what is folded into an update's random key


def accept_probability(seed_counts: jax.Array, counts: jax.Array, *, beta: float | jax.Array) -> jax.Array:
    """The probability that a translation from class `k0` to class `k` is kept, `1 − β^((N_k0 − N_k)+)`.

    Of a class that is no larger, nothing is kept.

    Args:
      seed_counts: `N_k0`.
      counts: `N_k`, of the same shape.
      beta: `β`, from 0 to below 1.
    """
    more = jnp.maximum(seed_counts - counts, 0)
    return -jnp.expm1(jax.scipy.special.xlogy(more, beta))  # exact where β^x is near 1; no 0 · log 0


def try_probability(counts: jax.Array, largest: jax.Array) -> jax.Array:
    """The probability that an over-sampled example of class `k` is to be replaced, `1 − N_k / N_1`."""
    return 1 - counts / largest


def seed_probabilities(labels: jax.Array, class_counts: Any, *, beta: float | jax.Array) -> jax.Array:
    """The probability of each example to be the seed of each other one: `∝ 1 − β^((N_k0 − N_k)+)`, within a batch.

    On a balanced batch that is the published draw of a seed's class, then of an example of it.

    Args:
      labels: class numbers, `[n]`.
      class_counts: training examples of each class, `[classes]`; may be traced.
      beta: `β`.

    Returns:
      `[n, n]`: row `i` sums to 1 over seeds of a translation to class `labels[i]`, or is all 0 if no class of the
      batch is larger.
    """
    counts = _counts(class_counts)[labels]
    accept = accept_probability(*jnp.broadcast_arrays(counts[None, :], counts[:, None]), beta=beta)
    total = accept.sum(1, keepdims=True)
    return accept / jnp.where(total > 0, total, 1)


def random_start(rng: jax.Array, images: jax.Array) -> jax.Array:
    """The images with uniform noise, scaled to an L2 norm of 0.5 at most (of pixels from 0 to 1) for each image.

    The published code bounds by 0.5 the noise of a colour channel over all images of a batch at once. That is less, the
    less the larger the batch; this bound is an image's own.
    """
    noise = jax.random.uniform(rng, images.shape, images.dtype, -0.5, 0.5)
    noise = noise * jnp.minimum(1, _NOISE / _norm(noise))
    return jnp.clip(images + _UNIT * noise, LOW, HIGH)


def translate(
    start: jax.Array,
    seed_labels: jax.Array,
    labels: jax.Array,
    *,
    f: Logits,
    g: Logits,
    lambda_: float | jax.Array,
    steps: int,
    step_size: float | jax.Array,
) -> jax.Array:
    """Images that `g` takes for the wanted classes and `f` no longer for their own.

        x ← clip(x − η ∇ / ‖∇‖₂),  ∇ = ∇_x [ L(g; x, k) + λ f_k0(x) ]        `steps` times, each image on its own

    `L` is the cross-entropy, `f_k0` the logit of the seed's class.

    Args:
      start: `x` at first, `[n, height, width, channels]` with pixels from −1 to 1.
      seed_labels: `k0`, `[n]`.
      labels: `k`, `[n]`.
      f: the classifier that is trained.
      g: the one that was trained before.
      lambda_: `λ`.
      steps: how many.
      step_size: `η`, an L2 norm of pixels from 0 to 1, as published.
    """

    def objective(x: jax.Array) -> jax.Array:
        seed_logits = jnp.take_along_axis(f(x), seed_labels[:, None], axis=1)[:, 0]
        return (losses.softmax_cross_entropy(g(x), labels) + lambda_ * seed_logits).sum()

    def descend(_: Any, x: jax.Array) -> jax.Array:
        slope = jax.grad(objective)(x)
        step = _UNIT * step_size * slope / (_norm(slope) + 1e-10)
        return jnp.clip(x - step.astype(x.dtype), LOW, HIGH)

    return jax.lax.fori_loop(0, steps, descend, start)


def translate_batch(
    batch: Batch,
    rng: jax.Array,
    *,
    f: Logits,
    g: Logits,
    class_counts: Any,
    beta: float | jax.Array,
    lambda_: float | jax.Array,
    gamma: float | jax.Array,
    steps: int,
    step_size: float | jax.Array,
) -> tuple[Batch, jax.Array]:
    """An over-sampled batch in which translated images take the place of examples of the rarer classes.

    An example of class `k` is to be replaced with `try_probability`. Its seed is drawn from the batch by
    `seed_probabilities` and translated to `k`. It is kept if `g` gives it a probability of `k` of at least `gamma`, and
    then with `accept_probability`; otherwise the example stays. Labels stay in any case.

    Args:
      batch: images `"x"`, class numbers `"y"`.
      rng: a random key.
      f: the classifier that is trained.
      g: the one that was trained before.
      class_counts: training examples of each class, `[classes]`; may be traced.
      beta: see `accept_probability`.
      lambda_: see `translate`.
      gamma: the least probability by `g`.
      steps: see `translate`.
      step_size: see `translate`.

    Returns:
      The batch, and which of its images are translations, `[n]` bool.
    """
    x, y = batch["x"], batch["y"]
    rngs = [jax.random.fold_in(rng, number) for number in range(_MODEL_PASS)]
    all_counts = _counts(class_counts)
    counts = all_counts[y]
    # Where no class of the batch is larger every logit is −∞; the seed is then any, and accepted with probability 0.
    seeds = jax.random.categorical(rngs[_SEED], jnp.log(seed_probabilities(y, class_counts, beta=beta)), axis=1)
    start = random_start(rngs[_NOISE_KEY], x[seeds])
    translated = translate(start, y[seeds], y, f=f, g=g, lambda_=lambda_, steps=steps, step_size=step_size)
    confidence = jnp.take_along_axis(jax.nn.softmax(g(translated)), y[:, None], axis=1)[:, 0]
    replaced = (
        jax.random.bernoulli(rngs[_TRY], try_probability(counts, all_counts.max()))
        & jax.random.bernoulli(rngs[_ACCEPT], accept_probability(counts[seeds], counts, beta=beta))
        & (confidence >= gamma)
    )
    return {**batch, "x": jnp.where(replaced[:, None, None, None], translated, x)}, replaced


def _counts(class_counts: Any) -> jax.Array:
    return jnp.asarray(class_counts, jnp.result_type(float))


def _norm(images: jax.Array) -> jax.Array:
    """The L2 norm of each image, `[n, 1, 1, 1]`."""
    return jnp.sqrt(jnp.square(images).sum((1, 2, 3), keepdims=True))


def eval_logits(model: nn.Module, params: Params, model_state: ModelState) -> Logits:
    """The model as a function of images alone, with its running statistics; one logit `z` becomes `(−z/2, z/2)`."""

    def logits(x: jax.Array) -> jax.Array:
        z = model.apply({"params": params, **model_state}, x, train=False)
        assert isinstance(z, jax.Array)
        return jnp.concatenate([-z / 2, z / 2], axis=1) if z.shape[1] == 1 else z

    return logits


class M2mState(TrainState):
    """The state of `f`, the classifier that is evaluated, and that of `g`.

    Attributes:
      g_params: the weights of `g`.
      g_model_state: what the model keeps beside them.
      g_opt_state: its optimiser's state.
    """

    g_params: Params
    g_model_state: ModelState
    g_opt_state: optax.OptState


def phases(updates: Any, *, pretrain: float, deferred: float) -> tuple[Any, Any]:
    """The updates at which `f`'s training starts, and its training on translated images.

    Args:
      updates: of the whole run; may be traced.
      pretrain: the share of them that trains `g`; one update at least is left to each of the two.
      deferred: the share of the others that is plain training of `f`.
    """
    xp = jnp if isinstance(updates, jax.Array) else np
    first = xp.clip(xp.round(pretrain * updates), 1, updates - 1).astype(xp.int32)
    return first, first + xp.round(deferred * (updates - first)).astype(xp.int32)


def build_m2m(problem: Problem, *, train: dict[str, Any], m2m: dict[str, Any], optimizer: dict[str, Any]) -> Method:
    """M2m with the settings of `config.m2m`, in three phases:

    1. `g` is trained on the batches of `config.pretrain`, for a share `m2m.pretrain` of the updates;
    2. `f` is trained on them, too, from weights of its own, for a share `m2m.deferred` of the others;
    3. `f` is trained on the batches of `config.train`, which should be over-sampled, as `translate_batch` makes them,
       by `g` and the `f` of this moment, both in evaluation mode.

    `f` and `g` have an optimiser and a schedule each. Published for CIFAR: β = 0.999, λ = 0.5 (of 0.01, 0.1, 0.5),
    γ = 0.9 (of 0.9, 0.99), 10 steps of 0.1, 160 of 200 epochs deferred. The published code takes a `g` trained to the
    end of a run of its own. The metric `translated` is the share of a batch that is translations. All of a batch is
    translated, so that shapes are fixed: an update of phase 3 costs `steps` more passes of either classifier. Mapped
    over a population, every update costs that.

    Raises:
      UserError: the examples are not images, or their labels are mixed.
    """
    if problem.example.ndim != 4:
        raise UserError(
            f"config.method='m2m' translates images, [height, width, channels], and these examples have the shape "
            f"{problem.example.shape[1:]}: choose another method"
        )
    if train["mix"] != "none":
        raise UserError(f'config.train.mix={train["mix"]!r}: m2m needs whole labels; set it to "none"')
    first, second = phases(problem.updates, pretrain=m2m["pretrain"], deferred=m2m["deferred"])
    f_problem, g_problem = (
        dataclasses.replace(problem, tx=make_optimizer(**optimizer, updates=_at_least_1(updates)))
        for updates in (problem.updates - first, first)
    )
    options = {name: m2m[name] for name in ("beta", "gamma", "steps", "step_size")}

    def init(seed: int) -> M2mState:
        state = f_problem.init(seed)
        rng = jax.random.fold_in(state.rng, np.uint32(2**32 - 2))  # no update has this number
        g_state = problem.variables(rng)
        g_params = g_state.pop("params")
        return M2mState(
            **vars(state), g_params=g_params, g_model_state=g_state, g_opt_state=g_problem.tx.init(g_params)
        )

    def train_g(state: M2mState, batches: Mapping[str, Batch], rng: jax.Array) -> tuple[M2mState, Metrics]:
        g = TrainState(state.step, state.g_params, state.g_model_state, state.g_opt_state, state.rng)
        g, metrics = g_problem.descend(g, batches["pretrain"], rng)
        new = {"g_params": g.params, "g_model_state": g.model_state, "g_opt_state": g.opt_state}
        return state.replace(step=g.step, **new), {**metrics, "translated": jnp.zeros(())}

    def train_f(state: M2mState, batches: Mapping[str, Batch], rng: jax.Array) -> tuple[M2mState, Metrics]:
        state, metrics = f_problem.descend(state, batches["pretrain"], rng)
        return state, {**metrics, "translated": jnp.zeros(())}

    def translate_and_train_f(
        state: M2mState, batches: Mapping[str, Batch], rng: jax.Array
    ) -> tuple[M2mState, Metrics]:
        f = eval_logits(problem.model, state.params, state.model_state)
        g = eval_logits(problem.model, state.g_params, state.g_model_state)
        batch, replaced = translate_batch(
            batches["train"], rng, f=f, g=g, class_counts=problem.class_counts, lambda_=m2m["logit_weight"], **options
        )
        state, metrics = f_problem.descend(state, batch, jax.random.fold_in(rng, _MODEL_PASS))
        return state, {**metrics, "translated": replaced.mean(dtype=jnp.result_type(float))}

    def step(state: M2mState, batches: Mapping[str, Batch]) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(state.rng, state.step)
        phase = (state.step >= first).astype(jnp.int32) + (state.step >= second).astype(jnp.int32)
        return jax.lax.switch(phase, (train_g, train_f, translate_and_train_f), state, batches, rng)

    return Method(init=init, step=step)


def _at_least_1(updates: Any) -> Any:
    """A schedule's length, of a phase that may be empty."""
    return jnp.maximum(updates, 1) if isinstance(updates, jax.Array) else max(int(updates), 1)


M2M = Recipe(
    build_m2m,
    streams=batch_of("train", "pretrain"),
    epoch_stream="train",
    sections={
        "train": TRAIN,
        "pretrain": stream_section(
            "what m2m's first classifier, and its own training before it translates, read", "natural", 24
        ),
        "m2m": Section("m2m, as published for CIFAR", OPTIONS),
    },
)
