"""Damage to the files of a run: what can be made again is, and what cannot is named."""

import contextlib
import gc
import json
import logging
import pathlib
import resource
import shutil
import sys
from typing import Any

import jax
import numpy as np
import optax
import pytest

from mbjax import config as config_lib
from mbjax import report, sealed, train
from mbjax.compare import driver
from mbjax.state import TrainState
from mbjax.train import checkpoint
from mbjax.train.folder import Folder
from mbjax.types import UserError

pytestmark = pytest.mark.filterwarnings("ignore:Creating legend with loc")  # matplotlib's, on a machine that is busy


def small_config() -> Any:
    config = config_lib.base()
    config.method = "erm"
    config.data.update(minority_count=5, test_count=20)
    config.model.update(hidden=(4,), dropout=(0.0,))
    config.update(updates=20, updates_per_call=5)
    config.eval.every = 10
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[pathlib.Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, train.train_and_evaluate(small_config(), folder)


@pytest.fixture
def run(finished, tmp_path) -> tuple[pathlib.Path, dict[str, Any]]:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    return folder, finished[1]


@pytest.fixture
def said(caplog):
    """mbjax's warnings."""
    caplog.set_level(logging.WARNING, "mbjax")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "mbjax" and r.levelno >= logging.WARNING]


def flip(file: pathlib.Path, place: float, bit: int = 2) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    file.write_bytes(content)


def change_a_digit(file: pathlib.Path, key: str) -> None:
    """A change that leaves valid JSON."""
    text = file.read_text()
    place = text.index(":", text.index(f'"{key}"')) + 2
    file.write_text(text[:place] + ("1" if text[place] != "1" else "2") + text[place + 1 :])


DAMAGES: dict[str, Any] = {
    "empty": lambda file: file.write_text(""),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "no JSON": lambda file: file.write_text("no JSON"),
    "another JSON": lambda file: file.write_text("[1, 2]\n"),
    "no text": lambda file: file.write_bytes(b"\xff\xfe\x00"),
    "nested": lambda file: file.write_text("[" * 100_000),
}


@pytest.mark.parametrize("damage", ["empty", "truncated", "no JSON", "another JSON", "no text", "nested", "digit"])
def test_a_damaged_result_is_made_again_from_the_last_checkpoint(damage, run, said):
    folder, result = run
    file = folder / "result.json"
    if damage == "digit":
        change_a_digit(file, "updates")
    else:
        DAMAGES[damage](file)
    broken = file.read_bytes()
    with pytest.raises(UserError, match=r"result.json is damaged \("):
        report.compare({"a": [folder]})
    again = train.train_and_evaluate(small_config(), folder)
    assert again["test"] == result["test"]
    assert (folder / "result.json.damaged").read_bytes() == broken
    (line,) = said()
    assert line.startswith(f"{file} is damaged (")
    assert line.endswith("): it is now result.json.damaged, and is made again from the last checkpoint")
    assert train.train_and_evaluate(small_config(), folder) == again


@pytest.mark.parametrize("damage", [*DAMAGES, "digit"])
def test_a_damaged_configuration_is_named_and_of_a_folder_without_a_run_written_anew(damage, run, said, tmp_path):
    folder, _ = run
    for place in (folder, tmp_path / "new"):
        place.mkdir(exist_ok=True)
        shutil.copy(folder / "config.json", place / "whole.json")
        file = place / "config.json"
        shutil.copy(folder / "whole.json", file)
        if damage == "digit":
            change_a_digit(file, "seed")
        else:
            DAMAGES[damage](file)
    with pytest.raises(UserError) as caught:
        train.train_and_evaluate(small_config(), folder)
    assert str(caught.value).startswith(f"{folder / 'config.json'} is damaged (")
    assert str(caught.value).endswith("remove that file and run again; else choose another --workdir")
    assert not said()
    Folder(tmp_path / "new").claim(config_lib.validate(small_config()), 30)
    (line,) = said()
    assert line.endswith("it is now config.json.damaged")
    assert (tmp_path / "new/config.json").read_text() == (folder / "whole.json").read_text()


def rows(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [sealed.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_damaged_metrics_are_left_out_kept_aside_and_named(run, said):
    folder, result = run
    (folder / "result.json").unlink()
    before = rows(folder)
    change_a_digit(folder / "metrics.jsonl", "step")
    broken = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"metrics.jsonl has a damaged line \(its checksum does not match\)"):
        report.plots.metrics_rows(folder)
    assert train.train_and_evaluate(small_config(), folder)["test"] == result["test"]
    assert rows(folder) == before[1:]
    assert (folder / "metrics.jsonl.damaged").read_bytes() == broken
    metrics = folder / "metrics.jsonl"
    assert said() == [
        f"{metrics}: 1 damaged lines are left out; the whole file is now metrics.jsonl.damaged",
        f"{metrics} lacks the rows of updates 10",
    ]


@pytest.mark.parametrize("damage", ["missing", *DAMAGES])
def test_lost_metrics_are_named(damage, run, said):
    folder, result = run
    (folder / "result.json").unlink()
    file = folder / "metrics.jsonl"
    if damage == "missing":
        file.unlink()
    else:
        DAMAGES[damage](file)
    assert train.train_and_evaluate(small_config(), folder)["test"] == result["test"]
    lost = ("updates 20", "updates 10, 20") if damage == "truncated" else "updates 10, 20"  # a half may hold one line
    assert said()[-1].endswith(lost)


def test_a_last_line_that_a_kill_cut_short_is_no_damage(run, said):
    folder = Folder(run[0])
    before = rows(run[0])
    with folder.metrics.open("a") as file:
        file.write('{"step": 30, "upd')
    folder.rewind(20, (10, 20, 30))
    assert rows(run[0]) == before
    folder.rewind(10, (10, 20, 30))
    assert rows(run[0]) == before[:1]
    assert not said()


def test_rows_of_older_versions_without_checksums_stay(run, said):
    folder = Folder(run[0])
    before = rows(run[0])
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in before))
    folder.rewind(20, (10, 20))
    assert rows(run[0]) == before
    assert not said()


def test_any_flipped_bit_of_a_run_leads_to_the_same_scores_or_is_said(finished, tmp_path, said, caplog):
    """The quick part of tests/robustness/batteries.py flips."""
    files = [f.relative_to(finished[0]) for f in sorted(finished[0].rglob("*")) if f.is_file() and f.stat().st_size]
    files = [f for f in files if f.suffix != ".png" and f.name != "predictions.npz"]
    random = np.random.default_rng(1)
    for number, file in enumerate(random.choice(np.array(files, object), 6, replace=False)):
        folder = tmp_path / str(number)
        shutil.copytree(finished[0], folder)
        if number % 2:
            (folder / "result.json").unlink()
        if not (folder / file).exists():
            continue
        flip(folder / file, random.random(), int(random.integers(8)))
        caplog.clear()
        try:
            result = train.train_and_evaluate(small_config(), folder)
        except UserError:
            continue
        assert result["test"] == finished[1]["test"], file


@pytest.mark.parametrize("place", [700])
def test_what_orbax_leaves_of_a_damaged_checkpoint_prints_no_traces(place, run, said, monkeypatch):
    """The first array cannot be described, so the others' reads are left behind, and fail later."""
    folder, result = run
    (folder / "result.json").unlink()
    (file,) = (folder / "checkpoints/20/state/array_metadatas").iterdir()
    content = bytearray(file.read_bytes())
    content[place % len(content)] ^= 128
    file.write_bytes(content)
    left: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", left.append)
    assert train.train_and_evaluate(small_config(), folder)["test"] == result["test"]
    gc.collect()
    assert not left
    assert said()[0].startswith("checkpoint 20 is damaged ('utf-8' codec can't decode byte")


def test_what_orbax_leaves_of_a_checkpoint_that_cannot_be_saved_prints_no_traces(tmp_path, monkeypatch):
    """No file may have more than 2 KB, as on a disk that is full: all arrays fail, and orbax waits for the first."""
    rng = np.random.default_rng(0)
    params = {str(n): rng.normal(size=2000).astype(np.float32) for n in range(12)}
    state = TrainState.create(params=params, tx=optax.sgd(0.1), rng=jax.random.key(0))
    left: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", left.append)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with contextlib.closing(checkpoint.Checkpoints(tmp_path, keep=3, data="a")) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        try:
            with pytest.raises(UserError, match=r"^checkpoint 0 cannot be saved in \S+ \(.+\): the ones before it are"):
                checkpoints.save(state)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        gc.collect()
    assert not left


# Results of comparisons.


def test_damaged_lines_of_results_are_said_and_their_runs_missing(tmp_path, said):
    lines = [{"key": f"k{n}", "status": "ok", "score": n / 10} for n in range(5)]
    file = tmp_path / "results.jsonl"
    driver.append(file, lines[:2])
    driver.append(file, lines[2:])
    assert driver.read(tmp_path) == {line["key"]: line for line in lines}
    text = file.read_text().splitlines(keepends=True)
    text[1] = text[1].replace("0.1", "0.7")
    text[2] = "\xff\n"
    text[3] = '{"key": 3}\n'
    file.write_text("".join(text) + '{"key": "cut", "sta')
    assert sorted(driver.read(tmp_path)) == ["k0", "k4"]
    assert not said()
    driver.read(tmp_path, say=True)
    assert said() == [f"{tmp_path}: 3 damaged lines of results are left out, and their runs done again"]
    driver.append(file, lines[1:2])
    assert driver.read(tmp_path) == {line["key"]: line for line in (lines[0], lines[4], lines[1])}


def test_a_disk_that_is_full_while_results_are_written_leaves_the_whole_lines(tmp_path, monkeypatch):
    file = tmp_path / "results.jsonl"
    driver.append(file, [{"key": "a", "status": "ok"}])
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(driver.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        driver.append(file, [{"key": "b", "status": "ok"}])
    monkeypatch.undo()
    assert file.read_bytes() == before


# Every write of a run, and a disk that is full there.

WRITES = ["config.json", "metrics.jsonl", "checkpoint", "predictions.npz", "result.json"]


@pytest.mark.parametrize("where", WRITES)
def test_a_full_disk_at_any_write_is_one_line_and_the_same_command_resumes(where, finished, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def full(*args: Any, **_: Any) -> Any:
        raise OSError(28, "No space left on device", str(folder / where))

    if where == "metrics.jsonl":
        monkeypatch.setattr(Folder, "log", full)
    elif where == "checkpoint":
        monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", full)
    else:
        replace = checkpoint.sealed.atomic.os.replace
        monkeypatch.setattr(
            checkpoint.sealed.atomic.os, "replace",
            lambda part, path: full() if pathlib.Path(path).name == where else replace(part, path),
        )  # fmt: skip
    with pytest.raises((OSError, UserError), match="No space left on device"):
        train.train_and_evaluate(small_config(), folder)
    monkeypatch.undo()
    assert not (folder / "result.json").exists()
    assert not [file for file in folder.iterdir() if file.name.startswith(".")]  # no part, and no lock
    result = train.train_and_evaluate(small_config(), folder)
    assert result["test"] == finished[1]["test"]
    assert rows(folder) == rows(finished[0])
