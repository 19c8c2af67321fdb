from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbjax import config as config_lib
from mbjax import config_files, models
from mbjax.models.conv import convolve
from mbjax.models.heads import TvMFDense
from mbjax.types import UserError


def init(model: nn.Module, x: jax.Array) -> Any:
    return jax.jit(lambda: model.init(jax.random.key(1), x, train=False))()


def apply(model: nn.Module, variables: Any, x: jax.Array, **kwargs: Any) -> Any:
    return jax.jit(lambda variables, x: model.apply(variables, x, **kwargs))(variables, x)


def count(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def test_the_papers_networks_have_their_number_of_weights():
    x = jnp.zeros((2, 12))
    loan = models.build("mlp", outputs=1, hidden=(25,), dropout=())
    params = init(loan, x)["params"]
    assert count(params) == 12 * 25 + 25 + 25 + 1
    fraud = models.build("mlp", outputs=1, hidden=[16, 24, 20, 24], dropout=[0, 0.5, 0, 0])
    params = init(fraud, jnp.zeros((2, 29)))["params"]
    assert count(params) == 29 * 16 + 16 + 16 * 24 + 24 + 24 * 20 + 20 + 20 * 24 + 24 + 24 + 1
    resnet = models.build("resnet18", outputs=10)
    shapes = jax.eval_shape(lambda: init(resnet, jnp.zeros((2, 32, 32, 3))))
    assert count(shapes["params"]) == 11_173_962  # torchvision-style ResNet-18 with a 3×3 stem and ten classes


def test_mlp_drops_after_the_layer_that_is_named_and_only_in_training(strict_dtypes):
    model = models.build("mlp", outputs=1, hidden=(3, 400), dropout=(0, 0.25))
    x = jax.random.normal(jax.random.key(0), (50, 2, 2))
    variables = init(model, x)
    kernels = [variables["params"][f"Dense_{i}"]["kernel"] for i in range(3)]
    hidden = nn.relu(nn.relu(x.reshape(50, 4) @ kernels[0]) @ kernels[1])
    np.testing.assert_allclose(apply(model, variables, x, train=False), hidden @ kernels[2], rtol=1e-4, atol=1e-5)
    # With the last layer summing, the output is Σ kept h / 0.75: every layer before it must be intact.
    variables = {"params": {**variables["params"], "Dense_2": {"kernel": jnp.ones((400, 1)), "bias": jnp.zeros(1)}}}
    out = apply(model, variables, x, train=True, rngs={"dropout": jax.random.key(2)})
    ratio = jnp.asarray(out).sum() / hidden.sum()
    assert 0.97 < ratio < 1.03
    assert np.abs(np.asarray(out)[:, 0] - hidden.sum(1)).max() > 0.1


def convolution_by_hand(x, kernel, stride):
    size = kernel.shape[0]
    padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    rows, columns = range(0, x.shape[1], stride), range(0, x.shape[2], stride)
    return np.stack(
        [np.stack([np.tensordot(padded[:, i : i + size, j : j + size], kernel, 3) for j in columns], 1) for i in rows],
        1,
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_every_convolution_equals_one_by_hand(x64, strict_dtypes, size, stride):
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 3))
    kernel = jax.random.normal(jax.random.key(1), (size, size, 3, 5))
    expected = convolution_by_hand(np.asarray(x), np.asarray(kernel), stride)
    for implementation in ("explicit", "winograd", "cpu", "matmul", "lax", "auto"):
        np.testing.assert_allclose(convolve(x, kernel, stride, implementation), expected, rtol=1e-10)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height", [7, 8])
def test_every_convolution_has_the_same_gradients_and_hessian_products(x64, height, stride):
    x = jax.random.normal(jax.random.key(0), (2, height, 8, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))

    def derivatives(implementation):
        def loss(x, kernel):
            return (convolve(jnp.tanh(convolve(x, kernel, stride, implementation)[..., :3]), kernel, 1) ** 3).sum()

        gradient = jax.grad(loss, (0, 1))
        return gradient(x, kernel), jax.jvp(gradient, (x, kernel), (jnp.cos(x), jnp.sin(kernel)))[1]

    expected = derivatives("matmul")
    for implementation in ("explicit", "winograd", "lax"):
        for a, b in zip(jax.tree.leaves(derivatives(implementation)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_winograd_rounds_to_a_millionth():
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 64))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 64, 64))
    exact = convolution_by_hand(np.asarray(x, float), np.asarray(kernel, float), 1)
    error = np.sqrt(np.mean((convolve(x, kernel, 1, "winograd") - exact) ** 2) / np.mean(exact**2))
    assert 0 < error < 1.2e-6  # 0.8e-6; at the points 0, ±1 and ±2 it is 1.8e-6


@pytest.mark.parametrize(
    ("images", "size", "channels", "dtype", "chosen"),
    [
        (16, 4, 32, "float32", "winograd"),
        (1, 16, 64, "float32", "winograd"),
        (15, 4, 32, "float32", "explicit"),  # the kernel's transform would cost more than it saves
        (16, 4, 31, "float32", "explicit"),
        (16, 6, 32, "float32", "explicit"),
        (16, 4, 32, "bfloat16", "explicit"),
    ],
)
def test_a_cpu_takes_winograd_where_there_is_enough_to_do(images, size, channels, dtype, chosen):
    x = jax.random.normal(jax.random.key(0), (images, size, size, channels)).astype(dtype)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, channels, 32)).astype(dtype)
    results = {
        name: np.asarray(jax.jit(convolve, static_argnums=(2, 3))(x, kernel, 1, name), np.float32)
        for name in ("cpu", "winograd", "explicit")
    }
    np.testing.assert_array_equal(results["cpu"], results[chosen])
    if (images, size, channels, dtype) != (16, 6, 32, "float32"):  # there both are the explicit one
        assert (results["winograd"] != results["explicit"]).any()


def test_resnet_gives_the_same_logits_gradients_and_statistics_with_either_convolution(x64):
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    results = []
    for conv in ("matmul", "lax"):
        model = models.build("resnet18", outputs=5, width=2, stages=[1, 2], dtype="float64", conv=conv)
        variables = jax.tree.map(lambda v: v.astype(jnp.float64), init(model, x))

        def loss(params, model=model, stats=variables["batch_stats"]):
            logits, new = model.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])
            return (logits**2).sum(), (logits, new)

        results.append(jax.jit(jax.grad(loss, has_aux=True))(variables["params"]))
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), *results)
    assert results[0][1][0].shape == (4, 5)


def test_resnet_in_bfloat16_keeps_weights_and_statistics_in_float32():
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    half, full = (models.build("resnet18", outputs=5, width=4, stages=(1, 1), dtype=d) for d in ("bfloat16", "float32"))
    variables = init(half, x)
    logits, new = apply(half, variables, x, train=True, mutable=["batch_stats"])
    expected, _ = apply(full, variables, x, train=True, mutable=["batch_stats"])
    assert {str(v.dtype) for v in jax.tree.leaves((variables, new, logits))} == {"float32"}
    assert 0 < np.abs(np.asarray(logits) - np.asarray(expected)).max() < 0.3


def test_batch_norm_uses_running_statistics_of_momentum_09_at_test():
    model = models.build("resnet18", outputs=2, width=2, stages=(1,))
    x = 3.0 + jax.random.normal(jax.random.key(0), (16, 8, 8, 3))
    variables = init(model, x)
    stem = convolve(x, variables["params"]["Conv_0"]["kernel"], 1)
    _, new = apply(model, variables, x, train=True, mutable=["batch_stats"])
    statistics = new["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * stem.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * stem.var((0, 1, 2)), rtol=1e-4)
    alone = apply(model, variables, x[:1], train=False)
    np.testing.assert_allclose(alone, apply(model, variables, x, train=False)[:1], rtol=1e-4, atol=1e-5)


def test_cnn_takes_digits_with_and_without_a_channel_axis(strict_dtypes):
    model = models.build("cnn", outputs=10, channels=[4, 8], hidden=(), dropout=())
    x = jax.random.uniform(jax.random.key(0), (3, 8, 8))
    variables = init(model, x)
    assert variables["params"]["Dense_0"]["kernel"].shape == (4 * 4 * 8, 10)
    logits = apply(model, variables, x, train=False)
    np.testing.assert_array_equal(logits, apply(model, variables, x[..., None], train=False))


@pytest.mark.parametrize(
    ("name", "options"),
    [("mlp", {"hidden": (30,)}), ("cnn", {"channels": (2, 3)}), ("resnet18", {"width": 2, "stages": (1,)})],
)
def test_a_cosine_head_gives_cosines_of_the_same_features(name, options):
    x = jax.random.normal(jax.random.key(0), (5, 8, 8, 3))
    linear, cosine = (models.build(name, outputs=4, head=head, **options) for head in ("linear", "cosine"))
    variables = init(linear, x)
    last = max(key for key in variables["params"] if key.startswith("Dense"))
    kernel = variables["params"][last]["kernel"]
    assert set(init(linear, x)["params"]) == set(init(models.build(name, outputs=4, **options), x)["params"])
    features = {last: {"kernel": jnp.eye(len(kernel)), "bias": jnp.zeros(len(kernel))}}
    wide = models.build(name, outputs=len(kernel), **options)
    h = np.asarray(apply(wide, {**variables, "params": {**variables["params"], **features}}, x, train=False))
    params = {**{k: v for k, v in variables["params"].items() if k != last}, "CosineDense_0": {"kernel": 7 * kernel}}
    assert jax.tree.structure(params) == jax.tree.structure(init(cosine, x)["params"])
    expected = h @ kernel / np.linalg.norm(h, axis=1, keepdims=True) / np.linalg.norm(kernel, axis=0, keepdims=True)
    out = apply(cosine, {**variables, "params": params}, x, train=False)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_a_t_vmf_head_is_the_cosine_bent_by_its_concentration():
    x = jax.random.normal(jax.random.key(0), (6, 5))
    cosine, bent = models.build("mlp", outputs=3, hidden=(), head="cosine"), TvMFDense(3, kappa=4.0, scale=2.0)
    kernel = init(cosine, x)["params"]["CosineDense_0"]["kernel"]
    variables = {"params": {"CosineDense_0": {"kernel": kernel}}}
    c = np.asarray(apply(cosine, {"params": {"CosineDense_0": {"kernel": kernel}}}, x, train=False))
    np.testing.assert_allclose(apply(bent, variables, x), 2 * ((1 + c) / (5 - 4 * c) - 1), rtol=1e-4, atol=1e-5)
    plain = TvMFDense(3, kappa=0.0, scale=2.0)
    np.testing.assert_allclose(apply(plain, variables, x), 2 * c, rtol=1e-5, atol=1e-6)
    ends = apply(
        bent, {"params": {"CosineDense_0": {"kernel": jnp.eye(3)}}}, jnp.eye(3) * jnp.array([[1.0], [1], [-1]])
    )
    np.testing.assert_allclose(np.diag(ends), [2, 2, -2], atol=1e-5)  # the same direction, and the opposite one
    model = models.build("mlp", outputs=3, hidden=(), head="tvmf")
    assert set(init(model, x)["params"]) == {"TvMFDense_0"}


def test_a_cosine_head_is_smooth_where_all_features_are_zero():
    model = models.build("mlp", outputs=2, hidden=(), head="cosine")
    variables = init(model, jnp.ones((1, 3)))

    def total(variables: Any, x: jax.Array) -> jax.Array:
        logits: Any = model.apply(variables, x, train=True)
        return logits.sum()

    gradient = jax.grad(total, (0, 1))(variables, jnp.zeros((2, 3)))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    np.testing.assert_array_equal(apply(model, variables, jnp.zeros((2, 3)), train=False), np.zeros((2, 2)))


def test_an_unknown_head_is_named():
    with pytest.raises(UserError, match=r"config.model.head='arc': choose one of linear, cosine, tvmf"):
        init(models.build("mlp", outputs=2, head="arc"), jnp.ones((1, 3)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mpl", {}, r"config.model.name='mpl': choose one of mlp, cnn, resnet18, resnet34, resnet50"),
        ("mlp", {"widht": 3}, r"config.model.widht=3: the model 'mlp' has no such option; it has hidden, dropout"),
        ("resnet18", {"hidden": (64,)}, r"config.model.hidden=\(64,\).*it has width, stages, dtype, conv"),
        (
            "mlp",
            {"hidden": (3, 4), "dropout": (0.5,)},
            r"config.model.dropout=\(0.5,\): give one rate for each of the 2",
        ),
        ("mlp", {"hidden": (3,), "dropout": (1.0,)}, r"config.model.dropout=\(1.0,\): rates from 0 to below 1"),
        ("mlp", {"hidden": (0,)}, r"config.model.hidden=\(0,\): at least 1"),
        ("resnet18", {"dtype": "float16"}, r"config.model.dtype='float16': choose one of float32, bfloat16"),
        ("resnet18", {"conv": "fft"}, r"config.model.conv='fft': choose one of auto, cpu, winograd, explicit, matmul"),
        ("resnet18", {"stages": ()}, r"config.model.stages=\(\): at least 1"),
    ],
)
def test_mistakes_name_the_key_and_the_way_out(name, options, message):
    with pytest.raises(UserError, match=message):
        models.build(name, outputs=1, **options)


@pytest.mark.parametrize(
    ("name", "weights"), [("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032)]
)
def test_resnets_for_natural_images_have_torchvisions_number_of_weights(name, weights):
    model = models.build(name, outputs=1000, stem="imagenet")
    variables = jax.eval_shape(lambda: models.init(model, jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    assert count(variables["params"]) == weights


def test_mean_pooling_lets_the_cnn_take_any_size():
    model = models.build("cnn", outputs=3, channels=(2, 4), pooling="mean")
    variables = init(model, jnp.zeros((1, 8, 8, 3)))
    x = jax.random.normal(jax.random.key(0), (2, 21, 30, 3))
    features = apply(models.build("cnn", outputs=3, channels=(2, 4)), variables, x, train=False, features=True)
    head = variables["params"]["Dense_0"]
    expected = np.asarray(features).reshape(2, 11, 15, 4).mean((1, 2)) @ np.asarray(head["kernel"])
    np.testing.assert_allclose(apply(model, variables, x, train=False), expected, rtol=1e-4, atol=1e-5)


SHAPES = {
    "digits": (8, 8, 1),
    "cifar10": (32, 32, 3),
    "images": (32, 32, 3),
    "faces": (32, 32, 3),
    "celeba": (32, 32, 3),
}


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18", "resnet34", "resnet50"])
def test_every_configuration_takes_every_model_that_its_data_has(name):
    seen = set()
    for task in config_files.own_files():
        config = config_files.load(task)
        config_lib.change(config, {"model.name": name})
        section = config_lib.validate(config).model.to_dict()
        model = models.build(**section, outputs=3)
        x = jnp.zeros((1, *SHAPES.get(task, (12,))))
        if (model, x.shape) in seen:
            continue
        seen.add((model, x.shape))
        begin = lambda model=model, x=x: model.init(jax.random.key(0), x, train=False)  # noqa: E731
        if task in SHAPES or name == "mlp":
            jax.eval_shape(begin)
            if name in ("resnet34", "resnet50"):
                assert (model.width, model.stages) == (64, (3, 4, 6, 3))  # images.py's own network is narrow
            if task in ("faces", "celeba"):
                assert model.head == "cosine"
        else:
            with pytest.raises(UserError, match=r"is for images, and these examples are \[12\]: choose mlp"):
                jax.eval_shape(begin)
