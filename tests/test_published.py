"""One update of each published method, against the update that its paper and its authors' code describe.

The statements here are NumPy's alone, in float64, on a linear classifier: the loss with the normalisation that the
authors' code has, and θ ← θ − η (∇ + λ θ). Where a method draws random numbers the draws are repeated from its keys;
what is done with them is stated here.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from configs import cifar10
from mbjax import augment, methods, models, train
from mbjax import config as config_lib
from mbjax.methods import m2m

pytestmark = pytest.mark.usefixtures("x64")

COUNTS = np.array([5000, 40, 5, 600])  # training examples of each class
CLASSES = len(COUNTS)
LR, DECAY = 0.3, 0.1


# What the tests share: a method of mbjax, an update of it, and NumPy's linear classifier.


def build(changes: dict[str, Any], shape: tuple[int, ...] = (3,)) -> methods.Method:
    """A method with the settings of `changes`, plain SGD, on a linear classifier of inputs of a shape."""
    config = config_lib.base()
    config.optimizer.update(momentum=0.0, nesterov=False, weight_decay=DECAY)
    config.update_from_flattened_dict({**changes, "optimizer.lr": LR})
    sections = {key: value for key, value in config.to_dict().items() if isinstance(value, dict)}
    return train.make_method(
        config.method, model=models.build("mlp", outputs=CLASSES, hidden=(), head=config.model.head),
        example=np.zeros((1, *shape)), sections=sections, class_counts=COUNTS, updates=10,
    )  # fmt: skip


def start(method: methods.Method, step: int = 0, seed: int = 0) -> Any:
    """The state before an update, all of it float64, with weights that are not small."""
    state = jax.tree.map(
        lambda a: a.astype(float) if jnp.issubdtype(a.dtype, jnp.floating) else a, method.init(0)
    ).replace(step=jnp.int32(step))
    flat, unflatten = ravel_pytree(state.params)
    return state.replace(params=unflatten(jnp.asarray(np.random.default_rng(seed).normal(size=len(flat)))))


def flat(tree: Any) -> np.ndarray:
    """Biases, then weights."""
    return np.asarray(ravel_pytree(tree)[0])


def draw(n: int, shape: tuple[int, ...] = (3,)) -> tuple[np.ndarray, np.ndarray]:
    """Inputs from −1 to 1, and labels that are not as many of each class."""
    labels = np.array([0, 0, 0, 1, 2, 0, 3, 1])[np.arange(n) % 8]
    return np.random.default_rng(n).uniform(-1, 1, (n, *shape)), labels


def batch(x: np.ndarray, y: np.ndarray) -> dict[str, jax.Array]:
    return {"x": jnp.asarray(x), "y": jnp.asarray(y, jnp.int32)}


def assert_moved(before: np.ndarray, after: np.ndarray, expected: np.ndarray) -> None:
    """The change is right to a millionth of itself."""
    assert np.abs(expected - before).max() > 1e-3
    np.testing.assert_allclose(after - before, expected - before, rtol=1e-6, atol=1e-10)


def linear(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    x = x.reshape(len(x), -1)
    return theta[:CLASSES] + x @ theta[CLASSES:].reshape(-1, CLASSES)


def cosine(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    weights = theta.reshape(-1, CLASSES)
    return (x / np.sqrt((x**2).sum(1, keepdims=True))) @ (weights / np.sqrt((weights**2).sum(0)))


def cross_entropy(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]


def example_gradients(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The gradient of each example's cross-entropy by the linear classifier's θ, `[n, θ]`: `(1, x) ⊗ (p − e_y)`."""
    p = np.exp(linear(theta, x))
    error = p / p.sum(1, keepdims=True) - np.eye(CLASSES)[y]
    inputs = np.concatenate([np.ones((len(x), 1)), x.reshape(len(x), -1)], axis=1)
    return (inputs[:, :, None] * error[:, None, :]).reshape(len(x), -1)


def gradient(loss: Callable[[np.ndarray], Any], at: np.ndarray) -> np.ndarray:
    """By complex steps, which are exact to rounding: `Im f(x + ih) / h`."""
    return np.array([loss(at + 1e-30j * e).imag / 1e-30 for e in np.eye(len(at))])


def descend(theta: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """SGD as PyTorch has it: weight decay is added to the gradient."""
    return theta - LR * (slope + DECAY * theta)


# Losses: what the authors' criterion makes of a batch.


def effective_weights(beta: float) -> np.ndarray:
    """Cui et al. 2019, richardaecn/class-balanced-loss: 1 / E_n, E_n = (1 − β^n) / (1 − β), scaled to sum to C."""
    weights = (1 - beta) / (1 - beta**COUNTS)
    return weights / weights.sum() * CLASSES


def ldam(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cao et al. 2019, kaidic/LDAM-DRW: margins ∝ n^(−1/4), at most 0.5, and a scale of 30."""
    margins = COUNTS**-0.25
    return cross_entropy(30 * (z - np.eye(CLASSES)[y] * (margins * 0.5 / margins.max())), y)


def weighted_mean(losses: np.ndarray, weights: np.ndarray) -> Any:
    """PyTorch's `cross_entropy(weight=…)`: divided by the sum of the batch's weights."""
    return (weights * losses).sum() / weights.sum()


def focal(z: np.ndarray, y: np.ndarray) -> Any:
    losses = cross_entropy(z, y)
    return ((1 - np.exp(-losses)) ** 2 * losses).mean()


ERM, LDAM_DRW = {"method": "erm"}, cifar10.ROWS["ldam_drw"]
LOSSES: dict[str, tuple[dict[str, Any], int, Callable[[np.ndarray, np.ndarray], Any]]] = {
    "naive": (ERM, 0, lambda z, y: cross_entropy(z, y).mean()),
    # TensorFlow's softmax_cross_entropy(weights=…) divides by the number of examples.
    "class-balanced": (
        cifar10.ROWS["class_balanced"], 0, lambda z, y: (effective_weights(0.99)[y] * cross_entropy(z, y)).mean(),
    ),
    "inverse frequency": (
        ERM | {"loss.class_weight": "inverse"}, 0,
        lambda z, y: (COUNTS.sum() / (CLASSES * COUNTS[y]) * cross_entropy(z, y)).mean(),
    ),
    "focal, γ = 2": (ERM | {"loss.name": "focal"}, 0, focal),
    "logit adjustment": (
        cifar10.ROWS["logit_adjustment"], 0, lambda z, y: cross_entropy(z + np.log(COUNTS / COUNTS.sum()), y).mean(),
    ),
    "balanced softmax": (
        cifar10.ROWS["balanced_softmax"], 0,
        lambda z, y: -np.log(
            COUNTS[y] * np.exp(z[np.arange(len(y)), y]) / (COUNTS * np.exp(z)).sum(1)
        ).mean(),
    ),
    "LDAM-DRW before 160 of 200 epochs": (LDAM_DRW, 7, lambda z, y: ldam(z, y).mean()),
    "LDAM-DRW after": (LDAM_DRW, 8, lambda z, y: weighted_mean(ldam(z, y), effective_weights(0.9999)[y])),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    changes, step, loss = LOSSES[name]
    method, (x, y) = build(changes), draw(12)
    state = start(method, step)
    new, metrics = method.step(state, {"train": batch(x, y)})
    theta, logits = flat(state.params), cosine if "LDAM" in name else linear
    slope = gradient(lambda theta: loss(logits(theta, x), y), theta)
    assert_moved(theta, flat(new.params), descend(theta, slope))
    assert metrics["loss"] == pytest.approx(float(loss(logits(theta, x), y)), rel=1e-10)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_pytorchs(nesterov):
    method, (x, y) = build(ERM | {"optimizer.momentum": 0.9, "optimizer.nesterov": nesterov}), draw(12)
    state = start(method)
    theta, buffer = flat(state.params), 0.0
    for _ in range(3):
        slope = example_gradients(theta, x, y).mean(0) + DECAY * theta
        buffer = 0.9 * buffer + slope
        expected = theta - LR * (slope + 0.9 * buffer if nesterov else buffer)
        state, _ = method.step(state, {"train": batch(x, y)})
        assert_moved(theta, flat(state.params), expected)
        theta = expected


# Weights learned from clean examples.


def test_l2rw():
    """Ren et al. 2018, uber-research/learning-to-reweight-examples: weights sum to 1, and so weigh a sum of losses."""
    method, (x, y), (clean_x, clean_y) = build(cifar10.ROWS["l2rw"]), draw(12), draw(8)
    state = start(method)
    theta = flat(state.params)
    grads = example_gradients(theta, x, y)
    weights = np.maximum(
        -gradient(lambda e: cross_entropy(linear(theta - e @ grads, clean_x), clean_y).mean(), np.zeros(12)), 0
    )
    weights /= weights.sum()
    assert 0 < np.count_nonzero(weights) < 12
    new, _ = method.step(state, {"train": batch(x, y), "clean": batch(clean_x, clean_y)})
    assert_moved(theta, flat(new.params), descend(theta, weights @ grads))


def weight_net(phi: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """1-100-1, ReLU and sigmoid."""
    bias, kernel, last_bias, last_kernel = np.split(phi, [100, 200, 201])
    hidden = losses[:, None] * kernel + bias
    return 1 / (1 + np.exp(-(hidden * (np.real(hidden) > 0) @ last_kernel + last_bias)))


WEIGHT_NETS: dict[str, dict[str, Any]] = {
    "label noise": {},
    # Its learning rate, 1e-5, would hide a mistake.
    "imbalance": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "normalize": True, "lr": 0.5},
}


@pytest.mark.parametrize("recipe", WEIGHT_NETS)
def test_meta_weight_net(recipe):
    """Shu et al. 2019, xjtushujun/meta-weight-net and Meta-weight-net_class-imbalance.

    The virtual step is plain SGD at the model's learning rate, without weight decay. Weights are divided by n, or by
    their own sum in the code for imbalance. The losses that go into the weight net are detached.
    """
    changes = {f"weight_net.{key}": value for key, value in WEIGHT_NETS[recipe].items()}
    method, (x, y), (clean_x, clean_y) = build(cifar10.ROWS["mw_net"] | changes), draw(12), draw(8)
    state = start(method)
    theta, phi = flat(state.params), flat(state.weight_params)
    losses, grads = cross_entropy(linear(theta, x), y), example_gradients(theta, x, y)

    def shares(phi: np.ndarray) -> np.ndarray:
        weights = weight_net(phi, losses)
        return weights / (weights.sum() if recipe == "imbalance" else len(weights))

    def clean_loss(phi: np.ndarray) -> Any:
        return cross_entropy(linear(theta - LR * shares(phi) @ grads, clean_x), clean_y).mean()

    slope = gradient(clean_loss, phi)
    if recipe == "imbalance":  # the first step of Nesterov's momentum
        new_phi = phi - 0.5 * 1.9 * (slope + 5e-4 * phi)
    else:  # the first step of Adam, whose weight decay is part of the gradient in PyTorch
        slope += 1e-4 * phi
        new_phi = phi - 1e-3 * slope / (np.abs(slope) + 1e-8)

    new: Any
    new, metrics = method.step(state, {"train": batch(x, y), "clean": batch(clean_x, clean_y)})
    np.testing.assert_allclose(flat(new.weight_params) - phi, new_phi - phi, rtol=1e-6, atol=1e-10)
    assert np.abs(new_phi - phi).max() > 5e-4
    assert_moved(theta, flat(new.params), descend(theta, shares(new_phi) @ grads))
    assert metrics["clean_loss"] == pytest.approx(float(clean_loss(phi)), rel=1e-10)


# Mixed and translated examples.


def mixup(x: np.ndarray, share: float, other: np.ndarray, key: jax.Array) -> tuple[np.ndarray, float]:
    """Zhang et al. 2017, facebookresearch/mixup-cifar10. Returns the mixture and the share of the first labels."""
    return share * x + (1 - share) * x[other], share


def cutmix(x: np.ndarray, share: float, other: np.ndarray, key: jax.Array) -> tuple[np.ndarray, float]:
    """Yun et al. 2019, clovaai/CutMix-PyTorch: λ is then the share of pixels that stay."""
    box = []
    for axis, size in enumerate(x.shape[1:3]):
        half = int(size * np.sqrt(1 - share)) // 2
        centre = int(jax.random.randint(jax.random.fold_in(key, 2 + axis), (), 0, size))
        box.append(slice(max(centre - half, 0), min(centre + half, size)))
    mixed = x.copy()
    mixed[:, box[0], box[1]] = x[other][:, box[0], box[1]]
    area = (box[0].stop - box[0].start) * (box[1].stop - box[1].start)
    return mixed, 1 - area / (x.shape[1] * x.shape[2])


@pytest.mark.parametrize("row", ["mixup", "cutmix"])
def test_mixtures(row):
    """The loss is λ L(z, y_a) + (1 − λ) L(z, y_b). CutMix mixes half of the batches; the others stay whole."""
    method, (x, y) = build(cifar10.ROWS[row] | {"train.augment": "none"}, (6, 6, 1)), draw(8, (6, 6, 1))
    coins, shares = [], []
    for step in range(12):
        state = start(method, step)
        key = jax.random.fold_in(jax.random.fold_in(state.rng, augment._KEYS), step)
        key = jax.random.fold_in(key, 0)  # the first stream
        coins.append(row == "mixup" or bool(jax.random.bernoulli(jax.random.fold_in(key, 2), 0.5, (1,))[0]))
        key = jax.random.split(jax.random.fold_in(key, 1), 1)[0]
        share = float(jax.random.beta(jax.random.fold_in(key, 0), 1.0, 1.0, dtype=float))
        other = np.asarray(jax.random.permutation(jax.random.fold_in(key, 1), 8))
        mixed, share = (mixup if row == "mixup" else cutmix)(x, share, other, key) if coins[-1] else (x, 1.0)
        theta = flat(state.params)
        slope = share * example_gradients(theta, mixed, y) + (1 - share) * example_gradients(theta, mixed, y[other])
        new, _ = method.step(state, {"train": batch(x, y)})
        assert_moved(theta, flat(new.params), descend(theta, slope.mean(0)))
        shares.append(share)
    assert all(coins) == (row == "mixup")
    assert len(set(shares)) >= 3


def test_m2m():
    """Kim et al. 2020, alinlab/M2m: β = 0.999, λ = 0.5, γ = 0.9, ten steps of 0.1 of pixels from 0 to 1.

    Ours are pixels from −1 to 1, so that lengths double; the noise of the start is bounded for each image.
    """
    method, (x, y) = build(cifar10.ROWS["m2m"], (4, 4, 1)), draw(32, (4, 4, 1))
    y = np.arange(32) % CLASSES  # over-sampled
    state: Any = start(method, 9)  # the last phase
    state = state.replace(g_params=jax.tree.map(lambda p: 1.5 * p, start(method, seed=1).params))
    f, g = flat(state.params), flat(state.g_params)
    rng = jax.random.fold_in(state.rng, 9)
    key = {name: jax.random.fold_in(rng, getattr(m2m, name)) for name in ("_TRY", "_SEED", "_NOISE_KEY", "_ACCEPT")}

    counts = COUNTS[y]
    accept = 1 - 0.999 ** np.maximum(counts[None, :] - counts[:, None], 0)  # [target, seed]
    sums = accept.sum(1, keepdims=True)
    with np.errstate(divide="ignore"):
        seeds = np.asarray(jax.random.categorical(key["_SEED"], np.log(accept / np.where(sums > 0, sums, 1)), axis=1))
    noise = np.asarray(jax.random.uniform(key["_NOISE_KEY"], x.shape, float, -0.5, 0.5))
    norm = lambda a: np.sqrt((a**2).sum((1, 2, 3), keepdims=True))  # noqa: E731
    image = np.clip(x[seeds] + 2 * noise * np.minimum(1, 0.5 / norm(noise)), -1, 1)
    weights_f, weights_g = (theta[CLASSES:].reshape(-1, CLASSES) for theta in (f, g))
    for _ in range(10):
        p = np.exp(linear(g, image))
        p /= p.sum(1, keepdims=True)
        slope = (p - np.eye(CLASSES)[y]) @ weights_g.T + 0.5 * weights_f[:, y[seeds]].T
        slope = slope.reshape(image.shape)
        image = np.clip(image - 2 * 0.1 * slope / norm(slope), -1, 1)
    p = np.exp(linear(g, image))
    sure = (p / p.sum(1, keepdims=True))[np.arange(32), y] >= 0.9
    tried = np.asarray(jax.random.bernoulli(key["_TRY"], 1 - counts / COUNTS.max()))
    kept = np.asarray(jax.random.bernoulli(key["_ACCEPT"], accept[np.arange(32), seeds]))
    replaced = tried & kept & sure
    assert 4 <= replaced.sum() < 24  # of the 24 of rarer classes
    assert not replaced[y == 0].any()
    assert (tried & kept & ~sure).any()

    new, metrics = method.step(state, {"train": batch(x, y), "pretrain": batch(x, y)})
    assert metrics["translated"] == replaced.mean()
    images = np.where(replaced[:, None, None, None], image, x)
    assert_moved(f, flat(new.params), descend(f, example_gradients(f, images, y).mean(0)))
