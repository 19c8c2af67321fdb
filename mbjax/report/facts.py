"""The numbers of a run's page that `result.json` does not hold: intervals, what guessing gives, bins, costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mbjax.evaluation import intervals, metrics
from mbjax.evaluation.decisions import Decision
from mbjax.report.examine import calibrated
from mbjax.types import UserError

WIDE = 0.2  # an interval of a class's recall, above which the page warns
_LARGE = 20  # classes, above which tables of classes list the worst alone


def of_classes(result: Mapping[str, Any], predictions: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The facts about a classifier's run, as JSON can hold them.

    Args:
      result: of `result.json`.
      predictions: `probabilities` `[n, classes]`, those of the network itself, and `labels` `[n]`.

    Raises:
      UserError: a run of a version that did not calibrate.
    """
    if not {"calibration", "decision"} <= set(result):
        raise UserError("its result.json has no calibration: it is of an older version; train again in a new folder")
    labels, raw = predictions["labels"], np.asarray(predictions["probabilities"], np.float64)
    p = calibrated(raw, result)
    decided = Decision.from_dict(result["decision"])(p)
    counts = np.bincount(labels, minlength=p.shape[1])
    confusion = result["decision"].get("confusion")
    found = np.bincount(labels[decided == labels], minlength=p.shape[1]) if confusion is None else np.diag(confusion)
    majority = int(np.argmax(result["data"]["class_counts"]["train"]))
    recalls = [intervals.wilson(h, n) for h, n in zip(found, counts, strict=True)]
    facts = {
        "rows": len(labels),
        "majority": majority,
        "majority_accuracy": counts[majority] / len(labels),  # of who always predicts it
        "chance": 0.5 if p.shape[1] == 2 else 1 / p.shape[1],  # of the primary score
        "shares": (counts / len(labels)).tolist(),
        "network": _intervals(raw, raw.argmax(1), labels, majority),
        "calibrated": _intervals(p, p.argmax(1), labels, majority),
        "decision": _of_decision(decided, labels, p.shape[1]),
        "found": found.tolist(),
        "recall": (found / counts).tolist(),
        "recall_interval": recalls,
        "few": [c for c in np.argsort(counts, kind="stable").tolist() if recalls[c][1] - recalls[c][0] > WIDE][:3],
        "classes": _order(counts, found),
        "reliability": _reliability(p, labels),
        "confusions": _confusions(labels, decided, p.shape[1]),
    }
    if p.shape[1] == 2:
        facts["costs"] = _costs(result["decision"], p[:, 1], labels, np.array(result["calibration"]["priors"]))
    return facts


def _intervals(p: np.ndarray, predicted: np.ndarray, labels: np.ndarray, majority: int) -> dict[str, list[float]]:
    """95% intervals of `mbjax.evaluation.metrics.scores`; of what is no mean and no ranking there is none."""
    counts = np.bincount(labels, minlength=p.shape[1])
    hits = np.bincount(labels[predicted == labels], minlength=p.shape[1])
    others = np.arange(p.shape[1]) != majority
    own = np.maximum(p[np.arange(len(p)), labels], np.finfo(np.float64).eps)  # as scikit-learn clips
    found = {
        "accuracy": intervals.wilson(int(hits.sum()), len(labels)),
        "balanced_accuracy": intervals.mean_of_shares(hits, counts),
        "majority_accuracy": intervals.wilson(hits[majority], counts[majority]),
        "minority_accuracy": intervals.mean_of_shares(hits[others], counts[others]),
        "log_loss": intervals.mean(-np.log(own)),
    }
    return {**found, **(intervals.ranking(p[:, 1], labels) if p.shape[1] == 2 else {})}


def _of_decision(decided: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, list[float]]:
    """95% intervals of `mbjax.evaluation.decisions.scores`."""
    counts = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[decided == labels], minlength=classes)
    found = {
        "accuracy": intervals.wilson(int(hits.sum()), len(labels)),
        "balanced_accuracy": intervals.mean_of_shares(hits, counts),
    }
    if classes == 2:
        found["recall"] = intervals.wilson(hits[1], counts[1])
        if taken := int((decided == 1).sum()):
            found["precision"] = intervals.wilson(hits[1], taken)
    return found


def _order(counts: np.ndarray, found: np.ndarray) -> list[int]:
    """The classes of the table: all in their order, or of many those with the lowest recall."""
    if len(counts) <= _LARGE:
        return list(range(len(counts)))
    return np.argsort(found / counts, kind="stable")[:_LARGE].tolist()


def _reliability(p: np.ndarray, labels: np.ndarray) -> dict[str, list[float]]:
    """Of two classes of the positive one; of more of the most probable."""
    two = p.shape[1] == 2
    predicted, hits = (p[:, 1], labels == 1) if two else (p.max(1), p.argmax(1) == labels)
    middle, came, count = metrics.equal_mass_bins(predicted, hits)
    ends = np.array([intervals.wilson(h, n) for h, n in zip(came, count, strict=True)]).T
    bins = {"predicted": middle, "observed": came / count, "low": ends[0], "high": ends[1], "count": count}
    return {name: values.tolist() for name, values in bins.items()}


def _confusions(labels: np.ndarray, decided: np.ndarray, classes: int) -> list[dict[str, int]]:
    """The pairs (true, decided) that are confused most often, of three classes or more."""
    if classes == 2:
        return []
    cells = np.bincount(labels[decided != labels] * classes + decided[decided != labels], minlength=1)
    most = np.argsort(-cells, kind="stable")[:8]
    return [{"true": int(c // classes), "decided": int(c % classes), "times": int(cells[c])} for c in most if cells[c]]


def cost_curve(p: np.ndarray, labels: np.ndarray, costs: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """The mean cost of calling rows positive from a threshold on, over thresholds.

    Args:
      p: of class 1, `[n]`.
      labels: 0 or 1, `[n]`.
      costs: `[2, 2]`, the row is the true class, the column the decision.

    Returns:
      Thresholds, rising, the last above every probability; the cost at each.
    """
    (right0, wrong0), (wrong1, right1) = costs
    thresholds, place = np.unique(p, return_inverse=True)
    below = [np.append(0, np.cumsum(np.bincount(place[labels == c], minlength=len(thresholds)))) for c in (0, 1)]
    above = [below[c][-1] - below[c] for c in (0, 1)]
    total = below[0] * right0 + above[0] * wrong0 + below[1] * wrong1 + above[1] * right1
    return np.append(thresholds, np.nextafter(thresholds[-1], 2)), total / len(p)


def _costs(decision: Mapping[str, Any], p: np.ndarray, labels: np.ndarray, priors: np.ndarray) -> dict[str, Any]:
    """Expected costs, of `config.decision.costs`; else an error on a class costs one over the class's share."""
    rule, own = Decision.from_dict(decision), decision.get("costs")
    matrix = own or [[0.0, 1 / priors[0]], [1 / priors[1], 0.0]]
    thresholds, cost = cost_curve(p, labels, matrix)
    taken = rule(np.stack([1 - p, p], axis=1))
    least = int(cost.argmin())
    return {
        "own": bool(own), "matrix": np.array(matrix).tolist(), "boundary": rule.boundary, "never": float(cost[-1]),
        "always": float(cost[0]), "decision": float(np.array(matrix)[labels, taken].mean()),
        "least": float(cost[least]), "least_threshold": float(thresholds[least]),
    }  # fmt: skip


def of_people(result: Mapping[str, Any], predictions: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The facts about a run that identifies people."""
    labels = predictions["labels"]
    images = np.bincount(labels)[labels]
    probes = images[images > 1]
    low, high = result["test"]["rank1_gap_interval"]
    return {
        "people": len(np.unique(labels)),
        "images": len(labels),
        "probes": len(probes),
        "chance": float(((probes - 1) / (len(labels) - 1)).mean()),  # the nearest is any other image
        "gap_is_clear": bool(low > 0 or high < 0),
    }
