"""What a model scores on whole splits: padded to full batches, the padding cut off again, nothing dropped."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from mbjax import augment, sampling
from mbjax.devices import parallel
from mbjax.evaluation import calibration, identification, metrics
from mbjax.models import stem
from mbjax.state import TrainState, predicting_weights
from mbjax.types import Dataset, PyTree, Split, UserError

Predictions = Mapping[str, np.ndarray]


class Result(NamedTuple):
    """Scores, and the arrays that they are of."""

    scores: Mapping[str, Any]
    predictions: Predictions


Evaluate = Callable[[TrainState], Result]


def make_evaluators(
    model: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int,
    protocol: str = "clean",
    further: Sequence[str] = (),
    mesh: Mesh | None = None,
) -> dict[str, Evaluate]:
    """Makes `evaluate(state) -> Result` of every split that one can score.

    Of classes it gives `mbjax.evaluation.metrics.scores` and the arrays `probabilities` and `labels`; of people, who
    are not those of training, `mbjax.evaluation.identification.scores` of each split but training, `embeddings`,
    `labels` and `groups`.

    Args:
      model: a linen module, `model.apply(variables, x, train=False) -> logits`; one logit means two classes. To
        identify people it takes `features=True`, too, and then gives embeddings.
      dataset: the splits.
      batch_size: examples that the device holds activations for at a time.
      protocol: `config.eval.protocol`, see `make_predict`.
      further: scores of classes beside those of mbjax, `config.eval.scores`.
      mesh: where the state lies; its devices share each batch. None for the default device.
    """
    if dataset.kind == "identification":
        options: dict[str, Any] = {"groups": dataset.groups, "batch_size": batch_size, "mesh": mesh}
        scored = {name: split for name, split in dataset.splits.items() if name != "train"}
        return {name: _identify(model, split, **options) for name, split in scored.items()}
    majority_class = int(dataset.class_counts.argmax())

    def make(split: Split) -> Evaluate:
        predict = make_predict(model, split, batch_size=batch_size, protocol=protocol, mesh=mesh)

        def evaluate(state: TrainState) -> Result:
            p = predict(state)
            scores = metrics.scores(p, split.y, majority_class=majority_class, further=further)
            return Result(scores, {"probabilities": p, "labels": split.y})

        return evaluate

    return {name: make(dataset.scored.get(name, split)) for name, split in dataset.splits.items()}


def make_predict(
    model: nn.Module, split: Split, *, batch_size: int, protocol: str = "clean", mesh: Mesh | None = None
) -> Callable[[TrainState], np.ndarray]:
    """Makes `predict(state) -> probabilities`, float64 `[n, classes]`, of every example of a split in its order.

    Args:
      model: see `make_evaluators`.
      split: the examples.
      batch_size: examples that the device holds activations for at a time.
      protocol: `"clean"` takes the examples as they are. `"authors"` crops images to 28×28 and flips them at random,
        with the same random numbers in every call, as the code of the paper's authors does at test.
      mesh: see `make_evaluators`.

    Raises:
      UserError: the authors' protocol for what are no images.
    """
    if protocol == "authors" and (len(split.x.shape) != 4 or min(split.x.shape[1:3]) < 28):
        raise UserError(f"config.eval.protocol={protocol!r} is for images of 28×28 pixels or more")
    augmentation = "crop28_flip" if protocol == "authors" else "none"
    made: list[tuple[Callable, _Batches]] = []  # at the first call: a stem's features take a while

    def predict(state: TrainState) -> np.ndarray:
        if not made:
            network, seen = _behind_stem(model, split, state) if protocol == "clean" else (model, split)
            made.append((_make_run(network, augmentation, features=False, mesh=mesh), _Batches(seen, batch_size, mesh)))
        run, batches = made[0]
        return calibration.from_logits(batches.map(lambda number, x: run(_variables(state), number, x)))

    return predict


def _behind_stem(model: Any, split: Split, state: TrainState) -> tuple[nn.Module, Split]:
    """What a model has behind a frozen stem, and the stem's features of a split.

    The model and the split themselves without one, or where the features take too much memory.
    """
    known = state.model_state.get("stem", {})  # the same in every state of a run
    fits = hasattr(model, "frozen_stem") and isinstance(split.x, np.ndarray)
    if not fits or stem.size_of(model, split.x, known) > stem.KEPT_BYTES:
        return model, split
    return model.behind(), dataclasses.replace(split, x=stem.features(model, split.x, known))


def _identify(
    model: nn.Module, split: Split, *, groups: tuple[str, ...], batch_size: int, mesh: Mesh | None
) -> Evaluate:
    run, batches = _make_run(model, "none", features=True, mesh=mesh), _Batches(split, batch_size, mesh)
    group = np.zeros(len(split), np.int32) if split.group is None else split.group

    def evaluate(state: TrainState) -> Result:
        embeddings = identification.normalize(batches.map(lambda number, x: run(_variables(state), number, x)))
        scores = identification.scores(embeddings, split.y, group, groups)
        return Result(scores, {"embeddings": embeddings, "labels": split.y, "groups": group})

    return evaluate


class _Batches:
    """The batches of a split, on the device if its examples are in memory, else read ahead from the host.

    Each device of a mesh has its part of every batch, and each process reads what is its devices'.
    """

    def __init__(self, split: Split, batch_size: int, mesh: Mesh | None):
        self._split, self._count, self._mesh = split, len(split), parallel.flat(mesh)
        self._size = min(batch_size, 1 << (self._count - 1).bit_length())  # few sizes, so few programs
        rows = np.arange(parallel.padded(self._count, self._size)) % self._count
        rest = np.zeros((len(rows) // self._size, -self._size % mesh.size if mesh else 0), int)
        self._rows = np.concatenate([rows.reshape(-1, self._size), rest], axis=1)  # devices get equally many
        self._x = self._read(self._rows) if isinstance(split.x, np.ndarray) else None

    def _read(self, rows: np.ndarray) -> jax.Array:
        return parallel.feed(lambda part: self._split.x[part], rows, self._mesh)

    def map(self, function: Callable[[int, Any], jax.Array]) -> np.ndarray:
        """`function(number of the batch, its examples)` of all, `[n, ...]`."""
        if self._x is not None:
            batches = (self._x[number] for number in range(len(self._rows)))
        else:
            batches = sampling.prefetch(self._read(rows[None])[0] for rows in self._rows)
        out = [function(number, x) for number, x in enumerate(batches)]  # calls return before the device is done
        return np.concatenate([np.asarray(part)[: self._size] for part in out])[: self._count]


def _variables(state: TrainState) -> PyTree:
    return {"params": predicting_weights(state), **state.model_state}


@functools.lru_cache(maxsize=32)
def _make_run(
    model: nn.Module, augmentation: str, *, features: bool, mesh: Mesh | None
) -> Callable[[PyTree, int, jax.Array], jax.Array]:
    """One compiled function a model, whichever split or run it is for."""
    apply: Callable[..., Any] = model.apply

    @jax.jit
    def run(variables: PyTree, number: int, x: jax.Array) -> jax.Array:
        x = augment.AUGMENTATIONS[augmentation](jax.random.fold_in(jax.random.key(0), number), x)
        x = augment.to_float(x)
        if not features:
            return parallel.keep_replicated(apply(variables, x, train=False), mesh)
        embeddings = [apply(variables, image, train=False, features=True) for image in (x, x[:, :, ::-1])]
        return parallel.keep_replicated(embeddings[0] + embeddings[1], mesh)  # as in the authors' code

    return run
