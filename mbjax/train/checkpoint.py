"""Checkpoints: the whole `TrainState`, and what data it was trained on, through orbax."""

import errno
import hashlib
import itertools
import json
import logging
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from mbjax import sealed
from mbjax.devices import hosts
from mbjax.state import TrainState
from mbjax.types import PyTree, UserError, first_line

log = logging.getLogger("mbjax")
_NOT_DAMAGE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ESTALE)  # of files that cannot be read now


class Checkpoints:
    """The checkpoints of one run's folder. A save is atomic: killed in its middle, it leaves the ones before it.

    Each carries checksums of the state that all processes saved together, and of what it says about this state; every
    process checks what it reads by them.

    Args:
      folder: where they lie; made if missing.
      keep: how many of the newest stay.
      data: a digest of the training data; resuming on other data is refused.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int, data: str):
        _drop_remains()
        self._data = data
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            item_handlers={"state": ocp.StandardCheckpointHandler(), "run": ocp.JsonCheckpointHandler()},
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
            ),
        )

    @property
    def folder(self) -> pathlib.Path:
        return pathlib.Path(self._manager.directory)

    def steps(self) -> list[int]:
        """The updates that have a checkpoint, sorted."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState) -> None:
        """Saves the state under its step, unless that one is there already.

        Raises:
          UserError: it cannot be written: a full disk, say. The checkpoints before it stay.
        """
        step = int(state.step)
        if step in self.steps():
            return
        about = {"data": self._data, "tree": _tree_digest(_target(state)), "state": _digest(state)}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),  # pyright: ignore[reportCallIssue]
            run=ocp.args.JsonSave(json.loads(sealed.dumps(about))),  # pyright: ignore[reportCallIssue]
        )
        if why := self._write(step, items):
            raise UserError(
                f"checkpoint {step} cannot be saved in {self._manager.directory} ({why}): the ones before it are "
                "whole, and the same command resumes there"
            )

    def _write(self, step: int, items: Any) -> str:
        """Saves items, or says why they cannot be."""
        try:
            self._manager.save(step, args=items)
        except (MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # whatever a full disk makes orbax and its storage raise
            return first_line(error)
        return ""

    def restore(self, like: TrainState) -> TrainState:
        """The newest state that can be read, or `like` itself where there is none.

        A damaged checkpoint is renamed and reported, and the one before it taken. Only pruning deletes checkpoints.

        Args:
          like: a state of the same shapes, such as the initial one.

        Raises:
          UserError: the checkpoint was trained on other data, or holds another state: of a changed network, say.
        """
        steps = self.steps()[::-1]
        for step in steps:
            state, reason = self._try(step, like)
            if not hosts.any_of(bool(reason)):
                return state
            self._set_aside(step, reason or "another process cannot read it")
        if steps and hosts.is_primary():
            log.warning("no checkpoint in %s can be read: training starts from the beginning", self._manager.directory)
        return like

    def _try(self, step: int, like: TrainState) -> tuple[TrainState, str]:
        """The state of a step, or `like` and the reason why it cannot be had."""
        try:
            return self._read(step, like), ""
        except (UserError, MemoryError, jax.errors.JaxRuntimeError):  # the last is a device's memory that is full
            raise
        except Exception as error:  # whatever a truncated file makes orbax and its storage raise
            self._check_readable(step)
            return like, first_line(error)

    def _read(self, step: int, like: TrainState) -> TrainState:
        run = self._restore_item(step, run=ocp.args.JsonRestore())  # pyright: ignore[reportCallIssue]
        run = sealed.loads(json.dumps(run))
        saved = _described(self._manager.item_metadata(step)["state"].tree)
        old = run.keys() == {"data"}  # an older version saved it, without checksums
        if not old and (run.keys() != {"data", "tree", "state"} or run["tree"] != _tree_digest(saved)):
            raise sealed.Damaged("its checksum does not match")
        if run["data"] != self._data:
            raise UserError(f"checkpoint {step} was trained on other data: choose another --workdir")
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        if differences := _differences(saved, _target(like)):
            more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
            raise UserError(
                f"checkpoint {step} in {self._manager.directory} is of another network or optimiser "
                f"({'; '.join(differences[:3])}{more}): choose another --workdir, or go on with what wrote it"
            )
        state = self._restore_item(step, state=ocp.args.StandardRestore(target))  # pyright: ignore[reportCallIssue]
        if int(state.step) != step:
            raise sealed.Damaged(f"it holds step {int(state.step)}")
        if not old and run["state"] != _digest(state):
            raise sealed.Damaged("its checksum does not match")
        return state

    def _check_readable(self, step: int) -> None:
        """Raises a UserError if files of a checkpoint cannot be read for now, which is no damage."""
        try:
            for file in pathlib.Path(self._manager.directory / str(step)).rglob("*"):
                if file.is_file():
                    file.open("rb").close()
        except OSError as error:
            if error.errno in _NOT_DAMAGE:
                raise UserError(
                    f"{error.filename} cannot be read ({error.strerror}): the checkpoint stays as it is; mend that, "
                    "and the same command resumes"
                ) from None

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


def _drop_remains() -> None:
    """From now on the interpreter does not print the traces of what orbax leaves behind.

    Where one array cannot be read or written, the others fail in threads, and when they are collected, which nobody can
    catch: whoever asked for the first has been told.
    """
    before = sys.unraisablehook
    if before.__module__ == __name__:
        return

    def hook(left: Any) -> None:
        source = getattr(getattr(left.object, "cr_code", None), "co_filename", "")
        if "orbax" not in source and str(left.exc_value) != "Event loop is closed":
            before(left)

    sys.unraisablehook = hook


def _differences(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Which arrays are not of one shape and dtype in both trees."""
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


def _target(state: TrainState) -> dict[str, str]:
    """What orbax's metadata describe the state as."""
    return _described(jax.tree.map(ocp.utils.to_shape_dtype_struct, state))


def _tree_digest(described: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _digest(state: TrainState) -> str:
    """The SHA-256 of all values. They are the same in every process: `mbjax.devices.parallel` replicates the state."""
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        sha.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()
