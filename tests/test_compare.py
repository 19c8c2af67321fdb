"""Comparisons: selection, resuming, failures, and the references."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import make_classification

from mbjax import compare, data
from mbjax.compare import baselines as references
from mbjax.compare import driver, folders, plan, schedule, work
from mbjax.compare import table as comparison
from mbjax.methods import METHODS
from mbjax.report.tables import paired_difference
from mbjax.rows import ROWS, Row
from mbjax.types import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def task(tmp_path) -> compare.Task:
    """Two classes, 1 in 8 positive, two clusters and some noise."""
    x, y = make_classification(
        600, 6, n_informative=4, weights=[0.87], n_clusters_per_class=1, flip_y=0.02, random_state=0
    )
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(6)]).assign(label=y)
    frame.to_csv(tmp_path / "table.csv", index=False)
    overrides = {"data.path": str(tmp_path / "table.csv"), "data.target": "label", "updates": 60, "meta.steps": 4}
    return compare.Task(str(ROOT / "configs" / "tabular.py"), overrides)


def line(row, seed, lr, validation, test, **more):
    return {
        "key": f"{row}{seed}{lr}", "row": row, "seed": seed, "settings": {"optimizer.lr": lr},
        "status": "ok", "seconds": 1.0, "code": "commit x", "data": "d", "mode": "together",
        "validation": {"roc_auc": validation}, "test": {"roc_auc": test},
        "validation_halves": [validation, validation], **more,
    }  # fmt: skip


def test_selection_looks_at_validation_unless_it_is_told_to_look_at_test():
    lines = [
        line("naive", 0, 0.1, 0.9, 0.5), line("naive", 0, 0.2, 0.8, 0.7),
        line("naive", 1, 0.1, 0.7, 0.6), line("naive", 1, 0.2, 0.8, 0.5),
    ]  # fmt: skip
    runs = comparison.frame_of(lines)
    assert sorted(comparison.choose(runs, "roc_auc", "validation")["test_roc_auc"]) == [0.5, 0.5]
    chosen = comparison.choose(runs, "roc_auc", "test")
    assert sorted(chosen["test_roc_auc"]) == [0.5, 0.7]  # one setting for both seeds: 0.6 on average against 0.55
    assert "own validation part" in comparison.make_table(
        lines, rows=ROWS, task="loan", select="validation", overlap=0.0
    )
    assert "**on the test part**" in comparison.make_table(lines, rows=ROWS, task="loan", select="test", overlap=0.0)


def test_table_says_what_the_figures_show():
    lines = [line("naive", s, 0.1, 0.6, 0.6 + 0.01 * s) for s in range(5)]
    lines += [line("over", s, 0.1, 0.7, 0.62 + 0.01 * s + 0.001 * (s % 2)) for s in range(5)]
    lines += [line("metabalance", s, 0.1, 0.6, 0.6 + 0.01 * s + 0.01 * (-1) ** s) for s in range(5)]
    lines += [{**line("smote", 0, 0.1, 0, 0), "status": "failed", "reason": "too few neighbours"}]
    table = comparison.make_table(lines, rows=ROWS, task="loan", select="validation", overlap=0.0)
    rows = {cells[1].strip(): cells for cells in (text.split("|") for text in table.splitlines()) if len(cells) > 2}
    assert rows["over-sampling"][3].strip() == "0.6404 ± 0.0071"
    difference = np.array([0.02, 0.021, 0.02, 0.021, 0.02])
    half = 2.776445 * difference.std(ddof=1) / np.sqrt(5)
    assert rows["over-sampling"][4].strip() == f"+0.0204 ± {half:.4f}"
    assert rows["naive"][6].strip() == "0.655"  # the paper's
    assert "Δ vs over-sampling" in table  # the best baseline by validation
    assert "MetaBalance minus naive: +0.0020 ± 0.0136, not clearly different from zero (the paper's: +0.011)" in table
    assert (
        "MetaBalance minus over-sampling: -0.0184 ± 0.0143, clearly below zero: it is worse (the paper's: +0.019)"
        in table
    )
    assert "SMOTE has no result: too few neighbours (1 seeds)" in table


def test_metabalance_is_compared_with_weighted_logistic_regression_and_the_best_trees():
    scores = {  # validation, test
        "metabalance": (0.6, 0.65), "logistic_regression": (0.9, 0.6), "logistic_regression_balanced": (0.5, 0.62),
        "boosting": (0.7, 0.6), "lightgbm": (0.8, 0.63),
    }  # fmt: skip
    lines = [
        line(name, seed, 0.1, validation, test + 0.001 * seed)
        for name, (validation, test) in scores.items()
        for seed in range(5)
    ]
    assert comparison.strongest_references(comparison.frame_of(lines), ROWS) == [
        "logistic_regression_balanced", "lightgbm",
    ]  # fmt: skip
    table = comparison.make_table(lines, rows=ROWS, task="own", select="validation", overlap=0.0)
    assert "- MetaBalance minus logistic regression, class weights: +0.0300 ± 0.0000, clearly above zero." in table
    assert "- MetaBalance minus LightGBM: +0.0200 ± 0.0000, clearly above zero." in table
    assert "minus gradient-boosted trees" not in table


def test_the_best_baseline_is_not_the_one_with_the_longest_grid():
    """Twelve settings of one true score and noise against one that is truly better, but not by the noise's maximum."""
    rng = np.random.default_rng(0)
    noisy = lambda mean: rng.normal(mean, 0.01, 2)  # noqa: E731
    lines = []
    for seed in range(10):
        for name, count, mean in (("class_balanced", 12, 0.95), ("over", 1, 0.956)):
            for number in range(count):
                halves = noisy(mean)
                more = {"validation_halves": halves.tolist()}
                lines.append(line(name, seed, number, halves.mean(), mean, **more))
    runs = comparison.frame_of(lines)
    maxima: Any = comparison.choose(runs, "roc_auc", "validation").groupby("row")["validation_roc_auc"].mean()
    assert maxima["class_balanced"] > maxima["over"]  # what the old rule went by
    assert comparison.best_baseline(runs, ROWS) == "over"
    whole = [{**text, "validation_halves": [float("nan")] * 2} for text in lines]  # too small to be halved
    assert comparison.best_baseline(comparison.frame_of(whole), ROWS) == "class_balanced"


@pytest.mark.parametrize("overlap", [0.0, 0.25])
def test_intervals_are_those_of_nadeau_and_bengio(overlap):
    a, b = pd.Series([0.7, 0.8, 0.75, 0.6]), pd.Series([0.6, 0.75, 0.75, 0.58])
    mean, half, seeds = paired_difference(a, b, overlap)
    d = [0.1, 0.05, 0.0, 0.02]
    variance = sum((x - sum(d) / 4) ** 2 for x in d) / 3
    assert seeds == 4
    assert mean == pytest.approx(0.0425)
    assert half == pytest.approx(3.182446 * (variance * (1 / 4 + overlap)) ** 0.5, rel=1e-6)


def test_corrected_intervals_hold_the_true_difference_where_plain_ones_do_not(tmp_path):
    """Seeds that resample one data set: the spread between data sets is in no seed's difference."""
    rng = np.random.default_rng(0)
    held = {0.0: 0, 0.25: 0}
    for _ in range(400):  # true difference 0; a split's difference has the data set's deviation and its own
        differences = rng.normal(rng.normal(0, 0.01), 0.02, 10)
        for overlap in held:
            mean, half, _ = paired_difference(pd.Series(differences), pd.Series(np.zeros(10)), overlap)
            held[overlap] += abs(mean) <= half
    assert held[0.0] < 0.85 * 400
    assert held[0.25] >= 0.95 * 400


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("no_adaptation", "meta.inner_lr", 0.05),
        ("first_order", "meta.grad_mode", "reverse"),
        ("over", "train.sampler", "smote"),
        ("naive", "train.sampler", "smote"),
        ("ldam_drw", "loss.name", "focal"),
        ("large_batch", "train.batch_size", 5),
        ("metabalance", "method", "erm"),
        ("metabalance", "seed", 3),
    ],
)
def test_an_option_that_would_change_what_a_row_is_is_refused_by_name(task, tmp_path, name, key, value):
    changed = compare.Task(task.file, {**task.overrides, key: value})
    with pytest.raises(UserError, match=rf"--config\.{key}={value}: ") as error:
        compare.compare(changed, names=[name], seeds=[0], out=tmp_path / "out")
    assert name in str(error.value) or key in ("method", "seed")
    assert not (tmp_path / "out").exists()


def test_options_come_first_then_the_row_then_its_grid(task):
    changed = compare.Task(task.file, {**task.overrides, "optimizer.lr": 0.3, "updates": 200, "meta.inner_lr": 0.05})
    names = ["naive", "metabalance", "class_balanced", "large_batch", "large_batch_natural"]
    runs = {name: plan.plan(changed, [name], [0], data_digest="") for name in names}
    assert {name: len(own) for name, own in runs.items()} == {**dict.fromkeys(names, 1), "class_balanced": 4}
    for own in runs.values():
        assert all(run.config.optimizer.lr == 0.3 and run.config.updates == 200 for run in own)
    assert runs["metabalance"][0].config.meta.inner_lr == 0.05
    large, natural = (runs[name][0].config.train for name in ("large_batch", "large_batch_natural"))
    assert large.batch_size == natural.batch_size == 4 * 24  # meta.steps × query.batch_size
    assert (large.sampler, natural.sampler) == ("class_balanced", "natural")


def test_every_network_chooses_from_the_same_learning_rates_and_lengths(task):
    bare = compare.Task(task.file, {key: value for key, value in task.overrides.items() if key != "updates"})
    for name, row in ROWS.items():
        if row.family in ("reference", "search") or row.like:
            continue
        found = {(row.after, 0): {"support.sampler": "over", "query.sampler": "under"}}
        runs = plan.plan(bare, [name], [0], data_digest="", found=found)
        pairs = {(run.config.optimizer.lr, run.config.updates) for run in runs}
        assert pairs == {(lr, n) for lr in (0.01, 0.02, 0.05, 0.1) for n in (None, 1000)}, name
        if row.after:
            assert {(run.config.support.sampler, run.config.query.sampler) for run in runs} == {("over", "under")}


def test_other_data_under_the_same_name_is_run_again(task, tmp_path):
    names = ["logistic_regression"]
    compare.compare(task, names=names, seeds=[0], out=tmp_path / "out")
    results = tmp_path / "out" / "results.jsonl"
    assert len(results.read_text().splitlines()) == 3
    moved = tmp_path / "elsewhere.csv"
    Path(task.overrides["data.path"]).rename(moved)  # the same content elsewhere: nothing to do
    elsewhere = compare.Task(task.file, {**task.overrides, "data.path": str(moved)})
    compare.compare(elsewhere, names=names, seeds=[0], out=tmp_path / "out")
    assert len(results.read_text().splitlines()) == 3
    frame = pd.read_csv(moved)
    frame.loc[0, "x0"] += 1.0
    frame.to_csv(task.overrides["data.path"], index=False)
    compare.compare(task, names=names, seeds=[0], out=tmp_path / "out")
    assert len(results.read_text().splitlines()) == 6


def test_images_are_compared_by_their_scenario_and_protocol(tmp_path):
    """configs/cifar10.py:small on written images; the authors' protocol crops and flips what is tested."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for file in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        labels = (np.arange(10_000) % 10).astype(np.uint8)[:, None]
        images = rng.integers(0, 256, (10_000, 3072), np.uint8) // (2 + labels)
        np.concatenate([labels, images.astype(np.uint8)], axis=1).tofile(folder / file)
    overrides = {
        "data.dir": str(tmp_path), "updates": 2, "train.batch_size": 4, "model.width": 4, "model.stages": (1,),
        "optimizer.lr": 0.01, "eval.every": 2, "data.counts": (10,) * 10, "data.imbalance": "counts",
    }  # fmt: skip
    test = {}
    for protocol in ("clean", "authors"):
        task = compare.Task(str(ROOT / "configs" / "cifar10.py"), {**overrides, "eval.protocol": protocol}, "small")
        table = compare.compare(task, names=["naive"], seeds=[0], out=tmp_path / protocol)
        assert "| naive | 1 |" in table
        test[protocol] = json.loads((tmp_path / protocol / "results.jsonl").read_text().splitlines()[0])["test"]
    assert test["clean"]["log_loss"] != test["authors"]["log_loss"]


def test_every_row_names_what_there_is():
    for name, row in ROWS.items():
        assert row.like or (row.estimator in references.REFERENCES) != (row.changes.get("method") in METHODS), name
        assert not row.like or row.like in ROWS


def test_a_comparison_end_to_end(task, tmp_path):
    names = ["naive", "metabalance", "logistic_regression", "naive_priors"]
    table = compare.compare(task, names=names, seeds=range(2), out=tmp_path / "out")
    lines = [json.loads(text) for text in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * (4 + 4 + 3)  # updates=60 takes the place of a grid's two lengths
    assert {text["settings"].get("updates", 60) for text in lines} == {60}
    by_row: Any = pd.DataFrame([{**text, **text["test"]} for text in lines if text["status"] == "ok"])
    assert by_row.groupby("row")["roc_auc"].mean().min() > 0.85
    assert set(by_row[by_row["row"] == "naive"]["mode"]) == {"together"}
    for row in ("naive", "MetaBalance", "logistic regression", "naive, priors divided out"):
        assert f"| {row}" in table
    for name in ("table.md", "times.md"):
        assert (tmp_path / "out" / name).read_text()
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    # Priors divided out: another decision, the same order.
    naive = next(text for text in lines if text["row"] == "naive")
    assert naive["priors_test"]["roc_auc"] == pytest.approx(naive["test"]["roc_auc"], abs=1e-9)
    assert naive["priors_test"]["minority_accuracy"] >= naive["test"]["minority_accuracy"]
    assert naive["priors_test"]["majority_accuracy"] < naive["test"]["majority_accuracy"]
    # Again, with one seed more: only that one is run.
    before = (tmp_path / "out" / "results.jsonl").read_text()
    compare.compare(task, names=["naive"], seeds=range(3), out=tmp_path / "out")
    after = (tmp_path / "out" / "results.jsonl").read_text()
    assert after.startswith(before)
    assert [json.loads(text)["seed"] for text in after[len(before) :].splitlines()] == [2] * 4


def test_a_limit_of_time_gives_the_table_of_the_rows_that_are_whole(task, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "mbjax")
    names = ["over", "naive", "logistic_regression_balanced"]
    early = driver.complete(task, names=names, seeds=[0], out=tmp_path, minutes=0)
    assert (early.table, early.lines) == ("no row is whole yet\n", [])
    assert "comparing 3 rows on table.csv, each with 1 seeds, for at most 0 minutes" in caplog.text
    fits = lambda self, unit: unit[0].row != "over"  # noqa: E731
    monkeypatch.setattr(schedule.Pace, "fits", fits)
    some = driver.complete(task, names=names, seeds=[0], out=tmp_path, minutes=60)
    assert [line["row"] for line in some.lines] == ["naive"] * 4 + ["logistic_regression_balanced"] * 3
    assert "| over-sampling |" not in some.table
    assert "not done yet, and left out: over; the same command does them" in caplog.text
    assert "Left out here: over-sampling. The same" in (tmp_path / "report.html").read_text()
    monkeypatch.undo()
    assert "| over-sampling |" in compare.compare(task, names=names, seeds=[0], out=tmp_path)


def test_ctrl_c_leaves_the_table_of_what_is_there(task, tmp_path, monkeypatch):
    done = []

    def do(unit, **given):
        if done:
            raise KeyboardInterrupt
        done.append(unit)
        return work_do(unit, **given)

    work_do = work.do
    monkeypatch.setattr(work, "do", do)
    with pytest.raises(KeyboardInterrupt):
        driver.complete(task, names=["over", "logistic_regression_balanced"], seeds=[0], out=tmp_path)
    assert "| logistic regression, class weights | 1 |" in (tmp_path / "table.md").read_text()
    assert "Left out here: over-sampling. The same" in (tmp_path / "report.html").read_text()


def test_with_little_time_the_first_seeds_of_the_strong_rows_come_first(task):
    names = ["smote", "class_balanced", "metabalance", "logistic_regression_balanced"]
    runs = plan.plan(task, names, range(10), data_digest="")
    units = [(unit[0].row, min(run.seed for run in unit)) for unit in schedule.units_of(runs, limited=True)]
    first = [("logistic_regression_balanced", 0), ("metabalance", 0), ("logistic_regression_balanced", 5)]
    assert units == [*first, ("metabalance", 5), ("smote", 0), ("class_balanced", 0)]
    unlimited = [(unit[0].row, len(unit)) for unit in schedule.units_of(runs, limited=False)]
    assert unlimited == [
        ("logistic_regression_balanced", 30),
        ("metabalance", 40),
        ("class_balanced", 160),
        ("smote", 40),
    ]


def test_the_time_left_is_what_such_units_took(task):
    runs = plan.plan(task, ["smote", "naive", "metabalance", "boosting"], range(10), data_digest="")
    smote, naive, metabalance, boosting = plan.units_of(runs)
    pace = schedule.Pace(10, jobs=2)
    assert math.isnan(pace.left([smote]))
    assert pace.fits(smote)  # nothing is known: it is tried
    pace.took(naive, 80.0)
    assert pace.left([smote, metabalance]) == pytest.approx((80 + 80) / 2)  # as one network takes, another may
    pace.took(metabalance, 400.0)
    assert pace.left([smote, metabalance]) == pytest.approx((80 + 400) / 2)
    assert math.isnan(pace.left([smote, boosting]))
    assert [pace.fits(unit) for unit in (smote, metabalance)] == [True, True]
    pace.took(metabalance, 1000.0)  # 700 s on average: longer than ten minutes
    assert [pace.fits(unit) for unit in (smote, metabalance)] == [True, False]


def test_a_table_of_stopped_work_weighs_rows_and_seeds(task):
    runs = plan.plan(task, ["naive", "metabalance", "boosting"], range(10), data_digest="")
    seeds = lambda row, count: {run.key for run in runs if run.row == row and run.seed < count}  # noqa: E731
    done = seeds("naive", 10) | seeds("metabalance", 5) | seeds("boosting", 4)
    assert schedule.whole(runs, done, range(10)) == (["naive", "metabalance", "boosting"], [*range(4)], [])
    assert schedule.whole(runs, seeds("naive", 10) | seeds("metabalance", 5), range(10)) == (
        ["naive", "metabalance"], [*range(5)], ["boosting"]
    )  # fmt: skip
    assert schedule.whole(runs, seeds("naive", 10), range(10)) == (["naive"], [*range(10)], ["metabalance", "boosting"])
    assert schedule.whole(runs, set(), range(10))[0] == []
    done = seeds("naive", 10) | seeds("metabalance", 10) | seeds("boosting", 2)  # 3³ × 2 < 2³ × 10
    assert schedule.whole(runs, done, range(10)) == (["naive", "metabalance"], [*range(10)], ["boosting"])


def test_seeds_whose_training_part_lacks_a_category_have_programs_of_their_own(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=200), "kind": ["a", "b"] * 100, "label": rng.random(200) < 0.3})
    frame.loc[7, "kind"] = "rare"
    frame.to_csv(tmp_path / "table.csv", index=False)
    overrides = {"data.path": str(tmp_path / "table.csv"), "data.target": "label", "updates": 5, "data.test_share": 0.5}
    rare = compare.Task(str(ROOT / "configs" / "tabular.py"), overrides, tune=False)
    widths = {plan.load(None, _config(rare, seed)).train.x.shape[1] for seed in range(4)}
    assert len(widths) == 2
    assert "| naive | 4 |" in compare.compare(rare, names=["naive"], seeds=range(4), out=tmp_path / "out")


def _config(task, seed):
    config = task.config("naive")
    config.seed = seed
    return config


def test_a_part_that_breaks_costs_its_row_alone(task, tmp_path, monkeypatch):
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("in a file of the user's")

    monkeypatch.setitem(references.REFERENCES, "hist_gradient_boosting", broken)
    table = compare.compare(task, names=["boosting", "logistic_regression"], seeds=[0], out=tmp_path)
    assert "- gradient-boosted trees has no result: ZeroDivisionError: in a file of the user's (1 seeds)" in table
    assert "| logistic regression | 1 |" in table


def test_where_nothing_ends_well_there_is_no_table(task, tmp_path):
    bad = compare.Task(task.file, {**task.overrides, "train.neighbors": 5000, "updates": 5})
    with pytest.raises(UserError, match=r"no run has ended well; the first: config.train.sampler='smote'"):
        driver.complete(bad, names=["smote"], seeds=[0], out=tmp_path)


def test_what_cannot_run_is_reported_and_the_rest_goes_on(task, tmp_path, monkeypatch):
    some = Row("some settings", "baseline", {"method": "erm"}, {"train.sampler": ("over", "smote")})
    monkeypatch.setitem(ROWS, "over", some)
    frame = pd.read_csv(task.overrides["data.path"])
    small = pd.concat([frame[frame["label"] == 0].head(70), frame[frame["label"] == 1].head(40)])
    small.to_csv(tmp_path / "small.csv", index=False)
    changed = {"data.path": str(tmp_path / "small.csv"), "train.neighbors": 500, "updates": 5}
    changed_task = compare.Task(task.file, {**task.overrides, **changed})
    table = compare.compare(changed_task, names=["naive", "smote", "over"], seeds=[0], out=tmp_path / "out")
    assert "| naive |" in table
    assert "SMOTE has no result: config.train.sampler='smote'" in table
    assert "too few training examples" in table
    assert "| some settings |" in table
    assert "- some settings: config.train.sampler='smote'" in table


def test_pairs_of_samplers_are_searched_and_the_best_gets_the_grid_of_all(task, tmp_path, monkeypatch):
    few = {"support.sampler": ("natural", "smote"), "query.sampler": ("under", "over")}
    search = dataclasses.replace(ROWS["ms_search"], grid=few, changes={"method": "metabalance", "updates": 20})
    monkeypatch.setitem(ROWS, "ms_search", search)
    bare = compare.Task(task.file, {**task.overrides, "optimizer.lr": 0.05})
    table = compare.compare(bare, names=["ms_metabalance"], seeds=[0, 1], out=tmp_path)
    lines = [json.loads(text) for text in (tmp_path / "results.jsonl").read_text().splitlines()]
    searched = [text for text in lines if text["row"] == "ms_search"]
    assert {tuple(text["settings"].values()) for text in searched} == {
        ("natural", "under"), ("natural", "over"), ("smote", "under"), ("smote", "over")
    }  # fmt: skip
    for seed in (0, 1):
        best = max((t for t in searched if t["seed"] == seed), key=lambda text: text["validation"]["roc_auc"])
        (chosen,) = (t for t in lines if t["row"] == "ms_metabalance" and t["seed"] == seed)
        assert chosen["settings"] == {**best["settings"], "optimizer.lr": 0.05, "updates": 60}
    assert "| MS-MetaBalance | 2 |" in table
    assert "search over sampler pairs" not in table
    assert (tmp_path / "pairs.png").read_bytes().startswith(b"\x89PNG")


def run_compare(task, out, *more):
    overrides = [f"--config.{key}={value}" for key, value in task.overrides.items()]
    command = [sys.executable, "-m", "mbjax.compare", f"--config={task.file}", f"--out={out}", *overrides, *more]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def test_a_killed_comparison_goes_on_and_gives_the_same_table(task, tmp_path):
    options = ("--methods=naive,over,under,logistic_regression", "--seeds=2")
    whole = run_compare(task, tmp_path / "whole", *options, "--jobs=2")
    killed = run_compare(task, tmp_path / "killed", *options)
    file, deadline = tmp_path / "killed" / "results.jsonl", time.monotonic() + 240
    has_lines = lambda: file.exists() and file.stat().st_size  # noqa: E731 - it is there before its lines are
    while not has_lines() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    whole.communicate(timeout=240)
    text = file.read_text()
    assert 0 < text.count("\n") < 4 * 2 * 3 + 3 * 2
    file.write_text(text + '{"key": "cut sho')  # a line that the kill cut short
    again = run_compare(task, tmp_path / "killed", *options)
    output, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert (tmp_path / "killed" / "table.md").read_text() == (tmp_path / "whole" / "table.md").read_text()
    assert (tmp_path / "killed" / "table.md").read_text() in output


def test_a_killed_comparison_of_images_goes_on_at_its_checkpoint(tmp_path):
    small = {
        "data.synthetic_identities": 24, "data.synthetic_images": 6, "data.test_identities": 8, "data.size": 16,
        "data.validation_identities": 6, "model.width": 4, "model.stages": "(1,)", "model.embedding": 8, "updates": 20,
        "updates_per_call": 2, "eval.every": 2, "optimizer.lr": 0.1,
    }  # fmt: skip
    task = compare.Task("configs/faces.py:synthetic", small)
    options = ("--methods=naive,over", "--seeds=1")
    killed = run_compare(task, tmp_path / "killed", *options)
    runs, deadline = tmp_path / "killed" / "runs", time.monotonic() + 240
    while len([*runs.glob("*/checkpoints/[0-9]*")]) < 2 and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "table.md").exists()
    tables = {}
    for name in ("killed", "whole"):
        process = run_compare(task, tmp_path / name, *options)
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors
        assert ("resuming at update" in errors) == (name == "killed")
        tables[name] = (tmp_path / name / "table.md").read_text()
    assert tables["killed"] == tables["whole"]
    assert tables["whole"].count("\n| ") == 4  # head, rule and two rows


@pytest.mark.parametrize(("rows", "paper"), [(["over", "under"], None), (["naive", "over"], "cifar10_severe")])
def test_the_papers_figures_stand_beside_rows_that_it_has(rows, paper, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(folders.report, "compare", lambda groups, **options: asked.update(options) or "the table")
    lines = [line(row, 0, 0.1, 0.5, 0.5, folder=f"runs/{row}", code="c") for row in rows]
    task = compare.Task("configs/cifar10.py", scenario="severe")
    made = folders.make_table(lines, task=task, name="cifar10", kind="classification", select="test", out=tmp_path)
    assert "the table" in made
    assert asked["paper"] == paper


def test_the_table_is_the_same_by_one_process_by_two_and_by_a_cluster_that_loses_a_worker(task, tmp_path):
    from distributed import LocalCluster

    compared: Any = {"task": task, "names": ["naive", "over", "logistic_regression"], "seeds": [0, 1]}
    tables = [compare.compare(**compared, out=tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2)]
    options: Any = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    local: Any = LocalCluster(**options)
    with local as cluster:
        victim = cluster.workers[0].pid
        threading.Timer(6, os.kill, (victim, signal.SIGKILL)).start()  # while it imports or trains
        options = {"backend": "dask", "scheduler": cluster.scheduler_address}
        tables.append(compare.compare(**compared, out=tmp_path / "dask", **options))
    assert tables[0] == tables[1] == tables[2]
    assert (tmp_path / "dask" / "table.md").read_text() == tables[0]


def test_a_method_of_another_module_is_a_row_in_every_process(task, tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(
        "from mbjax import methods\n\n\n"
        "def still(problem):\n"
        "    erm = methods.METHODS['erm'].build(problem)\n"
        "    step = lambda state, batches: (state, erm.step(state, batches)[1])\n"
        "    return methods.Method(init=problem.init, step=step)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    runs: Any = compare.run_comparison(
        task.module.get_config(), data.load("tabular", seed=0, path=task.overrides["data.path"], target="label"),
        rows=["own_parts:still"], seeds=2, out=tmp_path / "out", jobs=2, tune=False,
    )  # fmt: skip
    assert sorted(runs["row"]) == ["own_parts:still"] * 2
    assert runs["test_roc_auc"].max() < 0.85  # training gives more than 0.85: what ran was the other module's
    named = plan.methods_in(["own_parts:nothing"])
    nothing = dataclasses.replace(task, methods=named)
    with pytest.raises(UserError, match=r"config.method='own_parts:nothing' cannot be imported"):
        compare.compare(nothing, names=named, seeds=[0], out=tmp_path / "none")


def test_shards_share_the_work(task, tmp_path):
    for shard in range(2):
        compare.compare(task, names=["naive", "over"], seeds=[0], out=tmp_path, shard=(shard, 2))
    counts = [len((tmp_path / f"results-{shard}.jsonl").read_text().splitlines()) for shard in range(2)]
    assert counts == [4, 4]
    assert "over-sampling" in compare.compare(task, names=["naive", "over"], seeds=[0], out=tmp_path)
    assert not (tmp_path / "results.jsonl").exists()  # nothing was left to do


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods=nave"], "--methods=nave: choose among all, naive"),
        (["--methods=naive", "--shard=3/2"], "--shard=3/2: write I/N with I from 0 to N - 1"),
        (["--methods=naive", "--config.data.target=y"], "config.data.target='y': no such column"),
        (["--methods=naive", "--config.data.validation_share=2.0"], "config.data.validation_share=2.0"),
    ],
)
def test_mistakes_are_one_clear_line(task, tmp_path, options, message):
    process = run_compare(task, tmp_path / "out", *options)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


def test_references_weigh_classes_and_see_the_training_part_alone(task):
    dataset = data.load("tabular", seed=0, path=task.overrides["data.path"], target="label")
    plain, balanced = (
        references.predict(
            references.fit("logistic_regression", dataset, seed=0, balanced=b, settings={"C": 1.0}), dataset.test.x
        )
        for b in (False, True)
    )
    np.testing.assert_allclose(plain.sum(1), 1)
    assert balanced[:, 1].mean() > 1.2 * plain[:, 1].mean()
    # scikit-learn's own class_weight="balanced" is the independent calculation.
    from sklearn.linear_model import LogisticRegression

    own = LogisticRegression(class_weight="balanced", max_iter=5000).fit(dataset.train.x, dataset.train.y)
    np.testing.assert_allclose(balanced, own.predict_proba(dataset.test.x), atol=1e-3)


def test_a_reference_that_is_not_installed_says_so(task, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "mbjax")
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    dataset = data.load("tabular", seed=0, path=task.overrides["data.path"], target="label")
    with pytest.raises(UserError, match=r"lightgbm is not installed: pip install 'mbjax\[trees\]'"):
        references.fit("lightgbm", dataset, seed=0, balanced=False, settings={})
    names = ["lightgbm", "lightgbm_balanced", "logistic_regression"]
    table = compare.compare(task, names=names, seeds=[0], out=tmp_path / "out")
    said = "no lightgbm, lightgbm_balanced: lightgbm not installed (pip install 'mbjax[trees]')"
    before = caplog.messages[: caplog.messages.index(said)]
    assert not any("runs to do" in message for message in before)
    assert "- LightGBM has no result: lightgbm is not installed" in table


def test_trees_of_other_packages_take_one_thread(monkeypatch):
    monkeypatch.setattr(references, "_installed", lambda package, name: lambda **settings: settings)
    for name, threads in (("lightgbm", "n_jobs"), ("xgboost", "n_jobs"), ("realmlp", "n_threads")):
        assert references.REFERENCES[name](3)[threads] == 1
