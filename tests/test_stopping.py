"""A run of another length goes on, and one that stops early keeps the state that was best on the validation part."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from mbjax import config as config_lib
from mbjax import data, train
from mbjax.train import checkpoint
from mbjax.train.folder import Folder
from mbjax.types import Dataset, Split, UserError


def points() -> Dataset:
    """Two classes that overlap, with so few of the second that training soon fits their noise."""
    rng = np.random.default_rng(0)
    y = (np.arange(300) % 5 == 0).astype(np.int32)
    x = (rng.normal(size=(300, 6)) + 1.2 * y[:, None] * [1, 0, 0, 0, 0, 0]).astype(np.float32)
    parts = {"train": slice(0, 60), "validation": slice(60, 180), "test": slice(180, 300)}
    return Dataset({name: Split(x[part], y[part]) for name, part in parts.items()}, ("no", "yes"), "points")


def config_of(**changes: Any) -> Any:
    config = config_lib.base()
    config.update_from_flattened_dict({
        "task": "mine", "method": "erm", "updates": 80, "updates_per_call": 4, "eval.every": 4, "model.hidden": (32,),
        "optimizer.lr": 0.5, "train.batch_size": 16, "train.sampler": "class_balanced", **changes,
    })  # fmt: skip
    return config


def rows(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def state_at(folder: pathlib.Path, step: int, *, best: bool = False) -> Any:
    dataset = points()
    experiment = train.build(config_lib.validate(config_of()), dataset)
    place = Folder(folder).best if best else Folder(folder).checkpoints
    checkpoints = checkpoint.Checkpoints(place, keep=3, data=data.digest(dataset, ["train"]))
    assert checkpoints.steps()[-1] == step
    state = checkpoints.restore(experiment.method.init(0))
    checkpoints.close()
    return jax.tree.map(np.asarray, (state.params, state.opt_state))


def assert_equal(a: Any, b: Any) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tuple[pathlib.Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("stopped")
    return folder, train.train_and_evaluate(config_of(**{"eval.patience": 3}), folder, points())


class TestLonger:
    def test_a_finished_run_goes_on_to_what_it_had_been_from_the_start(self, tmp_path, caplog):
        short = train.train_and_evaluate(config_of(updates=8), tmp_path / "run", points())
        with caplog.at_level("INFO", "mbjax"):
            longer = train.train_and_evaluate(config_of(updates=20), tmp_path / "run", points())
        assert "training goes on from update 8; schedules are those of 20 updates from here on" in caplog.text
        assert not [record for record in caplog.records if record.levelname == "WARNING"]
        whole = train.train_and_evaluate(config_of(updates=20), tmp_path / "whole", points())
        assert longer["resumed_at"] == 8
        assert longer["test"] == whole["test"] != short["test"]
        assert_equal(state_at(tmp_path / "run", 20), state_at(tmp_path / "whole", 20))
        assert [row["step"] for row in rows(tmp_path / "run")] == [4, 8, 12, 16, 20]
        kept = json.loads((tmp_path / "run/result-8.json").read_text())
        assert kept["test"] == short["test"]
        assert train.train_and_evaluate(config_of(updates=20), tmp_path / "run", points()) == longer

    def test_another_interval_of_evaluations_than_before_names_no_missing_rows(self, tmp_path, caplog):
        train.train_and_evaluate(config_of(updates=8, **{"eval.every": 0.5}), tmp_path, points())
        for _ in range(2):  # the second time as if it had been killed at the end
            train.train_and_evaluate(config_of(updates=24, **{"eval.every": 0.5}), tmp_path, points())
            (tmp_path / "result.json").unlink()
        assert [row["step"] for row in rows(tmp_path)] == [4, 8, 12, 24]
        assert not [record for record in caplog.records if record.levelname == "WARNING"]

    def test_fewer_updates_than_were_done_are_refused_and_nothing_changes(self, tmp_path):
        result = train.train_and_evaluate(config_of(updates=8), tmp_path, points())
        with pytest.raises(UserError, match="has a run of 8 updates, and 4 are fewer: choose another --workdir"):
            train.train_and_evaluate(config_of(updates=4), tmp_path, points())
        assert train.train_and_evaluate(config_of(updates=8), tmp_path, points()) == result


class TestEarlyStopping:
    def test_it_ends_after_three_evaluations_without_a_better_one_and_keeps_the_best(self, stopped):
        folder, result = stopped
        scores = [row["validation"]["roc_auc"] for row in rows(folder)]
        best = int(np.argmax(scores))
        assert len(scores) == best + 1 + 3 < 20  # else the data does not show it
        assert (result["best_update"], result["updates"]) == (4 * (best + 1), 4 * len(scores))
        assert result["validation"]["roc_auc"] == max(scores) > scores[-1]
        assert result["test"] == rows(folder)[best]["test"]
        trained = train.train_and_evaluate(config_of(updates=result["best_update"]), folder / "whole", points())
        assert trained["test"] == result["test"]
        best_state = state_at(folder, result["best_update"], best=True)
        assert_equal(best_state, state_at(folder / "whole", result["best_update"]))

    @pytest.mark.parametrize("moment", ["log", "best", "checkpoint", "end"])
    def test_a_kill_at_any_moment_changes_nothing(self, stopped, moment, tmp_path, monkeypatch):
        """Every file is written whole or not at all, so a kill is an end between two of them."""
        _, result = stopped
        step = result["best_update"]

        def kill(owner: Any, name: str, when: Any) -> None:
            whole = getattr(owner, name)

            def once(self: Any, *arguments: Any) -> Any:
                if when(self, *arguments):
                    raise KeyboardInterrupt
                return whole(self, *arguments)

            monkeypatch.setattr(owner, name, once)

        at = lambda self, state: int(state.step) == step and (self.folder.name == "best") == (moment == "best")  # noqa: E731
        if moment == "log":
            kill(Folder, "log", lambda _, row: row["step"] == step)
        elif moment == "end":
            kill(Folder, "finish", lambda *_: True)
        else:
            kill(checkpoint.Checkpoints, "save", at)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(config_of(**{"eval.patience": 3}), tmp_path, points())
        monkeypatch.undo()
        again = train.train_and_evaluate(config_of(**{"eval.patience": 3}), tmp_path, points())
        assert again["resumed_at"] == (result["updates"] if moment == "end" else step - 4)
        unlike = ("seconds", "compile_seconds", "resumed_at")
        assert {k: v for k, v in again.items() if k not in unlike} == {
            k: v for k, v in result.items() if k not in unlike
        }

    def test_it_needs_a_validation_part(self, tmp_path):
        parts = points().splits
        data_set = Dataset({"train": parts["train"], "test": parts["test"]}, ("no", "yes"), "points")
        with pytest.raises(UserError, match="patience=3 stops early by a validation part, and there is none"):
            train.train_and_evaluate(config_of(**{"eval.patience": 3}), tmp_path / "run", data_set)
        assert not (tmp_path / "run/config.json").exists()  # what failed before training has no claim on the folder
