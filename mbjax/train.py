"""One run: configuration → data, samplers, model, method → updates, evaluations and checkpoints → scores."""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tqdm

from mbjax import augment, checkpoint, data, evaluate, hosts, losses, methods, metrics, models, report, sampling
from mbjax import config as config_lib
from mbjax import parallel as parallel_lib
from mbjax.data import splits
from mbjax.folder import Folder
from mbjax.models import conv
from mbjax.state import TrainState
from mbjax.types import Config, Dataset, LossFn, Split, UserError, count_classes

log = logging.getLogger("mbjax")
_SAMPLING = ("sampler", "sampling_strategy", "neighbors", "balance")  # of a stream's section, what decides its order
Examples = dict[str, jax.Array]
Advance = Callable[
    [TrainState, Mapping[str, Examples], Mapping[str, np.ndarray], int], tuple[TrainState, dict[str, jax.Array]]
]


class Interrupted(Exception):
    """The run was told to stop by a signal and has saved its state."""

    def __init__(self, signum: int, step: int):
        super().__init__(
            f"stopped at update {step} by {signal.Signals(signum).name}; the same command goes on from there"
        )
        self.exit_status = 128 + signum


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All that a configuration describes, built."""

    dataset: Dataset
    model: nn.Module
    sections: Mapping[str, Any]  # of the configuration, as dicts
    make_method: Callable[..., methods.Method]  # `make_method` below, but for the arguments that this run decides
    class_counts: np.ndarray  # training examples of each class
    method: methods.Method
    streams: Mapping[str, sampling.Stream]
    updates: int


def make_method(
    name: str, *, model: nn.Module, example: np.ndarray, sections: Mapping[str, Any], class_counts: Any, updates: int,
    groups: bool = False, parallel: parallel_lib.Parallel = "none",
) -> methods.Method:  # fmt: skip
    """Builds a method with its loss and optimiser.

    Args:
      name: of `mbjax.methods.METHODS`.
      model: what it trains.
      example: inputs of one example, `[1, ...]`.
      sections: the sections of a configuration by name. Their learning rates, weights and the like may be traced, and
        so may `class_counts`: a population of runs shares one compiled program (`mbjax.population`).
      class_counts: training examples of each class, `[classes]`.
      updates: of the whole run.
      groups: whether the examples have groups.
      parallel: `config.parallel`; one device if not given.
    """

    def loss_fn(loss: Mapping[str, Any]) -> LossFn:
        return losses.supervised_loss(model.apply, losses.build(**loss, class_counts=class_counts))

    tx = methods.make_optimizer(**sections["optimizer"], updates=updates)
    support_loss = sections["support"]["loss"]
    if support_loss not in ("", *losses.LOSSES):
        raise UserError(f"config.support.loss={support_loss!r}: choose one of {', '.join(losses.LOSSES)}, or none")
    zeros = np.zeros(example.shape, np.float32 if example.dtype == np.uint8 else example.dtype)
    problem = methods.Problem(
        model, loss_fn(sections["loss"]), tx, zeros, class_counts, updates, parallel,
        loss_fn({**sections["loss"], "name": support_loss}) if support_loss else None,
    )  # fmt: skip
    method = methods.build(name, problem, sections)
    streams = {stream: sections[stream] for stream in method.streams}
    warmup, main_loss = sections["loss"]["margin_warmup"], sections["loss"]["name"]
    loss_names = {stream: (stream == "support" and support_loss) or main_loss for stream in streams}
    step = augment.before(
        method.step, streams, classes=len(class_counts), image=example.ndim == 4, groups=groups,
        with_margin=[name for name, loss in loss_names.items() if warmup and loss in losses.WITH_MARGIN],
        margin_updates=warmup * updates,
    )  # fmt: skip
    return dataclasses.replace(method, step=step)


def build(config: Config) -> Experiment:
    """Loads the data and builds the samplers, the model and the method of a valid configuration."""
    dataset = data.load(config.task, seed=config.seed, **config.data)
    sections = {
        key: value.to_dict() for key, value in config.items() if isinstance(value, ml_collections.FrozenConfigDict)
    }
    model = models.build(**sections["model"], outputs=1 if len(dataset.classes) == 2 else len(dataset.classes))
    example = np.zeros((1, *dataset.train.x.shape[1:]), dataset.train.x.dtype)
    method = functools.partial(make_method, config.method, model=model, example=example, groups=bool(dataset.groups))
    # What a method reads decides its class counts and, it may be, the number of its updates.
    shapes = method(sections=sections, class_counts=dataset.class_counts, updates=1)
    parts = cut(dataset, shapes.streams, sections["clean"]["share"], seed=config.seed)
    class_counts = count_classes(parts[shapes.epoch_stream].y, len(dataset.classes))
    cache_dir = pathlib.Path("~/.cache/mbjax/resampled").expanduser()  # a data folder may be read-only
    options = {"seed": config.seed, "classes": dataset.classes, "groups": dataset.groups, "cache_dir": cache_dir}
    read = {name: {key: sections[name][key] for key in _SAMPLING} for name in shapes.streams}
    streams = {name: sampling.make_stream(parts[name], name=name, **read[name], **options) for name in read}
    updates = config.updates
    if updates is None:
        epoch = streams[shapes.epoch_stream].epoch_length
        updates = math.ceil(config.epochs * epoch / math.prod(shapes.streams[shapes.epoch_stream]))
    decided: dict[str, Any] = {"sections": sections, "class_counts": class_counts}
    return Experiment(
        dataset=dataset, model=model, make_method=method, **decided,
        method=method(**decided, updates=updates, parallel=config.parallel), streams=streams, updates=updates,
    )  # fmt: skip


def cut(dataset: Dataset, streams: Iterable[str], clean_share: float, *, seed: int) -> dict[str, Split]:
    """What each stream reads of the training data: the stream `clean` a balanced part of its own, the others the rest.

    Raises:
      UserError: a class has too few examples; see `mbjax.data.splits.balanced_part`.
    """
    train = dataset.train
    if "clean" not in streams:
        return dict.fromkeys(streams, train)
    rows = splits.balanced_part(train.y, clean_share, seed=seed, classes=dataset.classes)
    if not isinstance(train.x, np.ndarray):
        raise UserError("the clean part of l2rw and mw_net is cut from data in memory, and this data is read by index")
    groups = (None, None) if train.group is None else (train.group[rows[0]], train.group[rows[1]])
    rest, clean = (Split(train.x[r], train.y[r], group) for r, group in zip(rows, groups, strict=True))
    return {name: clean if name == "clean" else rest for name in streams}


def make_advance(method: methods.Method, updates_per_call: int) -> Advance:
    """Makes `advance(state, examples, indices, count)`: `count` updates in one call of a compiled function.

    `indices` has room for `updates_per_call` updates, of which the first `count` are done; so calls of any length
    share one program and a resumed run repeats an uninterrupted one to the bit.

    Returns:
      The new state (the old one is donated) and the metrics of each update, `[updates_per_call]` each.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(state, examples, indices, count):
        def update(k, state):
            batches = {name: _batch(examples.get(name), rows, k) for name, rows in indices.items()}
            spread = {
                name: parallel_lib.split(batch, method.mesh, axes=len(method.streams[name]))
                for name, batch in batches.items()
            }
            state, metrics = method.step(state, spread)
            return parallel_lib.keep_replicated((state, metrics), method.mesh)

        def body(k, carry):
            state, rows = carry
            state, metrics = update(k, state)
            return state, jax.tree.map(lambda row, value: row.at[k].set(value), rows, metrics)

        shapes = jax.eval_shape(update, 0, state)[1]
        rows = jax.tree.map(lambda s: jnp.full((updates_per_call, *s.shape), jnp.nan, s.dtype), shapes)
        return jax.lax.fori_loop(0, count, body, (state, rows))

    return advance


def _batch(examples: Examples | None, rows: Any, k: jax.Array) -> Examples:
    """What update `k` of a call reads: rows of what lies on the device, or what came from the host with the call."""
    if examples is None:
        return jax.tree.map(lambda batches: batches[k], rows)
    return {name: array[rows[k]] for name, array in examples.items()}


def feed(
    experiment: Experiment, start: int, boundaries: list[int], updates_per_call: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yields `(count, {stream: indices})` of each call, on the device; no call goes past a boundary.

    Of a stream whose examples stay on the host, the examples themselves in place of their indices. On several devices
    each gets its own part, and each process draws and reads only what is its devices'.
    """
    step, mesh = start, experiment.method.mesh
    for boundary in boundaries:
        while step < boundary:
            count = min(updates_per_call, boundary - step)
            yield (
                count,
                {
                    name: parallel_lib.feed(
                        functools.partial(_read, experiment.streams[name], step, count, shape),
                        (updates_per_call, *parallel_lib.padded_shape(shape, mesh)),
                        mesh,
                    )
                    for name, shape in experiment.method.streams.items()
                },
            )
            step += count


def _read(
    stream: sampling.Stream, step: int, count: int, shape: tuple[int, ...], box: tuple[slice, ...]
) -> np.ndarray | dict[str, np.ndarray]:
    """Indices of `count` updates, or the examples if these stay on the host: the part in `box`, zeros after them."""
    sizes = [s.stop - s.start for s in box]
    rows = np.zeros(sizes, np.int32)
    rows[:count] = stream.indices(step, count, shape, box[1:])
    if isinstance(stream.x, np.ndarray):
        return rows
    x = stream.x[rows[:count]]
    if count < len(rows):
        x = np.concatenate([x, np.zeros((len(rows) - count, *x.shape[1:]), x.dtype)])
    return {"x": x, **{name: labels[rows].astype(np.int32) for name, labels in stream.labels.items()}}


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT in a list, so that the loop can save before it leaves; a second one is not held."""
    received: list[int] = []
    before = {}

    def handle(signum, frame):
        received.append(signum)
        signal.signal(signum, before[signum])

    try:
        before = {s: signal.signal(s, handle) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        before = {}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def boundaries(updates: int, every: float, start: int) -> list[int]:
    """The steps after `start` at which a run is evaluated and saved; the last is `updates`."""
    interval = every * updates if every < 1 else every
    stops = {round(interval * k) for k in range(1, math.ceil(updates / interval))}
    return [*sorted(step for step in stops if start < step < updates), updates]


def train_and_evaluate(config: Config, workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Trains what a configuration describes, or goes on where a run in `workdir` stopped.

    Returns:
      What `result.json` holds; `["test"]` are the scores (see `mbjax.metrics.scores`).

    Raises:
      UserError: a mistake in the configuration or the data, or a loss that is not finite.
      Interrupted: a signal came; the state is saved.
    """
    valid = config_lib.validate(config)
    parallel_lib.check_processes(valid.parallel)
    folder = Folder(pathlib.Path(workdir))
    if hosts.leads():
        folder.claim(valid)
    hosts.wait_for_all()
    if hosts.any_of(not folder.config.exists()):
        raise UserError(f"--workdir={folder.path}: not every process sees it; name a folder that all hosts share")
    folder.claim(valid)  # the other processes compare theirs
    if hosts.any_of(hosts.leads() and folder.result.exists()):
        log.info("%s is finished; its result:", folder.path)
        return json.loads(folder.result.read_text())
    experiment = build(valid)
    dataset = experiment.dataset
    content = data.digest(dataset, ["train"])
    hosts.check_equal(content, "training data")
    for note in dataset.notes:
        log.info("data: %s", note)
    mesh, choices = experiment.method.mesh, chosen(experiment)
    for name, choice in choices.items():
        log.info("%s: %s", name, choice)
    evaluators = evaluate.make_evaluators(
        experiment.model, dataset, batch_size=valid.eval.batch_size, protocol=valid.eval.protocol, mesh=mesh
    )
    checkpoints = checkpoint.Checkpoints(folder.checkpoints, keep=valid.keep_checkpoints, data=content)
    with contextlib.closing(checkpoints):
        state = checkpoints.restore(experiment.method.init(valid.seed))
        if start := int(state.step):
            log.info("resuming at update %d of %d", start, experiment.updates)
        if hosts.leads():
            folder.rewind(start)
        started = time.monotonic()
        row, predictions = _loop(experiment, state, evaluators, checkpoints, folder, valid)
    result = {
        "task": valid.task,
        "method": valid.method,
        "seed": valid.seed,
        "updates": experiment.updates,
        "seconds": round(time.monotonic() - started, 2),
        "resumed_at": start,
        "data": data.describe(dataset),
        "device": jax.devices()[0].device_kind,
        "choices": choices,
        "protocol": valid.eval.protocol,
        **{name: row[name] for name in evaluators},
    }
    if dataset.kind == "classification":
        adjusted = metrics.adjust_priors(
            predictions["probabilities"], dataset.class_counts / dataset.class_counts.sum()
        )
        majority_class = int(dataset.class_counts.argmax())
        result["priors_test"] = metrics.scores(adjusted, dataset.test.y, majority_class=majority_class)
    if hosts.leads():
        report.plot_run(folder.path, result)
        folder.finish(result, predictions)
    return result


def chosen(experiment: Experiment) -> dict[str, Any]:
    """What mbjax chose for this model and these devices, by the configuration's key that overrides it."""
    choices = {f"config.{key}": value for key, value in experiment.method.choices.items()}
    if getattr(experiment.model, "conv", None) == "auto":
        choices["config.model.conv"] = conv.automatic()
    return {**choices, "config.parallel": parallel_lib.describe(experiment.method.mesh)}


def train_rows(config: Config, workdir: str | os.PathLike[str]) -> dict[str, pathlib.Path]:
    """Trains each of `config.rows`, one after another, or what is left of them.

    Returns:
      The folder of each, in `workdir`, by its row's name.
    """
    folders = {}
    for name, changes in config.rows.items():
        row = config.copy_and_resolve_references()
        row.rows = {}
        row.update(changes)
        log.info("row %s", name)
        folders[name] = pathlib.Path(workdir) / name
        train_and_evaluate(row, folders[name])
    return folders


def _loop(
    experiment: Experiment,
    state: TrainState,
    evaluators: Mapping[str, evaluate.Evaluate],
    checkpoints: checkpoint.Checkpoints,
    folder: Folder,
    config: Config,
) -> tuple[dict[str, Any], evaluate.Predictions]:
    """Runs the updates that are left. Returns the last row of `metrics.jsonl`, and the test split's predictions."""
    step = int(state.step)
    stops = boundaries(experiment.updates, config.eval.every, step)
    examples = on_device(experiment.streams, experiment.method.mesh)
    advance = make_advance(experiment.method, config.updates_per_call)
    blocks = sampling.prefetch(feed(experiment, step, stops, config.updates_per_call))
    row, predictions = {}, {}
    logs: list[dict[str, np.ndarray]] = []
    progress = tqdm.tqdm(
        total=experiment.updates,
        initial=step,
        unit="update",
        disable=not (sys.stderr.isatty() and hosts.leads()),
        dynamic_ncols=True,
    )
    with contextlib.closing(blocks), progress, stop_signals() as signals:
        if not stops or step >= experiment.updates:
            row, predictions = _evaluate(state, step, {}, evaluators)
        for count, indices in blocks:
            state, metrics = advance(state, examples, indices, count)
            logs.append({name: np.asarray(values)[:count] for name, values in metrics.items()})
            _check_finite(logs[-1]["loss"], step)
            step += count
            progress.update(count)
            if step in stops:
                row, predictions = _evaluate(state, step, _means(logs), evaluators)
                if hosts.leads():
                    folder.log(row)
                checkpoints.save(state)
                logs.clear()
                _show(row, experiment.updates, progress)
            if hosts.any_of(bool(signals)):
                checkpoints.save(state)
                raise Interrupted(signals[0] if signals else signal.SIGTERM, step)
    return row, predictions


def on_device(streams: Mapping[str, sampling.Stream], mesh: jax.sharding.Mesh | None = None) -> dict[str, Examples]:
    """Puts each stream's examples on the device, or on every one of a mesh; arrays that streams share only once.

    Streams whose examples stay on the host are left out.
    """
    placed: dict[int, jax.Array] = {}

    def place(array: np.ndarray) -> jax.Array:
        if id(array) not in placed:
            placed[id(array)] = jnp.asarray(array) if mesh is None else parallel_lib.replicate(array, mesh)
        return placed[id(array)]

    return {
        name: {"x": place(stream.x), **{key: place(labels) for key, labels in stream.labels.items()}}
        for name, stream in streams.items()
        if isinstance(stream.x, np.ndarray)
    }


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
) -> tuple[dict[str, Any], evaluate.Predictions]:
    """A row of `metrics.jsonl`, and the predictions on the test split that its scores are of."""
    results = {name: evaluator(state) for name, evaluator in evaluators.items()}
    return {"step": step, "updates": train, **{name: r.scores for name, r in results.items()}}, results[
        "test"
    ].predictions


def _show(row: Mapping[str, Any], updates: int, progress: tqdm.tqdm) -> None:
    name = metrics.primary(row["test"])
    loss, score = row["updates"]["loss"], row["test"][name]
    progress.set_postfix_str(f"loss {loss:.4f}, test {name} {score:.4f}")
    if progress.disable:
        log.info("update %d of %d: loss %.4f, test %s %.4f", row["step"], updates, loss, name, score)
