"""What becomes of checkpoints that are damaged, or of another network: none is ever lost."""

import errno
import gc
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from mbjax.state import TrainState
from mbjax.train.checkpoint import Checkpoints
from mbjax.types import UserError

TX = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9), optax.scale_by_schedule(lambda _: 1.0))


def state_at(step: int, hidden: int = 3, **more: Any) -> TrainState:
    """A state whose weights tell its step."""
    params = {"dense": {"kernel": jnp.full((2, hidden), step, jnp.float32)}, **more}
    state = TrainState.create(params=params, tx=TX, rng=jax.random.key(1), model_state={"n": [jnp.array(step)]})
    return state.replace(step=jnp.array(step, jnp.int32))


def save(folder: pathlib.Path, *steps: int) -> None:
    checkpoints = Checkpoints(folder, keep=3, data="d")
    for step in steps:
        checkpoints.save(state_at(step))
    checkpoints.close()


def restore(folder: pathlib.Path, like: TrainState, data: str = "d") -> TrainState:
    checkpoints = Checkpoints(folder, keep=3, data=data)
    try:
        return checkpoints.restore(like)
    finally:
        checkpoints.close()


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def truncate(folder: pathlib.Path, files: str = "*") -> None:
    for file in list(folder.rglob(files)):
        if file.is_file() and file.stat().st_size > 1:
            os.truncate(file, file.stat().st_size // 2)


DAMAGES: dict[str, Any] = {
    "all truncated": truncate,
    "arrays truncated": lambda folder: [truncate(data) for data in folder.rglob("d")],
    "tree truncated": lambda folder: truncate(folder, "_METADATA"),
    "tree missing": lambda folder: (folder / "state" / "_METADATA").unlink(),
    "digest truncated": lambda folder: truncate(folder / "run"),
    "manifest missing": lambda folder: (folder / "state" / "manifest.ocdbt").unlink(),
    "empty": lambda folder: [file.unlink() for file in folder.rglob("*") if file.is_file()],
}


@pytest.fixture(autouse=True)
def collected():
    """What Orbax leaves behind is collected here, and not in the test that comes next."""
    yield
    gc.collect()


# Orbax closes its event loop when the first array cannot be read, and the others' threads find it closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_taken(damage, tmp_path, caplog):
    save(tmp_path, 10, 20, 30)
    DAMAGES[damage](tmp_path / "30")
    before = contents(tmp_path)
    with caplog.at_level(logging.WARNING, "mbjax"):
        state = restore(tmp_path, state_at(0))
    assert int(state.step) == 20
    np.testing.assert_array_equal(state.params["dense"]["kernel"], np.full((2, 3), 20))
    (line,) = [record.getMessage() for record in caplog.records if record.name == "mbjax"]
    assert line.startswith("checkpoint 30 is damaged (")
    assert line.endswith("): it is now damaged-30 beside the others, and the one before it is taken")
    assert "\n" not in line
    renamed = {f"damaged-{name}" if name.startswith("30/") else name: data for name, data in before.items()}
    assert contents(tmp_path) == renamed


def test_pruning_and_later_damage_leave_alone_what_was_set_aside(tmp_path):
    save(tmp_path, 10, 20)
    truncate(tmp_path / "20")
    restore(tmp_path, state_at(0))
    first = contents(tmp_path / "damaged-20")
    save(tmp_path, 20, 30, 40)  # 10 is pruned
    assert contents(tmp_path / "damaged-20") == first
    assert sorted(f.name for f in tmp_path.iterdir()) == ["20", "30", "40", "damaged-20"]
    for step in (20, 30, 40):
        truncate(tmp_path / str(step))
    assert int(restore(tmp_path, state_at(0)).step) == 0
    names = ["damaged-20", "damaged-20-2", "damaged-30", "damaged-40"]
    assert sorted(f.name for f in tmp_path.iterdir()) == names
    assert contents(tmp_path / "damaged-20") == first


def test_where_all_are_damaged_that_is_said_and_training_starts_afresh(tmp_path, caplog):
    save(tmp_path, 10, 20)
    truncate(tmp_path)
    like = state_at(0)
    with caplog.at_level(logging.WARNING, "mbjax"):
        assert restore(tmp_path, like) is like
    lines = [record.getMessage() for record in caplog.records if record.name == "mbjax"]
    assert len(lines) == 3
    assert lines[-1] == f"no checkpoint in {tmp_path} can be read: training starts from the beginning"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["damaged-10", "damaged-20"]


def changed(name: str) -> TrainState:
    if name == "shape":
        return state_at(0, hidden=4)
    if name == "extra here":
        return state_at(0, bias=jnp.zeros(3))
    state = state_at(0)
    if name == "dtype":
        return state.replace(params=jax.tree.map(lambda p: p.astype(jnp.bfloat16), state.params))
    if name == "missing here":
        return state.replace(model_state={})
    if name == "renamed":
        return state.replace(model_state={"m": state.model_state["n"]})
    return state.replace(opt_state=optax.adam(0.1).init(state.params))


CHANGES = {
    "shape": "params/dense/kernel is float32[2, 3] there and float32[2, 4] here",
    "dtype": "params/dense/kernel is float32[2, 3] there and bfloat16[2, 3] here",
    "extra here": "params/bias is missing there and float32[3] here",
    "missing here": "model_state/n/0 is int32[] there and missing here",
    "renamed": "model_state/m/0 is missing there and int32[] here; model_state/n/0 is int32[] there and missing here",
    "optimiser": "opt_state/0/count is missing there and int32[] here",
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_network_is_refused_and_every_checkpoint_stays(name, tmp_path):
    save(tmp_path, 10, 20)
    before = contents(tmp_path)
    with pytest.raises(UserError) as caught:
        restore(tmp_path, changed(name))
    message = str(caught.value)
    assert message.startswith(f"checkpoint 20 in {tmp_path} is of another network or optimiser (")
    assert CHANGES[name] in message
    assert message.endswith("): choose another --workdir, or go on with what wrote it")
    assert "\n" not in message
    assert contents(tmp_path) == before
    assert int(restore(tmp_path, state_at(0)).step) == 20


def test_only_some_of_many_differences_are_named(tmp_path):
    save(tmp_path, 10)
    more = {f"p{k}": jnp.zeros(1) for k in range(20)}
    with pytest.raises(UserError, match=r"\(opt_state/.*; .*; .*; and 37 more\)"):
        restore(tmp_path, state_at(0, 3, **more))


def test_other_data_is_refused_and_every_checkpoint_stays(tmp_path):
    save(tmp_path, 10)
    before = contents(tmp_path)
    with pytest.raises(UserError, match="checkpoint 10 was trained on other data"):
        restore(tmp_path, state_at(0), data="e")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("error", [MemoryError("full"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory")])
def test_a_full_memory_is_no_damage(error, tmp_path, monkeypatch):
    save(tmp_path, 10)
    before = contents(tmp_path)
    checkpoints = Checkpoints(tmp_path, keep=3, data="d")

    def fail(*_: Any, **__: Any) -> Iterator[None]:
        raise error

    monkeypatch.setattr(checkpoints._manager, "restore", fail)
    with pytest.raises(type(error)):
        checkpoints.restore(state_at(0))
    checkpoints.close()
    assert contents(tmp_path) == before


def flipped(file: pathlib.Path, place: int, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


# Orbax closes its event loop when the first array cannot be read, and the others' threads find it closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_flipped_bit_anywhere_gives_the_same_state_or_the_one_before_with_a_word(tmp_path, caplog):
    save(tmp_path / "whole", 20, 30)
    files = sorted(f.relative_to(tmp_path / "whole") for f in (tmp_path / "whole/30").rglob("*") if f.is_file())
    random = np.random.default_rng(5)
    aside = 0
    for number, file in enumerate(files * 4):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", folder)
        size = (folder / file).stat().st_size
        if not size:
            continue
        flipped(folder / file, int(random.integers(size)), int(random.integers(8)))
        caplog.clear()
        state = restore(folder, state_at(0))
        said = [record.getMessage() for record in caplog.records if record.name == "mbjax"]
        step = int(state.step)
        expected = state_at(step)
        jax.tree.map(np.testing.assert_array_equal, key_data(state), key_data(expected))
        assert (step, len(said)) in {(30, 0), (20, 1)}, (file, said)
        assert (folder / "damaged-30").exists() == (step == 20)
        aside += step == 20
    assert aside > 10


def key_data(state: TrainState) -> TrainState:
    return state.replace(rng=jax.random.key_data(state.rng))


def test_values_that_the_checksum_is_not_of_are_damage(tmp_path, caplog):
    """A whole checkpoint, in every way that its files can tell, of other values."""
    save(tmp_path, 20, 30)
    shutil.rmtree(tmp_path / "30" / "state")
    other = state_at(30)
    other = other.replace(params=jax.tree.map(lambda p: p + 1e-6, other.params))
    checkpoints = Checkpoints(tmp_path / "another", keep=3, data="d")
    checkpoints.save(other)
    checkpoints.close()
    shutil.copytree(tmp_path / "another/30/state", tmp_path / "30/state")
    assert int(restore(tmp_path, state_at(0)).step) == 20
    assert "checkpoint 30 is damaged (its checksum does not match)" in caplog.text


def test_checkpoints_without_checksums_of_older_versions_are_taken(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3, data="d")
    items: Any = ocp.args.Composite(
        state=ocp.args.StandardSave(state_at(10)),  # pyright: ignore[reportCallIssue]
        run=ocp.args.JsonSave({"data": "d"}),  # pyright: ignore[reportCallIssue]
    )
    checkpoints._manager.save(10, args=items)
    checkpoints.close()
    assert int(restore(tmp_path, state_at(0)).step) == 10


def test_files_that_cannot_be_opened_now_are_no_damage(tmp_path, monkeypatch):
    save(tmp_path, 10, 20)
    before = contents(tmp_path)
    checkpoints = Checkpoints(tmp_path, keep=3, data="d")

    def too_many(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files", "d/1")

    monkeypatch.setattr(checkpoints._manager, "restore", too_many)
    monkeypatch.setattr(pathlib.Path, "open", too_many)
    with pytest.raises(UserError, match=r"^d/1 cannot be read \(Too many open files\): the checkpoint stays"):
        checkpoints.restore(state_at(0))
    monkeypatch.undo()
    checkpoints.close()
    assert contents(tmp_path) == before


def test_a_full_disk_is_one_line_and_what_is_there_stays(tmp_path, monkeypatch):
    save(tmp_path, 10)
    before = contents(tmp_path)
    checkpoints = Checkpoints(tmp_path, keep=3, data="d")

    def full(*_: Any, **__: Any) -> Any:
        raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device\nand\nmore")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(UserError, match=r"^checkpoint 20 cannot be saved in .*No space left on device\): the ones .*"):
        checkpoints.save(state_at(20))
    checkpoints.close()
    assert contents(tmp_path) == before
