"""M2m: which examples are replaced, what a translation is, and which classifier trains when."""

import json
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from mbjax import config as config_lib
from mbjax import losses, methods, models, train
from mbjax.methods import m2m
from mbjax.types import UserError

RNG = jax.random.key(5)
COUNTS = np.array([100, 40, 5, 40])


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_probabilities_against_numpy(x64, beta):
    labels = jnp.array([0, 2, 1, 3, 2, 1])
    accept = np.zeros((6, 6))
    for i, k in enumerate(labels):
        for j, k0 in enumerate(labels):
            accept[i, j] = 1 - beta ** max(COUNTS[k0] - COUNTS[k], 0)
    assert (accept == 0).any()
    total = accept.sum(1, keepdims=True)
    expected = accept / np.where(total == 0, 1, total)
    np.testing.assert_allclose(m2m.seed_probabilities(labels, COUNTS, beta=beta), expected, rtol=1e-10)
    counts = jnp.asarray(COUNTS)[labels].astype(float)
    np.testing.assert_allclose(m2m.accept_probability(counts[::-1], counts, beta=beta), np.diag(accept[:, ::-1]), 1e-10)
    np.testing.assert_allclose(m2m.try_probability(counts, counts.max()), [0, 0.95, 0.6, 0.6, 0.95, 0.6])


def test_a_small_difference_of_counts_survives_float32():
    accept = m2m.accept_probability(jnp.float32(6), jnp.float32(5), beta=1 - 1e-6)
    assert accept == pytest.approx(1e-6, rel=0.05)  # what is left is the rounding of β itself


def linear(number, pixels=4, classes=3):
    weights = np.asarray(jax.random.normal(jax.random.key(number), (pixels, classes)))
    return weights, lambda x: x.reshape(len(x), -1) @ weights


@pytest.mark.parametrize("steps", [1, 12])
def test_a_translation_against_numpy(x64, steps):
    """Normalised steps of 0.1 of pixels from 0 to 1, which is 0.2 of ours, and clipping."""
    (f_weights, f), (g_weights, g) = linear(1), linear(2)
    start = jax.random.uniform(RNG, (5, 2, 2, 1), minval=-0.9, maxval=0.9)
    seeds, labels = jnp.array([0, 0, 1, 1, 0]), jnp.array([1, 2, 2, 2, 2])
    x = np.asarray(start).reshape(5, 4)
    for _ in range(steps):
        p = np.exp(x @ g_weights)
        p /= p.sum(1, keepdims=True)
        slope = (p - np.eye(3)[labels]) @ g_weights.T + 0.3 * f_weights[:, seeds].T
        x = np.clip(x - 0.2 * slope / np.linalg.norm(slope, axis=1, keepdims=True), -1, 1)
    got = m2m.translate(start, seeds, labels, f=f, g=g, lambda_=0.3, steps=steps, step_size=0.1)
    np.testing.assert_allclose(got.reshape(5, 4), x, rtol=1e-8)
    moved = np.linalg.norm(got.reshape(5, 4) - start.reshape(5, 4), axis=1)
    if steps == 1:
        np.testing.assert_allclose(moved, 0.2, rtol=1e-8)
    else:
        assert (np.abs(x) == 1).any()


def test_the_start_is_near_the_seed_and_in_range():
    images = jnp.concatenate([jnp.full((3, 8, 8, 3), 1.0), jnp.zeros((3, 8, 8, 3))])
    moved = np.asarray(m2m.random_start(RNG, images) - images).reshape(6, -1)
    np.testing.assert_allclose(np.linalg.norm(moved[3:], axis=1), 1.0, rtol=1e-5)  # 0.5 of pixels from 0 to 1
    assert np.linalg.norm(moved[:3], axis=1).max() < 0.9
    assert moved[:3].max() == 0
    assert np.abs(moved[3] - moved[4]).max() > 0.01
    tiny = np.asarray(m2m.random_start(RNG, jnp.zeros((1, 1, 1, 1))))
    assert 0 < abs(tiny[0, 0, 0, 0]) < 1  # a pixel's noise is less than 0.5 as it is, and is not blown up


@pytest.fixture(scope="module")
def digits():
    """A small network trained on digits, pixels from −1 to 1: its logits, and the images with their labels."""
    images, labels = map(np.asarray, load_digits(n_class=4, return_X_y=True))
    x, y = jnp.asarray(images / 8 - 1, jnp.float32).reshape(-1, 8, 8, 1), jnp.asarray(labels, jnp.int32)
    model = models.build("cnn", outputs=4, channels=(4, 8))
    problem = methods.Problem(model, losses.supervised_loss(model.apply), optax.sgd(0.1), np.asarray(x[:1]), COUNTS, 80)

    def update(k, state):
        rows = jax.random.randint(jax.random.fold_in(RNG, k), (32,), 0, len(x))
        return problem.descend(state, {"x": x[rows], "y": y[rows]}, RNG)[0]

    train_it = jax.jit(lambda seed: jax.lax.fori_loop(0, 80, update, problem.init(seed)))
    f, g = (m2m.eval_logits(model, state.params, state.model_state) for state in (train_it(seed) for seed in (0, 1)))
    assert (g(x).argmax(1) == y).mean() > 0.95
    return f, g, x, y


def confidence(g, x, labels):
    return np.asarray(jax.nn.softmax(g(x)))[np.arange(len(x)), labels]


def test_a_translation_reaches_its_class_and_leaves_its_seeds(digits):
    f, g, x, y = digits
    x, y = x[:200], y[:200]
    labels = (y + 1) % 4
    moved = [m2m.translate(x, y, labels, f=f, g=g, lambda_=lambda_, steps=10, step_size=0.2) for lambda_ in (0.0, 1.0)]
    before = confidence(g, x, labels)
    for images in moved:
        assert np.abs(images).max() == 1
        assert (confidence(g, images, labels) > before).mean() > 0.98
        assert confidence(g, images, labels).mean() > before.mean() + 0.5
    accepted = confidence(g, moved[0], labels) >= 0.9
    assert accepted.mean() > 0.3
    assert (confidence(g, moved[0], labels) > before)[accepted].all()
    seed_logits = [np.asarray(f(images))[np.arange(len(y)), y] for images in moved]
    assert (seed_logits[1] < seed_logits[0]).mean() > 0.9
    assert seed_logits[1].mean() < seed_logits[0].mean() - 0.5


def translate_batch(digits, batch, **changes):
    f, g = digits[:2]
    return jax.jit(
        lambda batch: m2m.translate_batch(batch, RNG, f=f, g=g, class_counts=COUNTS, **{**SETTINGS, **changes})
    )(batch)


SETTINGS: dict[str, Any] = {"beta": 0.99, "lambda_": 0.1, "gamma": 0.9, "steps": 10, "step_size": 0.2}


def over_sampled(digits, n, number=0):
    _, _, x, y = digits
    classes = jnp.arange(n) % 4
    first = jnp.stack([jnp.flatnonzero(y == c, size=40) for c in range(4)])
    rows = first[classes, jax.random.randint(jax.random.key(number), (n,), 0, 40)]
    return {"x": x[rows], "y": y[rows], "weight": jnp.arange(n)}


@pytest.mark.parametrize("gamma", [0.6, 0.95])
def test_what_g_takes_for_its_class_is_kept_and_the_rest_stays(digits, gamma):
    g, batch = digits[1], over_sampled(digits, 400)
    new, replaced = translate_batch(digits, batch, gamma=gamma)
    assert 0.1 < replaced.mean() < 0.5
    np.testing.assert_array_equal(new["y"], batch["y"])
    np.testing.assert_array_equal(new["weight"], batch["weight"])
    np.testing.assert_array_equal(new["x"][~replaced], batch["x"][~replaced])
    assert confidence(g, new["x"], new["y"])[replaced].min() > gamma - 1e-4
    # The translations are of other classes' images: nearer to one of those than to the example they replace.
    others = np.asarray(batch["x"])[np.asarray(batch["y"]) != 2].reshape(-1, 64)
    rare = np.asarray(new["x"])[np.asarray(replaced & (batch["y"] == 2))].reshape(-1, 64)
    own = np.asarray(batch["x"])[np.asarray(batch["y"]) == 2].reshape(-1, 64)
    nearest = [np.linalg.norm(rare[:, None] - images[None], axis=2).min(1) for images in (others, own)]
    assert (nearest[0] < nearest[1]).mean() > 0.9
    assert not replaced[batch["y"] == 0].any()  # no class is larger


def test_nothing_is_kept_above_a_threshold_of_one(digits):
    batch = over_sampled(digits, 40)
    new, replaced = translate_batch(digits, batch, gamma=1.01)
    assert not replaced.any()
    np.testing.assert_array_equal(new["x"], batch["x"])


def test_the_share_of_translations_without_a_threshold():
    """γ = 0: an example of class k is replaced with (1 − N_k/N_1) Σ_k0 P(k0|k) (1 − β^(N_k0 − N_k)+)."""
    n, beta = 4000, 0.98
    labels = np.arange(n) % 4
    batch = {"x": jnp.zeros((n, 1, 1, 1)), "y": jnp.asarray(labels)}
    logits = lambda x: jnp.zeros((len(x), 4))  # noqa: E731
    settings = {**SETTINGS, "beta": beta, "gamma": 0.0, "steps": 1}
    draw = jax.jit(lambda rng: m2m.translate_batch(batch, rng, f=logits, g=logits, class_counts=COUNTS, **settings)[1])
    replaced = np.concatenate([draw(jax.random.fold_in(RNG, k)).reshape(-1, 4) for k in range(3)])
    accept = 1 - beta ** np.maximum(COUNTS[None, :] - COUNTS[:, None], 0)
    total = np.where(accept.sum(1) == 0, 1, accept.sum(1))
    expected = (1 - COUNTS / 100) * (accept**2).sum(1) / total
    assert 0.3 < expected[1] < expected[2] < 0.8
    error = np.sqrt(expected * (1 - expected) / len(replaced))
    np.testing.assert_array_less(np.abs(replaced.mean(0) - expected), 4 * error + 1e-12)


def test_a_translation_is_of_an_image_of_a_larger_class_and_leaves_that_class(monkeypatch):
    """Images that are their class's grey, f whose logit k is pixel k, g without a say: the seed shows in the result."""
    monkeypatch.setattr(m2m, "random_start", lambda rng, images: images)
    labels = jnp.arange(200) % 4
    grey = jnp.array([-0.3, -0.1, 0.1, 0.3])
    batch = {"x": jnp.broadcast_to(grey[labels][:, None, None, None], (200, 2, 2, 1)), "y": labels}
    f, g = lambda x: x.reshape(len(x), 4), lambda x: jnp.zeros((len(x), 4))
    settings = {**SETTINGS, "lambda_": 2.0, "gamma": 0.0, "steps": 1, "step_size": 0.1}
    new, replaced = m2m.translate_batch(batch, RNG, f=f, g=g, class_counts=COUNTS, **settings)
    images = np.asarray(new["x"]).reshape(200, 4)
    possible = np.asarray(grey)[:, None] - 0.2 * np.eye(4)
    match = np.abs(images[:, None] - possible[None]).max(2) < 1e-5
    np.testing.assert_array_equal(match.sum(1), np.asarray(replaced).astype(int))
    seeds, own = match.argmax(1)[np.asarray(replaced)], np.asarray(labels)[np.asarray(replaced)]
    assert (COUNTS[seeds] > COUNTS[own]).all()
    assert set(zip(seeds.tolist(), own.tolist(), strict=True)) == {(0, 1), (0, 3), (0, 2), (1, 2), (3, 2)}


def test_a_single_logit_stands_for_two():
    model = models.build("mlp", outputs=1, hidden=())
    variables: Any = model.init(RNG, jnp.zeros((1, 2, 2, 1)), train=False)
    x = jax.random.normal(RNG, (5, 2, 2, 1))
    logits = m2m.eval_logits(model, variables["params"], {})(x)
    z = np.asarray(model.apply(variables, x, train=False))[:, 0]
    np.testing.assert_allclose(jax.nn.softmax(logits)[:, 1], 1 / (1 + np.exp(-z)), rtol=1e-5)
    np.testing.assert_allclose(logits[:, 0], -z / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("updates", "pretrain", "deferred", "expected"),
    [(100, 0.5, 0.8, (50, 90)), (30, 0.1, 0, (3, 3)), (30, 0.1, 1, (3, 30)), (3, 0.01, 0.5, (1, 2)),
     (3, 0.99, 0.5, (2, 2)), (1, 0.5, 0.8, (0, 1))],
)  # fmt: skip
def test_when_the_phases_start(updates, pretrain, deferred, expected):
    assert m2m.phases(updates, pretrain=pretrain, deferred=deferred) == expected
    traced = jax.jit(lambda updates: m2m.phases(updates, pretrain=pretrain, deferred=deferred))(updates)
    assert tuple(map(int, traced)) == expected


def make(
    method,
    changes: Mapping[str, Any] = {},
    *,
    model=None,
    updates: Any = 20,
    example=(1, 8, 8, 1),
    counts: Any = COUNTS,
):
    config = config_lib.base()
    config.m2m.update(pretrain=0.4, deferred=0.5)
    sections = {key: value for key, value in config.to_dict().items() if isinstance(value, dict)}
    for key, value in changes.items():
        section, name = key.split(".")
        sections[section][name] = value
    model = models.build("cnn", outputs=4, channels=(4, 8)) if model is None else model
    return train.make_method(
        method, model=model, example=np.zeros(example, np.float32), sections=sections, class_counts=counts,
        updates=updates,
    )  # fmt: skip


def parts(state):
    """f's and g's, as lists of arrays."""
    f = jax.tree.leaves((state.params, state.model_state, state.opt_state))
    return f, jax.tree.leaves((state.g_params, state.g_model_state, state.g_opt_state))


def assert_equal(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def changed(a, b):
    return [any((x != y).any() for x, y in zip(old, new, strict=True)) for old, new in zip(a, b, strict=True)]


def test_each_phase_trains_its_classifier(digits):
    method = make("m2m", model=Noisy())
    batches = {"train": over_sampled(digits, 8, 1), "pretrain": over_sampled(digits, 12, 2)}
    state: Any = jax.jit(method.init)(0)
    assert changed(*([parts(state)[k]] for k in (0, 1))) == [True]  # weights of their own
    step: Any = jax.jit(method.step)
    for k in range(20):
        new, metrics = step(state, batches)
        assert sorted(metrics) == ["accuracy", "loss", "translated"]
        assert changed(parts(state), parts(new)) == [k >= 8, k < 8]
        assert int(new.step) == k + 1
        assert k >= 14 or metrics["translated"] == 0
        state = new
    assert step._cache_size() == 1


class Noisy(nn.Module):
    """A model with running statistics whose updates depend on the random key."""

    rate: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(16)(x.reshape(len(x), -1)))
        return nn.Dense(4)(nn.Dropout(self.rate, deterministic=not train)(nn.relu(x)))


def test_plain_updates_are_those_of_erm(digits):
    """Of f on the stream pretrain, random keys and augmentation included; and g's, from its own weights."""
    flip = {f"{name}.augment": "crop_flip" for name in ("train", "pretrain")}
    erm, method = (make(name, flip, model=Noisy()) for name in ("erm", "m2m"))
    batches = {"train": over_sampled(digits, 8, 1), "pretrain": over_sampled(digits, 12, 2)}
    state: Any = jax.jit(method.init)(3)
    plain: Any = jax.jit(erm.init)(3)
    step, erm_step = jax.jit(method.step), jax.jit(erm.step)
    assert_equal(state.params, plain.params, rtol=0)
    for first in (0, 8):  # phases 1 and 2
        now = state.replace(step=jnp.int32(first))
        alone = plain.replace(step=jnp.int32(first), params=now.g_params if first == 0 else now.params)
        for _ in range(3):
            now, metrics = step(now, batches)
            alone, expected = erm_step(alone, {"train": batches["pretrain"]})
            assert metrics["loss"] == pytest.approx(float(expected["loss"]), rel=1e-5)
        new = parts(now)[1 if first == 0 else 0]
        assert_equal(new, jax.tree.leaves((alone.params, alone.model_state, alone.opt_state)), rtol=1e-4, atol=1e-6)


def test_without_translations_phase_3_is_plain_training_on_the_over_sampled_stream(digits):
    """And the classifiers' running statistics see nothing of the translation."""
    batches = {"train": over_sampled(digits, 16, 1), "pretrain": over_sampled(digits, 12, 2)}
    model = Noisy(rate=0.0)  # the key of a model pass is another one in phase 3

    @jax.jit
    def step(state, gamma):
        return make("m2m", {"m2m.gamma": gamma, "m2m.beta": 0.5}, model=model).step(state, batches)

    erm = make("erm", model=model)
    state: Any = jax.jit(make("m2m", model=model).init)(0).replace(step=jnp.int32(14))
    new, metrics = step(state, 1.01)
    expected, _ = jax.jit(erm.step)(jax.jit(erm.init)(0), {"train": batches["train"]})
    assert metrics["translated"] == 0
    assert_equal((new.params, new.model_state), (expected.params, expected.model_state), rtol=1e-4, atol=1e-6)
    kept, metrics = step(state, 0.0)
    assert metrics["translated"] > 0.3
    assert changed(parts(new)[:1], parts(kept)[:1]) == [True]


def test_each_classifier_has_a_schedule_of_its_own(digits):
    """Cosine: the first update of either at the full rate, and the middle one at half of it."""
    batches = {"train": over_sampled(digits, 8, 1), "pretrain": over_sampled(digits, 12, 2)}
    plain = {"optimizer.momentum": 0.0, "optimizer.nesterov": False, "optimizer.weight_decay": 0.0}
    model = models.build("mlp", outputs=4, hidden=())
    cosine = {"optimizer.schedule": "cosine", "optimizer.lr": 0.2, "m2m.deferred": 1.0}
    method = make("m2m", {**plain, **cosine}, model=model)
    step = jax.jit(method.step)
    erm = make("erm", {**plain, "optimizer.lr": 1.0}, model=model)
    state: Any = jax.jit(method.init)(0)
    rates = []
    for k in range(20):
        new, _ = step(state, batches)
        which = "g_params" if k < 8 else "params"
        if k in (0, 4, 8, 14):
            before, after = (getattr(s, which) for s in (state, new))
            full: Any = erm.step(erm.init(0).replace(params=before), {"train": batches["pretrain"]})[0]
            done, full = (p["Dense_0"]["kernel"] - before["Dense_0"]["kernel"] for p in (after, full.params))
            rates.append((done * full).sum() / (full * full).sum())
        state = new
    np.testing.assert_allclose(rates, [0.2, 0.1, 0.2, 0.1], rtol=1e-3)


def test_mistakes_are_named():
    mlp = models.build("mlp", outputs=2)
    with pytest.raises(UserError, match=r"config.method='m2m' translates images.*shape \(7,\)"):
        make("m2m", model=mlp, example=(1, 7))
    with pytest.raises(UserError, match=r"config.train.mix='mixup': m2m needs whole labels"):
        make("m2m", {"train.mix": "mixup"})
    make("m2m", {"pretrain.mix": "mixup"})


def test_a_population_of_settings_shares_one_program(digits):
    """Class counts, learning rates and the number of updates may be traced and mapped over."""
    batches = {"train": over_sampled(digits, 16, 1), "pretrain": over_sampled(digits, 12, 2)}
    model = models.build("mlp", outputs=4, hidden=(8,))

    def run(lr, counts, updates, seed):
        changes = {"optimizer.lr": lr, "m2m.gamma": 0.0, "m2m.steps": 2, "m2m.beta": 0.9, "m2m.step_size": 0.5}
        method = make("m2m", changes, model=model, updates=updates, counts=counts)
        update = lambda state, _: method.step(state, batches)  # noqa: E731
        state, metrics = jax.lax.scan(update, method.init(seed), length=11)
        return state.params, metrics["translated"]

    lrs, counts = jnp.array([0.1, 0.2]), jnp.array([[90, 10, 5, 8], [4, 30, 200, 7]])
    together = jax.jit(jax.vmap(run))(lrs, counts, jnp.array([11, 14]), jnp.arange(2))
    alone = jax.jit(run, static_argnums=2)(lrs[1], np.asarray(counts[1]), 14, 1)
    assert_equal(jax.tree.map(lambda a: a[1], together), alone, rtol=2e-4, atol=2e-6)
    translated = np.asarray(together[1])
    assert (translated[0, :8] == 0).all()
    assert (translated[1, :10] == 0).all()
    assert translated[:, 10].min() > 0.1


def test_a_run_translates_in_its_last_part_and_learns(tmp_path):
    config = config_lib.base()
    config.method = "m2m"
    config.data.update(minority_count=5, test_count=20)
    config.model.hidden = (64,)
    config.train.sampler = "over"
    config.m2m.update({"pretrain": 0.4, "deferred": 0.5, "beta": 0.97, "gamma": 0.7, "step_size": 0.3})
    config.optimizer.lr = 0.05
    config.update(updates=300, updates_per_call=30)
    config.eval.every = 30
    result = train.train_and_evaluate(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    translated = [row["updates"]["translated"] for row in rows]
    assert translated[:7] == [0] * 7
    assert min(translated[7:]) > 0.1
    scores = [row["test"]["balanced_accuracy"] for row in rows]
    assert len(set(scores[:4])) == 1  # f waits
    assert scores[3] < 0.25
    assert result["test"]["balanced_accuracy"] > 0.6
