"""The last layer of a classifier."""

from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from mbjax.options import Option, choice
from mbjax.types import UserError

Head = Literal["linear", "cosine", "tvmf"]
HEAD_OPTION = Option(
    "head",
    "linear",
    choice(get_args(Head)),
    "the last layer; cosine as LDAM's and CosFace's, tvmf for few examples a class",
)


class CosineDense(nn.Module):
    """Cosines between the features and each class's weights, `z_c = ⟨x, w_c⟩ / (‖x‖ ‖w_c‖)`, from −1 to 1.

    The normalised last layer of LDAM (Cao et al. 2019) and of face recognition; the loss scales what it gives.

    Attributes:
      outputs: logits.
    """

    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `[n, outputs]` of features `[n, d]`; 0 where the features are 0."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.outputs), jnp.float32)
        x, kernel = promote_dtype(x, kernel)
        return _unit(x, axis=1) @ _unit(kernel, axis=0)


class TvMFDense(nn.Module):
    """t-vMF similarities between the features and each class's weights, for plain cross-entropy.

    Kobayashi 2021, "T-vMF Similarity for Regularizing Intra-Class Feature Distribution": of the cosine `c`,

        z = scale · ((1 + c) / (1 + κ (1 − c)) − 1)

    which is `scale · c` at `κ = 0`. A larger `κ` makes a class of features ever nearer to its weights: the similarity
    falls faster with the angle.

    Attributes:
      outputs: logits.
      kappa: `κ ≥ 0`, the concentration.
      scale: of the logits, which lie between `−scale` and `scale`.
    """

    outputs: int
    kappa: float = 16.0
    scale: float = 16.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `[n, outputs]` of features `[n, d]`."""
        cosines = CosineDense(self.outputs)(x)
        return self.scale * ((1 + cosines) / (1 + self.kappa * (1 - cosines)) - 1)


def _unit(x: jax.Array, axis: int) -> jax.Array:
    # The root has no finite gradient at 0, where all units of a ReLU layer may be.
    return x * jax.lax.rsqrt(jnp.maximum((x**2).sum(axis, keepdims=True), 1e-12))


def make_head(head: Head, outputs: int) -> nn.Module:
    """The last layer that `config.model.head` names: `"linear"` (with a bias), `"cosine"` or `"tvmf"`.

    Raises:
      UserError: no such head.
    """
    heads: dict[str, type[nn.Module]] = {"linear": nn.Dense, "cosine": CosineDense, "tvmf": TvMFDense}
    if head not in heads:
        raise UserError(f"config.model.head={head!r}: choose one of {', '.join(heads)}")
    make: Any = heads[head]
    return make(outputs)
