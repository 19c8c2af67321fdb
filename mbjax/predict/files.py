"""A predictor's folder: `model.json`, all but the weights, and `weights.safetensors`. Reading them runs no code."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors import numpy as safetensors

import mbjax
from mbjax import atomic
from mbjax.data import preprocessing
from mbjax.evaluation.decisions import Decision
from mbjax.predict.predictor import Predictor
from mbjax.types import UserError

FORMAT = 2
"""The format that is written. Every one from 1 on is read; 2 has the steps of columns that are not written plainly."""
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
    if len(weights) < about["weights"]["bytes"]:
        raise UserError(
            f"{place / WEIGHTS} is cut off: it has {len(weights):,} of {about['weights']['bytes']:,} bytes: "
            "copy it again"
        )
    if hashlib.sha256(weights).hexdigest() != about["weights"]["sha256"]:
        raise UserError(f"{place}: {ABOUT} and {WEIGHTS} do not belong together: copy both from one folder")
    try:
        variables = traverse_util.unflatten_dict(safetensors.load(weights), sep="/")
        return Predictor(
            model={name: tuple(v) if isinstance(v, list) else v for name, v in about["model"].items()},
            variables=variables,
            preprocessing=preprocessing.from_dict(about["preprocessing"]),
            classes=tuple(about["classes"]),
            priors=np.array(about["priors"]),
            sampled_priors=np.array(about["sampled_priors"]),
            temperature=about["temperature"],
            decision=Decision.from_dict(about["decision"]),
            labels=None if about["labels"] is None else np.array(about["labels"]),
        )
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise UserError(f"{place} is no model that mbjax wrote ({type(error).__name__}: {error})") from None


def _read_about(file: Path) -> dict[str, Any]:
    try:
        about = json.loads(file.read_text())
        version = int(about["format"])
    except (OSError, ValueError, KeyError, TypeError):
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
        waits = (place / "config.json").is_file()
        return f"{place} has no model: " + ("its run is not finished" if waits else "name a finished run's folder")
    if "groups" in result.get("data", {}):
        return f"{place} identifies people, who are not those of training: it has no classes to predict"
    return f"{place} was finished before mbjax kept models: train again in a new folder"
