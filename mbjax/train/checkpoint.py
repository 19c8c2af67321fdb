"""Checkpoints: the whole `TrainState`, and what data it was trained on, through orbax."""

import itertools
import logging
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from mbjax.devices import hosts
from mbjax.state import TrainState
from mbjax.types import PyTree, UserError

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
            item_handlers={"state": ocp.StandardCheckpointHandler(), "run": ocp.JsonCheckpointHandler()},
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

        A damaged checkpoint is renamed and reported, and the one before it taken. Only pruning deletes checkpoints.

        Args:
          like: a state of the same shapes, such as the initial one.

        Raises:
          UserError: the checkpoint was trained on other data, or holds another state: of a changed network, say.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            state, reason = like, ""
            try:
                state = self._read(step, like)
            except (UserError, MemoryError, jax.errors.JaxRuntimeError):  # the last is a device's memory that is full
                raise
            except Exception as error:  # whatever a truncated file makes orbax and its storage raise
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            if not hosts.any_of(bool(reason)):
                return state
            self._set_aside(step, reason or "another process cannot read it")
        if steps and hosts.is_primary():
            log.warning("no checkpoint in %s can be read: training starts from the beginning", self._manager.directory)
        return like

    def _read(self, step: int, like: TrainState) -> TrainState:
        run = self._restore_item(step, run=ocp.args.JsonRestore())  # pyright: ignore[reportCallIssue]
        if run["data"] != self._data:
            raise UserError(f"checkpoint {step} was trained on other data: choose another --workdir")
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        if differences := _differences(self._manager.item_metadata(step)["state"].tree, target):
            more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
            raise UserError(
                f"checkpoint {step} in {self._manager.directory} is of another network or optimiser "
                f"({'; '.join(differences[:3])}{more}): choose another --workdir, or go on with what wrote it"
            )
        state = self._restore_item(step, state=ocp.args.StandardRestore(target))  # pyright: ignore[reportCallIssue]
        if int(state.step) != step:
            raise ValueError(f"it holds step {int(state.step)}")
        return state

    def _restore_item(self, step: int, **item: Any) -> Any:
        (name,) = item
        return self._manager.restore(step, args=ocp.args.Composite(**item))[name]

    def _set_aside(self, step: int, reason: str) -> None:
        """Renames a damaged checkpoint to what orbax takes for none of its own."""
        folder = self._manager.directory
        if hosts.is_primary():
            names = (f"damaged-{step}" + (f"-{k}" if k > 1 else "") for k in itertools.count(1))
            name = next(name for name in names if not (folder / name).exists())
            try:
                (folder / str(step)).rename(folder / name)
            except OSError as error:
                raise UserError(
                    f"checkpoint {step} in {folder} is damaged ({reason}) and cannot be renamed ({error.strerror}): "
                    "move it elsewhere, or choose another --workdir"
                ) from None
            log.warning(
                "checkpoint %d is damaged (%s): it is now %s beside the others, and the one before it is taken",
                step, reason, name,
            )  # fmt: skip
        hosts.wait_for_all()
        self._manager.reload()

    def close(self) -> None:
        self._manager.close()


def _differences(saved: PyTree, wanted: PyTree) -> list[str]:
    """Which arrays are not of one shape and dtype in both trees."""
    there, here = _described(saved), _described(wanted)
    return [
        f"{path} is {there.get(path, 'missing')} there and {here.get(path, 'missing')} here"
        for path in sorted({**there, **here})
        if there.get(path) != here.get(path)
    ]


def _described(tree: PyTree) -> dict[str, str]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
