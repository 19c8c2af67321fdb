"""From an estimator's parameters to the configuration that they describe, and its errors in their words."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from mbjax import config as config_lib
from mbjax import methods
from mbjax.data.tables import numbers
from mbjax.options import COUNT, FLAG, SHARE_INSIDE, Kind, choice, flatten, nearest, shown, unset_or
from mbjax.rows import CHOSEN, ROWS, SCALING
from mbjax.types import Config, UserError

DEFAULTS: Mapping[str, Any] = {
    "model.hidden": (64, 64), "train.batch_size": 128, "query.sampler": "class_balanced", "query.batch_size": 24,
    "meta.steps": 8,
}  # fmt: skip
"""The configuration's keys for which the estimators have defaults of their own.

`MetaBalanceClassifier` has `mbjax.rows.CHOSEN` on top of them, for tables.
"""

PAPER: Mapping[str, Any] = {
    "model.hidden": (25,), "meta.beta": 0.01, "optimizer.lr": 0.02, "epochs": 100, "updates": None,
}  # fmt: skip
"""In place of them with `params="paper"`: the paper's settings for its table of loans, those of `configs/loan.py`."""

UPDATES, MOST_UPDATES = 500, 5000
"""How many there are without early stopping, and at most with it, unless a parameter says so."""

_ROWS = {
    name: row.changes
    for name, row in ROWS.items()
    if row.family in ("baseline", "metabalance", "control")
    and not (row.like or row.after or name.endswith("_light") or any(map(callable, row.changes.values())))
}
METHODS: Mapping[str, Mapping[str, Any]] = {
    **_ROWS, **{name: {"method": name, **_ROWS.get(name, {})} for name in methods.METHODS},
}  # fmt: skip
"""What `ImbalancedClassifier(method=…)` takes, with the configuration's keys that each stands for.

They are mbjax's methods, and those rows of a comparison (`mbjax.compare`) that are a network with given settings.
"""

_KEYS: Mapping[str, Sequence[str]] = {  # the configuration's keys that a parameter stands for
    "hidden": ("model.hidden",),
    "learning_rate": ("optimizer.lr",),
    "batch_size": tuple(f"{stream}.batch_size" for stream in config_lib.STREAMS),
    "max_updates": ("updates",),
    "inner_lr": ("meta.inner_lr",),
    "pairs": ("meta.steps",),
    "beta": ("meta.beta",),
}
_PARAMETERS = {key: name for name, keys in _KEYS.items() for key in keys}
_KINDS = {
    "method": choice(METHODS),
    "early_stopping": Kind(
        'True, False or "auto" is needed', lambda x: FLAG.valid(x) or (isinstance(x, str) and x == "auto")
    ),
    "validation_fraction": SHARE_INSIDE,
    "n_iter_no_change": COUNT,
    "scaling": unset_or(numbers.SCALING.kind, "None"),
    "encoding": numbers.ENCODING.kind,
    "calibrate": FLAG,
    "params": unset_or(
        Kind(
            'a dict such as {"loss.name": "focal"}, or "paper", is needed',
            lambda x: isinstance(x, dict) or (isinstance(x, str) and x == "paper"),
        ),
        "None",
    ),
}


class FitError(UserError, ValueError):
    """A mistake that its user can mend; scikit-learn's own tools expect a ValueError."""


def check(parameters: Mapping[str, Any]) -> None:
    """Raises a UserError for a parameter that the configuration does not check itself."""
    for name, kind in _KINDS.items():
        if name in parameters and not kind.valid(parameters[name]):
            raise UserError(f"{name}={shown(parameters[name])}: {kind.describe()}")


def are_chosen(parameters: Mapping[str, Any], *, image: bool = False) -> bool:
    """Whether the settings that were chosen for tables hold: those of `MetaBalanceClassifier`, which has no method."""
    return "method" not in parameters and parameters["params"] != "paper" and not image


def scaling(parameters: Mapping[str, Any]) -> str:
    """How numbers are scaled: as the parameter says, or else as it was chosen."""
    return parameters["scaling"] or (SCALING if are_chosen(parameters) else numbers.SCALING.default)


def least_held(parameters: Mapping[str, Any], *, image: bool) -> int:
    """How many examples of the rarest class `early_stopping="auto"` wants to hold out: the loss of few says little."""
    return 50 if are_chosen(parameters, image=image) else 5


def configure(parameters: Mapping[str, Any], *, seed: int, image: bool, stops: bool, one_pass: bool) -> Config:
    """The configuration that the parameters describe, checked.

    Args:
      parameters: an estimator's `get_params()`.
      seed: of the initial weights and the samplers.
      image: whether the examples are images.
      stops: whether training stops early.
      one_pass: whether to train for one pass over the data only.

    Raises:
      UserError: an unknown key of `params`, or a value that is out of range.
    """
    paper, own = parameters["params"] == "paper", {}
    if not paper:
        own = dict(parameters["params"] or {})
    changes: dict[str, Any] = dict(PAPER if paper else DEFAULTS)
    if are_chosen(parameters, image=image):
        changes |= CHOSEN
    changes["updates"] = None if paper else MOST_UPDATES if stops else UPDATES
    changes |= METHODS[parameters.get("method", "metabalance")]
    if paper and changes["method"] != "metabalance":
        changes["optimizer.lr"] = 0.05  # Table 4's for naive training
    network = own.get("model.name", "cnn" if image else changes.get("model.name", "mlp"))
    if network not in ("mlp", "tabm"):
        changes.pop("model.hidden", None)
    if network != "tabm":
        changes.pop("model.members", None)
    given = {key: parameters.get(name) for name, keys in _KEYS.items() for key in keys}
    changes |= {key: value for key, value in given.items() if value is not None}
    changes |= {"updates": None} if "epochs" in own else {}
    changes |= {**own, "model.name": network, "seed": seed, "parallel": "none"}
    if one_pass:
        changes |= {"epochs": 1, "updates": None}
    return config_lib.validate(ConfigDict(_filled(changes)))


def _filled(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a configuration with these keys changed."""
    values = config_lib.base().to_dict()
    known = flatten(values)
    values["model"] = {}  # another network has other keys
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        if key not in known and section != "model":
            meant = " or ".join(map(repr, nearest(key, sorted(known))))
            raise UserError(f"params has {key!r}, which is no key of the configuration; did you mean {meant}?")
        (values[section] if section else values)[name] = value
    return values


@contextlib.contextmanager
def in_these_words() -> Iterator[None]:
    """Turns a UserError into a FitError that names parameters of the estimator, not keys of the configuration."""
    try:
        yield
        return
    except UserError as error:
        message = re.sub(r"(?:--)?config\.(\w+(?:\.\w+)*)", lambda match: _name(match[1]), str(error))
    raise FitError(message)


def _name(key: str) -> str:
    return _PARAMETERS.get(key) or (key if key in _KINDS else f"params[{key!r}]")
