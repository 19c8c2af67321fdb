"""The two classifiers, which differ in their parameters alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from mbjax import train
from mbjax.estimator import inputs, settings
from mbjax.evaluation import calibration, evaluate, metrics
from mbjax.options import shown
from mbjax.types import Dataset, UserError

Held = tuple[Any, np.ndarray] | None
"""Validation data, as `inputs.read` gives it, and its class numbers."""


class _Classifier(ClassifierMixin, BaseEstimator):
    """What both classifiers do; their parameters are their own."""

    early_stopping: Any
    validation_fraction: Any
    n_iter_no_change: Any
    scaling: Any
    encoding: Any
    calibrate: Any
    class_weight: Any
    warm_start: Any
    random_state: Any
    verbose: Any
    feature_names_in_: np.ndarray  # both are set by scikit-learn
    n_features_in_: int

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None) -> Self:
        """Trains on a table or on images.

        Args:
          X: a pandas or polars frame or an array `[n, features]`, numbers and categories, missing values allowed; or
            images `[n, height, width, channels]`, uint8 or floating point.
          y: the labels, `[n]`, numbers or strings.
          sample_weight: how many examples each one stands for, `[n]`.
          X_val, y_val: validation data, for early stopping and calibration, in place of a part of `X`.

        Raises:
          FitError: data or a parameter that cannot be used; a ValueError, one line that names the value.
        """
        with settings.in_these_words():
            settings.check(self.get_params(deep=False))
            resume = bool(self.warm_start) and hasattr(self, "predictor_")
            x, y = inputs.read(self, X, reset=not resume), inputs.labels(X, y)
            if resume and not np.array_equal(np.unique(y), self.classes_):
                raise UserError("warm_start=True: y has other classes than before; fit a new estimator")
            self.classes_ = np.unique(y)
            held = None
            if X_val is not None:
                held = inputs.read(self, X_val, reset=False), self._numbers(inputs.labels(X_val, y_val))
            self._fit(x, y, sample_weight, held, resume=resume, partial=False)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Trains for one pass over this data, from where the last call stopped, without validation data.

        Categories and scaling are learned from the data of the first call, class frequencies from that of all calls.

        Args:
          X, y, sample_weight: see `fit`.
          classes: the labels of all calls; needed in the first one.

        Raises:
          FitError: see `fit`.
        """
        with settings.in_these_words():
            settings.check(self.get_params(deep=False))
            resume = hasattr(self, "predictor_")
            if not resume and classes is None:
                raise UserError(
                    "the first call of partial_fit needs classes=, the labels that there will be in all calls"
                )
            x, y = inputs.read(self, X, reset=not resume), inputs.labels(X, y)
            if not resume:
                self.classes_ = np.unique(classes)
            elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
                raise UserError(f"classes={shown(classes)}: in the first call they were {self.classes_.tolist()}")
            self._fit(x, y, sample_weight, None, resume=resume, partial=True)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each of `classes_`, `[n, classes]`, at the class frequencies of the training data."""
        return self._predict("predict_proba", X)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row, `[n]`; or as `params={"decision.metric": …}` has it."""
        return self._predict("predict", X)

    def decision_function(self, X: Any) -> np.ndarray:
        """Of two classes, the log-odds of the second, `[n]`; of more, the logarithms of `predict_proba`."""
        check_is_fitted(self, "predictor_")
        if len(self.classes_) == 2:
            return self._predict("decision_function", X)
        return np.log(np.maximum(self.predict_proba(X), 1e-300))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.categorical = tags.input_tags.string = True
        return tags

    def _predict(self, method: str, X: Any) -> np.ndarray:
        check_is_fitted(self, "predictor_")
        with settings.in_these_words():
            x = inputs.read(self, X, reset=False)
            return getattr(self.predictor_, method)(x, None if self.calibrate else "raw")

    def _fit(self, x: Any, y: np.ndarray, sample_weight: Any, held: Held, *, resume: bool, partial: bool) -> None:
        numbers, weight = self._numbers(y), self._weights(y, sample_weight)
        rows = np.flatnonzero(weight)
        present = np.unique(y[rows])
        if len(self.classes_) < 2 or (len(present) < 2 and not partial):
            raise UserError(f"y has one class only, {present[0]!r}, where weights are above 0: two classes are needed")
        seed = int(check_random_state(self.random_state).randint(2**31))
        if held is None and not partial:
            few = settings.least_held(self.get_params(deep=False), image=np.ndim(x) == 4)
            rows, kept = inputs.hold_out(
                numbers, rows, self.validation_fraction, when=self.early_stopping, few=few, seed=seed
            )
            held = (inputs.rows_of(x, kept), numbers[kept]) if len(kept) else None
            held_weight = weight[kept]
        else:
            held_weight = np.ones(len(held[1]) if held else 0)
        x = inputs.rows_of(x, rows)
        known = self.predictor_.preprocessing if resume else self._learn(x)
        splits = {"train": inputs.split(known.transform(x), numbers[rows], weight[rows])}
        if held is not None:
            splits["validation"] = inputs.split(known.transform(held[0]), held[1], held_weight)
        dataset = Dataset(splits, tuple(map(str, self.classes_)), "the data", preprocessing=known)
        self._train(dataset, seed, resume=resume, partial=partial)

    def _learn(self, x: Any) -> Any:
        return inputs.learn(x, scaling=settings.scaling(self.get_params(deep=False)), encoding=self.encoding)

    def _train(self, dataset: Dataset, seed: int, *, resume: bool, partial: bool) -> None:
        stops = "validation" in dataset.splits
        image = dataset.train.x.ndim == 4
        config = settings.configure(
            self.get_params(deep=False), seed=seed, image=image, stops=stops and self.early_stopping is not False,
            one_pass=partial,
        )  # fmt: skip
        experiment = train.assemble(config, dataset)
        sampled = train.sampled_priors(experiment)
        if resume and {**experiment.sections["model"], "outputs": experiment.model.outputs} != self.predictor_.model:
            raise UserError("the network is not the one that was fitted before: set warm_start=False, or fit a new one")
        fitted = train.fit(
            experiment, seed=seed, updates=experiment.updates, start=self._state if resume else None,
            score=_make_score(experiment, sampled) if stops and self.early_stopping is not False else None,
            patience=self.n_iter_no_change, progress=bool(self.verbose),
        )  # fmt: skip
        predictor = train.make_predictor(experiment, fitted.state, validation=fitted.predictions)
        counts, drawn = np.asarray(dataset.class_counts, float), sampled * experiment.updates
        if partial and resume:  # the network has learned from the calls before, too
            counts, drawn = counts + self._seen[0], drawn + self._seen[1]
        self._seen = counts, drawn
        self.predictor_ = dataclasses.replace(
            predictor, labels=self.classes_, priors=counts / counts.sum(), sampled_priors=drawn / drawn.sum()
        )
        self._state = fitted.state
        self.history_ = [*(self.history_ if resume else ()), *fitted.history]
        self.n_iter_ = fitted.updates

    def _numbers(self, y: np.ndarray) -> np.ndarray:
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise UserError(f"y has the label {unknown[0]!r}, which is none of {shown(self.classes_.tolist())}")
        return np.searchsorted(self.classes_, y).astype(np.int32)

    def _weights(self, y: np.ndarray, sample_weight: Any) -> np.ndarray:
        """How many examples each one stands for, of mean 1: class weights are weights of the examples."""
        weight = _check_sample_weight(sample_weight, np.empty((len(y), 1)), dtype=np.float64)
        if (weight < 0).any():
            raise UserError(f"sample_weight has {(weight < 0).sum()} negative values: 0 or more is needed")
        weight = weight * compute_sample_weight(self.class_weight, y)
        if not weight.any():
            raise UserError("sample_weight: all weights are zero; at least one above zero is needed")
        return weight / weight.mean()


def _make_score(experiment: train.Experiment, sampled: np.ndarray) -> Any:
    """The loss by which training stops: every class counts the same, however often the samplers draw it."""
    held = experiment.dataset.splits["validation"]
    predict = evaluate.make_predict(experiment.model, held, batch_size=2048)
    equal = np.full(len(sampled), 1 / len(sampled))

    def score(state: Any) -> tuple[float, np.ndarray]:
        raw = predict(state)
        return metrics.balanced_log_loss(calibration.shift_priors(raw, sampled, equal), held.y, held.weight), raw

    return score


class MetaBalanceClassifier(_Classifier):
    """MetaBalance for an imbalanced table or imbalanced images, as a scikit-learn classifier.

    Each update takes `pairs` pairs of a batch as imbalanced as the data and a balanced one, adapts the network to the
    first by one step and minimises the loss of the adapted network on the second. Probabilities are then corrected for
    the balanced batches: they are at the class frequencies of the training data.

    For tables the network is TabM, 32 MLPs in one, trained by AdamW with much weight decay. These settings were chosen
    on a third of 69 tables of KEEL; docs/results.md compares them with other methods on all.

    Example:
      >>> import mbjax
      >>> from sklearn.datasets import make_classification
      >>> X, y = make_classification(n_samples=600, weights=[0.9], random_state=0)
      >>> model = mbjax.MetaBalanceClassifier(random_state=0).fit(X, y)
      >>> model.predict_proba(X[:2]).shape
      (2, 2)

    Args:
      hidden: units of each hidden layer; (64, 64) if None. Images have a convolutional network in its place.
      learning_rate: of the optimiser; if None, 0.01 for tables (AdamW) and 0.02 for images (SGD with momentum).
      inner_lr: γ, the learning rate of the adaptation; 0.01 if None.
      pairs: pairs of batches in an update; if None, 2 for tables and 8 for images. The paper has 80.
      beta: β, the weight of the support loss beside the query loss; 0 if None.
      batch_size: examples of a batch; 24 if None.
      max_updates: 5000 with early stopping and 500 without if None.
      early_stopping: whether to hold out a part of the training data and keep the network that is best on it.
        `"auto"`: if at least 50 examples of the rarest class are then held out, of fewer the loss says too little; of
        images, and of `ImbalancedClassifier`, five.
      validation_fraction: the share of each class that is held out.
      n_iter_no_change: looks at the validation part, every 50 updates, without an improvement, after which training
        stops.
      scaling: of columns of numbers: `"standard"`, mean 0 and variance 1; `"robust"`, by median and quartiles,
        outliers cut off; or `"robust_smooth_clip"`, outliers pressed together, which is what None stands for (with
        `params="paper"`, `"standard"`).
      encoding: of columns of numbers: `"piecewise_linear"` makes a feature for each of 48 bins between quantiles.
      calibrate: whether probabilities are corrected, by the class frequencies and, with a validation part, by a
        temperature; else they are those that the network gives for balanced batches.
      class_weight: `"balanced"` or a dict: how many examples each one of a class stands for. As batches of the query
        loss are balanced whatever the weights are, they act on probabilities and decisions.
      params: any keys of the configuration, `{"loss.name": "focal"}`, or `"paper"`: the paper's settings for its table
        of loans. `mbjax train --config=digits --help-config` lists the keys.
      warm_start: whether `fit` goes on from the network that is there.
      random_state: of the split, the samplers, the initial weights and dropout.
      verbose: shows a progress bar.

    Attributes:
      classes_: the labels, sorted.
      n_features_in_, feature_names_in_: the columns; names only of frames with text for names.
      predictor_: the `mbjax.Predictor`, which has other class frequencies, and `save`.
      n_iter_: updates that were done, of all calls that led to this network.
      history_: what every 50 updates brought, a list of dicts: `updates`, `loss`, `validation_loss` and more.
    """

    def __init__(
        self,
        *,
        hidden: Sequence[int] | None = None,
        learning_rate: float | None = None,
        inner_lr: float | None = None,
        pairs: int | None = None,
        beta: float | None = None,
        batch_size: int | None = None,
        max_updates: int | None = None,
        early_stopping: bool | Literal["auto"] = "auto",
        validation_fraction: float = 0.2,
        n_iter_no_change: int = 10,
        scaling: Literal["standard", "robust", "robust_smooth_clip"] | None = None,
        encoding: Literal["none", "piecewise_linear"] = "none",
        calibrate: bool = True,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        params: Mapping[str, Any] | Literal["paper"] | None = None,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ):
        self.hidden = hidden
        self.learning_rate = learning_rate
        self.inner_lr = inner_lr
        self.pairs = pairs
        self.beta = beta
        self.batch_size = batch_size
        self.max_updates = max_updates
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.scaling = scaling
        self.encoding = encoding
        self.calibrate = calibrate
        self.class_weight = class_weight
        self.params = params
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose


class ImbalancedClassifier(_Classifier):
    """Any method of mbjax as a scikit-learn classifier: plain training, over-sampling, weighted losses, MetaBalance.

    Example:
      >>> import mbjax
      >>> from sklearn.datasets import make_classification
      >>> X, y = make_classification(n_samples=600, weights=[0.9], random_state=0)
      >>> model = mbjax.ImbalancedClassifier("smote", random_state=0).fit(X, y)
      >>> model.score(X, y) > 0.8
      True

    Args:
      method: a key of `mbjax.estimator.METHODS`: `"erm"` is plain training, `"over"` over-sampling, `"focal"` the focal
        loss, `"metabalance"` the update of `MetaBalanceClassifier`, and so on.
      learning_rate: of the optimiser; 0.02 if None.
      batch_size: examples of a batch; 128 if None, of MetaBalance 24.

    The other arguments and the attributes are those of `MetaBalanceClassifier`. The network of tables is one MLP,
    trained by SGD with momentum, as in the paper, and `scaling=None` is `"standard"`.
    """

    def __init__(
        self,
        method: str = "metabalance",
        *,
        hidden: Sequence[int] | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        max_updates: int | None = None,
        early_stopping: bool | Literal["auto"] = "auto",
        validation_fraction: float = 0.2,
        n_iter_no_change: int = 10,
        scaling: Literal["standard", "robust", "robust_smooth_clip"] | None = None,
        encoding: Literal["none", "piecewise_linear"] = "none",
        calibrate: bool = True,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        params: Mapping[str, Any] | Literal["paper"] | None = None,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ):
        self.method = method
        self.hidden = hidden
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_updates = max_updates
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.scaling = scaling
        self.encoding = encoding
        self.calibrate = calibrate
        self.class_weight = class_weight
        self.params = params
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
