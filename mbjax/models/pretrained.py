"""Weights from a safetensors file in torchvision's names, which timm's ResNets share; nothing is downloaded.

`safetensors.torch.save_file(network.state_dict(), "resnet18.safetensors")` writes such a file.
"""

import functools
import logging
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors

from mbjax.types import PyTree, UserError, first_line

log = logging.getLogger("mbjax")
_SCALES = {"scale": "weight", "bias": "bias"}  # flax's names of BatchNorm's parameters and statistics, and PyTorch's
_STATISTICS = {"mean": "running_mean", "var": "running_var"}
_PUBLISHED: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
}


def load(file: str, model: Any, variables: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """The variables of a ResNet with the weights and the running statistics of a file.

    The last layer is the file's if that has as many outputs and follows the same layer; else it stays as it is, and so
    does an embedding.

    Args:
      file: its path, absolute or relative to the working directory.
      model: a `mbjax.models.resnet.ResNet`.
      variables: its own, `{"params": …, "batch_stats": …}`.

    Raises:
      UserError: a file that cannot be read, is of another network, or has tensors that are missing, of another shape
        or not finite.
    """
    tensors = _Tensors(file)
    tensors.check_architecture(model)
    params, statistics = dict(variables["params"]), dict(variables["batch_stats"])
    for number, (conv, norm) in enumerate(layer_names(model.stages, bottleneck=model.bottleneck)):
        height, width, inputs, outputs = params[f"Conv_{number}"]["kernel"].shape
        kernel = tensors.take(f"{conv}.weight", (outputs, inputs, height, width))
        params[f"Conv_{number}"] = {"kernel": jnp.asarray(kernel.transpose(2, 3, 1, 0))}
        for part, names in ((params, _SCALES), (statistics, _STATISTICS)):
            read = {own: tensors.take(f"{norm}.{name}", (outputs,)) for own, name in names.items()}
            part[f"BatchNorm_{number}"] = {own: jnp.asarray(array) for own, array in read.items()}
    weight, head = tensors.shape("fc.weight"), params.get("Dense_0")
    if head and not model.embedding and weight == head["kernel"].shape[::-1]:
        kernel, bias = tensors.take("fc.weight", weight), tensors.take("fc.bias", weight[:1])
        params["Dense_0"] = {"kernel": jnp.asarray(kernel.T), "bias": jnp.asarray(bias)}
    else:
        there = f"{weight[0]} outputs" if weight else "none"
        _say(f"{file}: all layers but the last, which is new ({there} there, {model.outputs} here)")
    return {**variables, "params": params, "batch_stats": statistics}


def layer_names(stages: Sequence[int], *, bottleneck: bool) -> Iterator[tuple[str, str]]:
    """torchvision's names of each convolution and the BatchNorm after it, in the order in which `ResNet` numbers them.

    Args:
      stages: blocks of each stage.
      bottleneck: whether they are bottleneck blocks.
    """
    yield "conv1", "bn1"
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            prefix = f"layer{stage + 1}.{block}"
            yield from ((f"{prefix}.conv{k}", f"{prefix}.bn{k}") for k in range(1, 4 if bottleneck else 3))
            if block == 0 and (stage > 0 or bottleneck):
                yield f"{prefix}.downsample.0", f"{prefix}.downsample.1"


class _Tensors:
    """The tensors of a safetensors file.

    Raises:
      UserError: it cannot be read.
    """

    def __init__(self, file: str):
        self._where = f"config.model.pretrained={file!r}"
        path = pathlib.Path(file).expanduser()
        try:
            self._arrays = _read(path, path.stat().st_mtime_ns)
        except OSError as error:
            raise UserError(f"{self._where} cannot be read: {error.strerror}") from None
        except Exception as error:  # what is no safetensors file may raise anything
            raise UserError(
                f"{self._where} is no whole safetensors file ({first_line(error)}): get it again, or write one with "
                "safetensors.torch.save_file(network.state_dict(), FILE)"
            ) from None

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor; () where there is none."""
        return self._arrays[name].shape if name in self._arrays else ()

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor as float32.

        Raises:
          UserError: it is missing, of another shape, or not finite.
        """
        if name not in self._arrays:
            raise UserError(f"{self._where} has no tensor {name}, which this network needs")
        array = self._arrays[name]
        if array.shape != shape:
            raise UserError(f"{self._where}: {name} is {list(array.shape)}, this network needs {list(shape)}")
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise UserError(f"{self._where}: {name} has values that are not finite: get the file again")
        return array

    def check_architecture(self, model: Any) -> None:
        """Raises a UserError if the file is of another network; the message says how to make this one like it."""
        stem, stages = self.shape("conv1.weight"), _count_blocks(self._arrays)
        if len(stem) != 4 or not stages:
            names = ", ".join(sorted(self._arrays)[:3])
            raise UserError(
                f"{self._where} holds no ResNet in torchvision's names (its tensors are {names}, …): resnet18, "
                "resnet34 and resnet50 can be read"
            )
        bottleneck = "layer1.0.conv3.weight" in self._arrays
        there = {"width": stem[0], "stages": stages, "stem": "imagenet" if stem[2] == 7 else "cifar"}
        here = {"width": model.width, "stages": tuple(model.stages), "stem": model.stem}
        changes: dict[str, Any] = {}
        published = _PUBLISHED.get((stages, bottleneck))
        if bottleneck != model.bottleneck or (stages != here["stages"] and published):
            changes["name"] = published or ("resnet50" if bottleneck else "resnet18")
            own = next(blocks for (blocks, _), name in _PUBLISHED.items() if name == changes["name"])
            here |= {"width": 64, "stages": own}  # which it then has
        changes |= {key: value for key, value in there.items() if value != here[key]}
        if changes:
            wanted = " ".join(f"--config.model.{key}={_quoted(value)}" for key, value in changes.items())
            raise UserError(f"{self._where} is of another network: set {wanted}")


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, tuple) else str(value)


def _count_blocks(names: Collection[str]) -> tuple[int, ...]:
    """Blocks of each stage, by the names of a file's tensors."""
    stages: list[int] = []
    while f"layer{len(stages) + 1}.0.conv1.weight" in names:
        stage = f"layer{len(stages) + 1}"
        stages.append(next(k for k in range(len(names)) if f"{stage}.{k}.conv1.weight" not in names))
    return tuple(stages)


@functools.lru_cache(maxsize=1)
def _read(path: pathlib.Path, written: int) -> dict[str, np.ndarray]:
    """All tensors of a file, kept until it is written again: the weights are made more than once."""
    return safetensors.load_file(path)


@functools.cache
def _say(line: str) -> None:
    log.info(line)
