"""Scores of predicted class probabilities. Each score has one name everywhere in mbjax."""

from collections.abc import Callable, Collection, Sequence

import numpy as np
from imblearn.metrics import geometric_mean_score
from sklearn import metrics as sk

from mbjax.registry import Registry

Scores = dict[str, float | list[float]]
SCORES = Registry[Callable[[np.ndarray, np.ndarray], float]]("mbjax.scores", {})
"""Further scores, which `config.eval.scores` may name: `score(probabilities [n, classes], labels [n])`."""


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, *, bins: int = 15) -> float:
    """Expected calibration error: mean `|accuracy − confidence|` over equal-width bins, weighted by their size.

    The confidence is the probability of the predicted class (Guo et al. 2017, "On Calibration of Modern Neural
    Networks", equation 3).

    Args:
      probabilities: `[n, classes]`, rows sum to 1.
      labels: class numbers, `[n]`.
      bins: bins of (0, 1].
    """
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def equal_mass_bins(p: np.ndarray, hits: np.ndarray, *, bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What was predicted and what came, in bins of about equally many examples; equal predictions share a bin.

    Args:
      p: predicted probabilities, `[n]`.
      hits: whether what they are of came, `[n]` bool.
      bins: how many at most.

    Returns:
      Mean prediction, hits and examples of each bin that has any, lowest first.
    """
    edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)[1:-1]))
    bin_of = np.searchsorted(edges, p, side="right")
    count = np.bincount(bin_of)
    there = count > 0
    sums = np.bincount(bin_of, weights=p)[there]
    return sums / count[there], np.bincount(bin_of, weights=hits)[there].astype(int), count[there]


def class_calibration_error(p: np.ndarray, hits: np.ndarray, *, bins: int = 10) -> float:
    """Calibration error of one class's probability: mean `|share − prediction|` over bins of equally many examples.

    Unlike `calibration_error` it means something of a class that is never the most probable one: compare it with the
    class's share (Nixon et al. 2019, "Measuring Calibration in Deep Learning", adaptive and class-wise).

    Args:
      p: the class's predicted probability, `[n]`.
      hits: whether the example is of the class, `[n]` bool.
      bins: see `equal_mass_bins`.
    """
    predicted, came, count = equal_mass_bins(p, hits, bins=bins)
    return float(np.abs(came - predicted * count).sum() / len(p))


def primary(scores: Collection[str]) -> str:
    """The name of the score by which settings are chosen and rows compared, of the names of those there are."""
    return next(name for name in ("roc_auc", "rank1_accuracy", "balanced_accuracy", "accuracy") if name in scores)


def primary_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The score of a classifier that `primary` names, alone: ROC-AUC of two classes, else balanced accuracy."""
    if probabilities.shape[1] == 2:
        return float(sk.roc_auc_score(labels, probabilities[:, 1]))
    return float(sk.balanced_accuracy_score(labels, probabilities.argmax(1)))


def scores(
    probabilities: np.ndarray, labels: np.ndarray, *, majority_class: int, further: Sequence[str] = ()
) -> Scores:
    """All scores of a classifier on one split in which every class occurs.

    Args:
      probabilities: `[n, classes]`, rows sum to 1; of two classes, number 1 is the positive one.
      labels: class numbers, `[n]`.
      majority_class: the class with the most training examples; `minority_accuracy` is the mean over all others.
      further: names of `SCORES`.

    Returns:
      `accuracy`, `balanced_accuracy`, `g_mean`, `majority_accuracy`, `minority_accuracy`, `class_accuracy` (a list),
      `log_loss`, `calibration_error`; of two classes also `roc_auc` and `average_precision`. Accuracies are shares of
      1 at the most probable class. Further scores have their names, without the module.

    Raises:
      UserError: no such further score.
    """
    probabilities = np.asarray(probabilities, np.float64)
    classes = np.arange(probabilities.shape[1])
    predicted = probabilities.argmax(1)
    confusion = sk.confusion_matrix(labels, predicted, labels=classes)
    class_accuracy = confusion.diagonal() / confusion.sum(1)
    result: Scores = {}
    if len(classes) == 2:
        result["roc_auc"] = float(sk.roc_auc_score(labels, probabilities[:, 1]))
        result["average_precision"] = float(sk.average_precision_score(labels, probabilities[:, 1]))
    return result | {
        "accuracy": float(sk.accuracy_score(labels, predicted)),
        "balanced_accuracy": float(class_accuracy.mean()),
        "g_mean": float(geometric_mean_score(labels, predicted, average="multiclass")),
        "majority_accuracy": float(class_accuracy[majority_class]),
        "minority_accuracy": float(np.delete(class_accuracy, majority_class).mean()),
        "class_accuracy": class_accuracy.tolist(),
        "log_loss": float(sk.log_loss(labels, probabilities, labels=classes)),
        "calibration_error": calibration_error(probabilities, labels),
        **{
            name.rpartition(":")[2]: float(SCORES.find(name, "config.eval.scores")(probabilities, labels))
            for name in further
        },
    }


def balanced_log_loss(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The mean over the classes that occur of each one's mean log loss, so that rare classes count as much as common.

    Args:
      probabilities: `[n, classes]`, rows sum to 1.
      labels: class numbers, `[n]`.
      weights: how many examples each one stands for, `[n]`, above 0; one each if None.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    p = np.asarray(probabilities, np.float64)[np.arange(len(labels)), labels]
    counts = np.bincount(labels, weights=weights)
    sums = np.bincount(labels, weights=-weights * np.log(np.maximum(p, 1e-15)))
    return float((sums[counts > 0] / counts[counts > 0]).mean())


def match_majority(
    probabilities: np.ndarray, labels: np.ndarray, *, majority_class: int, majority_accuracy: float
) -> np.ndarray:
    """Scales the majority class's probability so that its accuracy is a given one (section 6 of the paper).

    An object of study: the factor is set with the labels of the very examples that are then scored.

    An example `i` of the majority class is recognised where the factor is above `r_i = max_{c≠m} p_ic / p_im`. So the
    sorted `r_i` are all that matters: the factor is taken between two of them, at their geometric mean, which is the
    middle of the logit offsets that do the same. Examples of equal `r_i` are won or lost together, one with `p_im = 0`
    is never won, one with no other probability never lost: of the accuracies that can be reached the nearest is taken,
    of two equally near the lower.

    Args:
      probabilities: `[n, classes]`, rows sum to 1.
      labels: class numbers, `[n]`.
      majority_class: the number `m` of the class whose probability is scaled; some labels are of it.
      majority_accuracy: the share of its examples that shall be recognised.

    Returns:
      `[n, classes]`, float64, rows sum to 1.
    """
    adjusted = np.array(probabilities, np.float64)
    of_majority = adjusted[labels == majority_class]
    with np.errstate(divide="ignore"):
        ratios = np.delete(of_majority, majority_class, axis=1).max(1) / of_majority[:, majority_class]
    edges = np.unique(ratios[(ratios > 0) & np.isfinite(ratios)])
    if edges.size:  # else no factor makes a difference
        roots = np.sqrt([edges[0] / 4, *edges, edges[-1] * 4])  # also a factor below and one above them all
        factors = roots[:-1] * roots[1:]
        accuracies = np.searchsorted(np.sort(ratios), factors) / len(ratios)
        adjusted[:, majority_class] *= factors[np.abs(accuracies - majority_accuracy).argmin()]
    return adjusted / adjusted.sum(1, keepdims=True)
