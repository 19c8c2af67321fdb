"""MetaBalance's update: Algorithm 1 of the paper, for any model, loss and optax optimiser.

Of each pair of a support batch X and a query batch Z:

    θ' = θ − γ ∇L_X(θ)                     one SGD step on X     `inner_update`
    L_Z(θ') + β L_X(θ)                     the pair's loss       `meta_loss`
    θ ← optimiser(∇_θ mean over pairs)     one update            `make_meta_step`
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from mbjax.meta_checks import checked, count_pairs
from mbjax.state import TrainState
from mbjax.types import Batch, LossFn, Metrics, ModelState, Params, PyTree

GradMode = Literal["mixed", "reverse", "first_order"]
ModelStateFrom = Literal["both", "support", "query"]
Adapt = Callable[[str], bool]
MetaStep = Callable[..., tuple[TrainState, Metrics]]


def inner_update(
    loss_fn: LossFn,
    params: Params,
    model_state: ModelState,
    support: Batch,
    rng: jax.Array,
    *,
    inner_lr: float,
    grad_mode: GradMode = "mixed",
    adapt: Adapt | None = None,
) -> tuple[Params, tuple[jax.Array, ModelState, Metrics]]:
    """One SGD step on the support batch, `θ' = θ − γ ∇L_X(θ)`, and how its gradient is taken.

    The vector-Jacobian product of the step with a cotangent `v` is `v − γ H v`, `H` the Hessian of `L_X` at `θ`.

    Args:
      loss_fn: see `mbjax.types.LossFn`.
      params: `θ`.
      model_state: the model's state before the support pass.
      support: the support batch `X`.
      rng: the pass's random key (dropout).
      inner_lr: `γ`.
      grad_mode: `"reverse"` differentiates the step as it stands, reverse over reverse. `"mixed"` takes the same
        gradient with a Hessian-vector product computed forward over reverse, from a linearisation of the support
        pass. `"first_order"` drops `H`.
      adapt: whether the step changes a weight, by its path in `params`, such as `"Dense_0/kernel"`; None for all. The
        vector-Jacobian product is then `v − γ H M v`, `M` the projection on those that it changes.

    Returns:
      `θ'` and `(L_X(θ), the model's state after the pass, the pass's metrics)`.
    """

    if isinstance(inner_lr, float | int) and inner_lr == 0:  # no step, so no gradient to compute
        loss, aux = loss_fn(params, model_state, support, rng)
        return params, (loss, *aux)
    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)

    def gradient(params, *batch):
        (loss, aux), grads = value_and_grad(params, *batch)
        return grads, (loss, *aux)

    # The step gives only the weights that it changes: the others are the same for all pairs, also on the way back.
    def chosen(tree):
        """None, which is no leaf, in place of what belongs to weights that the step does not change."""
        if adapt is None:
            return tree
        name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
        changes = adapt
        return jax.tree_util.tree_map_with_path(lambda path, x: x if changes(name(path)) else None, tree)

    def filled(tree, others):
        """The tree, with what `others` has where it has None."""
        return jax.tree.map(lambda x, other: other if x is None else x, tree, others, is_leaf=lambda x: x is None)

    def descend(params, grads):
        return jax.tree.map(lambda p, g: p - (inner_lr * g).astype(p.dtype), chosen(params), chosen(grads))

    def step(params, *batch):
        grads, aux = gradient(params, *batch)
        return descend(params, grads), aux

    def forward(params, *batch):
        if grad_mode == "first_order":
            grads, aux = gradient(params, *batch)
            return (descend(params, grads), aux), (None, grads)
        # The Hessian-vector product shares the support pass with the gradient that it is the derivative of.
        grads, hessian_product, aux = jax.linearize(lambda p: gradient(p, *batch), params, has_aux=True)
        return (descend(params, grads), aux), (hessian_product, grads)

    def backward(residuals, cotangents):
        hessian_product, grads = residuals
        v, (loss_bar, _, _) = cotangents
        v = filled(v, jax.tree.map(jnp.zeros_like, grads))
        if hessian_product is not None:
            v = jax.tree.map(lambda v, hv: v - inner_lr * hv, v, hessian_product(v))
        params_bar = jax.tree.map(lambda v, g: v + loss_bar * g, v, grads)
        return params_bar, None, None, None  # only the weights are differentiated

    if grad_mode != "reverse":
        step = jax.custom_vjp(step)
        step.defvjp(forward, backward)
    adapted, aux = step(params, model_state, support, rng)
    return filled(adapted, params), aux


def meta_loss(
    loss_fn: LossFn,
    params: Params,
    model_state: ModelState,
    support: Batch,
    query: Batch,
    rng: jax.Array,
    *,
    inner_lr: float,
    inner_steps: int = 1,
    beta: float = 0.0,
    grad_mode: GradMode = "mixed",
    model_state_from: ModelStateFrom = "both",
    support_loss_fn: LossFn | None = None,
    adapt: Adapt | None = None,
) -> tuple[jax.Array, tuple[ModelState, Metrics]]:
    """The loss of one pair, `L_Z(θ') + β L_X(θ)`; differentiate it by `params`.

    `support_loss_fn` is `L_X`'s, `loss_fn` that of `L_Z`, and of both if there is no other. Each pass has its own
    random key. Running statistics go from the support pass to the query pass without a gradient; `model_state_from`
    says which pass feeds those that are returned.
    """
    adapted, state, passes = params, model_state, []
    for k in range(inner_steps):
        adapted, (loss, state, metrics) = inner_update(
            support_loss_fn or loss_fn,
            adapted,
            state,
            support,
            jax.random.fold_in(rng, 1 + k),
            inner_lr=inner_lr,
            grad_mode=grad_mode,
            adapt=adapt,
        )
        state = jax.lax.stop_gradient(state)
        passes.append((loss, metrics))
    support_loss, support_metrics = passes[0]  # β and what is reported are of θ, before the adaptation
    if isinstance(beta, float | int) and beta == 0:
        support_loss = jax.lax.stop_gradient(support_loss)
    query_start = model_state if model_state_from == "query" else state
    query_loss, (query_state, query_metrics) = loss_fn(adapted, query_start, query, jax.random.fold_in(rng, 0))
    total = query_loss + beta * support_loss
    metrics = {
        "loss": total,
        "support_loss": support_loss,
        "query_loss": query_loss,
        **{f"support_{name}": value for name, value in support_metrics.items()},
        **{f"query_{name}": value for name, value in query_metrics.items()},
    }
    return total, (state if model_state_from == "support" else query_state, metrics)


def make_meta_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    inner_lr: float,
    inner_steps: int = 1,
    beta: float = 0.0,
    grad_mode: GradMode = "mixed",
    pairs_per_chunk: int = 1,
    model_state_from: ModelStateFrom = "both",
    axis_name: str | None = None,
    support_loss_fn: LossFn | None = None,
    adapt: Adapt | None = None,
) -> MetaStep:
    """Makes `meta_step(state, support, query, weights=None) -> (state, metrics)`, one update of Algorithm 1.

    The update minimises the mean over pairs of `L_Z(θ') + β L_X(θ)`. Every pair starts from the same
    `state.model_state`, and the new one is the mean over pairs of each pair's. The result does not depend on
    `pairs_per_chunk` or on the number of devices, beyond rounding. Of integers and bools in it, counters and flags, the
    mean is that of the pairs' changes, rounded: what every pair changes alike is exact.

    Args:
      loss_fn: `loss_fn(params, model_state, batch, rng) -> (scalar loss, (new model_state, metrics))`.
      tx: the outer optimiser.
      inner_lr: `γ`, the learning rate of the adaptation. At 0 the update is plain training on the query batches.
      inner_steps: SGD steps on the support batch; the paper takes one.
      beta: `β`, the weight of the support loss at `θ`.
      grad_mode: `"mixed"`, `"reverse"` (the same gradient, computed otherwise) or `"first_order"`: see `inner_update`.
      pairs_per_chunk: pairs that are vmapped together; chunks follow one another in a `lax.scan`. Small models are
        fastest with all pairs in one chunk; memory grows with it.
      model_state_from: whether the support pass, the query pass or both, one after the other, feed `model_state`.
      axis_name: the mapped axis of `shard_map` or `pmap` over which the pairs are spread, equally many on each device
        (`mbjax.devices.parallel.spread`).
      support_loss_fn: the loss of the support batches, if it is another one.
      adapt: which weights the inner step changes, all if None: see `inner_update`. The outer update changes all.

    Returns:
      A jitted function that donates `state`. `support` and `query` are pytrees whose leaves have a leading axis of
      meta-steps; `weights`, `[meta-steps]`, are those of the pairs in every mean over pairs, equal if not given.
      Metrics are means over pairs: `loss`, `support_loss`, `query_loss`, and those of `loss_fn` with `support_` and
      `query_` before their names; counts and flags are averaged as floats.

    Raises:
      ValueError: an argument out of its range; by `meta_step`, when it is traced, batches of unequally many pairs.
      TypeError: a loss function of another form, here or by `meta_step` when it is traced.
    """
    for name, value, valid in (
        ("grad_mode", grad_mode, ("mixed", "reverse", "first_order")),
        ("model_state_from", model_state_from, ("both", "support", "query")),
    ):
        if value not in valid:
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(valid)}")
    for name, value in (("pairs_per_chunk", pairs_per_chunk), ("inner_steps", inner_steps)):
        if value < 1:
            raise ValueError(f"{name}={value}: at least 1 is needed")
    loss_fn = checked(loss_fn, "loss_fn")
    support_loss_fn = support_loss_fn and checked(support_loss_fn, "support_loss_fn")

    def pair_loss(params, model_state, support, query, rng, weight):
        loss, (new_state, metrics) = meta_loss(
            loss_fn, params, model_state, support, query, rng, inner_lr=inner_lr, inner_steps=inner_steps, beta=beta,
            grad_mode=grad_mode, model_state_from=model_state_from, support_loss_fn=support_loss_fn, adapt=adapt,
        )  # fmt: skip
        result = loss, (jax.tree.map(_change, new_state, model_state), jax.tree.map(_as_float, metrics))
        return result if weight is None else jax.tree.map(lambda x: weight.astype(x.dtype) * x, result)

    def chunk_loss(params, model_state, chunk):
        if pairs_per_chunk == 1:  # vmap would turn a convolution into a grouped one, several times slower
            return pair_loss(params, model_state, *jax.tree.map(lambda x: x[0], chunk))
        losses, aux = jax.vmap(pair_loss, (None, None, 0, 0, 0, 0))(params, model_state, *chunk)
        return losses.sum(), jax.tree.map(lambda x: x.sum(0), aux)

    @functools.partial(jax.jit, donate_argnums=0)
    def meta_step(
        state: TrainState, support: Batch, query: Batch, weights: jax.Array | None = None
    ) -> tuple[TrainState, Metrics]:
        pairs = count_pairs(support, query, weights)
        first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * pairs
        step_rng = jax.random.fold_in(state.rng, state.step)
        rngs = jax.vmap(functools.partial(jax.random.fold_in, step_rng))(first + jnp.arange(pairs))
        start = _varying((state.params, state.model_state), axis_name)

        def chunk_sums(chunk):
            grads, (model_state, metrics) = jax.grad(chunk_loss, has_aux=True)(*start, chunk)
            return grads, model_state, metrics

        sums = _sum_over_chunks(chunk_sums, (support, query, rngs, weights), pairs_per_chunk, axis_name)
        total = pairs if weights is None else weights.sum()
        if axis_name is not None:
            sums, total = jax.lax.psum((sums, total), axis_name)
        grads, changes, metrics = jax.tree.map(lambda x: (x / total).astype(x.dtype), sums)
        model_state = jax.tree.map(_changed, state.model_state, changes)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = state.replace(step=state.step + 1, params=params, model_state=model_state, opt_state=opt_state)
        return state, metrics

    return meta_step


def _sum_over_chunks(chunk_sums: Callable[[PyTree], PyTree], pairs: PyTree, size: int, axis_name: str | None) -> PyTree:
    """Sums `chunk_sums` over chunks of `size` pairs; the last chunk takes what is left."""
    count = jax.tree.leaves(pairs)[0].shape[0]
    if count <= size:
        return chunk_sums(pairs)
    full, rest = divmod(count, size)

    def chunk(start, length):  # sliced inside the loop: as the scan's own inputs, the batches would be copied whole
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, length), pairs)

    def add(sums, k):
        return jax.tree.map(jnp.add, sums, chunk_sums(chunk(k * size, size))), None

    if rest:
        sums = chunk_sums(chunk(full * size, rest))
    else:
        shapes = jax.eval_shape(chunk_sums, chunk(0, size))
        sums = _varying(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), axis_name)
    return jax.lax.scan(add, sums, jnp.arange(full))[0]


def _as_float(x: Any) -> jax.Array:
    """Integers and bools as floats, which have a mean; the others as they are."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)


def _change(new: Any, start: jax.Array) -> jax.Array:
    """What is averaged of a leaf of a pair's state: of integers and bools their change, as a float; else the leaf.

    A large counter is no float32, and the sum of many of them no int32; their changes are.
    """
    if jnp.issubdtype(start.dtype, jnp.inexact):
        return jnp.asarray(new)
    return _as_float(jnp.asarray(new).astype(_signed(start)) - start.astype(_signed(start)))


def _changed(start: jax.Array, mean: jax.Array) -> jax.Array:
    """The leaf of the state of which `mean` is the mean of the pairs' `_change`."""
    if jnp.issubdtype(start.dtype, jnp.inexact):
        return mean
    return (start.astype(_signed(start)) + jnp.round(mean).astype(_signed(start))).astype(start.dtype)


def _signed(x: jax.Array) -> Any:
    """Integers that differences of `x` fit in; those of unsigned ones wrap around, and back again when added."""
    return jnp.int64 if x.dtype.itemsize == 8 else jnp.int32


def _varying(tree: PyTree, axis_name: str | None) -> PyTree:
    """Marks replicated values as differing by device: `shard_map` would else sum their gradients on its own."""
    return tree if axis_name is None else jax.lax.pcast(tree, axis_name, to="varying")
