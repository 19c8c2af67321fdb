"""A trained network with all that it takes to predict: preprocessing, classes, priors, calibration and decision."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mbjax import augment, models
from mbjax.data.preprocessing import Preprocessing
from mbjax.evaluation import calibration
from mbjax.evaluation.decisions import Decision
from mbjax.predict import inputs
from mbjax.types import PyTree, UserError

Priors = None | str | Mapping[str, float] | Sequence[float] | np.ndarray
_BATCH = 4096  # rows that go through the network at a time; fewer of large inputs
_BATCH_VALUES = 2**24
_FEW = 64  # rows of a table go together with others, or with zeros, so that one alone gets the same numbers


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained classifier of raw rows, arrays or images.

    Example:
      >>> model = mbjax.load("runs/churn/model")  # doctest: +SKIP
      >>> model.predict_proba("new_customers.csv")[:, 1]  # doctest: +SKIP

    Attributes:
      model: the network's description, as `mbjax.models.build` takes it: `config.model`, and `outputs`.
      variables: its weights and running statistics, `{"params": …, "batch_stats": …}`, NumPy arrays.
      preprocessing: what makes its inputs of raw ones; see `mbjax.data.preprocessing`.
      classes: the class names in the order of the class numbers.
      priors: each class's share of the training part, `[classes]`.
      sampled_priors: the priors at which the network's own outputs are probabilities, `[classes]`: those of the batches
        that it was trained on, and what the loss made of them.
      temperature: what the network's logits are divided by, before its priors become those of training.
      decision: the rule from probabilities to a class.
      labels: what `predict` returns for each class, `[classes]`; the class names if None.
    """

    model: Mapping[str, Any]
    variables: PyTree
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    priors: np.ndarray
    sampled_priors: np.ndarray
    temperature: float = 1.0
    decision: Decision = dataclasses.field(default_factory=Decision)
    labels: np.ndarray | None = None

    @functools.cached_property
    def network(self) -> nn.Module:
        """The network, `network.apply(variables, x, train=False) -> logits`."""
        return models.build(**self.model)

    def predict_proba(self, X: Any, priors: Priors = None, *, progress: bool = False) -> np.ndarray:
        """The probability of each class, `[n, classes]` float64, rows of sum 1.

        Args:
          X: a table (pandas or polars; columns are matched by name, others are ignored with a warning), an array
            `[n, ...]` like those of training, a CSV or Parquet file, image files, or a folder of them.
          priors: the class priors of the rows to predict. None: those of training. A mapping, such as
            `{"fraud": 0.001}`, of which one class may be left out, or an array `[classes]`: these. `"raw"`: what the
            network says, without calibration.
          progress: shows a bar.

        Raises:
          UserError: a missing column, values that do not fit, a file that cannot be read, or priors that are none.
        """
        parts = [p for _, p in self.chunks(X, priors, progress=progress)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.classes)))

    def predict(self, X: Any, priors: Priors = None, *, progress: bool = False) -> np.ndarray:
        """The decided class of each row, `[n]`; the arguments are those of `predict_proba`.

        With other priors than those of training, the decision is of the probabilities at these: a threshold, chosen at
        the training priors, stays the number that it is.
        """
        return self.classes_of(self.predict_proba(X, priors, progress=progress))

    def classes_of(self, probabilities: np.ndarray) -> np.ndarray:
        """The decided classes, `[n]`, of probabilities `[n, classes]`."""
        labels = np.array(self.classes) if self.labels is None else self.labels
        return labels[self.decision(probabilities)]

    def decision_function(self, X: Any, priors: Priors = None) -> np.ndarray:
        """Of two classes, the logit of class 1 less that of the decision's threshold, `[n]`: above 0 it is chosen.

        Raises:
          UserError: more classes than two.
        """
        if len(self.classes) != 2:
            raise UserError(f"decision_function is for two classes, and this model has {len(self.classes)}")
        p = np.clip(self.predict_proba(X, priors)[:, 1], 1e-300, 1 - 1e-16)
        return np.log(p) - np.log1p(-p) - _logit(self.decision.boundary)

    def calibrate(self, raw: np.ndarray, priors: Priors = None) -> np.ndarray:
        """Probabilities at `priors`, `[n, classes]`, of those that the network gave itself."""
        return self._converter(priors)(raw)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the predictor into a new folder, `mbjax.load` reads it: JSON and safetensors, no code.

        Raises:
          UserError: the folder is there already, or cannot be written.
        """
        from mbjax.predict import files  # which builds predictors

        files.save(self, folder)

    def chunks(self, X: Any, priors: Priors = None, *, progress: bool = False) -> Iterator[tuple[Any, np.ndarray]]:
        """Yields parts of `X` as they were read, and the probabilities of their rows; see `predict_proba`."""
        convert = self._converter(priors)
        for raw, x in inputs.chunks(X, self.preprocessing, progress=progress):
            yield raw, convert(calibration.from_logits(self.logits(x)))

    def _converter(self, priors: Priors) -> Callable[[np.ndarray], np.ndarray]:
        if isinstance(priors, str):
            if priors != "raw":
                raise UserError(f'priors={priors!r}: "raw", a mapping, an array, or None for those of training')
            return lambda raw: raw
        wanted = self.priors if priors is None else calibration.read_priors(priors, self.classes)
        return lambda raw: calibration.shift_priors(
            calibration.temper(raw, self.temperature), self.sampled_priors, wanted
        )

    def logits(self, x: np.ndarray) -> np.ndarray:
        """The network's outputs, `[n, outputs]` float32, of inputs that preprocessing has made."""
        if not len(x):
            return np.empty((0, int(self.model["outputs"])), np.float32)
        most = max(min(_BATCH, _BATCH_VALUES // max(x[0].size, 1)), 1)
        least = _FEW if x.ndim == 2 else 1
        out = []
        for start in range(0, len(x), most):
            part = x[start : start + most]
            size = min(max(1 << (len(part) - 1).bit_length(), least), most)  # few sizes, so few programs
            if size > len(part):
                part = np.concatenate([part, np.zeros((size - len(part), *x.shape[1:]), x.dtype)])
            out.append(self._apply(self._on_device, part))
        return np.concatenate([np.asarray(part) for part in out])[: len(x)]

    @functools.cached_property
    def _apply(self) -> Callable[[PyTree, np.ndarray], jax.Array]:
        return _make_apply(self.network)

    @functools.cached_property
    def _on_device(self) -> PyTree:
        return jax.device_put(self.variables)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)


@functools.lru_cache(maxsize=32)
def _make_apply(network: nn.Module) -> Callable[[PyTree, np.ndarray], jax.Array]:
    """One compiled function for all predictors of one network."""
    apply: Callable[..., Any] = network.apply
    return jax.jit(lambda variables, x: apply(variables, augment.to_float(x), train=False))


def _logit(p: float) -> float:
    return float(np.log(p) - np.log1p(-p))
