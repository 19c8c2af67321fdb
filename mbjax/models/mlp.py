"""The multi-layer perceptron of the tables."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from mbjax.models.heads import HEAD_OPTION, Head, make_head
from mbjax.options import COUNT, SHARE_BELOW_1, Option, several
from mbjax.types import UserError

OPTIONS = (  # of config.model
    Option("hidden", (64,), several(COUNT, "whole numbers of at least 1 are needed: the units of each layer"),
           "units of each hidden layer"),
    Option("dropout", (), several(SHARE_BELOW_1, "rates from 0 to below 1 are needed"),
           "a rate after each hidden layer; none if empty"),
    HEAD_OPTION,
)  # fmt: skip


class MLP(nn.Module):
    """Dense layers with ReLU, and dropout where it is asked for.

    The paper's loan network is `hidden=(25,)`; its fraud network is `hidden=(16, 24, 20, 24)` with
    `dropout=(0, 0.5, 0, 0)`. Weights start as flax has them: LeCun normal, biases zero.

    Attributes:
      outputs: logits; one for two classes with a sigmoid.
      hidden: units of each hidden layer.
      dropout: the share of units dropped after each hidden layer; none anywhere if empty.
      head: the last layer: see `mbjax.models.heads`.
    """

    outputs: int
    hidden: Sequence[int] = (64,)
    dropout: Sequence[float] = ()
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
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Logits `[n, outputs]` of features `[n, ...]`, which are flattened."""
        x = x.reshape(x.shape[0], -1)  # a length of its own would not export a batch of any size
        for units, rate in zip(self.hidden, self.dropout or (0,) * len(self.hidden), strict=True):
            x = nn.relu(nn.Dense(units)(x))
            if rate:
                x = nn.Dropout(rate, deterministic=not train)(x)
        return make_head(self.head, self.outputs)(x)
