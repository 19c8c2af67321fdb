"""Comparisons on a data set of one's own: given as it is, or as a function of the seed."""

import dataclasses
import json

import numpy as np
import pytest

import mbjax
from mbjax import config as config_lib
from mbjax.types import UserError


def points(seed: int, shift: float = 2.0, image: bool = False) -> mbjax.Dataset:
    """Two classes, 1 in 4 positive, apart by `shift`; as images, in brightness."""
    rng = np.random.default_rng(seed)

    def split(n: int) -> mbjax.Split:
        y = (np.arange(n) % 4 == 0).astype(np.int32)
        shape = (6, 6) if image else (3,)
        x = rng.normal(shift * y.reshape(n, *[1] * len(shape)), 1.0, (n, *shape))
        return mbjax.Split(x.astype(np.float32), y)

    parts = {"train": split(80), "validation": split(40), "test": split(60)}
    return mbjax.Dataset(parts, ("no", "yes"), f"points of {seed}")


def settings(**changes):
    config = config_lib.base()
    config.model.hidden = (8,)
    config_lib.change(config, {"updates": 40, "meta.steps": 4, "eval.every": 0.5, "optimizer.lr": 0.1, **changes})
    return config


def lines_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_data_set_is_compared_on_by_one_process_and_by_two_alike(tmp_path):
    rows, dataset = ("naive", "over", "metabalance"), points(0)
    options = {"rows": rows, "seeds": 2, "tune": False}
    runs = mbjax.run_comparison(settings(), dataset, out=tmp_path / "one", **options)
    assert sorted(zip(runs["row"], runs["seed"], strict=True)) == sorted((row, s) for row in rows for s in (0, 1))
    assert np.min(runs["test_roc_auc"]) > 0.9
    alone = mbjax.train_and_evaluate(settings(method="erm", seed=1), tmp_path / "alone", dataset)
    naive = runs[(runs["row"] == "naive") & (runs["seed"] == 1)]
    assert naive["test_log_loss"].item() == pytest.approx(alone["test"]["log_loss"], rel=1e-4)
    mbjax.run_comparison(settings(), dataset, out=tmp_path / "two", jobs=2, **options)
    tables = [(tmp_path / name / "table.md").read_text() for name in ("one", "two")]
    assert tables[0] == tables[1]
    assert "points of 0" in tables[0]
    mbjax.run_comparison(settings(), dataset, out=tmp_path / "one", **options)
    assert len(lines_of(tmp_path / "one")) == 6  # nothing was left to do
    other = mbjax.run_comparison(settings(), points(0, 0.0), out=tmp_path / "one", **options)
    assert len(lines_of(tmp_path / "one")) == 12  # other data under the same name is
    assert len(other) == 6
    assert np.max(other["test_roc_auc"]) < 0.8


def test_a_function_of_the_seed_gives_each_seed_its_own_data(tmp_path):
    rows = ("naive", "logistic_regression")
    runs = mbjax.run_comparison(settings(), points, out=tmp_path, rows=rows, seeds=(3, 5), tune=False)
    assert len(runs) == 4
    assert {(line["seed"], line["data"].partition(";")[0]) for line in lines_of(tmp_path)} == {
        (3, "points of 3"), (5, "points of 5"),
    }  # fmt: skip


def test_networks_with_convolutions_have_folders_of_their_own(tmp_path):
    config = settings(updates=4, **{"model.name": "cnn", "model.channels": (2,)})
    runs = mbjax.run_comparison(config, points(0, image=True), out=tmp_path, rows=("naive",), seeds=1, tune=False)
    result = json.loads((tmp_path / runs["folder"].item() / "result.json").read_text())
    assert result["data"]["source"] == "points of 0"
    assert runs["test_balanced_accuracy"].item() == result["test"]["balanced_accuracy"]


def test_mistakes_are_one_clear_line(tmp_path):
    whole = points(0)
    dataset = dataclasses.replace(whole, splits={"train": whole.train, "test": whole.test})
    with pytest.raises(UserError, match=r"need one above 0, or a data set with a validation split; --notune \(tune=F"):
        mbjax.run_comparison(settings(), dataset, out=tmp_path, rows=("naive",))
    with pytest.raises(UserError, match="--methods=nave: choose among all, naive"):
        mbjax.run_comparison(settings(), dataset, out=tmp_path, rows=("nave",))
