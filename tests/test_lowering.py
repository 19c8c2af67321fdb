"""Every compiled step is lowered for accelerators that this machine does not have: no choice for a CPU is in it.

Lowering needs shapes alone, so the networks are as narrow as can be, and nothing is compiled or run. The eight devices
are abstract.
"""

import re
from typing import Any

import jax
import numpy as np
import pytest
from jax import export
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from mbjax import config as config_lib
from mbjax import methods, models, train
from mbjax.devices import parallel
from mbjax.train.updates import make_advance
from mbjax.types import Dataset, Split

PLATFORMS = ("cuda", "tpu")
DEVICES, PAIRS = 8, 8
RESNET = {"name": "resnet18", "width": 2, "stages": (1,), "stem_stride": 2, "conv": "auto", "head": "linear"}
LAYERS = 3  # convolutions of 3×3 in it
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "hidden": (8, 6), "dropout": (0.5, 0.0), "head": "linear"},
    "resnet": {**RESNET, "dtype": "float32"},
    "bfloat16": {**RESNET, "dtype": "bfloat16"},
    "faces": {**RESNET, "head": "cosine", "embedding": 4},
}
CASES = [
    *(("mlp", name, devices) for name in methods.BUILT_IN if name != "m2m" for devices in (1, DEVICES)),  # m2m: images
    *(("resnet", name, 1) for name in methods.BUILT_IN),
    *(("bfloat16", name, DEVICES) for name in methods.BUILT_IN),
    ("resnet", "metabalance", DEVICES),
    ("bfloat16", "metabalance", 1),
    *(("faces", name, devices) for name in ("erm", "metabalance") for devices in (1, DEVICES)),  # its rows' methods
]


def dataset_of(network):
    rng = np.random.default_rng(0)
    y = (np.arange(60) % 3).astype(np.int32)
    x = rng.normal(size=(60, 5)).astype(np.float32) if network == "mlp" else np.zeros((60, 8, 8, 3), np.uint8)
    faces = {"groups": ("one", "other"), "kind": "identification"} if network == "faces" else {}
    split = Split(x, y, (y == 0).astype(np.int32) if faces else None)
    return Dataset({"train": split, "test": split}, ("a", "b", "c"), "zeros", **faces)


def config_of(network, method, **changed):
    config = config_lib.identification() if network == "faces" else config_lib.base()
    config.model = NETWORKS[network]
    config.update(task=network, method=method, updates=10)
    config.meta.steps = PAIRS
    for stream in config_lib.STREAMS:
        config[stream].update(batch_size=8, augment="crop_flip" if network == "faces" else "none")
    config.clean.share = 0.2
    config.update_from_flattened_dict(changed)
    return config_lib.validate(config)


@pytest.fixture
def lower(monkeypatch):
    """`lower(config, devices, platform="cuda") -> text`: the updates of a run, as they are handed to XLA.

    Whoever asks for the default backend on the way makes a choice by the machine that lowers.
    """

    def refuse():
        raise AssertionError("a choice by the default backend, in what is lowered for another platform")

    def mesh_of(*_, pairs=None, **work):
        groups = 1 if pairs is None else parallel.count_groups(DEVICES, pairs)
        shape, names = (groups, DEVICES // groups), (parallel.AXIS, parallel.BATCH)
        return AbstractMesh(shape, names, axis_types=(AxisType.Auto, AxisType.Auto))  # as those of jax.sharding.Mesh

    def text(config, devices=1, platform="cuda"):
        with monkeypatch.context() as patch:
            patch.setattr(jax, "default_backend", refuse)
            patch.setattr(parallel, "choose_mesh", mesh_of if devices > 1 else lambda *_, **work: None)
            experiment = train.build(config, dataset_of(config.task), platform=platform)
            advance: Any = make_advance(experiment.method, 2)
            exported = export.export(advance, platforms=PLATFORMS)(*arguments(experiment))
        assert exported.platforms == PLATFORMS
        assert exported.nr_devices == devices
        return exported.mlir_module()

    return text


def arguments(experiment):
    """What `advance` is called with, as shapes: state, examples, rows and the number of updates."""
    mesh = experiment.method.mesh

    def abstract(array, *spec):
        spread = mesh and NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=spread)

    state = jax.tree.map(abstract, jax.eval_shape(experiment.method.init, 0))
    examples = {
        name: {key: abstract(array) for key, array in {"x": stream.x, **stream.labels}.items()}
        for name, stream in experiment.streams.items()
    }
    rows = {
        name: abstract(np.zeros((2, *shape), np.int32), None, *(parallel.AXIS, parallel.BATCH)[2 - len(shape) :])
        for name, shape in experiment.shapes.items()
    }
    return state, examples, rows, abstract(np.int32(0))


def check(text, network, method):
    """Raises unless the update is what an accelerator should be given.

    Convolutions have the gradients that JAX gives them, and are not those of many pairs in one; an MLP's pairs are all
    in one product.
    """
    forms = re.findall(r"stablehlo\.convolution\(.*?dim_numbers = (.*?), window", text)
    if network == "mlp":
        assert not forms
        assert bool(re.search(r"dot_general .*batching_dims = \[0\] x \[0\]", text)) == (method == "metabalance")
        return
    of_kernel = "[f, 0, 1, b]x[i, 0, 1, o]->[0, 1, b, f]"
    assert forms.count(of_kernel) >= LAYERS
    assert set(re.findall(r"feature_group_count = (\d+)", text)) == {"1"}
    assert "optimization_barrier" not in text
    assert ("bf16" in text) == (network == "bfloat16")


@pytest.mark.parametrize(("network", "method", "devices"), CASES)
def test_every_update_is_lowered_for_accelerators(lower, network, method, devices):
    text = lower(config_of(network, method), devices)
    check(text, network, method)
    assert f"mhlo.num_partitions = {devices} : i32" in text


@pytest.mark.parametrize("grad_mode", ["first_order", "reverse"])
def test_every_order_of_the_gradient_is_lowered(lower, grad_mode):
    config = config_of("resnet", "metabalance", **{"meta.grad_mode": grad_mode, "meta.warmup": 0.5})
    check(lower(config), "resnet", "metabalance")


@pytest.mark.parametrize(
    ("method", "changed", "platform"),
    [
        ("erm", {}, "cpu"),
        *(("erm", {"model.conv": name}, "cuda") for name in ("explicit", "winograd", "matmul")),
        ("metabalance", {"meta.pairs_per_chunk": 4}, "cuda"),
    ],
)
def test_a_choice_for_a_cpu_is_seen(lower, method, changed, platform):
    text = lower(config_of("resnet", method, **changed), platform=platform)
    with pytest.raises(AssertionError):
        check(text, "resnet", method)


def test_a_choice_by_the_machine_that_lowers_is_seen(lower, monkeypatch):
    monkeypatch.setattr(models, "automatic", lambda platform: "auto")
    with pytest.raises(AssertionError, match="a choice by the default backend"):
        lower(config_of("resnet", "erm"))
