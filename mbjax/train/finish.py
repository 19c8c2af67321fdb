"""The end of a run: the predictor that its network becomes, calibrated on the validation part."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from sklearn import metrics as sk

from mbjax import losses
from mbjax.data import preprocessing
from mbjax.evaluation import calibration, decisions, evaluate, metrics
from mbjax.predict import Predictor
from mbjax.state import TrainState, predicting_weights
from mbjax.train.experiment import Experiment
from mbjax.types import UserError, count_classes

_SHOWN = 50  # classes of a confusion matrix in result.json


def make_predictor(
    experiment: Experiment,
    state: TrainState,
    *,
    validation: np.ndarray | None = None,
    decision: Mapping[str, Any] | None = None,
    batch_size: int = 2048,
) -> Predictor:
    """Makes a predictor of what was trained.

    Its probabilities are at the training priors: those of the batches, and what the loss made of them, are divided out.
    If the data set has a validation part, the temperature is fitted on it.

    Args:
      experiment: of `mbjax.train.build`.
      state: after training.
      validation: what the network says of the validation part, `[n, classes]`; predicted here if not given.
      decision: the options of `config.decision`; the experiment's if not given.
      batch_size: examples that the device holds activations for at a time, where it predicts here.

    Raises:
      UserError: data whose classes are people, or a decision that cannot be made.
    """
    dataset, sections = experiment.dataset, experiment.sections
    if dataset.kind != "classification":
        raise UserError(f"{dataset.source}: people are identified, there are no classes to predict")
    outputs = 1 if len(dataset.classes) == 2 else len(dataset.classes)
    counts = dataset.class_counts
    priors, sampled = counts / counts.sum(), sampled_priors(experiment)
    held = dataset.scored.get("validation", dataset.splits.get("validation"))
    loss = sections["loss"]
    temperature = 1 / loss["scale"] if losses.has_margin(loss["name"]) else 1.0
    calibrated = None
    if held is not None:
        if validation is None:
            mesh = experiment.method.mesh
            validation = evaluate.make_predict(experiment.model, held, batch_size=batch_size, mesh=mesh)(state)
        as_drawn = count_classes(dataset.train.y, len(counts))  # the validation part is drawn without regard to weights
        temperature = calibration.fit_temperature(validation, held.y, sampled, as_drawn / as_drawn.sum())
        tempered = calibration.temper(validation, temperature)
        calibrated = calibration.shift_priors(tempered, sampled, priors), np.asarray(held.y)
    return Predictor(
        model={**sections["model"], "outputs": outputs},
        variables=jax.tree.map(np.asarray, {"params": predicting_weights(state), **state.model_state}),
        preprocessing=preprocessing.of(dataset),
        classes=dataset.classes,
        priors=priors,
        sampled_priors=sampled,
        temperature=temperature,
        decision=decisions.decide(sections["decision"] if decision is None else decision, dataset.classes, calibrated),
    )


def sampled_priors(experiment: Experiment) -> np.ndarray:
    """The class priors at which the network's own outputs are probabilities, `[classes]`."""
    classes = len(experiment.dataset.classes)
    shares = {name: stream.class_shares(classes) for name, stream in experiment.streams.items()}
    return experiment.recipe.sampled_priors(experiment.sections, shares, experiment.class_counts)


def describe(experiment: Experiment, predictor: Predictor, raw: np.ndarray) -> dict[str, Any]:
    """What `result.json` says of calibration and decision: what was chosen, on how many rows, and its test scores.

    Args:
      experiment: what was trained.
      predictor: of `make_predictor`.
      raw: what the network says of the test part, `[n, classes]`.
    """
    dataset, labels = experiment.dataset, experiment.dataset.test.y
    held = dataset.scored.get("validation", dataset.splits.get("validation"))
    rows = 0 if held is None else len(held)
    p = predictor.calibrate(raw)
    decision, classes = predictor.decision, range(len(dataset.classes))
    decided = decision(p)
    majority = int(dataset.class_counts.argmax())
    confusion = sk.confusion_matrix(labels, decided, labels=classes).tolist() if len(classes) <= _SHOWN else None
    return {
        "calibration": {
            "priors": predictor.priors.tolist(),
            "sampled_priors": predictor.sampled_priors.tolist(),
            "temperature": predictor.temperature,
            "validation_rows": rows,
            "test": metrics.scores(p, labels, majority_class=majority),
            "class_calibration_error": [metrics.class_calibration_error(p[:, c], labels == c) for c in classes],
        },
        "decision": {
            **decision.to_dict(),
            **{name: value for name, value in experiment.sections["decision"].items() if name == "metric" and value},
            "validation_rows": rows if decision.rule == "threshold" else 0,
            "test": decisions.scores(decided, labels, classes=len(classes), costs=decision.costs),
            "confusion": confusion,
        },
    }
