"""From probabilities to decisions: the most probable class, a threshold chosen on validation data, or least cost."""

import ast
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn import metrics as sk

from mbjax.options import POSITIVE, SHARE, Kind, Option, choice, unset_or
from mbjax.types import UserError

log = logging.getLogger("mbjax")
METRICS = ("balanced_accuracy", "f_beta", "precision", "recall")


@dataclasses.dataclass(frozen=True)
class Decision:
    """A rule from probabilities at the training priors to class numbers.

    Attributes:
      rule: `"argmax"`, `"threshold"` (of two classes: number 1 where its probability is at least `threshold`) or
        `"costs"` (the class of least expected cost).
      threshold: of that rule.
      costs: of that rule, `[classes, classes]`: what it costs to decide for the column where the row is true.
    """

    rule: str = "argmax"
    threshold: float | None = None
    costs: tuple[tuple[float, ...], ...] | None = None

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Class numbers, `[n]`, of probabilities `[n, classes]`."""
        if self.rule == "threshold":
            return (probabilities[:, 1] >= self.threshold).astype(np.int64)
        if self.rule == "costs":
            return (probabilities @ np.array(self.costs)).argmin(1)
        return probabilities.argmax(1)

    @property
    def boundary(self) -> float:
        """Of two classes, the probability of class 1 from which it is chosen."""
        if self.rule == "threshold":
            return float(np.clip(self.threshold or 0, 1e-300, 1 - 1e-16))
        if self.rule == "costs" and self.costs is not None:
            (right0, wrong0), (wrong1, right1) = self.costs  # class 1 where (w0 - r0)(1 - p) < (w1 - r1) p
            of0, of1 = wrong0 - right0, wrong1 - right1
            return float(np.clip(of0 / (of0 + of1), 1e-300, 1 - 1e-16)) if of0 + of1 > 0 else 0.5
        return 0.5

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold: what its rule has, and no more."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, about: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, perhaps by way of JSON."""
        costs = about.get("costs")
        return cls(about["rule"], about.get("threshold"), costs and tuple(tuple(map(float, row)) for row in costs))


def choose(
    probabilities: np.ndarray, labels: np.ndarray, *, metric: str, beta: float = 1.0, keep: float | None = None
) -> float:
    """The threshold that is best on these examples, half-way to the next lower score.

    Args:
      probabilities: of class 1, `[n]`.
      labels: 0 or 1, both there, `[n]`.
      metric: `"balanced_accuracy"`, or `"f_beta"`; or what is to be kept: `"precision"` with the highest recall that
        has it, or `"recall"` with the highest precision. A precision that no threshold has is the highest there is.
      beta: of F-beta: recall counts `beta` times as much as precision.
      keep: the precision or recall to keep.
    """
    scores, y = np.asarray(probabilities, np.float64), np.asarray(labels)
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # the last of each score, from the highest
    true, taken = np.cumsum(y[order])[last], last + 1.0
    precision, recall = true / taken, true / y.sum()
    if metric == "balanced_accuracy":
        value = recall - (taken - true) / (len(y) - y.sum())
    elif metric == "f_beta":
        value = (1 + beta**2) * true / (beta**2 * y.sum() + taken)
    elif keep is None:
        raise ValueError(f"metric={metric!r} needs keep")
    elif metric == "recall":
        value = np.where(recall >= keep, precision, -1)
    else:
        value = np.where(precision >= keep, recall, -1)
        if value.max() < 0:  # the run is trained: better the nearest than none
            log.warning(
                "config.decision.keep=%s: no threshold has this precision in validation; %.4f, the highest, is taken",
                keep, precision.max(),
            )  # fmt: skip
            value = precision
    best = int(value.argmax())
    here = scores[order][last[best]]
    below = scores[order][last[best] + 1] if best + 1 < len(last) else here
    return float((here + below) / 2) if best + 1 < len(last) else float(here)


def read_costs(costs: Any, classes: Sequence[str]) -> tuple[tuple[float, ...], ...]:
    """A cost matrix, `[classes, classes]`: the row is the true class, the column the decision.

    Args:
      costs: `{("fraud", "ok"): 100, ("ok", "fraud"): 1}`: what it costs that a `fraud` is taken for `ok`, and so on, 0
        where nothing is said; this as text; or the matrix itself.
      classes: the class names in the order of their numbers.

    Raises:
      UserError: what is no such mapping or matrix, an unknown class, or a cost that is not finite.
    """
    shown = f"config.decision.costs={costs!r}"
    if isinstance(costs, str):
        try:
            costs = ast.literal_eval(costs)
        except (ValueError, SyntaxError):
            raise UserError(f"{shown}: {COSTS.wanted}") from None
    if isinstance(costs, Mapping):
        matrix = np.zeros((len(classes), len(classes)))
        for pair, cost in costs.items():
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise UserError(f"{shown}: {pair!r} is no pair (true class, decision)")
            for name in pair:
                if str(name) not in classes:
                    raise UserError(f"{shown}: there is no class {name!r} among {', '.join(classes)}")
            matrix[classes.index(str(pair[0])), classes.index(str(pair[1]))] = cost
    else:
        matrix = np.asarray(costs, np.float64)
    if matrix.shape != (len(classes), len(classes)) or not np.isfinite(matrix).all():
        raise UserError(f"{shown}: finite costs of {len(classes)} true classes by {len(classes)} decisions are needed")
    return tuple(map(tuple, matrix.tolist()))


def check(section: Mapping[str, Any], classes: Sequence[str], *, validation: bool) -> None:
    """Looks at `config.decision` before anything is trained.

    Args:
      section: the options below.
      classes: the class names.
      validation: whether there is a validation part.

    Raises:
      UserError: options that contradict one another, or that need what is not there.
    """
    metric, costs = section["metric"], section["costs"]
    if costs:
        read_costs(costs, classes)
    if not metric:
        return
    shown = f"config.decision.metric={metric!r}"
    if metric not in METRICS:
        raise UserError(f"{shown}: choose one of {', '.join(METRICS)}, or none")
    if costs:
        raise UserError(f"{shown} and config.decision.costs: choose one of them")
    if len(classes) != 2:
        raise UserError(f"{shown} is for two classes, not {len(classes)}: give costs")
    if metric in ("precision", "recall") and section["keep"] is None:
        raise UserError(f"{shown}: say how much to keep with --config.decision.keep=0.9")
    if not validation:
        raise UserError(f"{shown}: the threshold is chosen on validation data; set --config.data.validation_share=0.2")


def decide(
    section: Mapping[str, Any], classes: Sequence[str], validation: tuple[np.ndarray, np.ndarray] | None
) -> Decision:
    """The rule that `config.decision` asks for.

    Args:
      section: the options below.
      classes: the class names.
      validation: calibrated probabilities `[n, classes]` and labels `[n]` of the validation part, if there is one.

    Raises:
      UserError: see `check`.
    """
    check(section, classes, validation=validation is not None)
    if section["costs"]:
        return Decision("costs", costs=read_costs(section["costs"], classes))
    if not section["metric"] or validation is None:
        return Decision()
    p, labels = validation
    options = {name: section[name] for name in ("metric", "beta", "keep")}
    return Decision("threshold", choose(p[:, 1], labels, **options))


def scores(
    decided: np.ndarray, labels: np.ndarray, *, classes: int, costs: Sequence[Sequence[float]] | None = None
) -> dict[str, float]:
    """`accuracy`, `balanced_accuracy`, of two classes `precision`, `recall` and `f1`, with costs `mean_cost`.

    Args:
      decided: class numbers, `[n]`.
      labels: class numbers, `[n]`.
      classes: how many there are.
      costs: what a decision costs, for `mean_cost`; see `read_costs`.
    """
    without: dict[str, Any] = {"zero_division": 0}  # of a class that is never there, or never decided
    out = {
        "accuracy": float(np.mean(decided == labels)),
        "balanced_accuracy": float(sk.recall_score(labels, decided, average="macro", **without)),
    }
    if classes == 2:
        for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
            out[name] = float(score(labels, decided, **without))
    if costs is not None:
        out["mean_cost"] = float(np.array(costs)[labels, decided].mean())
    return out


def _are_costs(value: Any) -> bool:
    try:
        value = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return False
    return isinstance(value, dict | list | tuple)


COSTS = Kind(
    "costs such as \"{('fraud', 'ok'): 100, ('ok', 'fraud'): 1}\" (true class, decision) are needed", _are_costs
)
OPTIONS = (  # of config.decision
    Option("metric", "", unset_or(choice(METRICS), "none", unset=""),
           "of two classes, what the threshold is chosen for on validation data; precision and recall are kept"),
    Option("beta", 1.0, POSITIVE, "of f_beta: how much more recall counts than precision"),
    Option("keep", None, unset_or(SHARE, "None"), "the precision or recall to keep"),
    Option("costs", "", unset_or(COSTS, "none", unset=""),
           "what errors cost, \"{('true class', 'decision'): 100, ...}\"; decisions then have the least expected cost"),
    )  # fmt: skip
