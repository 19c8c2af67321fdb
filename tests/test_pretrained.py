"""Weights from files in torchvision's names: torchvision's own outputs, new heads, one clear line for each error."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from mbjax import augment, models, train
from mbjax import config as config_lib
from mbjax.models import pretrained
from mbjax.types import UserError
from tests.models.resnets import seeded

EXPECTED = np.load(pathlib.Path(__file__).parent / "models" / "resnets" / "expected.npz")
SMALL: dict[str, Any] = {"width": 4, "stages": (1, 1), "stem": "imagenet"}
NETWORKS = {"resnet18": ("resnet18", {}), "bottleneck": ("resnet50", {"stages": (1, 2, 1, 1)})}


def torch_shapes(model: Any, classes: int = 3) -> dict[str, tuple[int, ...]]:
    """The tensors that PyTorch has of a network, with a last layer of `classes` outputs."""
    x = jnp.zeros((1, 33, 33, 3))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))["params"]
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (conv, norm) in enumerate(pretrained.layer_names(model.stages, bottleneck=model.bottleneck)):
        height, width, inputs, outputs = params[f"Conv_{number}"]["kernel"].shape
        shapes[f"{conv}.weight"] = (outputs, inputs, height, width)
        shapes |= {f"{norm}.{name}": (outputs,) for name in ("weight", "bias", "running_mean", "running_var")}
    return {**shapes, "fc.weight": (classes, params["Dense_0"]["kernel"].shape[0]), "fc.bias": (classes,)}


def write(path: pathlib.Path, name: str = "resnet18", *, without: str = "", more: Any = None, **options: Any) -> str:
    """A file of seeded weights of a small network."""
    model = models.build(name, outputs=3, **{**SMALL, **options})
    tensors = {**seeded.weights(torch_shapes(model).items()), **(more or {})}
    save_file({name: array for name, array in tensors.items() if name != without}, path)
    return str(path)


def blank(model: Any, channels: int = 3) -> Any:
    """A network's variables, all zero."""
    x = jnp.zeros((1, 33, 33, channels))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), dict(shapes))


def start(file: str, *, outputs: int = 3, channels: int = 3, **options: Any) -> Any:
    """The variables of a small network that takes its weights from a file; what stays its own is zero."""
    model = models.build("resnet18", outputs=outputs, pretrained=file, **{**SMALL, **options})
    return pretrained.load(file, model, blank(model, channels))


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_statistics_are_torchvisions(tmp_path, name):
    shapes = [
        (key, json.loads(shape.replace("(", "[").replace(",)", "]").replace(")", "]")))
        for key, shape in zip(EXPECTED[f"{name}/names"], EXPECTED[f"{name}/shapes"], strict=True)
    ]
    tensors = seeded.weights((str(key), tuple(shape)) for key, shape in shapes)
    # As PyTorch saves them, with counters that are no weights.
    save_file({**tensors, "bn1.num_batches_tracked": np.array(7)}, tmp_path / "w.safetensors")
    network, options = NETWORKS[name]
    model = models.build(
        network, outputs=seeded.CLASSES, stem="imagenet", pretrained=str(tmp_path / "w.safetensors"), **options
    )
    x = augment.to_float(jnp.asarray(seeded.pixels()))
    variables = pretrained.load(model.pretrained, model, blank(model))
    assert jax.tree.structure(variables) == jax.tree.structure(blank(model))

    @jax.jit
    def both(variables: Any, x: jax.Array) -> Any:
        test = model.apply(variables, x, train=False)
        return test, model.apply(variables, x, train=True, mutable=["batch_stats"])

    test, (trained, state) = both(variables, x)
    for logits, expected in ((test, EXPECTED[f"{name}/test"]), (trained, EXPECTED[f"{name}/train"])):
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    statistics = state["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], EXPECTED[f"{name}/mean"], rtol=1e-3, atol=1e-5)
    count = 2 * 23 * 35  # pixels after the stem's convolution: PyTorch's variance is over one fewer
    before = 0.9 * np.asarray(variables["batch_stats"]["BatchNorm_0"]["var"])
    expected = before + (EXPECTED[f"{name}/var"] - before) * (count - 1) / count
    np.testing.assert_allclose(statistics["var"], expected, rtol=1e-4)


def test_a_head_of_other_classes_is_new_and_the_rest_is_the_files(tmp_path, caplog):
    file = write(tmp_path / "w.safetensors")
    tensors = seeded.weights(torch_shapes(models.build("resnet18", outputs=3, **SMALL)).items())
    with caplog.at_level("INFO", logger="mbjax"):
        own = start(file)
        assert not caplog.records
        other = start(file, outputs=5)
        start(file, outputs=5)
    assert [record.getMessage() for record in caplog.records] == [
        f"{file}: all layers but the last, which is new (3 outputs there, 5 here)"
    ]
    np.testing.assert_array_equal(own["params"]["Dense_0"]["kernel"], tensors["fc.weight"].T)
    assert not np.any(other["params"]["Dense_0"]["kernel"])
    # A cosine head has no weights of that kind, and an embedding comes between, though it is as long.
    assert not np.any(start(file, head="cosine")["params"]["CosineDense_0"]["kernel"])
    assert not np.any(start(file, embedding=8)["params"]["Dense_0"]["kernel"])
    for part in ("params", "batch_stats"):
        for layer in own[part].keys() - {"Dense_0"}:
            jax.tree.map(np.testing.assert_array_equal, own[part][layer], other[part][layer])
    # A network begins with them, whatever draws the rest.
    model, x = models.build("resnet18", outputs=3, pretrained=file, **SMALL), jnp.zeros((1, 33, 33, 3))
    jax.tree.map(np.testing.assert_array_equal, jax.jit(lambda: models.init(model, jax.random.key(0), x))(), own)


def test_pixels_are_normalised_for_pretrained_weights_unless_told_otherwise():
    def normalizes(**options: Any) -> bool:
        return models.build("resnet18", outputs=2, **options).normalizes

    assert normalizes(pretrained="w.safetensors")  # which need not be there to predict
    assert normalizes(normalize="imagenet")
    assert not normalizes()
    assert not normalizes(pretrained="w.safetensors", normalize="none")


NAN = {"layer1.0.bn1.bias": np.full(4, np.nan, np.float32)}
WIDE = {"layer1.0.conv1.weight": np.zeros((4, 9, 3, 3), np.float32)}


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({"without": "layer2.0.downsample.1.running_var"}, {}, "has no tensor layer2.0.downsample.1.running_var"),
        ({"more": WIDE}, {}, r"layer1.0.conv1.weight is \[4, 9, 3, 3\], this network needs \[4, 4, 3, 3\]"),
        ({"more": NAN}, {}, "layer1.0.bn1.bias has values that are not finite: get the file again"),
        ({"without": "fc.bias"}, {}, "has no tensor fc.bias"),
        ({}, {"stages": (1, 2)}, r'is of another network: set --config.model.stages="\(1, 1\)"$'),
        ({}, {"width": 8, "stem": "cifar"}, r"network: set --config.model.width=4 --config.model.stem=imagenet$"),
        (
            {"name": "resnet50"}, {},
            r'set --config.model.name=resnet50 --config.model.width=4 --config.model.stages="\(1, 1\)"$',
        ),
        ({"stages": (3, 4, 6, 3)}, {}, "network: set --config.model.name=resnet34 --config.model.width=4$"),
        ({"without": "layer1.0.conv1.weight"}, {}, r"holds no ResNet in torchvision's names \(its tensors are bn1"),
        ({}, {"channels": 1}, "ImageNet's mean is of 3 channels, and these images have 1: set --config.model"),
        ({}, {"channels": 1, "normalize": "none"}, r"conv1.weight is \[4, 3, 7, 7\], this network needs \[4, 1,"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(tmp_path, given, options, message):
    file = write(tmp_path / "w.safetensors", **given)
    with pytest.raises(UserError, match=message) as error:
        start(file, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is no whole safetensors file"),
        (b"PK\x03\x04 a pickle of PyTorch's", "is no whole safetensors file .* with safetensors.torch.save"),
        ("cut", "is no whole safetensors file"),
    ],
)  # fmt: skip
def test_a_damaged_file_claims_no_folder(tmp_path, content, message):
    file = tmp_path / "w.safetensors"
    if content == "cut":
        content = pathlib.Path(write(file)).read_bytes()[:-5]
    if content is not None:
        file.write_bytes(content)
    config = config_lib.base()
    config_lib.change(config, {"model.name": "resnet18", **{f"model.{key}": value for key, value in SMALL.items()}})
    config.model.update(pretrained=str(file), normalize="none")  # of digits, which are grey
    with pytest.raises(UserError, match=message) as error:
        train.train_and_evaluate(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "config.json").exists()


def test_other_models_have_no_such_option():
    with pytest.raises(UserError, match=r"config.model.pretrained='w.safetensors': the model 'cnn' has no such option"):
        models.build("cnn", outputs=2, pretrained="w.safetensors")
