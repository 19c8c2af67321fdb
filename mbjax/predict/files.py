"""A predictor's folder: `model.json`, all but the weights, and `weights.safetensors`.

Reading them runs no code but that of a network of the user's own, which is named as `MODULE:NAME`.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors import numpy as safetensors

import mbjax
from mbjax import atomic
from mbjax.data import preprocessing
from mbjax.data.arrays import Arrays
from mbjax.evaluation.decisions import Decision
from mbjax.predict.predictor import Predictor
from mbjax.types import UserError, first_line

FORMAT = 3
"""The format that is written. Every one from 1 on is read.

2 has the steps of columns that are not written plainly, 3 numbers that are clipped smoothly or have bins.
"""
ABOUT, WEIGHTS = "model.json", "weights.safetensors"


def save(predictor: Predictor, folder: str | os.PathLike[str]) -> None:
    """See `mbjax.predict.Predictor.save`."""
    folder = Path(folder).expanduser()
    if folder.exists():
        raise UserError(f"{folder} is there already: choose another folder, or remove it")
    flat = traverse_util.flatten_dict(predictor.variables, sep="/")
    weights = safetensors.save({name: np.ascontiguousarray(array) for name, array in flat.items()})
    about = {
        "format": FORMAT,
        "mbjax": mbjax.__version__,
        "model": dict(predictor.model),
        "preprocessing": predictor.preprocessing.to_dict(),
        "classes": list(predictor.classes),
        "priors": np.asarray(predictor.priors).tolist(),
        "sampled_priors": np.asarray(predictor.sampled_priors).tolist(),
        "temperature": float(predictor.temperature),
        "decision": predictor.decision.to_dict(),
        "labels": None if predictor.labels is None else np.asarray(predictor.labels).tolist(),
        "weights": {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()},
    }
    about["digest"] = _digest(about)
    try:
        with atomic.making(folder) as part:
            (part / WEIGHTS).write_bytes(weights)
            (part / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from None


def load(folder: str | os.PathLike[str]) -> Predictor:
    """Reads the model that a finished run left, or that `Predictor.save` wrote.

    Args:
      folder: the run's folder, or its `model` folder.

    Raises:
      UserError: no model there, one of a newer format, or files that are damaged or do not belong together.

    Example:
      >>> mbjax.load("runs/churn").predict_proba(frame, priors={"Yes": 0.1})  # doctest: +SKIP
    """
    place = Path(folder).expanduser()
    place = place / "model" if (place / "model" / ABOUT).is_file() else place
    if not (place / ABOUT).is_file():
        raise UserError(_no_model(place))
    about = _read_about(place / ABOUT)
    try:
        weights = (place / WEIGHTS).read_bytes()
    except OSError as error:
        raise UserError(f"{place / WEIGHTS} cannot be read ({error.strerror}): copy the whole folder {place}") from None
    try:
        _check_weights(weights, about["weights"], place)
        predictor = _build(about, weights)
        _try(predictor)
    except UserError:
        raise
    except Exception as error:  # whatever files that only look like a model make of it
        raise UserError(f"{place} is no model that mbjax wrote ({type(error).__name__}: {first_line(error)})") from None
    return predictor


def _check_weights(weights: bytes, about: dict[str, Any], place: Path) -> None:
    if len(weights) < about["bytes"]:
        raise UserError(
            f"{place / WEIGHTS} is cut off: it has {len(weights):,} of {about['bytes']:,} bytes: copy it again"
        )
    if hashlib.sha256(weights).hexdigest() != about["sha256"]:
        raise UserError(f"{place}: {ABOUT} and {WEIGHTS} do not belong together: copy both from one folder")


def _build(about: dict[str, Any], weights: bytes) -> Predictor:
    return Predictor(
        model={name: tuple(v) if isinstance(v, list) else v for name, v in about["model"].items()},
        variables=traverse_util.unflatten_dict(safetensors.load(weights), sep="/"),
        preprocessing=preprocessing.from_dict(about["preprocessing"]),
        classes=tuple(about["classes"]),
        priors=np.array(about["priors"], np.float64),
        sampled_priors=np.array(about["sampled_priors"], np.float64),
        temperature=float(about["temperature"]),
        decision=Decision.from_dict(about["decision"]),
        labels=None if about["labels"] is None else np.array(about["labels"]),
    )


def _try(predictor: Predictor) -> None:
    """Goes the way of a row as far as it costs next to nothing: what does not fit together shows when it is read.

    Raises:
      Exception: of any kind, where it does not.
    """
    made, count = predictor.preprocessing, len(predictor.classes)
    shape = made.shape if isinstance(made, Arrays) else made.transform(made.empty_row()).shape[1:]
    like = jax.ShapeDtypeStruct((1, *shape), made.dtype if isinstance(made, Arrays) else np.float32)
    logits = jax.eval_shape(predictor._apply, predictor.variables, like)
    if logits.shape != (1, 1 if count == 2 else count):
        raise ValueError(f"outputs {list(logits.shape[1:])} for {count} classes")
    for priors in (predictor.priors, predictor.sampled_priors):
        if priors.shape != (count,) or not (np.isfinite(priors) & (priors >= 0)).all():
            raise ValueError(f"priors {priors}")
    if not 0 < predictor.temperature < np.inf:
        raise ValueError(f"temperature {predictor.temperature}")
    if not all(isinstance(name, str) for name in predictor.classes):
        raise TypeError("classes that are no text")
    if predictor.labels is not None and predictor.labels.shape != (count,):
        raise ValueError(f"labels {list(predictor.labels.shape)} for {count} classes")
    predictor.classes_of(predictor.calibrate(np.full((1, count), 1 / count)))


def _read_about(file: Path) -> dict[str, Any]:
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        version = int(about["format"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise UserError(f"{file} is cut off or damaged: copy it again, or train again") from None
    if version > FORMAT:
        raise UserError(
            f"{file} is of format {version}, written by mbjax {about.get('mbjax')}; this mbjax {mbjax.__version__} "
            f"reads formats up to {FORMAT}: update mbjax"
        )
    if about.pop("digest", None) != _digest(about):
        raise UserError(f"{file} was changed since it was written: copy it again, or train again")
    return about


def _digest(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _no_model(place: Path) -> str:
    if not place.exists():
        return f"{place}: there is no such folder"
    try:
        result = json.loads((place / "result.json").read_text())
    except (OSError, ValueError):
        if (place / "make.py").is_file():  # a comparison's best
            return f"{place} has no model of mbjax's: make.py there, or pipeline.skops, predicts"
        waits = (place / "config.json").is_file()
        return f"{place} has no model: " + ("its run is not finished" if waits else "name a finished run's folder")
    if "groups" in result.get("data", {}):
        return f"{place} identifies people, who are not those of training: it has no classes to predict"
    return f"{place} was finished before mbjax kept models: train again in a new folder"
