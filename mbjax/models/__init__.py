"""The models, by the names that `config.model.name` takes."""

import inspect
from typing import Any

import flax.linen as nn
import jax

from mbjax.models import pretrained
from mbjax.models.cnn import CNN
from mbjax.models.conv import CONV_OPTION, automatic
from mbjax.models.mlp import MLP, UNSET
from mbjax.models.resnet import ResNet, ResNet34, ResNet50
from mbjax.models.scattering_net import ScatteringNet
from mbjax.models.tabm import TabM
from mbjax.options import Option
from mbjax.registry import Registry
from mbjax.types import PyTree, UserError

MODELS = Registry[Any](
    "mbjax.models",
    {
        **{"mlp": MLP, "cnn": CNN, "resnet18": ResNet, "resnet34": ResNet34, "resnet50": ResNet50},
        **{"scattering": ScatteringNet, "tabm": TabM},
    },
)
"""Each model's class, or a function that takes `outputs` and the model's options and gives a module.

A module may have a frozen part, without weights: `learn_stem(x, labels) -> known`, arrays by name that it learns of the
training part before training, or none; `frozen_stem(x, known) -> features`; and `behind(features, labels, known)`, a
module with the same weights that is called with features. What that one learns of those of the training part, and
`known`, are its variables `stem`. Training then computes the features once (`mbjax.train.frozen`); the attribute
`views` says of how many views of each example.
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
        if option not in known and value not in (None, "", (), []) and value != UNSET.get(option):
            raise UserError(
                f"config.model.{option}={value!r}: the model {name!r} has no such option; it has {', '.join(known)}"
            )
    # Lists become tuples, for a module is hashable; what is unset leaves the model's default.
    kept = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items() if k in known and v not in (None, "")}
    own = MODELS.options(name, "config.model.name")
    if platform and "conv" in known and CONV_OPTION in own and kept.get("conv", "auto") == "auto":
        kept["conv"] = automatic(platform)
    return model(outputs=outputs, **kept)


def init(model: nn.Module, rng: jax.Array, x: Any) -> dict[str, PyTree]:
    """The variables that training starts from, `{"params": …, "batch_stats": …}`.

    Args:
      model: as `model.apply(variables, x, train=False)`. Of one whose attribute `pretrained` names a file, they are
        those of the file: see `mbjax.models.pretrained.load`.
      rng: of all that is drawn.
      x: inputs of one example, for the shapes.

    Raises:
      UserError: inputs that the model is not for, or a file that does not fit it.
    """
    variables = dict(model.init(rng, x, train=False))
    file = getattr(model, "pretrained", "")
    return pretrained.load(file, model, variables) if file else variables
