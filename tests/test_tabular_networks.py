"""Encodings, TabM, RealMLP's parts and AdamW against NumPy, and all of them from training to exported files."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import mbjax
from mbjax import config as config_lib
from mbjax import data, losses, methods, models, train
from mbjax.data.preprocessing import from_dict
from mbjax.data.tables import numbers, tabular
from mbjax.data.tables.columns import TableColumns
from mbjax.export import to_onnx, to_stablehlo
from mbjax.types import UserError
from tests.test_export import raw_inputs, run_onnx
from tests.test_predict import of_network

BETTER: dict[str, Any] = {"data.scaling": "robust_smooth_clip", "data.encoding": "piecewise_linear", "data.bins": 6}


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    made = pd.DataFrame({
        "heavy": rng.standard_t(1.5, 160), "few": rng.integers(0, 3, 160).astype(float), "same": 4.0,
        "kind": rng.choice(["x", "y"], 160),
    })  # fmt: skip
    made.loc[3, "heavy"] = np.nan
    return made.assign(label=np.where(made["heavy"].fillna(0) + rng.normal(size=160) > 1.5, "ill", "well"))


def encoded_by_hand(z, edges):
    """Equation 1 of Gorishniy et al. 2022, one value at a time."""
    bins = len(edges) - 1
    out = np.empty((len(z), bins))
    for row, value in enumerate(z):
        for t in range(1, bins + 1):
            if value < edges[t - 1] and t > 1:
                out[row, t - 1] = 0
            elif value >= edges[t] and t < bins:
                out[row, t - 1] = 1
            else:
                out[row, t - 1] = (value - edges[t - 1]) / (edges[t] - edges[t - 1])
    return out


def smooth_by_hand(x, train):
    scaled = (x - np.median(train)) / (np.quantile(train, 0.75) - np.quantile(train, 0.25))
    return scaled / np.sqrt(1 + (scaled / 3) ** 2)


@pytest.mark.parametrize("scaling", ["standard", "robust_smooth_clip"])
def test_piecewise_linear_encoding_of_the_training_parts_quantiles(scaling):
    train = frame()
    columns = TableColumns.fit(
        train, numbers=["heavy", "few", "same"], categories=["kind"], scaling=scaling, encoding="piecewise_linear",
        bins=6,
    )  # fmt: skip
    heavy = train["heavy"].fillna(train["heavy"].median()).to_numpy()
    new = pd.DataFrame({"heavy": [-900.0, -0.3, 0.0, np.nan, 800], "few": [-1.0, 0, 1, 2, 5], "same": 9.0, "kind": "x"})
    x = np.where(new["heavy"].isna(), train["heavy"].median(), new["heavy"])
    z, z_train = x, heavy  # the encoding does not see shifts and scales
    if scaling == "robust_smooth_clip":
        z, z_train = smooth_by_hand(x, heavy), smooth_by_hand(heavy, heavy)
    expected = encoded_by_hand(z, np.quantile(z_train, np.linspace(0, 1, 7)))
    got = columns.transform(new)
    np.testing.assert_allclose(got[:, :6], expected, rtol=2e-6, atol=1e-6)
    assert [number.width for number in columns.numbers] == [6, 2, 1]  # of three values there are two bins
    if scaling == "standard":
        np.testing.assert_allclose(got[:, 6:8], [[-1, 0], [0, 0], [1, 0], [1, 1], [1, 4]], atol=1e-6)
    assert (got[:, 8] == 0).all()  # a constant column tells nothing, whatever comes later
    np.testing.assert_array_equal(got[:, 9], 1)
    assert columns.features == got.shape[1] == 11
    assert from_dict(columns.to_dict()) == columns


def test_smooth_clipping_is_robust_scaling_pressed_together():
    train = frame()
    columns = TableColumns.fit(train, numbers=["heavy", "same"], categories=[], scaling="robust_smooth_clip")
    heavy = train["heavy"].fillna(train["heavy"].median()).to_numpy()
    x = np.array([-1e9, -1.0, 0.2, 1e9])
    got = columns.transform(pd.DataFrame({"heavy": x, "same": 7.0}))
    np.testing.assert_allclose(got[:, 0], smooth_by_hand(x, heavy), rtol=1e-6)
    assert (got[:, 1] == 0).all()
    # Equal quartiles: half the distance of the extremes takes their place.
    (number,) = numbers.fit(["a"], np.array([[0.0], *[[1.0]] * 8, [7.0]]), scaling="robust_smooth_clip")
    assert (number.shift, number.scale, number.factor) == (1.0, 3.5, 1.0)


def test_nothing_is_learned_of_the_test_part():
    table = frame()
    options: dict[str, Any] = {"scaling": "robust_smooth_clip", "encoding": "piecewise_linear"}
    first = tabular.from_frame(table, "label", source="t", seed=0, **options)
    other = table.copy()
    assert first.test.origin is not None
    other.loc[first.test.origin - 1, "heavy"] *= 50
    again = tabular.from_frame(other, "label", source="t", seed=0, **options)
    assert first.preprocessing.numbers == again.preprocessing.numbers
    np.testing.assert_array_equal(first.train.x, again.train.x)


def weights_of(model, *shape):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(1), np.zeros((1, *shape), np.float32), train=False))
    rng = np.random.default_rng(2)
    return {"params": jax.tree.map(lambda w: rng.normal(0, 0.7, w.shape).astype(np.float32), shapes["params"])}


def selu(x):
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))


@pytest.mark.parametrize("outputs", [1, 3])
def test_tabm_is_members_that_share_their_layers(outputs):
    model = models.build("tabm", outputs=outputs, members=4, hidden=(5, 6))
    variables, x = weights_of(model, 3), np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    p = variables["params"]
    members = []
    for m in range(4):
        h = x * p["adapter"][m]
        for layer in ("Dense_0", "Dense_1"):
            h = np.maximum(h @ p[layer]["kernel"] + p[layer]["bias"], 0)
        members.append(h @ p["head_kernel"][m] + p["head_bias"][m])
    members = np.stack(members).astype(np.float64)
    apply = jax.jit(model.apply, static_argnames="train")
    np.testing.assert_allclose(apply(variables, x, train=True), members, rtol=1e-4, atol=1e-5)
    both = np.concatenate([0 * members, members], 2) if outputs == 1 else members
    shares = np.exp(both - both.max(2, keepdims=True))
    shares /= shares.sum(2, keepdims=True)
    got = np.asarray(apply(variables, x, train=False), np.float64)
    got = np.concatenate([0 * got, got], 1) if outputs == 1 else got
    got = np.exp(got) / np.exp(got).sum(1, keepdims=True)
    np.testing.assert_allclose(got, shares.mean(0), rtol=1e-4)

    y, weight = np.arange(7) % max(outputs, 2), np.linspace(0.5, 2, 7).astype(np.float32)
    log_loss = -np.log(shares[:, np.arange(7), y])
    batch = {"x": x, "y": jnp.asarray(y), "weight": jnp.asarray(weight)}
    loss, _ = jax.jit(losses.supervised_loss(model.apply))(variables["params"], {}, batch, jax.random.key(0))
    assert float(loss) == pytest.approx((log_loss.mean(0) * weight).mean(), rel=1e-4)


def test_tabm_starts_with_random_signs_and_heads_of_their_own():
    model = models.build("tabm", outputs=1, members=32, hidden=(64,))
    params = jax.jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 9)), train=False))()["params"]
    assert set(np.unique(params["adapter"])) == {-1.0, 1.0}
    assert len(np.unique(np.asarray(params["adapter"]), axis=0)) == 32
    assert np.asarray(params["head_kernel"]).std() == pytest.approx(64**-0.5, rel=0.05)
    assert params["Dense_0"]["kernel"].shape == (9, 64)


def steps_of(**changes):
    """The computation of a method's first state and of its update, as text."""
    settings = config_lib.base()
    config_lib.change(settings, {"updates": 5, "meta.steps": 2, "parallel": "none", "loss.smoothing": 0.1, **changes})
    experiment = train.build(config_lib.validate(settings))
    state = jax.eval_shape(experiment.method.init, 0)
    batches = {
        name: {"x": jax.ShapeDtypeStruct((*shape, 64), jnp.float32), "y": jax.ShapeDtypeStruct(shape, jnp.int32)}
        for name, shape in experiment.shapes.items()
    }
    return [str(jax.make_jaxpr(f)(*given)) for f, given in (
        (experiment.method.init, (0,)), (experiment.method.step, (state, batches)),
    )]  # fmt: skip


@pytest.mark.parametrize("method", ["erm", "metabalance"])
def test_one_member_is_the_mlp(method):
    hidden = {"method": method, "model.hidden": (6,), "model.dropout": (0.5,)}
    assert steps_of(**{"model.name": "tabm", "model.members": 1, **hidden}) == steps_of(**hidden)


def test_realmlps_parts_in_numpy():
    model = models.build("mlp", outputs=2, hidden=(5,), activation="selu", parametric=True, scaling_layer=True)
    variables, x = weights_of(model, 3), np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    p = variables["params"]
    h = (x * p["Scale_0"]["scale"]) @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]
    h = h + p["Parametric_0"]["alpha"] * (selu(h) - h)
    expected = h @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"]
    got = jax.jit(lambda: model.apply(variables, x, train=False))()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    fresh = jax.jit(lambda: model.init(jax.random.key(0), x, train=False))()["params"]
    assert (fresh["Scale_0"]["scale"] == 1).all()
    assert (fresh["Parametric_0"]["alpha"] == 1).all()


def test_smoothed_labels_spread_a_share_over_all_classes():
    z, y = np.random.default_rng(0).normal(size=(6, 3)), np.array([0, 1, 2, 2, 1, 0])
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    targets = 0.9 * np.eye(3)[y] + 0.1 / 3
    loss = losses.build("cross_entropy", class_counts=np.array([5, 3, 1]), smoothing=0.1, class_weight=(1.0, 2.0, 4.0))
    expected = -(targets * log_p).sum(1) * np.array([1.0, 2, 4])[y]  # the weight is that of the label itself
    np.testing.assert_allclose(loss(jnp.asarray(z, jnp.float32), jnp.asarray(y)), expected, rtol=1e-5)
    binary = losses.build("cross_entropy", class_counts=np.array([5, 3]), smoothing=0.2)
    p = 1 / (1 + np.exp(-z[:, 0]))
    expected = -(
        np.array([0.1, 0.9, 0.9, 0.9, 0.9, 0.1]) * np.log(p) + np.array([0.9, 0.1, 0.1, 0.1, 0.1, 0.9]) * np.log(1 - p)
    )
    np.testing.assert_allclose(binary(jnp.asarray(z[:, :1], jnp.float32), jnp.asarray(y > 0)), expected, rtol=1e-5)


def test_adamw_in_numpy():
    options = {"momentum": 0.8, "nesterov": False, "decay_batch_norm": True, "schedule": "constant", "drops": ()}
    tx = methods.make_optimizer(name="adamw", lr=0.1, weight_decay=0.3, updates=5, **options)
    w = expected = np.array([1.0, -2.0], np.float32)
    state, first, second = tx.init(jnp.asarray(w)), 0.0, 0.0
    for step, gradient in enumerate([np.array([0.5, -1.0]), np.array([0.2, 3.0])], 1):
        change, state = tx.update(jnp.asarray(gradient, jnp.float32), state, jnp.asarray(w))
        w = w + np.asarray(change)
        first, second = 0.8 * first + 0.2 * gradient, 0.999 * second + 0.001 * gradient**2
        direction = (first / (1 - 0.8**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        expected = expected - 0.1 * (direction + 0.3 * expected)
    np.testing.assert_allclose(w, expected, rtol=1e-5)


MODELS = {
    "tabm": {"name": "tabm", "members": 3, "hidden": (5, 4), "activation": "gelu"},
    "tabm_1": {"name": "tabm", "members": 1, "hidden": (5,), "activation": "silu"},
    "realmlp": {"name": "mlp", "hidden": (6, 5), "activation": "mish", "parametric": True, "scaling_layer": True},
}


@pytest.mark.parametrize(("name", "outputs"), [("tabm", 1), ("tabm", 3), ("tabm_1", 1), ("realmlp", 1)])
def test_files_and_exports_give_the_predictors_probabilities(name, outputs, tmp_path):
    table = frame()
    dataset = tabular.from_frame(table, "label", source="t", seed=0, **{k[5:]: v for k, v in BETTER.items()})
    columns = dataset.preprocessing
    model = of_network(MODELS[name], columns, columns.features, outputs=outputs, temperature=1.3)
    table.loc[5, "kind"] = "unseen"
    expected = model.predict_proba(table.drop(columns="label"))
    assert np.ptp(expected, axis=0).min() > 1e-2
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(mbjax.load(tmp_path / "model").predict_proba(table.drop(columns="label")), expected)
    raw = raw_inputs(columns, table)
    np.testing.assert_allclose(run_onnx(to_onnx(model), raw), expected, atol=1e-5)
    content, about = to_stablehlo(model)
    places = {"x": 0, "y": 1, "unseen": -2}
    codes = np.array([[places[value]] for value in table["kind"]], np.int32)
    values = np.concatenate([raw[column] for column in about["numbers"]], axis=1)
    with jax.enable_x64(True):
        got = np.asarray(jax.export.deserialize(bytearray(content)).call(values, codes))
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_estimator_takes_them():
    table = frame()
    X, y = table.drop(columns="label"), table["label"]
    params = {"model.name": "tabm", "model.members": 2, "model.hidden": (8,), "optimizer.name": "adamw"}
    model = mbjax.ImbalancedClassifier(
        method="over", scaling="robust_smooth_clip", encoding="piecewise_linear", params=params, learning_rate=0.005,
        max_updates=100, early_stopping=False, random_state=0,
    ).fit(X, y)  # fmt: skip
    assert (model.predict(X) == y).mean() > 0.85
    columns: Any = model.predictor_.preprocessing
    assert columns.numbers[0].edges
    with pytest.raises(ValueError, match="encoding='bins': choose one of none, piecewise_linear"):
        mbjax.ImbalancedClassifier(encoding="bins").fit(X, y)  # pyright: ignore[reportArgumentType]


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match=r"config.model.activation='tan': choose one of relu"):
        models.build("mlp", outputs=1, activation="tan")
    with pytest.raises(UserError, match=r"config.model.head='cosine': tabm has linear heads alone"):
        models.build("tabm", outputs=1, head="cosine")
    settings = config_lib.base()
    config_lib.change(settings, {"task": "tabular", "data.encoding": "plw"})
    with pytest.raises(UserError, match=r"config.data.encoding='plw': choose one of none, piecewise_linear"):
        config_lib.validate(settings)
    assert dataclasses.fields(numbers.Number)[-1].name == "edges"
    assert data.DATASETS.options("loan", "config.task")[1:4] == numbers.OPTIONS
