"""Checkpoints: the whole `TrainState`, and what data it was trained on, through orbax."""

import logging
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from mbjax.state import TrainState
from mbjax.types import UserError

log = logging.getLogger("mbjax")


class Checkpoints:
    """The checkpoints of one run's folder. A save is atomic: killed in its middle, it leaves the ones before it.

    Args:
      folder: where they lie; made if missing.
      keep: how many of the newest stay.
      data: a digest of the training data; resuming on other data is refused.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int, data: str):
        self._data = data
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
            ),
        )

    def save(self, state: TrainState) -> None:
        """Saves the state under its step, unless that one is there already."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            items = ocp.args.Composite(
                state=ocp.args.StandardSave(state),  # pyright: ignore[reportCallIssue]
                run=ocp.args.JsonSave({"data": self._data}),  # pyright: ignore[reportCallIssue]
            )
            self._manager.save(step, args=items)

    def restore(self, like: TrainState) -> TrainState:
        """The newest state that can be read, or `like` itself where there is none.

        A damaged checkpoint is reported, removed, and the one before it taken.

        Args:
          like: a state of the same shapes, such as the initial one.

        Raises:
          UserError: the checkpoint was trained on other data.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                items = self._restore(step, like)
            except Exception as error:  # whatever a truncated file makes orbax and its storage raise
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                log.warning("checkpoint %d is damaged (%s); going back to the one before it", step, reason)
                self._manager.delete(step)
                continue
            if items.run["data"] != self._data:
                raise UserError(f"checkpoint {step} was trained on other data: choose another --workdir")
            return items.state
        return like

    def _restore(self, step: int, like: TrainState) -> Any:
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items: Any = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(target),  # pyright: ignore[reportCallIssue]
                run=ocp.args.JsonRestore(),
            ),
        )
        if int(items.state.step) != step:
            raise ValueError(f"it holds step {int(items.state.step)}")
        return items

    def close(self) -> None:
        self._manager.close()
