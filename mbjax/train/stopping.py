"""Early stopping: a run ends when its validation score gets no better, and the state of its best evaluation is kept."""

import logging
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from mbjax.devices import hosts
from mbjax.evaluation import metrics
from mbjax.state import TrainState
from mbjax.train.checkpoint import Checkpoints
from mbjax.types import UserError

log = logging.getLogger("mbjax")


class EarlyStopping:
    """Follows the primary score on the validation part, evaluation by evaluation. Process 0 decides for all.

    Args:
      patience: evaluations without a better score after which training is over; None to train to the end.
      folder: where the best state lies, a checkpoint of its own.
      rows: of `metrics.jsonl`, the evaluations of before.
      data: see `Checkpoints`.
    """

    def __init__(self, patience: int | None, folder: pathlib.Path, *, rows: Iterable[Mapping[str, Any]], data: str):
        self._patience, self._score, self._waited = patience, -math.inf, 0
        self._checkpoints = None if patience is None else Checkpoints(folder, keep=1, data=data)
        for row in rows if patience is not None else ():
            self._is_best(row)

    def see(self, row: Mapping[str, Any], state: TrainState) -> None:
        """Takes an evaluation in, and keeps its state if it is the best so far; of equal ones the first stays."""
        if self._checkpoints and hosts.any_of(hosts.is_primary() and self._is_best(row)):
            self._checkpoints.save(state)

    def _is_best(self, row: Mapping[str, Any]) -> bool:
        score = row["validation"][metrics.primary(row["validation"])]
        better = score > self._score
        self._score, self._waited = (score, 0) if better else (self._score, self._waited + 1)
        return better

    @property
    def is_over(self) -> bool:
        """Whether training is to stop, in every process."""
        waited = self._patience is not None and hosts.is_primary() and self._waited >= self._patience
        return self._patience is not None and hosts.any_of(waited)

    def best(self, last: TrainState) -> TrainState:
        """The state of the best evaluation; the last one where nothing is followed.

        Raises:
          UserError: the files of the best state are damaged.
        """
        if not self._checkpoints:
            return last
        if not self._checkpoints.steps():
            return last  # no evaluation had a score that is a number
        state = self._checkpoints.restore(last.replace(step=last.step * 0))
        if not int(state.step):
            raise UserError(
                f"the best state in {self._checkpoints.folder} cannot be read: train again in another --workdir"
            )
        return state

    def close(self) -> None:
        if self._checkpoints:
            self._checkpoints.close()
