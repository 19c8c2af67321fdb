"""ONNX: raw columns or uint8 images in, calibrated probabilities out, for any number of rows.

mbjax has a closed set of layers, so the graph is written out layer by layer, with no converter in between.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mbjax import models
from mbjax.data.arrays import Arrays
from mbjax.data.tables.columns import TableColumns
from mbjax.data.tables.numbers import Coefficients
from mbjax.models.heads import TvMFDense
from mbjax.models.resnet import IMAGENET_MEAN, IMAGENET_STD
from mbjax.predict import Predictor
from mbjax.types import PyTree, UserError

_OPSET, _ML_OPSET = 17, 3


def to_onnx(predictor: Predictor) -> bytes:
    """The predictor as an ONNX model.

    Its inputs are, of a table, one for each column under its name, `[n, 1]`: double for numbers (NaN where missing), a
    string for categories (empty where missing; bools are `"True"` and `"False"`); of arrays and images `x`,
    `[n, *shape]`. Its output is `probabilities`, `[n, classes]` double, at the training priors, as `predict_proba`
    gives them. The class names are in the model's metadata, joined by line breaks.

    Raises:
      UserError: the package `onnx` is not installed, or a model that has no ONNX form here.
    """
    try:
        import onnx
        from onnx import helper
    except ImportError:
        raise UserError("the package onnx is needed: pip install 'mbjax[export]'") from None
    graph = _Graph(helper, predictor.variables)
    x = (
        graph.table(predictor.preprocessing)
        if isinstance(predictor.preprocessing, TableColumns)
        else graph.array(predictor.preprocessing)
    )
    name = predictor.model["name"]
    if name not in _NETWORKS:
        raise UserError(f"the model {name!r} cannot be written as ONNX (only {', '.join(_NETWORKS)}): use StableHLO")
    z = _NETWORKS[name](graph, x, predictor.model)
    graph.probabilities(z, predictor)
    output = helper.make_tensor_value_info("probabilities", onnx.TensorProto.DOUBLE, ["n", len(predictor.classes)])
    made = helper.make_model(
        helper.make_graph(graph.nodes, "mbjax", graph.inputs, [output], graph.constants),
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)],
        producer_name="mbjax",
    )
    made.ir_version = 8  # of the opset's time: newer ones some runtimes do not read yet
    helper.set_model_props(made, {"classes": "\n".join(predictor.classes)})
    onnx.checker.check_model(made)
    return made.SerializeToString()


class _Graph:
    """Nodes, inputs and constants of a graph that grows; values go by their names."""

    def __init__(self, helper: Any, variables: PyTree):
        self.nodes, self.inputs, self.constants = [], [], []
        self._helper, self._params = helper, variables["params"]
        self._stats: Mapping[str, Any] = variables.get("batch_stats", {})

    def add(self, kind: str, *values: str, name: str = "", **attributes: Any) -> str:
        """A node's output."""
        name = name or f"v{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(kind, list(values), [name], **attributes))
        return name

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        array = np.ascontiguousarray(array, dtype)
        name = f"c{len(self.constants)}"
        kind = self._helper.np_dtype_to_tensor_dtype(array.dtype)
        self.constants.append(self._helper.make_tensor(name, kind, array.shape, array.tobytes(), raw=True))
        return name

    def cast(self, x: str, dtype: Any) -> str:
        return self.add("Cast", x, to=self._helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def _input(self, name: str, dtype: Any, shape: tuple[int, ...]) -> str:
        kind = self._helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.inputs.append(self._helper.make_tensor_value_info(name, kind, ["n", *shape]))
        return name

    def table(self, columns: TableColumns) -> str:
        """The features of a table's columns, `[n, features]`."""
        parts = []
        if columns.numbers:
            x = [self._input(number.name, np.float64, (1,)) for number in columns.numbers]
            x = self.cast(self.add("Concat", *x, axis=1), columns.dtype)
            x = self.scaled(x, Coefficients.of(columns.numbers, columns.dtype), columns.dtype)
            parts.append(self.cast(x, np.float32))
        for category in columns.categories:
            places = {**category.places, "": category.missing}
            place = self.add(
                "LabelEncoder", self._input(category.name, np.dtype(object), (1,)), domain="ai.onnx.ml",
                keys_strings=list(places), values_int64s=list(places.values()), default_int64=-1,
            )  # fmt: skip
            here = self.add("Equal", place, self.constant(np.arange(category.width)[None], np.int64))
            parts.append(self.cast(here, np.float32))
        return self.add("Concat", *parts, axis=1)

    def scaled(self, x: str, of: Coefficients, dtype: str) -> str:
        """`Coefficients.apply`, missing values filled first."""
        row = lambda values: self.constant(values[None], dtype)  # noqa: E731
        x = self.add("Where", self.add("IsNaN", x), row(of.fill), x)
        x = self.add("Mul", self.add("Div", self.add("Sub", x, row(of.shift)), row(of.scale)), row(of.factor))
        if np.isfinite(of.limit).any():
            x = self.add("Max", self.add("Min", x, row(of.limit)), row(-of.limit))
        if np.isfinite(of.smooth).any():
            share = self.add("Div", x, row(of.smooth))
            root = self.add("Sqrt", self.add("Add", self.add("Mul", share, share), self.constant([1], dtype)))
            x = self.add("Div", x, root)
        if of.is_encoded:
            x = self.add("Gather", x, self.constant(of.column, np.int64), axis=1)
            x = self.add("Div", self.add("Sub", x, row(of.start)), row(of.length))
            x = self.add("Max", self.add("Min", x, row(of.most)), row(of.least))
        return x

    def array(self, arrays: Arrays) -> str:
        """Arrays as they are, images from -1 to 1."""
        x = self._input("x", np.dtype(arrays.dtype), arrays.shape)
        if arrays.dtype != "uint8":
            return x
        x = self.add("Div", self.cast(x, np.float32), self.constant(127.5))
        return self.add("Sub", x, self.constant(1.0))

    def param(self, *names: str) -> np.ndarray:
        """A weight of the network."""
        return np.asarray(functools.reduce(lambda tree, name: tree[name], names, self._params))

    def dense(self, x: str, name: str) -> str:
        layer = self._params[name]
        x = self.add("MatMul", x, self.constant(layer["kernel"]))
        return self.add("Add", x, self.constant(layer["bias"])) if "bias" in layer else x

    def conv(self, x: str, name: str, stride: int = 1) -> str:
        kernel = np.transpose(self._params[name]["kernel"], (3, 2, 0, 1))
        pad = kernel.shape[2] // 2
        return self.add("Conv", x, self.constant(kernel), pads=[pad] * 4, strides=[stride] * 2)

    def norm(self, x: str, name: str) -> str:
        layer, stats = self._params[name], self._stats[name]
        values = (layer["scale"], layer["bias"], stats["mean"], stats["var"])
        return self.add("BatchNormalization", x, *map(self.constant, values), epsilon=1e-5)

    def head(self, x: str, model: Mapping[str, Any], dense: str) -> str:
        if model.get("head") == "tvmf":
            layer, one = TvMFDense(1), self.constant(1.0)
            cosines = self.cosines(x, self._params["TvMFDense_0"]["CosineDense_0"]["kernel"])
            below = self.add("Mul", self.add("Sub", one, cosines), self.constant(layer.kappa))
            similarity = self.add("Div", self.add("Add", one, cosines), self.add("Add", one, below))
            return self.add("Mul", self.add("Sub", similarity, one), self.constant(layer.scale))
        if model.get("head") == "cosine":
            return self.cosines(x, self._params["CosineDense_0"]["kernel"])
        return self.dense(x, dense)

    def cosines(self, x: str, kernel: Any) -> str:
        kernel = np.asarray(kernel, np.float64)
        kernel = kernel / np.sqrt(np.maximum((kernel**2).sum(0, keepdims=True), 1e-12))
        length = self.add("ReduceSum", self.add("Mul", x, x), self.constant([1], np.int64), keepdims=1)
        length = self.add("Sqrt", self.add("Max", length, self.constant(1e-12)))
        return self.add("MatMul", self.add("Div", x, length), self.constant(kernel))

    def channels_first(self, x: str, rank: int) -> str:
        if rank == 2:
            x = self.add("Unsqueeze", x, self.constant([3], np.int64))
        return self.add("Transpose", x, perm=[0, 3, 1, 2])

    def probabilities(self, z: str, predictor: Predictor) -> None:
        z = self.cast(z, np.float64)
        if len(predictor.classes) == 2:
            z = self.add("Concat", self.add("Mul", z, self.constant(0.0, np.float64)), z, axis=1)
        z = self.add("Div", z, self.constant(predictor.temperature, np.float64))
        offsets = np.log(predictor.priors) - np.log(predictor.sampled_priors)
        z = self.add("Add", z, self.constant(offsets[None], np.float64))
        self.add("Softmax", z, name="probabilities", axis=1)


def _scaled(graph: _Graph, x: str, model: Mapping[str, Any]) -> str:
    """What comes before the hidden layers of an MLP, `[n, d]`."""
    x = graph.add("Flatten", x)
    return graph.add("Mul", x, graph.constant(graph.param("Scale_0", "scale"))) if model.get("scaling_layer") else x


def _body(graph: _Graph, x: str, model: Mapping[str, Any]) -> str:
    """The hidden layers of an MLP, of `[..., d]`."""
    activation = _ACTIVATIONS[model.get("activation", "relu")]
    for layer in range(len(model.get("hidden", (64,)))):
        x = graph.dense(x, f"Dense_{layer}")
        y = activation(graph, x)
        if model.get("parametric"):
            alpha = graph.constant(graph.param(f"Parametric_{layer}", "alpha"))
            y = graph.add("Add", x, graph.add("Mul", graph.add("Sub", y, x), alpha))
        x = y
    return x


def _gelu(graph: _Graph, x: str) -> str:
    share = graph.add("Erf", graph.add("Mul", x, graph.constant(0.5**0.5)))
    return graph.add("Mul", graph.add("Mul", x, graph.constant(0.5)), graph.add("Add", share, graph.constant(1.0)))


_ACTIVATIONS: dict[str, Callable[[_Graph, str], str]] = {
    "relu": lambda graph, x: graph.add("Relu", x),
    "selu": lambda graph, x: graph.add("Selu", x),
    "silu": lambda graph, x: graph.add("Mul", x, graph.add("Sigmoid", x)),
    "gelu": _gelu,
    "mish": lambda graph, x: graph.add("Mul", x, graph.add("Tanh", graph.add("Softplus", x))),
}


def _mlp(graph: _Graph, x: str, model: Mapping[str, Any]) -> str:
    x = _body(graph, _scaled(graph, x, model), model)
    return graph.head(x, model, f"Dense_{len(model.get('hidden', (64,)))}")


def _tabm(graph: _Graph, x: str, model: Mapping[str, Any]) -> str:
    if model.get("members", 32) == 1:
        return _mlp(graph, x, model)
    x = graph.add("Unsqueeze", _scaled(graph, x, model), graph.constant([0], np.int64))
    x = graph.add("Mul", x, graph.constant(graph.param("adapter")[:, None]))
    x = graph.add("MatMul", _body(graph, x, model), graph.constant(graph.param("head_kernel")))
    z = graph.cast(graph.add("Add", x, graph.constant(graph.param("head_bias")[:, None])), np.float64)
    if model["outputs"] == 1:
        z = graph.add("Concat", graph.add("Mul", z, graph.constant(0.0, np.float64)), z, axis=2)
    log_p = graph.add("ReduceLogSumExp", graph.add("LogSoftmax", z, axis=2), axes=[0], keepdims=0)
    if model["outputs"] > 1:  # times the number of members, which softmax divides out
        return log_p
    pick = lambda place: graph.add("Gather", log_p, graph.constant([place], np.int64), axis=1)  # noqa: E731
    return graph.add("Sub", pick(1), pick(0))


def _cnn(graph: _Graph, x: str, model: Mapping[str, Any]) -> str:
    x = graph.channels_first(x, _rank(graph))
    for layer in range(len(model.get("channels", (16, 32)))):
        x = graph.conv(x, f"Conv_{layer}", stride=1 if layer == 0 else 2)
        x = graph.add("Relu", graph.norm(x, f"BatchNorm_{layer}"))
    if model.get("pooling") == "mean":
        x = graph.add("ReduceMean", x, axes=[2, 3], keepdims=0)
    else:
        x = graph.add("Flatten", graph.add("Transpose", x, perm=[0, 2, 3, 1]))
    return graph.head(x, model, "Dense_0")


def _resnet(graph: _Graph, x: str, model: Mapping[str, Any]) -> str:
    network: Any = models.build(**model)  # its attributes, with the defaults of what the description leaves out
    layer = 0

    def conv_norm(x: str, stride: int = 1) -> str:
        nonlocal layer
        x = graph.norm(graph.conv(x, f"Conv_{layer}", stride), f"BatchNorm_{layer}")
        layer += 1
        return x

    x = graph.channels_first(x, _rank(graph))
    if network.normalizes:
        mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in (IMAGENET_MEAN, IMAGENET_STD))
        x = graph.add("Mul", x, graph.constant(0.5 / std))
        x = graph.add("Add", x, graph.constant((0.5 - mean) / std))
    large = network.stem == "imagenet"
    x = graph.add("Relu", conv_norm(x, 2 if large else network.stem_stride))
    if large:
        x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage, blocks in enumerate(network.stages):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            y = graph.add("Relu", conv_norm(x, 1 if network.bottleneck else stride))
            y = conv_norm(y, stride if network.bottleneck else 1)
            if network.bottleneck:
                y = conv_norm(graph.add("Relu", y))
            if block == 0 and (stage > 0 or network.bottleneck):  # where the number of channels changes
                x = conv_norm(x, stride)
            x = graph.add("Relu", graph.add("Add", x, y))
    x = graph.add("ReduceMean", x, axes=[2, 3], keepdims=0)
    if network.embedding:
        x = graph.norm(graph.dense(x, "embedding_layer"), f"BatchNorm_{layer}")
    return graph.head(x, model, "Dense_0")


def _rank(graph: _Graph) -> int:
    return len(graph.inputs[0].type.tensor_type.shape.dim) - 1


_NETWORKS = {
    **{"mlp": _mlp, "tabm": _tabm, "cnn": _cnn},
    **{"resnet18": _resnet, "resnet34": _resnet, "resnet50": _resnet},
}
