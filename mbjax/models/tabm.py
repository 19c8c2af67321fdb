"""TabM: many MLPs in one network, which share all but a first adapter and their heads."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from mbjax.models.heads import Head
from mbjax.models.mlp import MLP
from mbjax.models.mlp import OPTIONS as MLP_OPTIONS
from mbjax.options import COUNT, Option
from mbjax.types import UserError

OPTIONS = (Option("members", 32, COUNT, "networks in one; with 1 it is the MLP"), *MLP_OPTIONS)  # of config.model


class TabM(MLP):
    """The ensemble that Gorishniy et al. 2025, "TabM: Advancing Tabular Deep Learning with Parameter-Efficient
    Ensembling", call TabM-mini.

    Member `m` of `k` sees the features times its own adapter, `x ⊙ r_m`, random signs at first; then come hidden
    layers that all share, and a head of its own. Members of one network are diverse enough that the mean of their
    probabilities is better than each.

    In training each member has its own loss, and `mbjax.losses.supervised_loss` takes their mean; at test the logits
    are those of the mean of the members' probabilities. One member has no adapter, and the head of an MLP: the network
    is the MLP, to the bit.

    Attributes:
      members: `k`.
    """

    members: int = 32
    head: Head = "linear"

    def __post_init__(self):
        if self.head != "linear":
            raise UserError(f"config.model.head={self.head!r}: tabm has linear heads alone")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Logits of features `[n, ...]`: in training `[members, n, outputs]`, else `[n, outputs]`."""
        x = self.scale(x)
        if self.members == 1:
            x = self.body(x, train=train)
            return nn.Dense(self.outputs)(x)
        signs = self.param("adapter", _signs, (self.members, x.shape[-1]))
        x, signs = promote_dtype(x, signs)
        x = self.body(x[None] * signs[:, None], train=train)
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", batch_axis=0)  # LeCun's, each
        kernel = self.param("head_kernel", init, (self.members, x.shape[-1], self.outputs), jnp.float32)
        bias = self.param("head_bias", nn.initializers.zeros, (self.members, self.outputs), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias)
        logits = jnp.einsum("knd,kdo->kno", x, kernel) + bias[:, None]
        return logits if train else logits_of_mean(logits)


def _signs(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.rademacher(key, shape).astype(dtype)


def logits_of_mean(logits: jax.Array) -> jax.Array:
    """The logits of the mean of the members' probabilities, `[n, outputs]`, of their logits `[members, n, outputs]`."""
    if logits.shape[-1] == 1:
        return _log_mean(nn.log_sigmoid(logits)) - _log_mean(nn.log_sigmoid(-logits))
    return _log_mean(nn.log_softmax(logits, axis=-1))


def _log_mean(log_p: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(log_p, axis=0) - jnp.log(jnp.asarray(log_p.shape[0], log_p.dtype))
