from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from mbjax import class_weights, losses, models
from mbjax.types import UserError

pytestmark = pytest.mark.usefixtures("x64", "strict_dtypes")


def test_sigmoid_cross_entropy_is_scikit_learns_log_loss_and_stays_finite():
    logits, labels = np.array([-2.0, 0.5, 3.0]), np.array([1, 0, 1])
    value = losses.sigmoid_cross_entropy(jnp.array(logits)[:, None], jnp.array(labels))
    assert value.shape == (3,)
    assert value.mean() == pytest.approx(log_loss(labels, 1 / (1 + np.exp(-logits))), rel=1e-12)
    np.testing.assert_array_equal(losses.sigmoid_cross_entropy(jnp.array(logits), jnp.array(labels)), value)
    extreme = losses.sigmoid_cross_entropy(jnp.array([1e4, -1e4]), jnp.array([0, 0]))
    np.testing.assert_allclose(extreme, [1e4, 0.0])


def test_softmax_cross_entropy_takes_class_numbers_and_probabilities():
    logits, labels = jax.random.normal(jax.random.key(0), (5, 3)), jnp.array([0, 2, 1, 1, 0])
    probabilities = jax.nn.softmax(logits)
    hard = losses.softmax_cross_entropy(logits, labels)
    assert hard.mean() == pytest.approx(log_loss(labels, probabilities), rel=1e-12)
    np.testing.assert_allclose(losses.softmax_cross_entropy(logits, jax.nn.one_hot(labels, 3)), hard, rtol=1e-12)
    mixed = 0.3 * jax.nn.one_hot(labels, 3) + 0.7 * jax.nn.one_hot(labels[::-1], 3)
    np.testing.assert_allclose(
        losses.softmax_cross_entropy(logits, mixed),
        0.3 * hard + 0.7 * losses.softmax_cross_entropy(logits, labels[::-1]),
        rtol=1e-12,
    )


def test_cross_entropy_chooses_by_the_number_of_outputs():
    z, labels = jnp.array([0.3, -1.0]), jnp.array([0, 1])
    one = losses.cross_entropy(z[:, None], labels)
    np.testing.assert_array_equal(one, losses.sigmoid_cross_entropy(z, labels))
    # A sigmoid of z is a softmax of (0, z).
    np.testing.assert_allclose(losses.cross_entropy(jnp.stack([0 * z, z], 1), labels), one, rtol=1e-12)


@pytest.mark.parametrize("loss", [losses.sigmoid_cross_entropy, losses.softmax_cross_entropy])
def test_shapes_that_do_not_fit_are_refused(loss):
    with pytest.raises(ValueError, match=r"logits of shape \(4, 3\) do not fit labels of shape \(4, 2\)"):
        loss(jnp.zeros((4, 3)), jnp.zeros((4, 2)))


def test_supervised_loss_weights_examples_and_divides_by_their_number():
    model = models.build("mlp", outputs=1, hidden=(), dropout=())
    x, y = jnp.array([[1.0], [2.0], [-1.0], [3.0]]), jnp.array([1, 0, 1, 1])
    params = {"Dense_0": {"kernel": jnp.array([[1.0]]), "bias": jnp.array([0.5])}}
    each = losses.sigmoid_cross_entropy(x + 0.5, y)
    loss_fn = losses.supervised_loss(model.apply)
    loss, (state, metrics) = loss_fn(params, {}, {"x": x, "y": y}, jax.random.key(0))
    assert loss == pytest.approx(float(each.mean()), rel=1e-12)
    assert state == {}
    assert metrics["accuracy"] == 0.5  # the logits 1.5, 2.5, -0.5, 3.5 say 1, 1, 0, 1
    weight = jnp.array([1.0, 0.0, 2.0, 0.0])
    weighted, (_, metrics) = loss_fn(params, {}, {"x": x, "y": y, "weight": weight}, jax.random.key(0))
    assert weighted == pytest.approx(float(each[0] + 2 * each[2]) / 4, rel=1e-12)
    assert metrics["accuracy"] == 0.5


def test_supervised_loss_trains_batch_norm_and_drops_units():
    x, y = jax.random.normal(jax.random.key(0), (6, 8, 8), jnp.float32), jnp.arange(6) % 3
    cnn = models.build("cnn", outputs=3)
    params: Any = cnn.init(jax.random.key(1), x, train=False)
    state = {"batch_stats": params.pop("batch_stats")}
    _, (new_state, _) = losses.supervised_loss(cnn.apply)(params["params"], state, {"x": x, "y": y}, jax.random.key(2))
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    conv = jax.lax.conv(x[:, None], params["params"]["Conv_0"]["kernel"].transpose(3, 2, 0, 1), (1, 1), "SAME")
    np.testing.assert_allclose(
        new_state["batch_stats"]["BatchNorm_0"]["mean"], 0.1 * conv.mean((0, 2, 3)), rtol=1e-4, atol=1e-6
    )
    mlp = models.build("mlp", outputs=3, hidden=(50,), dropout=(0.5,))
    loss_fn = losses.supervised_loss(mlp.apply)
    params = mlp.init(jax.random.key(1), x, train=False)["params"]
    first, again, other = (loss_fn(params, {}, {"x": x, "y": y}, jax.random.key(k))[0] for k in (0, 0, 1))
    assert first == again != other


def test_soft_labels_count_their_largest_class_for_the_accuracy():
    model = models.build("mlp", outputs=2, hidden=())
    params = {"Dense_0": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}}
    batch = {"x": jnp.array([[2.0, 0.0], [0.0, 1.0]]), "y": jnp.array([[0.7, 0.3], [0.6, 0.4]])}
    _, (_, metrics) = losses.supervised_loss(model.apply)(params, {}, batch, jax.random.key(0))
    assert metrics["accuracy"] == 0.5


COUNTS = np.array([5000, 40, 700, 3])
NAMES = tuple(losses.LOSSES)


def numpy_loss(name, logits, labels, counts, *, gamma, tau, max_margin, margin, scale):
    """Every loss again, example by example, in plain NumPy; `logits` of shape [n, classes], hard labels."""
    out = []
    for z, y in zip(np.asarray(logits, np.float64), np.asarray(labels), strict=True):
        if name == "logit_adjustment":
            z = z + tau * np.log(counts / counts.sum())
        if name == "ldam":
            z = scale * (z - np.eye(len(z))[y] * max_margin * (counts.min() / counts[y]) ** 0.25)
        if name == "cosface":
            z = scale * (z - np.eye(len(z))[y] * margin)
        odds = np.exp(z - z.max())
        if name == "balanced_softmax":
            odds = odds * counts
        p = odds[y] / odds.sum()
        out.append(-np.log(p) * ((1 - p) ** gamma if name in ("focal", "cosface") else 1))
    return np.array(out)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_every_loss_equals_one_in_numpy(name, outputs, traced):
    counts = COUNTS if outputs == 4 else COUNTS[:2]
    logits = jax.random.normal(jax.random.key(0), (12, outputs)) / 2
    labels = jnp.arange(12) % len(counts)
    numbers = {"gamma": 1.5, "tau": 0.7, "max_margin": 0.3, "margin": 0.2, "scale": 7.0}

    def run(counts, numbers):
        return losses.build(name, class_counts=counts, **numbers)(logits, labels)

    values = jax.jit(run)(jnp.asarray(counts), numbers) if traced else run(counts, numbers)
    full = logits if outputs == 4 else jnp.concatenate([0 * logits, logits], 1)  # a sigmoid is a softmax of (0, z)
    assert values.dtype == logits.dtype
    np.testing.assert_allclose(values, numpy_loss(name, full, labels, counts, **numbers), rtol=1e-10)


@pytest.mark.parametrize("class_weight", ["none", "inverse"])
@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("name", [*filter(losses.has_margin, NAMES)])
def test_a_share_of_the_margin_is_a_smaller_margin(name, outputs, class_weight):
    counts = COUNTS if outputs == 4 else COUNTS[:2]
    logits = jax.random.normal(jax.random.key(0), (12, outputs)) / 2
    labels, shares = jnp.arange(12) % len(counts), np.array([0.0, 0.25, 1.0] * 4)
    numbers = {"gamma": 1.5, "tau": 0.7, "max_margin": 0.3, "margin": 0.2, "scale": 7.0}
    loss = losses.build(name, class_counts=counts, class_weight=class_weight, **numbers)
    values = loss(logits, labels, margin_share=jnp.asarray(shares))
    full = logits if outputs == 4 else jnp.concatenate([0 * logits, logits], 1)
    weights = np.ones(12) if class_weight == "none" else np.asarray(class_weights.inverse_weights(counts))[labels]
    for i, share in enumerate(shares):
        smaller = numbers | {"max_margin": 0.3 * share, "margin": 0.2 * share}
        expected = weights[i] * numpy_loss(name, full[i : i + 1], labels[i : i + 1], counts, **smaller)[0]
        assert values[i] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("class_weight", class_weights.CLASS_WEIGHTS)
@pytest.mark.parametrize("name", NAMES)
def test_one_logit_is_the_softmax_of_zero_and_it(name, class_weight):
    z, labels = jax.random.normal(jax.random.key(1), (9,)), jnp.arange(9) % 2
    loss = losses.build(name, class_counts=COUNTS[:2], class_weight=class_weight)
    both = jax.value_and_grad(lambda z: loss(jnp.stack([0 * z, z], 1), labels).sum())(z)
    for shape in ((9,), (9, 1)):
        one = jax.value_and_grad(lambda z, s=shape: loss(z.reshape(s), labels).sum())(z)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), one, both)
    np.testing.assert_allclose(loss(z, labels.astype(float)), loss(z, labels), rtol=1e-12)


@pytest.mark.parametrize("class_weight", class_weights.CLASS_WEIGHTS)
@pytest.mark.parametrize("name", NAMES)
def test_labels_that_are_shares_of_one_class_are_its_number(name, class_weight):
    logits, labels = jax.random.normal(jax.random.key(1), (9, 4)), jnp.arange(9) % 4
    loss = losses.build(name, class_counts=COUNTS, class_weight=class_weight)
    np.testing.assert_allclose(loss(logits, jax.nn.one_hot(labels, 4)), loss(logits, labels), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("outputs", [1, 4])
def test_identities_between_losses(outputs):
    counts = COUNTS if outputs == 4 else COUNTS[:2]
    logits, labels = jax.random.normal(jax.random.key(2), (8, outputs)), jnp.arange(8) % len(counts)

    def value(name, counts=counts, **numbers):
        return losses.build(name, class_counts=counts, **numbers)(logits, labels)

    plain = losses.cross_entropy(logits, labels)
    np.testing.assert_array_equal(value("cross_entropy"), plain)
    np.testing.assert_allclose(value("focal", gamma=0.0), plain, rtol=1e-12)
    np.testing.assert_array_equal(value("balanced_softmax", tau=9.0), value("logit_adjustment", tau=1.0))
    np.testing.assert_allclose(value("logit_adjustment", tau=0.0), plain, rtol=1e-12)
    np.testing.assert_allclose(value("logit_adjustment", counts=counts * 0 + 7, tau=2.0), plain, rtol=1e-12)
    np.testing.assert_allclose(value("ldam", max_margin=0.0, scale=1.0), plain, rtol=1e-12)
    np.testing.assert_allclose(value("cosface", margin=0.0, scale=1.0, gamma=0.0), plain, rtol=1e-12)
    np.testing.assert_array_equal(value("cosface", margin=0.0, scale=1.0, gamma=1.5), value("focal", gamma=1.5))
    equal_margins = value("ldam", counts=counts * 0 + 7, max_margin=0.3, scale=5.0)
    np.testing.assert_allclose(value("cosface", margin=0.3, scale=5.0, gamma=0.0), equal_margins, rtol=1e-12)
    for name in NAMES:
        np.testing.assert_allclose(value(name, class_weight="effective", beta=0.0), value(name), rtol=1e-12)


def test_ldam_margins_of_a_case_by_hand():
    # 10,000^(-1/4) = 0.1, 625^(-1/4) = 0.2, 16^(-1/4) = 0.5
    np.testing.assert_allclose(losses.ldam_margins([10_000, 625, 16], 0.25), [0.05, 0.1, 0.25], rtol=1e-12)
    loss = losses.build("ldam", class_counts=[10_000, 16], max_margin=0.5, scale=2.0)
    # A positive example must be 0.5 above, a negative one 0.1 below.
    expected = np.log1p(np.exp([-2 * (0.3 - 0.5), 2 * (0.3 + 0.1)]))
    np.testing.assert_allclose(loss(jnp.array([0.3, 0.3]), jnp.array([1, 0])), expected, rtol=1e-12)


def test_cosface_of_a_case_by_hand():
    # Angles of 0 and 60 degrees to the two classes: 4 (1 − 0.25) against 4 · 0.5 for the first, (0.5 − 0.25) against 1
    # for the second.
    cosines, labels = jnp.array([[1.0, 0.5], [1.0, 0.5]]), jnp.array([0, 1])
    p = 1 / (1 + np.exp([-1.0, 3.0]))
    for gamma in (0.0, 2.0):
        values = losses.cosface(cosines, labels, margin=0.25, scale=4.0, gamma=gamma)
        np.testing.assert_allclose(values, -((1 - p) ** gamma) * np.log(p), rtol=1e-12)
    np.testing.assert_array_equal(
        losses.cosface(cosines, labels, margin=0.25, scale=4.0),
        losses.cosface(cosines, labels, margin=0.25, scale=4.0, gamma=0.0),
    )


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.9999])
def test_effective_weights_sum_to_the_number_of_classes(beta):
    weights = class_weights.effective_weights(COUNTS, beta)
    expected = (1 - beta) / (1 - beta**COUNTS)
    np.testing.assert_allclose(weights, expected * 4 / expected.sum(), rtol=1e-11)
    assert weights.sum() == pytest.approx(4, rel=1e-12)


@pytest.mark.parametrize("counts", [COUNTS, np.array([5, 5000, *[5] * 8])])
def test_inverse_weights_are_scikit_learns_balanced_ones_of_mean_1_over_the_examples(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    weights = class_weights.inverse_weights(counts)
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    assert np.asarray(weights)[labels].mean() == pytest.approx(1, rel=1e-12)


def test_a_class_without_examples_leaves_the_inverse_weights_of_the_others_alone():
    weights = np.asarray(class_weights.inverse_weights(np.array([30, 0, 10])))
    np.testing.assert_allclose(weights[[0, 2]], [40 / (2 * 30), 40 / (2 * 10)], rtol=1e-12)
    assert weights[1] == pytest.approx(40 / 2)  # as of a class of one


def test_class_weights_by_name_multiply_each_examples_loss_and_are_told_to_priors():
    classes, rng = ("no", "maybe", "yes"), np.random.default_rng(0)
    weights: Any = class_weights.read_class_weight("{'yes': 10, 'no': 0.5}", classes)
    assert weights == class_weights.read_class_weight({"yes": 10, "no": 0.5}, classes) == (0.5, 1.0, 10.0)
    assert class_weights.read_class_weight("inverse", classes) == "inverse"
    logits, labels = rng.normal(size=(6, 3)), np.array([0, 1, 2, 2, 1, 0])
    weighted, plain = (
        losses.build("focal", class_counts=[5, 3, 1], class_weight=weight)(logits, labels)
        for weight in (weights, "none")
    )
    np.testing.assert_allclose(weighted, plain * np.array(weights)[labels], rtol=1e-6)
    factor = losses.prior_factor({"name": "focal", "class_weight": weights, "beta": 0.9}, [5, 3, 1])
    np.testing.assert_allclose(factor, np.array([0.5, 1, 10]))
    wrong = {
        "{'ja': 2}": "there is no class 'ja' among no, maybe",
        "{'yes': 0}": "weights above 0",
        "balanced": "choose one",
    }
    for value, message in wrong.items():
        with pytest.raises(UserError, match=message):
            class_weights.read_class_weight(value, classes)


@pytest.mark.parametrize("class_weight", ["inverse", "effective"])
def test_class_weights_multiply_each_examples_loss(class_weight):
    logits, labels = jax.random.normal(jax.random.key(3), (8, 4)), jnp.arange(8) % 4
    weights = (
        class_weights.inverse_weights(COUNTS)
        if class_weight == "inverse"
        else class_weights.effective_weights(COUNTS, 0.99)
    )
    weighted, plain = (
        losses.build("focal", class_counts=COUNTS, class_weight=c, beta=0.99)(logits, labels)
        for c in (class_weight, "none")
    )
    np.testing.assert_allclose(weighted / plain, weights[labels], rtol=1e-12)


def test_effective_weights_in_float32_are_right_to_float32():
    with jax.enable_x64(False):
        for beta in (0.999, 0.9999, 1 - 1e-6):
            exact = -1 / np.expm1(COUNTS * np.log(np.float64(beta)))
            exact *= 4 / exact.sum()
            np.testing.assert_allclose(class_weights.effective_weights(COUNTS, beta), exact, rtol=1e-6)
            traced = jax.jit(class_weights.effective_weights)(jnp.asarray(COUNTS), jnp.float32(beta))
            assert traced.dtype == jnp.float32
            rounded = -1 / np.expm1(COUNTS * np.log(np.float64(np.float32(beta))))  # β itself is rounded there
            np.testing.assert_allclose(traced, rounded * 4 / rounded.sum(), rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("name", NAMES)
def test_extreme_logits_have_finite_losses_and_gradients(name, gamma):
    loss = losses.build(name, class_counts=COUNTS, class_weight="inverse", gamma=gamma)
    logits = jnp.array([[1e4, 0.0, 0.0, -1e4], [1e4, 0.0, 0.0, -1e4], [60.0, 0.0, 0.0, 0.0]])
    for dtype in (jnp.float32, jnp.float64):
        value, gradient = jax.value_and_grad(lambda z: loss(z, jnp.array([0, 3, 0])).sum())(logits.astype(dtype))
        assert value.dtype == dtype
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_mistakes_in_the_loss_name_the_way_out():
    with pytest.raises(UserError, match=r"config.loss.name='focus': choose one of cross_entropy, focal, "):
        losses.build("focus", class_counts=COUNTS)
    with pytest.raises(UserError, match=r"class_weight='balanced': choose one of none, inverse, effective"):
        losses.build("focal", class_counts=COUNTS, class_weight="balanced")
    for name in NAMES:
        with pytest.raises(ValueError, match="do not fit labels"):
            losses.build(name, class_counts=COUNTS)(jnp.zeros((4, 4)), jnp.zeros((4, 2)))
