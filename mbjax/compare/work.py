"""Doing the runs of a comparison: a network's through populations, a baseline's by fitting it; and their scores."""

import functools
import json
import logging
import math
import pathlib
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn import metrics as sk

from mbjax import config as config_lib
from mbjax import data, train
from mbjax.compare import baselines
from mbjax.compare.plan import Run, Source, load
from mbjax.evaluation import calibration, decisions, evaluate, metrics
from mbjax.train import population
from mbjax.types import Dataset, UserError, first_line

log = logging.getLogger("mbjax")


def do(unit: Sequence[Run], code: str, out: pathlib.Path, source: Source = None) -> list[dict[str, Any]]:
    """Does the runs of a unit, on the data of `Task.dataset`; a run that cannot be done gets a line that says why."""
    lines = []
    for runs in _programs(unit):
        try:
            lines += [_line(run, code, outcome) for run, outcome in _outcomes(runs, out, source)]
        except OSError:  # a full disk is nothing that other runs could do without
            raise
        except Exception as error:  # of a part of the user's own, or a mistake of ours: the other rows go on
            reason = f"{type(error).__name__}: {first_line(error)}"
            log.warning("%s failed: %s", runs[0].row, reason)
            failed = {"status": "failed", "reason": reason, "trace": traceback.format_exc()}
            lines += [_line(run, code, failed) for run in runs]
    return lines


def _programs(unit: Sequence[Run]) -> list[list[Run]]:
    """The runs of a unit that one program trains."""
    if unit[0].estimator or unit[0].alone:
        return [[run] for run in unit]
    programs: dict[str, list[Run]] = {}
    for run in unit:
        apart = {key: value for key, value in run.settings.items() if key not in population.NUMBERS}
        programs.setdefault(json.dumps(apart), []).append(run)
    return [*programs.values()]


def _outcomes(runs: Sequence[Run], out: pathlib.Path, source: Source) -> Iterator[tuple[Run, dict[str, Any]]]:
    first = runs[0]
    if first.estimator:
        return iter([(first, _fit(first, source))])
    if first.alone:
        return iter([(first, _train_alone(first, out, source))])
    return _train(runs, source)


def _train_alone(run: Run, out: pathlib.Path, source: Source) -> dict[str, Any]:
    """Trains a run in its own folder, or resumes it there."""
    folder = pathlib.Path("runs", f"{run.row}-{run.key}-{run.seed}")
    try:
        result = train.train_and_evaluate(run.config, out / folder, source and load(source, run.config))
    except UserError as error:
        return {"status": "failed", "reason": str(error)}
    scores = {part: result[part] for part in ("validation", "test") if part in result}
    more = {"folder": str(folder), "updates": result["updates"], "seconds": result["seconds"]}
    return {"status": "ok", "data": result["data"]["source"], **scores, **more}


def lost(unit: Sequence[Run], code: str) -> list[dict[str, Any]]:
    """The lines of a unit whose process was killed, again and again."""
    reason = "its process was killed: out of memory? The same command tries it again"
    return [_line(run, code, {"status": "failed", "reason": reason}) for run in unit]


def _train(runs: Sequence[Run], source: Source) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Trains runs that differ in their seed, their table and in `population.NUMBERS`.

    Yields each with its scores or its failure.
    """
    by_split: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        by_split.setdefault((table_of(run), run.seed), []).append(run)
    built: dict[tuple[Any, ...], list[tuple[tuple[str, int], train.Experiment]]] = {}
    for split, own in by_split.items():
        try:
            experiment = train.build(config_lib.validate(own[0].config), source and load(source, own[0].config))
        except UserError as error:
            yield from ((run, {"status": "failed", "reason": str(error)}) for run in own)
            continue
        # After a kill in the middle, seeds may lack different settings; and where a category is so rare that not every
        # training part has it, seeds have different columns.
        texts, shape = tuple(json.dumps(run.settings) for run in own), experiment.dataset.train.x.shape[1:]
        built.setdefault((texts, shape, len(experiment.dataset.classes)), []).append((split, experiment))
    for (texts, *_), group in built.items():
        splits, experiments = zip(*group, strict=True)
        settings = [{k: v for k, v in json.loads(t).items() if k in population.NUMBERS} for t in texts]
        trained = population.train_population(
            experiments, [seed for _, seed in splits], settings, updates_per_call=runs[0].config.updates_per_call
        )
        for split, experiment, states in zip(splits, experiments, trained.states, strict=True):
            sampled = train.sampled_priors(experiment)
            batch_size = runs[0].config.eval.batch_size
            predict = {
                part: evaluate.make_predict(
                    experiment.model,
                    experiment.dataset.splits[part],
                    batch_size=batch_size,
                    protocol=runs[0].config.eval.protocol,
                )
                for part in _scored(experiment.dataset)
            }
            for run, state in zip(by_split[split], states, strict=True):
                if not population.is_finite(state):
                    yield run, {"status": "failed", "reason": f"the loss is not finite{_shown(run.settings)}"}
                    continue
                probabilities = {part: predict[part](state) for part in predict}
                more = {"updates": experiment.updates, "mode": trained.mode, "seconds": round(trained.seconds, 4)}
                yield run, _scores(experiment.dataset, probabilities, run.config.eval.scores, sampled) | more


def _fit(run: Run, source: Source) -> dict[str, Any]:
    try:
        valid = config_lib.validate(run.config)
        options = json.dumps(valid.data.to_dict())
        dataset = load(source, valid) if source else _load(valid.task, valid.seed, options)
        started = time.perf_counter()
        fitted = baselines.fit(run.estimator, dataset, seed=run.seed, balanced=run.balanced, settings=run.settings)
        seconds = round(time.perf_counter() - started, 4)
    except UserError as error:
        return {"status": "failed", "reason": str(error)}
    except ValueError as error:  # of scikit-learn and its kin, about data that they cannot use
        return {"status": "failed", "reason": first_line(error)}
    probabilities = {part: baselines.predict(fitted, dataset.splits[part].x) for part in _scored(dataset)}
    counts = dataset.class_counts
    equal = run.balanced or run.estimator in baselines.EQUAL_PRIORS
    sampled = np.full(len(counts), 1 / len(counts)) if equal else counts / counts.sum()
    return _scores(dataset, probabilities, valid.eval.scores, sampled) | {"seconds": seconds}


def _scored(dataset: Dataset) -> list[str]:
    return [part for part in ("validation", "test") if part in dataset.splits]


@functools.lru_cache(maxsize=4)
def _load(task: str, seed: int, options: str) -> Dataset:
    return data.load(task, seed=seed, **json.loads(options))


def _scores(
    dataset: Dataset, probabilities: Mapping[str, np.ndarray], further: Sequence[str], sampled: np.ndarray
) -> dict[str, Any]:
    """The scores of both parts, as predicted and with the priors divided out.

    `corrected_log_loss` and `corrected_calibration_error` are those of probabilities at the training priors; `sampled`
    are the priors at which what was predicted are probabilities, `[classes]`.
    """
    counts = dataset.class_counts
    line: dict[str, Any] = {"status": "ok", "data": _describe(dataset)}
    priors, equal = counts / counts.sum(), np.ones(len(counts))
    adjusted = {part: calibration.shift_priors(p, priors, equal) for part, p in probabilities.items()}
    for prefix, predicted in (("", probabilities), ("priors_", adjusted)):
        if "validation" in predicted:
            line[prefix + "validation_halves"] = _halves(predicted["validation"], dataset.splits["validation"].y)
        for part, p in predicted.items():
            y = dataset.splits[part].y
            line[prefix + part] = metrics.scores(p, y, majority_class=int(counts.argmax()), further=further)
            corrected = calibration.shift_priors(probabilities[part], sampled, priors)
            labels = np.arange(len(counts))
            line[prefix + part]["corrected_log_loss"] = float(sk.log_loss(y, corrected, labels=labels))
            line[prefix + part]["corrected_calibration_error"] = metrics.calibration_error(corrected, y)
        if len(counts) == 2 and "validation" in predicted:
            held = dataset.splits["validation"].y  # whatever part is scored, the threshold is the validation part's
            threshold = decisions.choose(predicted["validation"][:, 1], held, metric="balanced_accuracy")
            decide = decisions.Decision("threshold", threshold)
            for part, p in predicted.items():
                scores = decisions.scores(decide(p), dataset.splits[part].y, classes=2)
                line[prefix + part]["threshold_balanced_accuracy"] = scores["balanced_accuracy"]
    return line


def _halves(probabilities: np.ndarray, labels: np.ndarray) -> list[float]:
    """The primary score on each half of the validation part: settings chosen on one are judged on the other.

    Halves are every other example of each class, so that both have all classes; of fewer than two of a class the score
    is NaN.
    """
    half = np.zeros(len(labels), bool)
    for number in np.unique(labels):
        half[np.flatnonzero(labels == number)[::2]] = True
    if np.unique(labels[~half]).size < probabilities.shape[1]:
        return [math.nan, math.nan]
    return [metrics.primary_score(probabilities[rows], labels[rows]) for rows in (half, ~half)]


def _describe(dataset: Dataset) -> str:
    return "; ".join([dataset.source, *dataset.notes]) if len(dataset.classes) == 2 else dataset.source


def _line(run: Run, code: str, outcome: Mapping[str, Any]) -> dict[str, Any]:
    head = {"key": run.key, "row": run.row, "settings": dict(run.settings), "seed": run.seed, "code": code}
    return {**head, **({"table": table} if (table := table_of(run)) else {}), **outcome}


def table_of(run: Run) -> str:
    """The table of a suite that a run is on; empty of a run on no suite."""
    return run.config.data.get("table") or ""


def _shown(settings: Mapping[str, Any]) -> str:
    text = ", ".join(f"{key}={value}" for key, value in settings.items())
    return f" with {text}" if text else ""
