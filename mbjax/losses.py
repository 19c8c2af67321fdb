"""Losses per example, reduced by the caller, and the step from a flax model to a `LossFn`."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mbjax.class_weights import CLASS_WEIGHT, CLASS_WEIGHTS, example_weights, floored, weights_of
from mbjax.options import NOT_NEGATIVE, POSITIVE, SHARE, SHARE_BELOW_1, Option
from mbjax.registry import Registry
from mbjax.types import Batch, LossFn, Metrics, ModelState, Params, UserError

PerExampleLoss = Callable[..., jax.Array]
"""`loss(logits [n, outputs], labels) -> [n]`; one of a margin also takes `margin_share` `[n]`."""


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
    return (sigmoid_cross_entropy if _is_binary(logits) else softmax_cross_entropy)(logits, labels)


def focal(logits: jax.Array, labels: jax.Array, *, gamma: float | jax.Array) -> jax.Array:
    """Focal loss, `−Σ_c y_c (1 − p_c)^γ log p_c`: what is classified well counts less.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", without its α, for which there are class weights. At
    γ = 0 it is the cross-entropy.

    Args:
      logits: `[n]` or `[n, 1]` for two classes, else `[n, classes]`.
      labels: as `cross_entropy` takes them.
      gamma: `γ ≥ 0`, may be traced.

    Returns:
      `[n]`, nats, of the logits' dtype.
    """
    log_p = jax.nn.log_softmax(_two_sided(logits), axis=-1)
    # Kept off zero, where a power below 1 has no finite gradient.
    rest = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(log_p.dtype).tiny)
    return -(_shares(logits, labels) * rest ** jnp.asarray(gamma, log_p.dtype) * log_p).sum(-1)


def logit_adjusted(
    logits: jax.Array, labels: jax.Array, *, class_counts: Any, tau: float | jax.Array = 1.0
) -> jax.Array:
    """Cross-entropy of logits moved by the prior, `ℓ(z + τ log π, y)` with `π_c = n_c / n`.

    Menon et al. 2021, "Long-tail learning via logit adjustment", equation 10. The model's own logits then tell the
    classes apart as if they were equally frequent; nothing is adjusted at test. At τ = 1 it is the balanced softmax,
    `−log (n_y e^{z_y} / Σ_c n_c e^{z_c})`, of Ren et al. 2020, "Balanced Meta-Softmax". The one logit `z` of two
    classes stands for the logits `(0, z)`.

    Args:
      logits: `[n]` or `[n, 1]` for two classes, else `[n, classes]`.
      labels: as `cross_entropy` takes them.
      class_counts: training examples of each class, `[classes]`; may be traced.
      tau: `τ`, may be traced.

    Returns:
      `[n]`, nats, of the logits' dtype.
    """
    offsets = (tau * jnp.log(floored(class_counts))).astype(logits.dtype)  # n's logarithm would cancel
    if _is_binary(logits):
        return cross_entropy(logits + (offsets[1] - offsets[0]), labels)
    return cross_entropy(logits + offsets[None], labels)


def balanced_softmax(logits: jax.Array, labels: jax.Array, *, class_counts: Any) -> jax.Array:
    """`logit_adjusted` with τ = 1."""
    return logit_adjusted(logits, labels, class_counts=class_counts)


def ldam_margins(class_counts: Any, max_margin: float | jax.Array) -> jax.Array:
    """Margins `Δ_c ∝ n_c^(−1/4)`, `[classes]`, of which the largest is `max_margin` (Cao et al. 2019, equation 13)."""
    margins = floored(class_counts) ** -0.25
    return margins * (max_margin / margins.max())


def ldam(
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_counts: Any,
    max_margin: float | jax.Array,
    scale: float | jax.Array,
    margin_share: jax.Array | None = None,
) -> jax.Array:
    """Label-distribution-aware margin loss: cross-entropy of `s (z − Δ_y e_y)`; rare classes get larger margins.

    Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss". There the logits are
    cosines (`config.model.head="cosine"`), which is what the scale is for; at test they go unscaled, so that
    probabilities are those of `z`, not of `s z`. The one logit `z` of two classes stands for the logits `(0, z)`: it
    loses `Δ_1` for a positive example and gains `Δ_0` for a negative one.

    Args:
      logits: `[n]` or `[n, 1]` for two classes, else `[n, classes]`.
      labels: as `cross_entropy` takes them; shares of a class move its logit by their share of its margin.
      class_counts: training examples of each class, `[classes]`; may be traced.
      max_margin: the margin of the rarest class, in the logits' units; may be traced.
      scale: `s`, may be traced.
      margin_share: what each example's margin is multiplied by, `[n]`; nothing if not given.

    Returns:
      `[n]`, nats, of the logits' dtype.
    """
    margins = ldam_margins(class_counts, max_margin)
    return cross_entropy(_with_margins(logits, labels, margins, scale, margin_share), labels)


def cosface(
    logits: jax.Array,
    labels: jax.Array,
    *,
    margin: float | jax.Array,
    scale: float | jax.Array,
    gamma: float | jax.Array = 0.0,
    margin_share: jax.Array | None = None,
) -> jax.Array:
    """CosFace, `focal(s (z − m e_y), y, γ)`: the class's own cosine must be ahead of the others by a margin.

    Wang et al. 2018, "CosFace: Large Margin Cosine Loss for Deep Face Recognition", equation 4, which is γ = 0; there
    `s = 64`, `m = 0.35`. MetaBalance's faces have the focal loss of γ = 2 on it. It is LDAM with the same margin for
    every class. The logits are cosines (`config.model.head="cosine"`); at test they go unscaled and without the margin.

    Args:
      logits: `[n]` or `[n, 1]` for two classes, else `[n, classes]`.
      labels: as `cross_entropy` takes them; shares of a class move its logit by their share of the margin.
      margin: `m`, in the logits' units; may be traced.
      scale: `s`, may be traced.
      gamma: `γ ≥ 0`, may be traced.
      margin_share: see `ldam`.

    Returns:
      `[n]`, nats, of the logits' dtype.
    """
    margins = jnp.full(2 if _is_binary(logits) else logits.shape[-1], margin)
    return focal(_with_margins(logits, labels, margins, scale, margin_share), labels, gamma=gamma)


def build(
    name: str,
    *,
    class_counts: Any,
    class_weight: str | Sequence[float] = "none",
    beta: float | jax.Array = 0.999,
    smoothing: float = 0.0,
    **options: Any,
) -> PerExampleLoss:
    """The loss of `config.loss`. Numbers may be traced, names not.

    Args:
      name: a key of `LOSSES`.
      class_counts: training examples of each class, `[classes]`; may be traced. A class of none counts as one of 1.
      class_weight: `"none"`, `"inverse"` (`inverse_weights`), `"effective"` (`effective_weights`), or the weights, as
        `read_class_weight` gives them. The loss of an example is multiplied by its class's weight, whichever loss it
        is; the mean over a batch is not divided by the weights' sum.
      beta: of the effective number.
      smoothing: `ε` of `smooth_labels`; the class weight of an example stays that of its own class.
      **options: the other keys of the section; a loss takes those that it has keyword-only parameters for. An option
        that is not given has its default.

    Raises:
      UserError: no such loss, or no such class weight.
    """
    loss = LOSSES.find(name, "config.loss.name")
    if isinstance(class_weight, str) and class_weight not in CLASS_WEIGHTS:
        raise UserError(f"config.loss.class_weight={class_weight!r}: choose one of {', '.join(CLASS_WEIGHTS)}")
    declared = options_of(name)
    if unknown := options.keys() - declared.keys():
        raise TypeError(f"the loss {name!r} has no option {', '.join(sorted(unknown))}")
    defaults = {option: declaration.default for option, declaration in declared.items()}
    given = {**defaults, **options, "class_counts": class_counts, "beta": beta}
    takes = [p.name for p in inspect.signature(loss).parameters.values() if p.kind is p.KEYWORD_ONLY]
    loss = functools.partial(loss, **{option: given[option] for option in takes if option in given})
    if smoothing:
        loss = functools.partial(_smoothed, loss, smoothing)
    if class_weight == "none":
        return loss
    weights = weights_of(class_weight, class_counts, beta)

    def weighted(logits: jax.Array, labels: jax.Array, **margin_share: jax.Array) -> jax.Array:
        return loss(logits, labels, **margin_share) * example_weights(weights.astype(logits.dtype), labels)

    return weighted


def smooth_labels(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Label smoothing, `(1 - ε) y_c + ε / C` (Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7).

    Args:
      logits: `[n]` or `[n, 1]` for two classes, else `[n, classes]`.
      labels: as `cross_entropy` takes them.
      smoothing: `ε`, from 0 to below 1.

    Returns:
      Probabilities of class 1 `[n]` where there is one logit, else of each class `[n, classes]`.
    """
    shares = optax.smooth_labels(_shares(logits, labels), smoothing)
    return shares[:, 1] if _is_binary(logits) else shares


def _smoothed(
    loss: PerExampleLoss, smoothing: float, logits: jax.Array, labels: jax.Array, **margin_share: jax.Array
) -> jax.Array:
    return loss(logits, smooth_labels(logits, labels, smoothing), **margin_share)


def prior_factor(section: Mapping[str, Any], class_counts: Any) -> np.ndarray:
    """What the loss does to the class priors that a network's outputs refer to: a factor for each, `[classes]`.

    A class weight counts as so many more examples. Logit adjustment takes `π^τ` out of what the network says itself.

    Args:
      section: `config.loss`.
      class_counts: training examples of each class, `[classes]`.
    """
    counts = np.maximum(np.asarray(class_counts, np.float64), 1)
    factor = np.ones(len(counts))
    if section["class_weight"] != "none":
        factor = np.asarray(weights_of(section["class_weight"], counts, section["beta"]))
    if section["name"] in ("logit_adjustment", "balanced_softmax"):
        tau = section["tau"] if section["name"] == "logit_adjustment" else 1.0
        factor = factor / (counts / counts.sum()) ** tau
    return factor


LOSSES = Registry[PerExampleLoss](
    "mbjax.losses",
    {
        "cross_entropy": cross_entropy,
        "focal": focal,
        "logit_adjustment": logit_adjusted,
        "balanced_softmax": balanced_softmax,
        "ldam": ldam,
        "cosface": cosface,
    },
)
"""Each loss by its name. Its keyword-only parameters are keys of `config.loss`, and `class_counts`."""


def options_of(name: str) -> dict[str, Option]:
    """What `build` takes of `config.loss` for a loss: the options of all losses, and its own, by name."""
    return {option.name: option for option in (*OPTIONS, *LOSSES.options(name, "config.loss.name"))}


def has_margin(name: str) -> bool:
    """Whether a loss has a margin that may grow: it takes `margin_share`."""
    return "margin_share" in inspect.signature(LOSSES.find(name, "config.loss.name")).parameters


OPTIONS = (  # of config.loss
    Option("name", "cross_entropy", LOSSES.kind, "which loss"),
    Option("class_weight", "none", CLASS_WEIGHT, "weights of the classes: inverse of the frequency, by the effective "
           "number of examples, or by name"),
    Option("beta", 0.999, SHARE_BELOW_1, "of the effective number; published with LDAM: 0.9999"),
    Option("gamma", 2.0, NOT_NEGATIVE, "of focal and cosface"),
    Option("tau", 1.0, NOT_NEGATIVE, "of logit_adjustment"),
    Option("max_margin", 0.5, NOT_NEGATIVE, "of ldam"),
    Option("margin", 0.35, NOT_NEGATIVE, "of cosface"),
    Option("margin_warmup", 0.0, SHARE, "the share of the updates in which margins grow from 0: of ldam and cosface"),
    Option("scale", 30.0, POSITIVE, "of ldam and cosface"),
    Option("smoothing", 0.0, SHARE_BELOW_1, "the share of each label that is spread over all classes"),
)  # fmt: skip


def _is_binary(logits: jax.Array) -> bool:
    return logits.ndim == 1 or logits.shape[-1] == 1


def _two_sided(logits: jax.Array) -> jax.Array:
    """Logits `[n, classes]`; of two classes with one logit `z`, `(0, z)`."""
    if not _is_binary(logits):
        return logits
    z = logits.reshape(-1)
    return jnp.stack([jnp.zeros_like(z), z], axis=1)


def _shares(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Labels as shares of classes, `[n, classes]`, of the logits' dtype."""
    if _is_binary(logits) and labels.shape == logits.shape[:1]:
        y = labels.astype(logits.dtype)
        return jnp.stack([1 - y, y], axis=1)
    if labels.shape == logits.shape[:1]:
        return jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    if labels.shape == logits.shape and not _is_binary(logits):
        return labels.astype(logits.dtype)
    raise ValueError(f"logits of shape {logits.shape} do not fit labels of shape {labels.shape}")


def _with_margins(
    logits: jax.Array, labels: jax.Array, margins: jax.Array, scale: float | jax.Array, share: jax.Array | None
) -> jax.Array:
    """`s (z − Δ_y e_y)` of margins `Δ` `[classes]`, of example `i` times `share[i]`: one logit where there is one."""
    shift = _shares(logits, labels) * margins.astype(logits.dtype)[None]
    if share is not None:
        shift = shift * share.astype(logits.dtype)[:, None]
    moved = _two_sided(logits) - shift
    if _is_binary(logits):
        moved = moved[:, 1] - moved[:, 0]
    return jnp.asarray(scale, logits.dtype) * moved


def predicted_class(logits: jax.Array) -> jax.Array:
    """The most probable class number, `[n]` int32, of logits `[n]`, `[n, 1]` or `[n, classes]`."""
    if _is_binary(logits):
        return (logits.reshape(-1) > 0).astype(jnp.int32)
    return logits.argmax(-1).astype(jnp.int32)


def supervised_loss(apply: Callable, per_example_loss: PerExampleLoss = cross_entropy) -> LossFn:
    """The mean loss over a batch of a flax.linen module in training mode.

    The batch is a dict of `"x"`, `"y"` and, if wanted, `"weight"` `[n]`, and `"margin_share"` `[n]` for a loss that
    takes it. The loss is `Σ_i w_i ℓ_i / n`: divided by the
    number of examples, not by the weights' sum, so that a weight keeps its meaning whatever else is in the batch, and
    so that a weighted sample of the data gives an unbiased estimate of the weighted loss over all of it.

    Args:
      apply: `module.apply` of a module that is called as `module(x, train=True)`.
      per_example_loss: `(logits, labels) -> [n]`.

    Returns:
      A `LossFn`. Of a module whose logits in training are `[members, n, outputs]` an example's loss is the mean of the
      members'. `model_state` holds the module's collections other than `"params"` (`batch_stats`), which the pass
      updates. The random key feeds dropout. The metric `accuracy` is the share of examples whose most probable class
      is the label's, unweighted.
    """

    def loss_fn(
        params: Params, model_state: ModelState, batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
        if not jnp.ndim(batch["y"]):  # of a meta-step: pairs that are examples, whose mean would be that of one batch
            raise ValueError("the batch's y is a scalar: [n] is needed, and [pairs, n] of a meta-step")
        logits, model_state = apply(
            {"params": params, **model_state}, batch["x"], train=True, mutable=list(model_state), rngs={"dropout": rng}
        )
        margin_share = {key: batch[key] for key in ("margin_share",) if key in batch}
        if logits.ndim == 3:  # of the members of an ensemble
            each = jax.vmap(lambda own: per_example_loss(own, batch["y"], **margin_share))(logits)
            losses, logits = each.mean(0), logits.mean(0)
        else:
            losses = per_example_loss(logits, batch["y"], **margin_share)
        if "weight" in batch:
            losses = losses * batch["weight"]
        labels = batch["y"]
        if jnp.issubdtype(labels.dtype, jnp.floating):  # shares of classes: the largest
            labels = labels.argmax(-1) if labels.ndim == 2 else labels > 0.5
        accuracy = (predicted_class(logits) == labels.astype(jnp.int32)).astype(losses.dtype).mean()
        return losses.mean(), (model_state, {"accuracy": accuracy})

    return loss_fn
