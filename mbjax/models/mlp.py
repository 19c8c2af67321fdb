"""The multi-layer perceptron of the tables."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from mbjax.models.heads import HEAD_OPTION, Head, make_head
from mbjax.options import COUNT, FLAG, SHARE_BELOW_1, Option, choice, several
from mbjax.types import UserError

Activation = Literal["relu", "selu", "silu", "gelu", "mish"]
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": nn.relu, "selu": nn.selu, "silu": nn.silu, "gelu": lambda x: nn.gelu(x, approximate=False),
    "mish": lambda x: x * jnp.tanh(nn.softplus(x)),
}  # fmt: skip

_OWN = (
    Option("activation", "relu", choice(get_args(Activation)), "of the hidden layers"),
    Option("parametric", False, FLAG, "whether each hidden unit learns how much of its activation it has"),
    Option("scaling_layer", False, FLAG, "whether each feature is first multiplied by a weight of its own"),
)
OPTIONS = (  # of config.model
    Option("hidden", (64,), several(COUNT, "whole numbers of at least 1 are needed: the units of each layer"),
           "units of each hidden layer"),
    Option("dropout", (), several(SHARE_BELOW_1, "rates from 0 to below 1 are needed"),
           "a rate after each hidden layer; none if empty"),
    *_OWN,
    HEAD_OPTION,
)  # fmt: skip
UNSET = {option.name: option.default for option in _OWN}
"""What a configuration of another network may hold, as every one does that began as an MLP's."""


class Scale(nn.Module):
    """A weight for each feature, `x ⊙ s`, 1 at first."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Features `[..., d]` as they came."""
        return _times(x, self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32))


class Parametric(nn.Module):
    """`x + α ⊙ (f(x) - x)` with a weight α for each unit, 1 at first: from no activation, 0, to the whole of it, 1.

    Attributes:
      activation: `f`, of `ACTIVATIONS`.
    """

    activation: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Units `[..., d]` as they came."""
        alpha = self.param("alpha", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        return x + _times(ACTIVATIONS[self.activation](x) - x, alpha)


def _times(x: jax.Array, weights: jax.Array) -> jax.Array:
    x, weights = promote_dtype(x, weights)
    return x * weights.reshape((1,) * (x.ndim - 1) + (-1,))


class MLP(nn.Module):
    """Dense layers with an activation, and dropout where it is asked for.

    The paper's loan network is `hidden=(25,)`; its fraud network is `hidden=(16, 24, 20, 24)` with
    `dropout=(0, 0.5, 0, 0)`. Weights start as flax has them: LeCun normal, biases zero. The scaling layer and the
    parametric activation are those of RealMLP (Holzmüller et al. 2024, "Better by Default").

    Attributes:
      outputs: logits; one for two classes with a sigmoid.
      hidden: units of each hidden layer.
      dropout: the share of units dropped after each hidden layer; none anywhere if empty.
      activation: of the hidden layers, of `ACTIVATIONS`.
      parametric: whether it is a `Parametric` one.
      scaling_layer: whether a `Scale` is the first layer.
      head: the last layer: see `mbjax.models.heads`.
    """

    outputs: int
    hidden: Sequence[int] = (64,)
    dropout: Sequence[float] = ()
    activation: Activation = "relu"
    parametric: bool = False
    scaling_layer: bool = False
    head: Head = "linear"

    def __post_init__(self):
        if len(self.dropout) not in (0, len(self.hidden)):
            raise UserError(
                f"config.model.dropout={tuple(self.dropout)}: give one rate for each of the {len(self.hidden)} hidden "
                f"layers in config.model.hidden={tuple(self.hidden)}, or () for none"
            )
        if not all(0 <= rate < 1 for rate in self.dropout):
            raise UserError(f"config.model.dropout={tuple(self.dropout)}: rates from 0 to below 1 are needed")
        if not all(units >= 1 for units in self.hidden):
            raise UserError(f"config.model.hidden={tuple(self.hidden)}: at least 1 unit a layer is needed")
        if self.activation not in ACTIVATIONS:
            raise UserError(f"config.model.activation={self.activation!r}: choose one of {', '.join(ACTIVATIONS)}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, features: bool = False) -> jax.Array:
        """Logits `[n, outputs]` of inputs `[n, ...]`, which are flattened.

        With `features`, what the head is given instead: the last hidden layer.
        """
        x = self.body(self.scale(x), train=train)  # first, for layers are numbered as they are made
        return x if features else make_head(self.head, self.outputs)(x)

    def scale(self, x: jax.Array) -> jax.Array:
        """What comes before the hidden layers, `[n, d]`."""
        x = x.reshape(x.shape[0], -1)  # a length of its own would not export a batch of any size
        return Scale()(x) if self.scaling_layer else x

    def body(self, x: jax.Array, *, train: bool) -> jax.Array:
        """The hidden layers, of `[..., d]`."""
        for units, rate in zip(self.hidden, self.dropout or (0,) * len(self.hidden), strict=True):
            x = nn.Dense(units)(x)
            x = Parametric(self.activation)(x) if self.parametric else ACTIVATIONS[self.activation](x)
            if rate:
                x = nn.Dropout(rate, deterministic=not train)(x)
        return x
