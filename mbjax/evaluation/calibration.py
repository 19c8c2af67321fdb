"""From what a network says to probabilities that hold: a temperature, fitted on validation data, and corrected priors.

Training on balanced batches teaches a network the probabilities of a world where the classes are equally frequent. Both
steps act on probabilities `[n, classes]`, rows of sum 1, and return such, float64.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from mbjax.types import UserError

_TEMPERATURES = (0.01, 100.0)


def from_logits(logits: np.ndarray) -> np.ndarray:
    """What a network says, `[n, classes]`, of its outputs `[n, outputs]`: one is the logit of the second of two."""
    z = np.asarray(logits, np.float64)
    return softmax(np.concatenate([np.zeros_like(z), z], axis=1) if z.shape[1] == 1 else z, axis=1)


def shift_priors(probabilities: np.ndarray, trained: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Probabilities at other class priors: `p_c / trained_c · wanted_c`, normalised.

    At equal ones this divides the training priors out (section 6 of the paper; logit adjustment post hoc with τ = 1,
    Menon et al. 2021). It moves the decision, not the order of examples: of two classes, ROC-AUC stays as it is.

    It is exact where the classes look as before and only their frequencies differ (Saerens, Latinne and Decaestecker
    2002, "Adjusting the Outputs of a Classifier to New a Priori Probabilities", equation 2.4; of two classes Elkan
    2001, "The Foundations of Cost-Sensitive Learning", theorem 2).

    Args:
      probabilities: `[n, classes]`, at the priors `trained`.
      trained: `[classes]`, all above 0.
      wanted: `[classes]`; only their ratios count.
    """
    return _normalised(np.asarray(probabilities, np.float64) / trained * np.asarray(wanted))


def temper(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """`p_c^(1/T)`, normalised: the softmax of the logits divided by `T` (Guo et al. 2017). The order stays."""
    p = np.asarray(probabilities, np.float64)
    if temperature == 1:
        return p
    return _normalised((p / p.max(1, keepdims=True)) ** (1 / temperature))


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray, trained: np.ndarray, wanted: np.ndarray) -> float:
    """The temperature, from 0.01 to 100, at which `shift_priors(temper(p, T), trained, wanted)` has the least log loss.

    The loss is convex in `1/T`. Fit it on data that the network was not trained on.

    Args:
      probabilities: what the network says, `[n, classes]`.
      labels: class numbers, `[n]`.
      trained: the priors that the network's outputs refer to, `[classes]`.
      wanted: the priors of these examples, `[classes]`.
    """
    with np.errstate(divide="ignore"):
        z = np.maximum(np.log(np.asarray(probabilities, np.float64)), -700)
        offsets = np.maximum(np.log(wanted) - np.log(trained), -700)
    rows = np.arange(len(labels))

    def loss(sharpness: float) -> float:
        moved = z * sharpness + offsets
        return float((np.asarray(logsumexp(moved, axis=1)) - moved[rows, labels]).mean())

    low, high = 1 / _TEMPERATURES[1], 1 / _TEMPERATURES[0]
    best = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-8})
    return 1 / float(best.x)


def read_priors(priors: Mapping[str, float] | Sequence[float] | np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Priors as an array of sum 1, `[classes]`.

    Args:
      priors: one for each class, of sum 1; or by class name. Of classes that are left out there is one at most: it has
        the rest.
      classes: the class names in the order of their numbers.

    Raises:
      UserError: an unknown class, shares below 0, or a sum that is not 1.
    """
    if isinstance(priors, Mapping):
        named = {str(name): float(share) for name, share in priors.items()}
        if unknown := [name for name in named if name not in classes]:
            raise UserError(f"priors: there is no class {unknown[0]!r} among {', '.join(classes)}")
        left = [name for name in classes if name not in named]
        if len(left) > 1:
            raise UserError(f"priors: {', '.join(left)} have none: leave out one class at most, which gets the rest")
        given = np.array([named.get(name, 1 - sum(named.values())) for name in classes])
    else:
        given = np.asarray(priors, np.float64)
    if given.shape != (len(classes),):
        raise UserError(f"priors: {list(given.shape)} numbers for the {len(classes)} classes {', '.join(classes)}")
    if not (given >= -1e-9).all() or abs(given.sum() - 1) > 1e-6:
        raise UserError(f"priors={given.tolist()}: shares from 0 to 1 whose sum is 1 are needed")
    given = np.maximum(given, 0)
    return given / given.sum()


def _normalised(p: np.ndarray) -> np.ndarray:
    total = p.sum(1, keepdims=True)
    return np.where(total > 0, p / np.where(total > 0, total, 1), 1 / p.shape[1])
