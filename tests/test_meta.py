"""The meta-step against closed forms, finite differences and itself, in float64."""

import collections
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from mbjax import models
from mbjax.losses import supervised_loss
from mbjax.meta import make_meta_step
from mbjax.state import TrainState

pytestmark = pytest.mark.usefixtures("x64")

PAIRS, SUPPORT, QUERY = 7, 6, 5


class Net(nn.Module):
    """A smooth network with everything that a pass may carry: BatchNorm and dropout."""

    @nn.compact
    def __call__(self, x, *, train: bool):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(4, use_bias=False)(x))
        x = nn.Dropout(0.5, deterministic=not train)(nn.tanh(x))
        return nn.Dense(3)(x)


def problem(model: nn.Module, shape: tuple[int, ...], pairs: int = PAIRS) -> Any:
    """Its loss and a function that makes the first state; support and query batches."""
    rng = np.random.default_rng(0)
    support, query = (
        {
            "x": jnp.array(rng.normal(size=(pairs, n, *shape))),
            "y": jnp.array(rng.integers(2, size=(pairs, n)), jnp.int32),
        }
        for n in (SUPPORT, QUERY)
    )
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(4), jnp.float32(support["x"][0]))
    variables = jax.tree.map(lambda v: v.astype(jnp.float64), variables)
    params = variables.pop("params")

    def start(tx, step: int = 0):
        # Copies, for the step takes its state's memory.
        state = TrainState.create(params=params, tx=tx, rng=jax.random.key(5), model_state=variables)
        return jax.tree.map(jnp.copy, state).replace(step=jnp.asarray(step, jnp.int32))

    return supervised_loss(model.apply), start, support, query


def meta_gradient(loss_fn, params, support, query, **options) -> Any:
    """The gradient that the optimiser is given: the step of plain SGD with learning rate 1, backwards."""
    tx = optax.sgd(1.0)
    state = TrainState.create(params=jax.tree.map(jnp.copy, params), tx=tx, rng=jax.random.key(5))
    new, _ = make_meta_step(loss_fn, tx, **options)(state, support, query)
    return jax.tree.map(jnp.subtract, params, new.params)


def assert_close(actual, expected, rtol: float = 1e-10):
    """Relative to the largest element of each leaf: small elements are differences of large ones."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(1e-300, np.abs(b).max()))


# The quadratic: L_X(θ) = ½ θᵀAθ − aᵀθ with A = batch["A"], a = batch["a"]; L_Z likewise. Its gradient is Aθ − a, so
# with θ' = θ − γ(A_X θ − a_X) the meta-gradient is (I − γ A_X)(A_Z θ' − a_Z) + β (A_X θ − a_X).


def quadratic(params, model_state, batch, rng):
    return 0.5 * params @ batch["A"] @ params - batch["a"] @ params, (model_state, {})


def quadratic_batches(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(PAIRS, 4, 4))
    return {"A": a + a.transpose(0, 2, 1), "a": rng.normal(size=(PAIRS, 4))}


def closed_form(theta, support, query, *, inner_lr, beta=0.0, inner_steps=1, first_order=False):
    total = np.zeros_like(theta)
    for ax, a, az, z in zip(support["A"], support["a"], query["A"], query["a"], strict=True):
        adapted = theta
        for _ in range(inner_steps):
            adapted = adapted - inner_lr * (ax @ adapted - a)
        grad = az @ adapted - z
        for _ in range(0 if first_order else inner_steps):
            grad = grad - inner_lr * ax @ grad
        total += grad + beta * (ax @ theta - a)
    return total / len(support["A"])


@pytest.mark.usefixtures("strict_dtypes")
@pytest.mark.parametrize(
    ("grad_mode", "pairs_per_chunk"), [("reverse", 1), ("mixed", 1), ("mixed", 3), ("first_order", 1)]
)
@pytest.mark.parametrize(
    "options",
    [
        {"inner_lr": 0.3},
        {"inner_lr": 0.3, "beta": 0.7},
        {"inner_lr": 0.2, "beta": 0.7, "inner_steps": 2},
        {"inner_lr": 0.0},
        {"inner_lr": 0.0, "beta": 0.7, "inner_steps": 2},
    ],
    ids=str,
)
def test_quadratic_has_its_closed_form(options, grad_mode, pairs_per_chunk):
    theta, support, query = np.array([1.0, -2.0, 0.5, 3.0]), quadratic_batches(0), quadratic_batches(1)
    actual = meta_gradient(
        quadratic, jnp.array(theta), support, query, grad_mode=grad_mode, pairs_per_chunk=pairs_per_chunk, **options
    )
    expected = closed_form(theta, support, query, first_order=grad_mode == "first_order", **options)
    assert_close(actual, expected, 1e-13)
    if options == {"inner_lr": 0.0}:  # no adaptation: the plain gradient of the query losses
        assert_close(actual, query["A"].mean(0) @ theta - query["a"].mean(0), 1e-13)


@pytest.mark.parametrize("grad_mode", ["reverse", "mixed", "first_order"])
def test_the_support_loop_may_have_a_loss_of_its_own(grad_mode):
    theta, support, query = np.array([1.0, -2.0, 0.5, 3.0]), quadratic_batches(0), quadratic_batches(1)

    def thrice(*arguments):
        loss, aux = quadratic(*arguments)
        return 3 * loss, aux

    options: Any = {"inner_lr": 0.1, "beta": 0.7}
    actual = meta_gradient(
        quadratic, jnp.array(theta), support, query, grad_mode=grad_mode, support_loss_fn=thrice, **options
    )
    tripled = {name: 3 * array for name, array in support.items()}
    expected = closed_form(theta, tripled, query, first_order=grad_mode == "first_order", **options)
    assert_close(actual, expected, 1e-13)


@pytest.mark.parametrize("pairs_per_chunk", [1, PAIRS])
@pytest.mark.parametrize("grad_mode", ["reverse", "mixed", "first_order"])
def test_an_adaptation_of_some_weights_leaves_the_others_and_has_its_closed_form(grad_mode, pairs_per_chunk):
    """`∇ L_Z(θ')` with `θ' = θ − γ M ∇L_X(θ)` is `(I − γ A_X M)(A_Z θ' − a_Z)`, `M` the projection."""
    theta, support, query = np.array([1.0, -2.0, 0.5, 3.0]), quadratic_batches(0), quadratic_batches(1)

    def split(params, *arguments):
        return quadratic(jnp.concatenate([params["stem"]["w"], params["head"]["w"]]), *arguments)

    params = {"stem": {"w": jnp.array(theta[:1])}, "head": {"w": jnp.array(theta[1:])}}
    options: dict[str, Any] = {"inner_lr": 0.3, "grad_mode": grad_mode, "pairs_per_chunk": pairs_per_chunk}
    actual = meta_gradient(split, params, support, query, adapt=lambda name: name == "head/w", **options)
    mask, expected = np.diag([0.0, 1, 1, 1]), []
    for k in range(PAIRS):
        adapted = theta - 0.3 * mask @ (support["A"][k] @ theta - support["a"][k])
        gradient = query["A"][k] @ adapted - query["a"][k]
        second = 0 if grad_mode == "first_order" else 0.3 * support["A"][k] @ mask @ gradient
        expected.append(gradient - second)
    assert_close(np.concatenate([actual["stem"]["w"], actual["head"]["w"]]), np.mean(expected, 0), 1e-13)


def test_metrics_are_means_over_pairs_of_the_losses_before_and_after_the_adaptation():
    theta, support, query = np.array([1.0, -2.0, 0.5, 3.0]), quadratic_batches(0), quadratic_batches(1)
    tx = optax.sgd(1.0)
    state = TrainState.create(params=jnp.array(theta), tx=tx, rng=jax.random.key(0))
    state, metrics = make_meta_step(quadratic, tx, inner_lr=0.3, beta=0.7, inner_steps=2)(state, support, query)
    adapted = np.stack([theta] * PAIRS)
    for _ in range(2):
        adapted = adapted - 0.3 * (np.einsum("pij,pj->pi", support["A"], adapted) - support["a"])
    loss = lambda w, b: np.mean(np.einsum("pi,pij,pj->p", w, b["A"], w) / 2 - (b["a"] * w).sum(1))  # noqa: E731
    assert metrics["support_loss"] == pytest.approx(loss(np.stack([theta] * PAIRS), support), rel=1e-12)
    assert metrics["query_loss"] == pytest.approx(loss(adapted, query), rel=1e-12)
    assert metrics["loss"] == pytest.approx(float(metrics["query_loss"] + 0.7 * metrics["support_loss"]), rel=1e-12)
    assert set(metrics) == {"loss", "support_loss", "query_loss"}
    assert state.step == 1


NETWORKS = {
    "mlp": (models.build("mlp", outputs=1, hidden=(8, 6), dropout=(0, 0.5)), (5,), 1.0),
    "resnet": (models.build("resnet18", outputs=3, width=2, stages=(1, 1), dtype="float64"), (8, 8, 3), 0.1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_reverse_mixed_and_finite_differences_agree_on_a_network(name):
    model, shape, inner_lr = NETWORKS[name]
    loss_fn, start, support, query = problem(model, shape, pairs=2)
    tx = optax.sgd(1.0)
    make = functools.partial(make_meta_step, loss_fn, tx, inner_lr=inner_lr, beta=0.5)
    params = start(tx).params
    results = {mode: make(grad_mode=mode)(start(tx), support, query) for mode in ("reverse", "mixed", "first_order")}
    gradients = {
        mode: ravel_pytree(jax.tree.map(jnp.subtract, params, state.params))[0] for mode, (state, _) in results.items()
    }
    assert_close(results["mixed"], results["reverse"])
    # Along a random direction, by central differences of the meta-loss that the step reports.
    flat, unravel = ravel_pytree(params)
    direction = jax.random.normal(jax.random.key(9), flat.shape)
    direction = direction / jnp.linalg.norm(direction)
    step = make(grad_mode="mixed")
    meta_loss = lambda t: step(start(tx).replace(params=unravel(flat + t * direction)), support, query)[1]["loss"]  # noqa: E731
    slope = (meta_loss(1e-6) - meta_loss(-1e-6)) / 2e-6
    slopes = {mode: float(direction @ gradient) for mode, gradient in gradients.items()}
    assert slopes["mixed"] == pytest.approx(float(slope), rel=1e-6)
    assert slopes["reverse"] == pytest.approx(float(slope), rel=1e-6)
    assert abs(slopes["first_order"] - slopes["mixed"]) > 1e-3 * abs(slopes["mixed"])  # so the test can tell


def test_any_chunk_gives_the_same_state_and_metrics():
    loss_fn, start, support, query = problem(Net(), (5,))
    tx = optax.sgd(0.5, momentum=0.9)
    results = {}
    for chunk in (1, 3, 4, PAIRS):
        step = make_meta_step(loss_fn, tx, inner_lr=0.5, beta=0.5, pairs_per_chunk=chunk)
        state, _ = step(start(tx), support, query)
        results[chunk] = step(state, support, query)
        assert_close(results[chunk], results[1])
    state, metrics = results[1]
    assert state.step == 2
    assert set(metrics) == {"loss", "support_loss", "query_loss", "support_accuracy", "query_accuracy"}


@pytest.mark.parametrize("chunk", [1, 3, 2 * PAIRS])
def test_a_second_call_traces_and_compiles_nothing(chunk):
    loss_fn, start, support, query = problem(Net(), (5,))
    traces = []

    def counted(*args):
        traces.append(None)
        return loss_fn(*args)

    tx = optax.sgd(0.1, momentum=0.9)
    step: Any = make_meta_step(counted, tx, inner_lr=0.1, pairs_per_chunk=chunk)
    state, _ = step(start(tx), support, query)
    first = len(traces)
    for _ in range(3):
        state, _ = step(state, support, query)
    assert len(traces) == first > 0
    assert step._cache_size() == 1


def test_two_devices_equal_one_also_where_shard_map_does_not_check():
    """A user's own `shard_map`; tests/test_parallel.py has ours and `pmap`."""
    loss_fn, start, support, query = problem(Net(), (5,), pairs=6)
    tx = optax.sgd(0.5, momentum=0.9)
    make = functools.partial(make_meta_step, loss_fn, tx, inner_lr=0.5, beta=0.5, pairs_per_chunk=2)
    one, one_step = start(tx), make()
    replicated, spread = PartitionSpec(), PartitionSpec("d")
    two_step = jax.jit(
        jax.shard_map(
            make(axis_name="d"),
            mesh=Mesh(np.array(jax.devices()), ("d",)),
            in_specs=(replicated, spread, spread),
            out_specs=(replicated, replicated),
            check_vma=False,
        )
    )
    two = start(tx)
    for _ in range(2):
        one, one_metrics = one_step(one, support, query)
        two, two_metrics = two_step(two, support, query)
    assert_close(two, one)
    assert_close(two_metrics, one_metrics)


def test_the_update_is_a_mean_over_pairs():
    theta, support, query = jnp.array([1.0, -2.0, 0.5, 3.0]), quadratic_batches(0), quadratic_batches(1)
    once = meta_gradient(quadratic, theta, support, query, inner_lr=0.3)
    support, query = jax.tree.map(lambda x: np.concatenate([x, x]), (support, query))
    assert_close(meta_gradient(quadratic, theta, support, query, inner_lr=0.3), once, 1e-13)


def averaging(params, model_state, batch, rng):
    """`θ·x` whose gradient is `x`, and a running mean of it with momentum 0.9 that it does not read."""
    value = params * batch
    return value, ({"mean": 0.9 * model_state["mean"] + 0.1 * value}, {})


@pytest.mark.parametrize("inner_steps", [1, 2])
@pytest.mark.parametrize("model_state_from", ["both", "support", "query"])
def test_running_statistics_are_the_mean_over_pairs_of_each_pairs(model_state_from, inner_steps):
    x, z, theta, mean, lr = np.array([1.0, 2.0, -4.0]), np.array([3.0, 0.5, 5.0]), 2.0, 7.0, 0.1
    expected = []
    for x_i, z_i in zip(x, z, strict=True):
        adapted, state = theta, mean
        for _ in range(inner_steps):
            if model_state_from != "query":
                state = 0.9 * state + 0.1 * adapted * x_i
            adapted = adapted - lr * x_i
        if model_state_from != "support":
            state = 0.9 * state + 0.1 * adapted * z_i
        expected.append(state)
    tx = optax.sgd(1.0)
    for chunk in (1, 2, 3):
        state = TrainState.create(
            params=jnp.array(theta), tx=tx, rng=jax.random.key(0), model_state={"mean": jnp.array(mean)}
        )
        step = make_meta_step(
            averaging, tx, inner_lr=lr, inner_steps=inner_steps, model_state_from=model_state_from,
            pairs_per_chunk=chunk,
        )  # fmt: skip
        state, _ = step(state, x, z)
        assert state.model_state["mean"] == pytest.approx(np.mean(expected), rel=1e-12)


COUNTERS = {"steps": (np.int32, 10), "long": (np.int32, 2**30 + 1), "short": (np.uint8, 251), "ids": (np.uint32, 2**31)}


def counting(params, model_state, batch, rng):
    """Integers and bools in the state and in the metrics; pairs whose batch is negative count by −3, others by 1."""
    change = jnp.where(batch < 0, -3, 1)
    counts = {name: model_state[name] + change.astype(dtype) for name, (dtype, _) in COUNTERS.items()}
    state = {**counts, "seen": model_state["seen"] | True, "mean": model_state["mean"] + params * batch}
    return params * batch, (state, {"correct": (batch > 2).astype(jnp.int32), "large": batch > 2, "one": 1})


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("chunk", [1, 3, 4])
@pytest.mark.parametrize("weights", [None, [0.5] * 4, [0.1, 0.7, 0.3, 0.2], [True, True, False, True]], ids=str)
def test_counters_and_flags_of_the_state_are_exact_and_metrics_that_count_are_means(weights, chunk, devices):
    tx = optax.sgd(0.0)
    x, z = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 3.0, 5.0, 1.0])
    model_state = {name: jnp.array(value, dtype) for name, (dtype, value) in COUNTERS.items()}
    model_state |= {"seen": jnp.array(False), "mean": jnp.array(7.0)}
    state = TrainState.create(params=jnp.array(2.0), tx=tx, rng=jax.random.key(0), model_state=model_state)
    step: Any = make_meta_step(
        counting, tx, inner_lr=0.0, pairs_per_chunk=chunk, axis_name="d" if devices == 2 else None
    )
    if devices == 2:
        mesh, (whole, parts) = Mesh(np.array(jax.devices()), ("d",)), (PartitionSpec(), PartitionSpec("d"))
        step = jax.shard_map(step, mesh=mesh, in_specs=(whole, parts, parts, parts), out_specs=(whole, whole))
    state, metrics = step(state, x, z, None if weights is None else jnp.array(weights))
    for name, (dtype, value) in COUNTERS.items():
        assert state.model_state[name].dtype == dtype
        assert int(state.model_state[name]) == value + 2, name  # once in each pass
    assert state.model_state["seen"].dtype == bool
    assert bool(state.model_state["seen"])
    shares = np.array(weights or [1.0] * 4, float)
    mean = lambda values: np.average(values, weights=shares)  # noqa: E731
    assert state.model_state["mean"] == pytest.approx(mean(7 + 2 * (x + z)), rel=1e-12)
    assert metrics["support_correct"] == metrics["support_large"] == pytest.approx(mean(x > 2), rel=1e-12)
    assert metrics["query_correct"] == metrics["query_large"] == pytest.approx(mean(z > 2), rel=1e-12)
    assert metrics["query_one"] == pytest.approx(1, rel=1e-12)
    assert all(jnp.issubdtype(value.dtype, jnp.floating) for value in metrics.values())


@pytest.mark.parametrize("chunk", [1, 3])
def test_counters_that_differ_between_pairs_become_their_rounded_mean(chunk):
    tx = optax.sgd(0.0)
    model_state = {name: jnp.array(value, dtype) for name, (dtype, value) in COUNTERS.items()}
    model_state |= {"seen": jnp.array(False), "mean": jnp.array(0.0)}
    state = TrainState.create(params=jnp.array(1.0), tx=tx, rng=jax.random.key(0), model_state=model_state)
    step = make_meta_step(counting, tx, inner_lr=0.0, pairs_per_chunk=chunk, model_state_from="query")
    state, _ = step(state, np.zeros(3), np.array([-1.0, -1.0, 1.0]))
    assert {name: int(state.model_state[name]) - value for name, (_, value) in COUNTERS.items()} == dict.fromkeys(
        COUNTERS,
        -2,  # −3, −3 and 1 are −5/3 in the mean
    )


@pytest.mark.parametrize("grad_mode", ["reverse", "mixed"])
def test_running_statistics_reach_the_query_pass_without_a_gradient(grad_mode):
    def loss_fn(params, model_state, batch, rng):
        return params * batch * model_state, (model_state + params * batch, {})

    tx = optax.sgd(1.0)
    state = TrainState.create(params=jnp.array(2.0), tx=tx, rng=jax.random.key(0), model_state=jnp.array(3.0))
    state, metrics = make_meta_step(loss_fn, tx, inner_lr=0.1, grad_mode=grad_mode)(
        state, jnp.array([5.0]), jnp.array([7.0])
    )
    after_support = 3.0 + 2.0 * 5.0
    assert metrics["query_loss"] == pytest.approx((2.0 - 0.1 * 5.0 * 3.0) * 7.0 * after_support)
    assert 2.0 - state.params == pytest.approx(7.0 * after_support)


@pytest.mark.parametrize("chunk", [1, 3])
def test_every_step_pair_and_pass_has_its_own_key(chunk):
    keys = []

    def loss_fn(params, model_state, batch, rng):
        jax.debug.callback(lambda key, tag: keys.append((*key.tolist(), tag.item())), jax.random.key_data(rng), batch)
        return params**2, (model_state, {})

    tx = optax.sgd(0.1)
    state = TrainState.create(params=jnp.array(1.0), tx=tx, rng=jax.random.key(0))
    step = make_meta_step(loss_fn, tx, inner_lr=0.1, inner_steps=2, pairs_per_chunk=chunk)
    for _ in range(2):
        state, _ = step(state, jnp.arange(3.0), 10 + jnp.arange(3.0))
    jax.effects_barrier()
    # Two steps of three pairs of two support passes and one query pass; recomputing a pass takes the pass's key.
    assert len(set(keys)) == len({key[:-1] for key in keys}) == 2 * 3 * 3
    assert len({key for key in keys if key[-1] >= 10}) == 2 * 3


def test_the_key_of_a_step_depends_on_its_number_alone():
    loss_fn, start, support, query = problem(Net(), (5,))
    tx = optax.sgd(0.0)
    step = make_meta_step(loss_fn, tx, inner_lr=0.5)
    state, first = step(start(tx), support, query)
    _, second = step(state.replace(model_state=start(tx).model_state), support, query)
    _, resumed = step(start(tx, step=1), support, query)
    assert first["loss"] != second["loss"]
    np.testing.assert_array_equal(resumed["loss"], second["loss"])


def test_the_state_is_donated():
    loss_fn, start, support, query = problem(Net(), (5,))
    tx = optax.sgd(0.1, momentum=0.9)
    state = start(tx)
    make_meta_step(loss_fn, tx, inner_lr=0.1)(state, support, query)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state, state.model_state)))


def test_any_pytree_of_weights_and_any_optimiser():
    def loss_fn(params, model_state, batch, rng):
        w, [b, inner] = params
        error = (batch["x"] @ w + b) * inner["scale"] - batch["y"]
        return (error**2).mean(), (model_state, {})

    rng = np.random.default_rng(0)
    params = (jnp.array(rng.normal(size=3)), [jnp.array(0.5), {"scale": jnp.array(1.5)}])
    support, query = ({"x": rng.normal(size=(4, n, 3)), "y": rng.normal(size=(4, n))} for n in (6, 5))

    def mean_meta_loss(params):
        total = 0.0
        for i in range(4):
            loss = lambda p, batch, i=i: loss_fn(p, {}, jax.tree.map(lambda x: x[i], batch), None)[0]  # noqa: E731
            adapted = jax.tree.map(lambda p, g: p - 0.2 * g, params, jax.grad(loss)(params, support))
            total += loss(adapted, query) / 4
        return total

    tx = optax.adam(0.1)
    state = TrainState.create(params=jax.tree.map(jnp.copy, params), tx=tx, rng=jax.random.key(0))
    state, _ = make_meta_step(loss_fn, tx, inner_lr=0.2, pairs_per_chunk=2)(state, support, query)
    updates, opt_state = tx.update(jax.grad(mean_meta_loss)(params), tx.init(params))
    assert_close(state.params, optax.apply_updates(params, updates))
    assert_close(state.opt_state, opt_state)


def test_float32_weights_stay_float32():
    loss_fn, start, support, query = problem(Net(), (5,))
    tx = optax.sgd(0.1, momentum=0.9)
    to32 = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, tree)  # noqa: E731
    for mode in ("mixed", "reverse", "first_order"):
        step = make_meta_step(loss_fn, tx, inner_lr=0.1, beta=0.5, grad_mode=mode)
        state, _ = step(to32(start(tx)), to32(support), to32(query))
        floats = jax.tree.leaves((state.params, state.opt_state, state.model_state))
        assert {str(leaf.dtype) for leaf in floats} == {"float32"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grad_mode": "forward"}, "grad_mode='forward': choose one of mixed, reverse, first_order"),
        ({"model_state_from": "none"}, "model_state_from='none': choose one of both, support, query"),
        ({"pairs_per_chunk": 0}, "pairs_per_chunk=0: at least 1 is needed"),
        ({"inner_steps": 0}, "inner_steps=0: at least 1 is needed"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_meta_step(quadratic, optax.sgd(0.1), inner_lr=0.1, **options)


def test_a_large_classifier_is_not_copied_for_each_pair():
    """One pair at a time, memory grows with the pairs by their batches alone."""
    model = models.build("mlp", outputs=4000, hidden=(64,))
    classifier = 4 * 64 * 4000  # bytes
    tx = optax.sgd(0.1)
    peaks = []
    for pairs in (2, 8):
        batch = {"x": jnp.ones((pairs, 4, 8), jnp.float32), "y": jnp.zeros((pairs, 4), jnp.int32)}
        params = model.init(jax.random.key(0), batch["x"][0], train=False)["params"]
        params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        state = TrainState.create(params=params, tx=tx, rng=jax.random.key(0))
        step: Any = make_meta_step(supervised_loss(model.apply), tx, inner_lr=0.1, pairs_per_chunk=1)
        memory = step.lower(state, batch, batch).compile().memory_analysis()
        peaks.append(memory.temp_size_in_bytes)
    assert peaks[1] - peaks[0] < classifier / 10


def pairs_of(support: int, query: int, **weights: Any) -> tuple[Any, ...]:
    """A state of `linear`, and batches of so many pairs."""
    state = TrainState.create(params=jnp.ones(3), tx=optax.sgd(0.1), rng=jax.random.key(0))
    batches = ({"x": np.ones((pairs, n, 3)), "y": np.ones((pairs, n))} for pairs, n in ((support, 6), (query, 5)))
    return state, *batches, *weights.values()


def linear(params, model_state, batch, rng):
    return ((batch["x"] @ params - batch["y"]) ** 2).mean(), (model_state, {})


def without_pairs(support, query):
    return {name: array[0] for name, array in support.items()}, {name: array[0] for name, array in query.items()}


@pytest.mark.parametrize(
    ("support", "query", "weights", "message"),
    [
        (
            8,
            4,
            None,
            r"support\['x'\] is \[8, 6, 3\] and query\['x'\] is \[4, 5, 3\]: the first axis of every .* pairs",
        ),
        (4, 8, None, r"support\['x'\] is \[4, 6, 3\] and query\['x'\] is \[8, 5, 3\]: the first axis"),
        (0, 0, None, r"support\['x'\] is \[0, 6, 3\]: there are no pairs"),
        (8, 8, np.ones(4), r"weights is \[4\] for 8 pairs: \[8\] is needed"),
        (8, 8, np.ones((8, 1)), r"weights is \[8, 1\] for 8 pairs: \[8\] is needed"),
        (8, 8, np.ones(()), r"weights is \[\] for 8 pairs: \[8\] is needed"),
    ],
    ids=str,
)
@pytest.mark.parametrize("chunk", [1, 8])
def test_batches_of_pairs_that_do_not_match_are_refused(support, query, weights, message, chunk):
    step = make_meta_step(linear, optax.sgd(0.1), inner_lr=0.1, pairs_per_chunk=chunk)
    with pytest.raises(ValueError, match=message) as caught:
        step(*pairs_of(support, query), weights)
    assert "\n" not in str(caught.value)


def test_batches_without_the_axis_of_pairs_are_refused_where_that_can_be_told():
    step = make_meta_step(linear, optax.sgd(0.1), inner_lr=0.1)
    state, support, query = pairs_of(1, 1)
    one = without_pairs(support, query)  # [6, 3] and [5, 3]: six pairs and five
    with pytest.raises(ValueError, match=r"support\['x'\] is \[6, 3\] and query\['x'\] is \[5, 3\]: .* pairs"):
        step(state, *one)
    with pytest.raises(ValueError, match=r"support\['x'\] is \[1, 6, 3\] and support\['y'\] is \[6\]"):
        step(state, {**support, "y": one[0]["y"]}, query)
    with pytest.raises(ValueError, match=r"query\['tau'\] is a scalar: the first axis of every .* pairs"):
        step(state, support, {**query, "tau": 0.5})
    with pytest.raises(ValueError, match="support and query hold no array"):
        step(state, {}, {})
    # As many examples in both: the library's own loss sees labels without an axis.
    step = make_meta_step(supervised_loss(models.build("mlp", outputs=1).apply), optax.sgd(0.1), inner_lr=0.1)
    with pytest.raises(ValueError, match=r"the batch's y is a scalar: \[n\] is needed, and \[pairs, n\] of"):
        step(state, one[0], one[0])


def model_counts(change):
    """A loss whose new state is made by `change` of the old one."""
    return lambda params, state, batch, rng: (linear(params, state, batch, rng)[0], (change(state), {}))


LOSSES: dict[str, tuple[Any, str]] = {
    "three arguments": (lambda params, state, batch: linear(params, state, batch, None), "takes other arguments"),
    "five arguments": (lambda p, s, b, r, more: linear(p, s, b, r), "takes other arguments"),
    "no function": (3, "is int"),
    "only a loss": (lambda *a: linear(*a)[0], r"returned float64\[\]"),
    "only a loss of each example": (lambda p, s, b, r: b["x"] @ p, r"returned float64\[\d\]"),
    "loss, state, metrics": (lambda p, s, b, r: (linear(p, s, b, r)[0], s, {}), "returned a tuple of 3"),
    "loss, state": (lambda p, s, b, r: (linear(p, s, b, r)[0], s), r"returned \(loss, dict\)"),
    "loss, None": (lambda p, s, b, r: (linear(p, s, b, r)[0], None), r"returned \(loss, NoneType\)"),
    "loss of each example": (lambda p, s, b, r: (b["x"] @ p, (s, {})), r"returned a loss float64\[\d\]"),
    "loss of a length": (lambda p, s, b, r: (linear(p, s, b, r)[0][None], (s, {})), r"returned a loss float64\[1\]"),
    "integer loss": (lambda p, s, b, r: (jnp.array(1), (s, {})), r"returned a loss int64\[\]"),
    "no loss": (lambda p, s, b, r: (None, (s, {})), "returned a loss NoneType"),
    "metrics of no name": (lambda p, s, b, r: (linear(p, s, b, r)[0], (s, p.sum())), r"metrics float64\[\]"),
    "state of another dtype": (
        model_counts(lambda s: {**s, "mean": s["mean"].astype(jnp.float32)}),
        r"model_state\['mean'\] is float64\[2\] at first and came back as float32\[2\]",
    ),
    "state of another shape": (
        model_counts(lambda s: {**s, "mean": s["mean"][None]}),
        r"model_state\['mean'\] is float64\[2\] at first and came back as float64\[1, 2\]",
    ),
    "state that lost a leaf": (
        model_counts(lambda s: {}), r"model_state\['mean'\] is float64\[2\] at first and came back as nothing"
    ),
    "state with a new leaf": (
        model_counts(lambda s: {**s, "n": jnp.ones(())}),
        r"model_state\['n'\] is nothing at first and came back as float64\[\]",
    ),
    "state as a list": (
        model_counts(lambda s: [*s.values()]), r"model_state\['mean'\] is float64\[2\] at first and came back as no"
    ),
    "state as another dict": (
        model_counts(collections.OrderedDict), r"model_state: PyTreeDef\(.* came back as PyTreeDef\(.*OrderedDict"
    ),
    "state with a key": (
        model_counts(lambda s: {**s, "key": s["key"]}), r"model_state\['key'\] is a random key, which has no mean"
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", ["loss_fn", "support_loss_fn"])
@pytest.mark.parametrize("inner_lr", [0.1, 0.0])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_another_form_is_told_the_right_one(name, inner_lr, which):
    loss_fn, message = LOSSES[name]
    tx = optax.sgd(0.1)
    _, *batches = pairs_of(4, 4)
    model_state = {"mean": jnp.ones(2), **({"key": jax.random.key(0)} if "key" in name else {})}
    state = TrainState.create(params=jnp.ones(3), tx=tx, rng=jax.random.key(0), model_state=model_state)
    form = rf"{which}\(params, model_state, batch, rng\) -> \(scalar loss, \(new model_state, metrics dict\)\)"
    with pytest.raises(TypeError, match=rf"^{which}.*{message}.*: {form} is needed") as caught:
        make_meta_step(**{"loss_fn": linear, which: loss_fn}, tx=tx, inner_lr=inner_lr, pairs_per_chunk=2)(
            state, *batches
        )
    assert "\n" not in str(caught.value)


def test_an_error_of_the_loss_itself_is_its_own():
    def loss_fn(params, model_state, batch, rng):
        return linear(params, model_state, batch)  # pyright: ignore[reportCallIssue]

    step = make_meta_step(loss_fn, optax.sgd(0.1), inner_lr=0.1)
    with pytest.raises(TypeError, match=r"^linear\(\) missing 1 required positional argument: 'rng'"):
        step(*pairs_of(2, 2))


def test_losses_of_every_callable_kind_are_taken():
    class Bound:
        def loss(self, params, model_state, batch, rng):
            return linear(params, model_state, batch, rng)

        __call__ = loss

    partial = functools.partial(lambda scale, *arguments: linear(*arguments), 2.0)
    jitted: Any = jax.jit(linear)
    for loss_fn in (Bound(), Bound().loss, partial, jitted):
        step = make_meta_step(loss_fn, optax.sgd(0.1), inner_lr=0.1)
        state, _ = step(*pairs_of(2, 2))
        assert state.step == 1
