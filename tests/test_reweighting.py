"""L2RW, MW-Net, deferred re-weighting, and the clean part that the first two keep apart."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from mbjax import config as config_lib
from mbjax import losses, methods, models, train
from mbjax.data import splits
from mbjax.methods import reweighting
from mbjax.types import UserError

RNG = jax.random.key(5)


def linear_problem(outputs=1, features=3, lr=0.3, updates=10, class_counts=(8, 4)):
    """A linear model without momentum or decay, whose gradients one can write down."""
    model = models.build("mlp", outputs=outputs, hidden=(), dropout=())
    loss_fn = losses.supervised_loss(model.apply)
    return methods.Problem(model, loss_fn, optax.sgd(lr), np.zeros((1, features)), np.array(class_counts), updates)


def linear_params(outputs=1, features=3):
    kernel, bias = (jax.random.normal(jax.random.key(k), s) for k, s in ((1, (features, outputs)), (2, (outputs,))))
    return {"Dense_0": {"kernel": kernel, "bias": bias}}


def draw(number, n, outputs=1, features=3):
    x = jax.random.normal(jax.random.key(number), (n, features))
    return {"x": x, "y": jnp.arange(n) % max(outputs, 2)}


def by_hand(params, batch):
    """Each example's loss and gradient, flat, of the linear model: `(σ(z) − y) ⊗ (x, 1)`."""
    x, y = np.asarray(batch["x"]), np.asarray(batch["y"])
    z = x @ np.asarray(params["Dense_0"]["kernel"]) + np.asarray(params["Dense_0"]["bias"])
    if z.shape[1] == 1:
        p = 1 / (1 + np.exp(-z))
        each, error = -np.log(np.where(y == 1, p[:, 0], 1 - p[:, 0])), p - y[:, None]
    else:
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        each, error = -np.log(p[np.arange(len(y)), y]), p - np.eye(z.shape[1])[y]
    inputs = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    return each, (inputs[:, :, None] * error[:, None, :]).reshape(len(x), -1)


def flat(params):
    return np.concatenate([params["Dense_0"]["kernel"], params["Dense_0"]["bias"][None]]).reshape(-1)


def l2rw_by_hand(params, batch, clean):
    agreement = np.maximum(by_hand(params, batch)[1] @ by_hand(params, clean)[1].mean(0), 0)
    return agreement / agreement.sum()


@pytest.mark.parametrize("outputs", [1, 3])
def test_l2rw_weighs_by_the_agreement_of_gradients(x64, outputs):
    params, batch, clean = linear_params(outputs), draw(3, 12, outputs), draw(4, 6, outputs)
    problem = linear_problem(outputs)
    weights, loss = reweighting.l2rw_weights(problem.loss_fn, params, {}, batch, clean, RNG)
    expected = l2rw_by_hand(params, batch, clean)
    assert (expected == 0).any()
    np.testing.assert_allclose(weights, expected, rtol=1e-10)
    assert weights.sum() == pytest.approx(1, rel=1e-12)
    assert loss == pytest.approx(by_hand(params, clean)[0].mean(), rel=1e-12)


def test_an_l2rw_update_descends_the_weighted_loss(x64):
    params, batch, clean = linear_params(), draw(3, 12), draw(4, 6)
    problem = linear_problem(lr=0.3)
    method = methods.build("l2rw", problem, {"train": {"batch_size": 12}, "clean": {"batch_size": 6}})
    state = method.init(0).replace(params=params)
    state, metrics = method.step(state, {"train": batch, "clean": clean})
    weights, (each, grads) = l2rw_by_hand(params, batch, clean), by_hand(params, batch)
    np.testing.assert_allclose(flat(state.params), flat(params) - 0.3 * weights @ grads, rtol=1e-10)
    assert metrics["loss"] == pytest.approx(weights @ each, rel=1e-10)


def test_l2rw_stands_still_where_no_example_helps(x64):
    params, clean = linear_params(), draw(4, 1)
    flipped = {"x": clean["x"], "y": 1 - clean["y"]}
    weights, _ = reweighting.l2rw_weights(linear_problem().loss_fn, params, {}, flipped, clean, RNG)
    np.testing.assert_array_equal(weights, [0.0])


class Normed(nn.Module):
    """A float64 model with BatchNorm."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = jnp.tanh(nn.Dense(4, param_dtype=jnp.float64)(x))
        x = nn.BatchNorm(use_running_average=not train, param_dtype=jnp.float64)(x)
        return nn.Dense(3, param_dtype=jnp.float64)(x)


def normed() -> tuple[Any, Any, Any]:
    model = Normed()
    variables: Any = model.init(jax.random.key(0), jnp.zeros((1, 3)), train=False)
    return losses.supervised_loss(model.apply), variables["params"], {"batch_stats": variables["batch_stats"]}


def central_differences(f, x, size=1e-5):
    f = jax.jit(f)
    return np.array([(f(x + e) - f(x - e)) / (2 * size) for e in size * np.eye(len(x))])


def test_l2rw_with_batch_norm_against_central_differences(x64):
    loss_fn, params, stats = normed()
    batch, clean = draw(3, 8, 3), draw(4, 6, 3)
    weights, _ = reweighting.l2rw_weights(loss_fn, params, stats, batch, clean, RNG)
    slopes = central_differences(
        lambda e: reweighting.virtual_loss(loss_fn, params, stats, batch, e, clean, RNG, lr=0.7), jnp.zeros(8)
    )
    expected = np.maximum(-slopes, 0)
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_weight_nets_gradient_against_central_differences(x64, normalize):
    loss_fn, params, stats = normed()
    batch, clean, net = draw(3, 8, 3), draw(4, 6, 3), reweighting.WeightNet(hidden=5)
    weight_params = net.init(jax.random.key(1), jnp.zeros(1))["params"]
    vector, unflatten = ravel_pytree(jax.tree.map(lambda p: p.astype(jnp.float64), weight_params))

    def loss(vector):
        return reweighting.weight_net_loss(
            net, unflatten(vector), loss_fn, params, stats, batch, clean, RNG, lr=0.7, normalize=normalize
        )

    gradient = jax.jit(jax.grad(loss))(vector)
    assert np.abs(gradient).max() > 1e-3
    np.testing.assert_allclose(gradient, central_differences(loss, vector), rtol=1e-6, atol=1e-9)


def weight_net(**changes):
    return {**config_lib.base().weight_net.to_dict(), **changes}


@pytest.mark.parametrize("name", ["drw", "l2rw", "mw_net"])
def test_weights_that_a_batch_brings_scale_its_losses(x64, name):
    """As those of sum_groups; a method's weights come on top."""
    config = config_lib.base().to_dict()
    config["loss"] |= {"beta": 0.9, "deferred": 0.0}
    sections = {key: value for key, value in config.items() if isinstance(value, dict)}
    sections["weight_net"] |= {"normalize": True}
    method = methods.build(name, linear_problem(class_counts=(50, 2)), sections)
    state = method.init(0).replace(params=linear_params())
    one, clean = draw(3, 12), draw(4, 6)
    weighted = {**one, "weight": jnp.where(jnp.arange(12) < 8, 0.5, 2.0)}
    none = {**one, "weight": jnp.zeros(12)}
    new, plain, still = (
        flat(method.step(state, {"train": train, "clean": clean})[0].params) for train in (weighted, one, none)
    )
    assert np.abs(new - plain).max() > 1e-3
    np.testing.assert_array_equal(still, flat(state.params))


@pytest.mark.parametrize("normalize", [False, True])
def test_an_mw_net_update_against_one_by_hand(x64, normalize):
    params, batch, clean = linear_params(), draw(3, 12), draw(4, 6)
    method = methods.build(
        "mw_net",
        linear_problem(lr=0.3),
        {
            "train": {"batch_size": 12},
            "clean": {"batch_size": 6},
            "weight_net": weight_net(optimizer="sgd", lr=5.0, momentum=0.0, weight_decay=0.1, normalize=normalize),
            "optimizer": {"lr": 0.3, "schedule": "constant"},
        },
    )
    state: Any = method.init(0)
    weight_params = jax.tree.map(lambda p: p.astype(jnp.float64), state.weight_params)
    state = state.replace(params=params, weight_params=weight_params)
    new: Any
    new, metrics = method.step(state, {"train": batch, "clean": clean})

    each, grads = by_hand(params, batch)

    def weigh(p, xp):
        hidden = xp.maximum(each[:, None] @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"][None], 0)
        w = 1 / (1 + xp.exp(-(hidden @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"][None])[:, 0]))
        return w * len(w) / w.sum() if normalize else w

    # The clean loss of θ − η Σ w_i g_i / n has the gradient −η ⟨g_i, ∇L_clean(θ')⟩ / n by w_i.
    def unflat(v):
        return {"Dense_0": {"kernel": v[:3, None], "bias": v[3:]}}

    before = weigh(weight_params, np)
    virtual = flat(params) - 0.3 * before @ grads / 12
    slopes = -0.3 * grads @ by_hand(unflat(virtual), clean)[1].mean(0) / 12
    by_weights = jax.grad(lambda p: (weigh(p, jnp) * slopes).sum())(weight_params)
    expected = jax.tree.map(lambda p, g: p - 5.0 * (g + 0.1 * p), weight_params, by_weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12), new.weight_params, expected)
    after = weigh(expected, np)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(flat(new.params), flat(params) - 0.3 * after @ grads / 12, rtol=1e-8)
    assert metrics["loss"] == pytest.approx((after * each).mean(), rel=1e-8)
    assert metrics["clean_loss"] == pytest.approx(by_hand(unflat(virtual), clean)[0].mean(), rel=1e-8)
    assert int(new.step) == 1


@pytest.mark.parametrize("name", ["l2rw", "mw_net"])
def test_flipped_examples_end_with_smaller_weights(name):
    rng = np.random.default_rng(0)
    truth = np.arange(400) % 2
    x = rng.normal(size=(400, 2)) + 1.5 * (2 * truth[:, None] - 1)
    flipped = (truth == 1) & (rng.random(400) < 0.5)
    data = {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(np.where(flipped, 0, truth))}
    # The first 360 are trained on; of the last 40 the true labels are known.
    clean = {"x": data["x"][360:], "y": jnp.asarray(truth[360:])}
    problem = linear_problem(features=2, lr=0.1, class_counts=np.bincount(data["y"][:360]))
    sections = {
        "train": {"batch_size": 50},
        "clean": {"batch_size": 40},
        "weight_net": weight_net(lr=1e-2),
        "optimizer": {"lr": 0.1, "schedule": "constant"},
    }
    method = methods.build(name, problem, sections)

    def update(k, state):
        rows = jax.random.choice(jax.random.fold_in(RNG, k), 360, (50,), replace=False)
        return method.step(state, {"train": {"x": data["x"][rows], "y": data["y"][rows]}, "clean": clean})[0]

    state: Any = jax.jit(lambda state: jax.lax.fori_loop(0, 500, update, state))(method.init(0))
    everything = {"x": data["x"][:360], "y": data["y"][:360]}
    if name == "l2rw":
        weights, _ = reweighting.l2rw_weights(problem.loss_fn, state.params, {}, everything, clean, RNG)
    else:
        each = reweighting.example_losses(problem.loss_fn, state.params, {}, everything, RNG)
        weights = reweighting.weigh(reweighting.WeightNet(), state.weight_params, each, normalize=False)
    weights = np.asarray(weights)
    assert weights[flipped[:360]].mean() < 0.5 * weights[~flipped[:360]].mean()
    logits = problem.model.apply({"params": state.params}, data["x"], train=False)
    assert ((np.asarray(logits)[:, 0] > 0) == truth).mean() > 0.95  # the boundary is where it would be without noise


def test_class_weights_are_deferred(x64):
    params, batch = linear_params(), draw(3, 12)
    batch["y"] = (jnp.arange(12) < 3).astype(int)  # not half of either class: the weights' mean is not 1
    loss = {"class_weight": "none", "beta": 0.9, "deferred": 0.3}
    problem = linear_problem(updates=10, lr=0.3, class_counts=(50, 2))
    drw = methods.build("drw", problem, {"train": {"batch_size": 12}, "loss": loss})
    grads = by_hand(params, batch)[1]
    number = (1 - 0.9 ** np.array([50, 2])) / (1 - 0.9)
    weights = (1 / number) / (1 / number).sum() * 2
    for step in (0, 2, 3, 9):
        state = drw.init(0).replace(params=params, step=jnp.int32(step))
        state, _ = drw.step(state, {"train": batch})
        each = weights[np.asarray(batch["y"])] if step >= 3 else np.ones(12)
        np.testing.assert_allclose(flat(state.params), flat(params) - 0.3 * each @ grads / each.sum(), rtol=1e-10)
    with pytest.raises(UserError, match=r"config.loss.class_weight='inverse'.*leave it at \"none\""):
        methods.build("drw", problem, {"train": {"batch_size": 12}, "loss": {**loss, "class_weight": "inverse"}})


@pytest.mark.parametrize(("name", "loss"), [("drw", "ldam"), ("l2rw", "focal"), ("mw_net", "logit_adjustment")])
def test_a_population_of_settings_shares_one_program(name, loss):
    """Class counts, learning rates and the loss's numbers may be traced and mapped over."""
    config = config_lib.base().to_dict()
    config["loss"] |= {"name": loss, "class_weight": "none" if name == "drw" else "effective"}
    batches = {"train": draw(3, 12, 3), "clean": draw(4, 6, 3)}
    model = models.build("mlp", outputs=3, hidden=(4,))

    def run(numbers, counts, seed):
        sections = {s: {**v, **numbers.get(s, {})} for s, v in config.items() if isinstance(v, dict)}
        method = train.make_method(
            name, model=model, example=np.zeros((1, 3), np.float32), sections=sections, class_counts=counts, updates=5
        )
        state = jax.lax.fori_loop(0, 5, lambda k, s: method.step(s, batches)[0], method.init(seed))
        return state.params

    numbers = {
        "optimizer": {"lr": jnp.array([0.1, 0.2])},
        "loss": {"beta": jnp.array([0.9, 0.999]), "gamma": jnp.array([1.0, 2.0]), "tau": jnp.array([1.0, 0.5])},
        "weight_net": {"lr": jnp.array([1e-2, 1e-3])},
    }
    counts, seeds = jnp.array([[90, 10, 5], [4, 30, 200]]), jnp.arange(2)
    together = jax.jit(jax.vmap(run))(numbers, counts, seeds)
    for k in range(2):
        alone = run(jax.tree.map(lambda a, k=k: float(a[k]), numbers), np.asarray(counts[k]), k)
        jax.tree.map(lambda a, b, k=k: np.testing.assert_allclose(a[k], b, rtol=2e-4, atol=2e-6), together, alone)


def test_the_clean_part_is_balanced_and_drawn_by_the_seed():
    y = np.repeat([0, 1, 2], [500, 60, 40])
    draws = [splits.balanced_part(y, 0.25, seed=seed, classes="abc") for seed in (0, 0, 1)]
    for rest, part in draws:
        assert np.bincount(y[part]).tolist() == [10, 10, 10]
        assert np.bincount(y[rest]).tolist() == [490, 50, 30]
        np.testing.assert_array_equal(np.sort(np.concatenate([rest, part])), np.arange(600))
    np.testing.assert_array_equal(draws[0][1], draws[1][1])
    assert not np.array_equal(draws[0][1], draws[2][1])


@pytest.mark.parametrize(
    ("rarest", "share", "each"),
    [(317, 0.2, 63), (5, 0.2, 1), (5, 0.001, 1), (5, 0.5, 3), (5, 0.99, 4), (2, 0.99, 1), (6, 0.75, 5)],
)
def test_the_clean_share_is_of_the_rarest_classs_examples(rarest, share, each):
    y = np.repeat([0, 1, 2], [1000, rarest, 400])
    part = splits.balanced_part(y, share, seed=0, classes="abc")[1]
    assert np.bincount(y[part]).tolist() == [each] * 3


def test_a_clean_part_needs_two_examples_of_each_class():
    for y, message in (
        ([0] * 100 + [1], "class 'b' has 1 training examples: .*need 2 at least"),
        ([0] * 9, "class 'b' has 0"),
    ):
        with pytest.raises(UserError, match=message) as error:
            splits.balanced_part(np.array(y), 0.1, seed=0, classes="ab")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["l2rw", "mw_net"])
def test_the_clean_part_is_kept_from_training(name):
    config = config_lib.base()
    config.method = name
    config.data.update(minority_count=5, test_count=20)
    config.clean.share = 0.4
    config.updates = 2
    experiment = train.build(config_lib.validate(config))
    rest, clean = (experiment.streams[stream] for stream in ("train", "clean"))
    assert np.unique(np.bincount(clean.y)).tolist() == [2]
    np.testing.assert_array_equal(np.bincount(rest.y) + 2, experiment.dataset.class_counts)
    everything = {image.tobytes() for image in experiment.dataset.train.x}
    assert {image.tobytes() for image in clean.x} | {image.tobytes() for image in rest.x} == everything
    assert not {image.tobytes() for image in clean.x} & {image.tobytes() for image in rest.x}


def test_the_configuration_is_checked():
    for key, value in {
        "clean.share": 0.0, "clean.batch_size": 0, "train.mix_probability": 1.5,
        "weight_net.optimizer": "lamb", "weight_net.lr": 0.0, "loss.beta": 1.0, "loss.deferred": 1.5,
        "loss.scale": 0.0, "loss.gamma": -1.0, "loss.class_weight": "balanced",
    }.items():  # fmt: skip
        config = config_lib.base()
        config.update_from_flattened_dict({key: value})
        with pytest.raises(UserError, match=rf"config.{key}="):
            config_lib.validate(config)
