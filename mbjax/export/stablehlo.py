"""StableHLO through `jax.export`: numbers and codes of categories, or images, in; calibrated probabilities out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from mbjax import augment, models
from mbjax.data.tables.columns import TableColumns
from mbjax.data.tables.numbers import Coefficients
from mbjax.predict import Predictor

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(predictor: Predictor) -> tuple[bytes, dict[str, Any]]:
    """The predictor as `jax.export` serialises it, for a batch of any size, and what a caller has to know.

    StableHLO has no strings. Of a table it takes `numbers` `[n, numbers]` float64 (NaN where missing) and `codes`
    `[n, categories]` int32: a value's place in the column's list, -1 where it is missing, -2 where it is none of them.
    Of arrays and images it takes `[n, *shape]`. It gives `[n, classes]` float64, as `predict_proba`. Float64 needs
    `jax.config.update("jax_enable_x64", True)` where it is called.

    Returns:
      `(serialised, about)`: `jax.export.deserialize(serialised).call(numbers, codes)`; the classes, and the columns'
      names and values in the order that the arrays have.
    """
    columns = predictor.preprocessing
    with jax.enable_x64(True):
        (n,) = export.symbolic_shape("n")
        if isinstance(columns, TableColumns):
            shapes = [
                jax.ShapeDtypeStruct((n, len(columns.numbers)), jnp.float64),
                jax.ShapeDtypeStruct((n, len(columns.categories)), jnp.int32),
            ]
            features, values = _of_table(columns)
            about = {
                "numbers": [number.name for number in columns.numbers],
                "codes": {c.name: list(v) for c, v in zip(columns.categories, values, strict=True)},
            }
        else:
            shapes = [jax.ShapeDtypeStruct((n, *columns.shape), np.dtype(columns.dtype))]
            features, about = augment.to_float, {"shape": list(columns.shape), "dtype": columns.dtype}
        made = export.export(jax.jit(_whole(predictor, features)), platforms=PLATFORMS)(*shapes)
        return bytes(made.serialize()), {"classes": list(predictor.classes), **about}


def _of_table(columns: TableColumns) -> tuple[Any, list[list[str]]]:
    """From numbers and codes to features, and each category's values in the order of their codes."""
    of = Coefficients.of(columns.numbers, columns.dtype)
    values = [list(category.places) for category in columns.categories]

    def features(numbers: jax.Array, codes: jax.Array) -> jax.Array:
        x = numbers.astype(columns.dtype)
        x = (jnp.where(jnp.isnan(x), of.fill[None], x) - of.shift[None]) / of.scale[None] * of.factor[None]
        x = jnp.clip(x, -of.limit[None], of.limit[None])
        x = x / jnp.sqrt(1 + (x / of.smooth[None]) ** 2)
        x = jnp.clip((x[:, of.column] - of.start[None]) / of.length[None], of.least[None], of.most[None])
        parts = [x.astype(jnp.float32)]
        for place, category in enumerate(columns.categories):
            # The last two are those of -2 and -1.
            table = np.array([*category.places.values(), -1, category.missing])
            parts.append(jax.nn.one_hot(jnp.asarray(table)[codes[:, place]], category.width, dtype=jnp.float32))
        return jnp.concatenate(parts, axis=1)

    return features, values


def _whole(predictor: Predictor, features: Any) -> Any:
    model = dict(predictor.model)
    if "conv" in model:
        model["conv"] = "lax"  # the others are made for one backend
    network: Any = models.build(**model)
    offsets = np.log(predictor.priors) - np.log(predictor.sampled_priors)

    def probabilities(*inputs: jax.Array) -> jax.Array:
        z = network.apply(predictor.variables, features(*inputs), train=False).astype(jnp.float64)
        z = jnp.concatenate([jnp.zeros_like(z), z], axis=1) if z.shape[1] == 1 else z
        return jax.nn.softmax(z / predictor.temperature + offsets[None], axis=1)

    return probabilities
