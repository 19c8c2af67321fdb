"""The models, by the names that `config.model.name` takes."""

import inspect
from typing import Any

import flax.linen as nn

from mbjax.models.cnn import CNN
from mbjax.models.conv import CONV_OPTION, automatic
from mbjax.models.mlp import MLP
from mbjax.models.resnet import ResNet
from mbjax.models.scattering_net import ScatteringNet
from mbjax.options import Option
from mbjax.registry import Registry
from mbjax.types import UserError

MODELS = Registry[Any]("mbjax.models", {"mlp": MLP, "cnn": CNN, "resnet18": ResNet, "scattering": ScatteringNet})
"""Each model's class, or a function that takes `outputs` and the model's options and gives a module.

A module may have a frozen part: `stem(x) -> features`, without weights, and `behind(features, labels)`, a module with
the same weights that is called with features; it may learn constants of those of the training part. Training then
computes the features once (`mbjax.train.frozen`); the attribute `views` says of how many views of each example.
"""
NAME_OPTION = Option("name", "mlp", MODELS.kind, "which model; the other keys are its own")


def build(name: str, *, outputs: int, platform: str | None = None, **options: Any) -> nn.Module:
    """The model `name`, called as `module(x, train=...)` and giving logits `[n, outputs]`.

    Args:
      name: a key of `MODELS`.
      outputs: logits.
      platform: what it is compiled for, `"cpu"`, `"gpu"` or `"cuda"`, `"tpu"`, which decides what `conv="auto"` is. If
        None, JAX's default backend does, whenever it is traced.
      **options: the model's attributes. One that it does not have is dropped where it is unset (None, "" or ()), so
        that one config section serves every model.

    Raises:
      UserError: an unknown name, or an option that the model does not have or whose value is out of range.
    """
    model = MODELS.find(name, "config.model.name")
    known = [option for option in inspect.signature(model).parameters if option not in ("outputs", "parent", "name")]
    for option, value in options.items():
        if option not in known and value not in (None, "", (), []):
            raise UserError(
                f"config.model.{option}={value!r}: the model {name!r} has no such option; it has {', '.join(known)}"
            )
    # Lists become tuples, for a module is hashable; what is unset leaves the model's default.
    kept = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items() if k in known and v not in (None, "")}
    own = MODELS.options(name, "config.model.name")
    if platform and "conv" in known and CONV_OPTION in own and kept.get("conv", "auto") == "auto":
        kept["conv"] = automatic(platform)
    return model(outputs=outputs, **kept)
