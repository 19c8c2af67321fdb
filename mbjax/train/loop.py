"""One run: updates, evaluations and checkpoints, and its result."""

import contextlib
import logging
import math
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import tqdm

from mbjax import config as config_lib
from mbjax import data, report, sealed, versions
from mbjax.devices import hosts
from mbjax.devices import parallel as parallel_lib
from mbjax.evaluation import calibration, decisions, evaluate, metrics
from mbjax.report.tensorboard import Events, find_writer, write_events
from mbjax.state import TrainState
from mbjax.train import checkpoint, compile_time
from mbjax.train.experiment import Experiment, build, chosen
from mbjax.train.finish import describe, make_predictor
from mbjax.train.folder import Folder
from mbjax.train.start import first_state
from mbjax.train.stopping import EarlyStopping
from mbjax.train.updates import make_updates
from mbjax.types import Config, Dataset, UserError

log = logging.getLogger("mbjax")


class Interrupted(Exception):
    """The run was told to stop by a signal and has saved its state."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"stopped at update {step} by {signal.Signals(signum).name}; the same command resumes there")
        self.exit_status = 128 + signum


def train_and_evaluate(
    config: Config, workdir: str | os.PathLike[str], dataset: Dataset | None = None, *, tensorboard: bool = False
) -> dict[str, Any]:
    """Trains what a configuration describes, or resumes the run in `workdir`.

    Args:
      config: the configuration.
      workdir: the run's folder.
      dataset: what is trained and tested on, in place of what `config.task` and `config.data` name.
      tensorboard: writes TensorBoard's event files into the run's folder, too: scores as they come, figures at the end.

    Returns:
      What `result.json` holds; `["test"]` are the scores (see `mbjax.evaluation.metrics.scores`).

    Raises:
      UserError: a mistake in the configuration or the data, or a loss that is not finite.
      Interrupted: a signal came; the state is saved.
    """
    valid = config_lib.validate(config)
    parallel_lib.check_processes(valid.parallel)
    folder = Folder(pathlib.Path(workdir))
    if tensorboard:
        find_writer()
    if _is_finished(folder, valid):  # which may lie where nobody can write
        return _finished(folder, dataset, tensorboard)
    with folder.locked() if hosts.is_primary() else contextlib.nullcontext():
        if _is_finished(folder, valid):
            return _finished(folder, dataset, tensorboard)
        return _train(folder, valid, dataset, tensorboard)


def _is_finished(folder: Folder, config: Config) -> bool:
    """Whether the folder holds the result of this configuration."""
    return hosts.any_of(hosts.is_primary() and folder.holds(config) and folder.finished() is not None)


def _train(folder: Folder, valid: Config, dataset: Dataset | None, tensorboard: bool) -> dict[str, Any]:
    experiment = build(valid, dataset)
    _check(experiment, valid)
    content = data.digest(experiment.dataset, ["train"])
    hosts.check_equal(content, "training data")
    for note in experiment.dataset.notes:
        log.info("data: %s", note)
    for name, choice in chosen(experiment).items():
        log.info("%s: %s", name, choice)
    evaluators = evaluate.make_evaluators(
        experiment.model, experiment.dataset, batch_size=valid.eval.batch_size, protocol=valid.eval.protocol,
        further=valid.eval.scores, mesh=experiment.method.mesh,
    )  # fmt: skip
    fresh = experiment.method.init(valid.seed)  # before the folder is claimed: the model may not be for this data
    since = _claim(folder, valid, experiment.updates)
    checkpoints = checkpoint.Checkpoints(folder.checkpoints, keep=valid.keep_checkpoints, data=content)
    with contextlib.closing(checkpoints):
        state = checkpoints.restore(fresh)
        if start := int(state.step):
            log.info("resuming at update %d of %d", start, experiment.updates)
        stops = [stop for stop in boundaries(experiment.updates, valid.eval.every, 0) if stop > since]
        rows = folder.rewind(start, stops) if hosts.is_primary() else []
        started = time.monotonic()
        stopping = EarlyStopping(valid.eval.patience, folder.best, rows=rows, data=content)
        events = Events(folder.path, rows) if tensorboard and hosts.is_primary() else contextlib.nullcontext()

        def keep(row: Mapping[str, Any]) -> None:
            folder.log(row)
            if isinstance(events, Events):
                events.add(row)

        with contextlib.closing(stopping), events, compile_time.measure() as compiled:
            if state is fresh and experiment.numbered is not None:
                state = first_state(
                    experiment, valid.seed, parallel=valid.parallel, updates_per_call=valid.updates_per_call
                )
                checkpoints.save(state)  # one that is killed later need not do the start again
            state, row, predictions = _loop(experiment, state, evaluators, checkpoints, stopping, keep, valid)
            done: dict[str, Any] = {"updates": int(state.step)}
            if valid.eval.patience is not None:
                state = stopping.best(state)
                done["best_update"] = int(state.step)
                row, predictions = _evaluate(state, int(state.step), {}, evaluators)
    done |= {"seconds": round(time.monotonic() - started, 2), "compile_seconds": round(compiled(), 2),
             "resumed_at": start}  # fmt: skip
    predictor = None
    if experiment.dataset.kind == "classification":
        raw = predictions["validation"]["probabilities"] if "validation" in predictions else None
        predictor = make_predictor(experiment, state, validation=raw)
    result = {
        **_about(experiment, valid, done),
        **{name: row[name] for name in evaluators},
        **_with_priors(experiment.dataset, predictions["test"]),
        **(describe(experiment, predictor, predictions["test"]["probabilities"]) if predictor else {}),
    }
    if hosts.is_primary():
        folder.finish(result, predictions["test"], predictor)
        report.leave_page(folder.path, experiment.dataset, predictor and predictor.logits)
        if tensorboard:
            write_events(folder.path)
    return result


def _check(experiment: Experiment, config: Config) -> None:
    """Raises a UserError for what the end of a run would need and does not have."""
    validated = "validation" in experiment.dataset.splits
    if experiment.dataset.kind == "classification":
        decisions.check(experiment.sections["decision"], experiment.dataset.classes, validation=validated)
    if config.eval.patience is not None and not validated:
        raise UserError(
            f"config.eval.patience={config.eval.patience} stops early by a validation part, and there is none: set "
            "--config.data.validation_share above 0"
        )


def _about(experiment: Experiment, config: Config, done: Mapping[str, Any]) -> dict[str, Any]:
    """What `result.json` says of a run beside its scores."""
    return {
        **{name: config[name] for name in ("task", "method", "seed")},
        **done,
        "data": {**data.describe(experiment.dataset), "digest": data.digest(experiment.dataset)},
        "device": jax.devices()[0].device_kind,
        "choices": chosen(experiment),
        "code": versions.commit(),
        "versions": versions.packages(),
        "protocol": config.eval.protocol,
    }


def _claim(folder: Folder, config: Config, updates: int) -> int:
    """Claims the folder for all processes, which must see it and have the same configuration; see `Folder.claim`."""
    if hosts.is_primary():
        folder.claim(config, updates)
    hosts.wait_for_all()
    if hosts.any_of(not folder.config.exists()):
        raise UserError(f"--workdir={folder.path}: not every process sees it; name a folder that all hosts share")
    return folder.claim(config, updates)  # the other processes compare theirs


def _finished(folder: Folder, dataset: Dataset | None, tensorboard: bool) -> dict[str, Any]:
    """The result of a finished run, which must be of the data set that is given."""
    result = sealed.read(folder.result)
    if dataset is not None and result["data"].get("digest") != data.digest(dataset):
        raise UserError(f"{folder.path} holds a finished run on other data: choose another --workdir")
    if tensorboard and hosts.is_primary():
        write_events(folder.path)
    log.info("%s is finished; its result:", folder.path)
    return result


def _with_priors(dataset: Dataset, predictions: evaluate.Predictions) -> dict[str, Any]:
    """The test scores with the training part's priors divided out; nothing for identification."""
    if dataset.kind != "classification":
        return {}
    counts = dataset.class_counts
    adjusted = calibration.shift_priors(predictions["probabilities"], counts / counts.sum(), np.ones(len(counts)))
    return {"priors_test": metrics.scores(adjusted, dataset.test.y, majority_class=int(counts.argmax()))}


def _loop(
    experiment: Experiment,
    state: TrainState,
    evaluators: Mapping[str, evaluate.Evaluate],
    checkpoints: checkpoint.Checkpoints,
    stopping: EarlyStopping,
    keep: Callable[[Mapping[str, Any]], None],
    config: Config,
) -> tuple[TrainState, dict[str, Any], dict[str, evaluate.Predictions]]:
    """Runs the updates that are left; `keep` takes the rows.

    Returns:
      The last state, row of `metrics.jsonl`, and each split's predictions.
    """
    step = int(state.step)
    stops = [] if stopping.is_over else boundaries(experiment.updates, config.eval.every, step)
    updates = make_updates(experiment, config.updates_per_call)(state, stops)
    row, predictions = {}, {}
    logs: list[dict[str, np.ndarray]] = []
    progress = tqdm.tqdm(
        total=experiment.updates,
        initial=step,
        unit="update",
        disable=not (sys.stderr.isatty() and hosts.is_primary()),
        dynamic_ncols=True,
    )
    progress.set_postfix_str("compiling")
    with contextlib.closing(updates), progress, stop_signals() as signals:
        if not stops or step >= experiment.updates:
            row, predictions = _evaluate(state, step, {}, evaluators)
        for count, state, metrics in updates:
            logs.append({name: np.asarray(values)[:count] for name, values in metrics.items()})
            _check_finite(logs[-1]["loss"], step)
            step += count
            progress.update(count)
            if step in stops:
                row, predictions = _evaluate(state, step, _means(logs), evaluators)
                if hosts.is_primary():
                    keep(row)
                stopping.see(row, state)
                checkpoints.save(state)
                logs.clear()
                _show(row, experiment.updates, progress)
                if stopping.is_over:
                    log.info("update %d: no better validation score for %d evaluations", step, config.eval.patience)
                    break
            if hosts.any_of(bool(signals)):
                checkpoints.save(state)
                raise Interrupted(signals[0] if signals else signal.SIGTERM, step)
    return state, row, predictions


def _check_finite(loss: np.ndarray, step: int) -> None:
    bad = np.flatnonzero(~np.isfinite(loss))
    if bad.size:
        raise UserError(
            f"the loss is {loss[bad[0]]} at update {step + bad[0] + 1}: lower --config.optimizer.lr or "
            "--config.meta.inner_lr, or look at the data; the checkpoints before it are kept"
        )


def _means(logs: list[dict[str, np.ndarray]]) -> dict[str, float]:
    return {name: float(np.concatenate([log[name] for log in logs]).mean(dtype=np.float64)) for name in logs[0]}


def _evaluate(
    state: TrainState, step: int, train: dict[str, float], evaluators: Mapping[str, evaluate.Evaluate]
) -> tuple[dict[str, Any], dict[str, evaluate.Predictions]]:
    """A row of `metrics.jsonl`, and the predictions on each split that its scores are of."""
    results = {name: evaluator(state) for name, evaluator in evaluators.items()}
    row = {"step": step, "updates": train, **{name: result.scores for name, result in results.items()}}
    return row, {name: result.predictions for name, result in results.items()}


def _show(row: Mapping[str, Any], updates: int, progress: tqdm.tqdm) -> None:
    name = metrics.primary(row["test"])
    loss, score = row["updates"]["loss"], row["test"][name]
    progress.set_postfix_str(f"loss {loss:.4f}, test {name} {score:.4f}")
    if progress.disable:
        log.info("update %d of %d: loss %.4f, test %s %.4f", row["step"], updates, loss, name, score)


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM, SIGINT and SIGHUP in a list, so that the loop can save before it leaves.

    A second one is not held, nor one that the process was started to ignore, as by `nohup`.
    """
    received: list[int] = []
    before = {}

    def handle(signum, frame):
        received.append(signum)
        signal.signal(signum, before[signum])

    try:
        held = [s for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN]
        before = {s: signal.signal(s, handle) for s in held}
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        before = {}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def boundaries(updates: int, every: float, start: int) -> list[int]:
    """The steps after `start` at which a run is evaluated and saved; the last is `updates`."""
    interval = max(every * updates if every < 1 else every, 1)  # no more often than at each update
    stops = {round(interval * k) for k in range(1, math.ceil(updates / interval))}
    return [*sorted(step for step in stops if start < step < updates), updates]
