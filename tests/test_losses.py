from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from mbjax import losses, models

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
