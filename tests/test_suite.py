"""A study of many tables: shared programs, resuming, tables and rows that cannot run, and the page's numbers."""

import dataclasses
import json
import logging
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mbjax import config as config_lib
from mbjax import sealed, train
from mbjax.compare import plan, statistics, suite, suite_facts, suite_page
from mbjax.compare.suite_facts import Study, TableFacts
from mbjax.report import page
from mbjax.report.numbers import Numbers
from mbjax.rows import ROWS, SUITE, TABULAR
from mbjax.train import population, widths
from mbjax.types import UserError
from tests.test_suites import ROOT, dat

CONFIG = str(ROOT / "configs" / "suite.py")


@pytest.fixture
def folder(tmp_path):
    """Two tables of different width, one with three rows of the rare class, and one that is broken."""
    place = tmp_path / "keel"
    place.mkdir()
    (place / "narrow.dat").write_text(dat(1, rows=70))
    (place / "wider.dat").write_text(dat(2, rows=80, numbers=4))
    (place / "few.dat").write_text(dat(3, rows=60, share=0.07))
    (place / "broken.dat").write_text(dat(4) + "1, 2\n")
    return place


def build(folder, table):
    settings = config_lib.base()
    config_lib.change(settings, {
        "task": "keel", "data.path": str(folder), "data.table": table, "method": "erm",
        "model.hidden": (4,), "model.scaling_layer": True,
        "data.encoding": "piecewise_linear", "data.bins": 3, "train.batch_size": 8, "updates": 5, "parallel": "none",
    })  # fmt: skip
    return train.build(config_lib.validate(settings))


def test_a_population_across_tables_gives_each_tables_lone_result(folder):
    experiments = [build(folder, name) for name in ("narrow", "wider")]
    assert [widths.width(e) for e in experiments] == [(8,), (14,)]
    settings = [{"optimizer.lr": 0.05, "optimizer.weight_decay": 0.1}]
    do = lambda which, mode: [  # noqa: E731
        row[0].params for row in population.train_population(
            [experiments[i] for i in which], [7 + i for i in which], settings, updates_per_call=5, mode=mode
        ).states
    ]  # fmt: skip
    alone = [do([0], "in_turn")[0], do([1], "in_turn")[0]]
    assert alone[0]["Dense_0"]["kernel"].shape == (8, 4)
    for mode in ("together", "in_turn"):
        for got, expected in zip(do([0, 1], mode), alone, strict=True):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)


def test_only_networks_that_bear_zeros_are_widened(folder):
    one, other = build(folder, "narrow"), build(folder, "wider")
    config = config_lib.base()
    config_lib.change(config, {"model.name": "cnn", "updates": 1, "meta.steps": 1})
    cnn = train.build(config_lib.validate(config))
    with pytest.raises(ValueError, match="examples of several shapes"):
        widths.check([cnn, one])
    widths.check([one, other])


STUDIED = ("logistic_regression", "smote", "logistic_regression_balanced", "balanced_random_forest")


def study_of(folder, out, caplog):
    task = plan.Task(CONFIG, {"data.path": str(folder), "updates": 10}, tune=False)
    with caplog.at_level(logging.INFO, "mbjax"):
        answer = suite.complete(
            task, suite="keel", out=out, names=STUDIED, tables=("few", "wider", "broken"), seeds=(0, 1)
        )
    return answer, [record.getMessage() for record in caplog.records]


def test_a_study_leaves_out_what_cannot_run_and_resumes(folder, tmp_path, caplog):
    out = tmp_path / "out"
    answer, log = study_of(folder, out, caplog)
    assert "left out: broken.dat, line 67: 2 values for the 4 attributes: mend the line" in log
    facts = sealed.read(out / page.FACTS)
    assert answer.splitlines() == facts["answer"]
    assert answer.startswith("On 2 tables, 2 splits each, the best mean ranks of 4 rows have in ROC-AUC ")
    failed = {(one["title"], table): one["reason"] for one in facts["failed"] for table in one["tables"]}
    assert [*failed] == [("SMOTE", "few")], failed
    runs = pd.read_parquet(out / suite_page.RESULTS)
    counts = runs.groupby(["row", "table"]).size().unstack()
    assert counts.loc["logistic_regression"].tolist() == [2, 2]
    assert counts.loc["smote", "wider"] == 2
    assert {"test_roc_auc", "test_corrected_log_loss", "validation_roc_auc", "seconds"} <= set(runs)
    # What a balanced forest and class weights say of equal classes is brought back to the training priors.
    corrected: Any = runs.groupby("row")[["test_log_loss", "test_corrected_log_loss"]].mean()
    assert np.ptp(corrected.loc["logistic_regression"]) < 1e-12
    for row in ("logistic_regression_balanced", "balanced_random_forest"):
        assert corrected.loc[row, "test_corrected_log_loss"] < corrected.loc[row, "test_log_loss"]
    before = (out / "results.jsonl").read_text()
    _, log = study_of(folder, out, caplog)
    assert any(line.startswith("2 runs to do") for line in log)  # those that failed are tried again
    assert (out / "results.jsonl").read_text().startswith(before)
    assert {json.loads(line)["table"] for line in before.splitlines()} == {"few", "wider"}


def test_mistakes_are_one_line(folder, tmp_path):
    task = plan.Task(CONFIG, {"data.path": str(folder)}, tune=False)
    with pytest.raises(UserError, match=r"--tables=narow: no such table; did you mean 'narrow'\?"):
        suite.complete(task, suite="keel", out=tmp_path / "a", tables=["narow"])
    with pytest.raises(UserError, match=r"the suite keel has no table that can be used: broken\.dat, line 67"):
        suite.complete(task, suite="keel", out=tmp_path / "b", tables=["broken"])


def test_a_suite_has_the_rows_that_it_promises():
    assert {
        "metabalance",
        "no_adaptation",
        "first_order",
        "large_batch",
        "large_batch_natural",
        "xgboost_balanced",
    } <= {*SUITE}
    assert {*TABULAR} <= {*SUITE} <= {*ROWS, *TABULAR}
    task = plan.Task(CONFIG, tune=False)
    encoded = task.config("tabm_encoded")
    assert (encoded.model.name, encoded.data.encoding, encoded.optimizer.name) == ("tabm", "piecewise_linear", "adamw")
    assert tuple(encoded.model.hidden) == (64, 64)
    assert plan.names_of(plan.Task(str(ROOT / "configs" / "loan.py")), None) == [n for n in ROWS if n != "ms_search"]


LIKE = {"naive": 0.0, "metabalance": 0.03, "no_adaptation": 0.03, "lightgbm": 0.05, "tabm": 0.06, "smote": -0.02}


def lines_of(tables: int) -> list[dict]:
    rng, lines = np.random.default_rng(0), []
    for table in range(tables):
        hard = rng.uniform(0.6, 0.9)
        for row, gain in LIKE.items():
            if row == "smote" and table == 0:
                lines.append(
                    {"row": row, "table": "t0", "seed": 0, "status": "failed", "reason": "too few", "code": "c"}
                )
                continue
            for seed in range(2):
                value = {name: hard + gain + rng.normal(0, 0.01) for name in suite_facts.SCORES}
                lines.append({
                    "row": row, "table": f"t{table}", "seed": seed, "status": "ok", "code": "c", "key": "k",
                    "seconds": 0.5, "settings": {}, "validation": value, "test": value,
                })  # fmt: skip
    return lines


@pytest.fixture(scope="module")
def study() -> Study:
    tables = {f"t{i}": TableFacts(100 + i, 3 + i % 4, 2, 5 + i, 2.0 + i) for i in range(12)}
    return Study("keel", lines_of(12), {**ROWS, **TABULAR}, tables, {"bad": "bad.dat, line 3: no number"}, left=4)


def test_the_pages_numbers_are_those_of_the_runs(study):
    facts = suite_facts.facts_of(study)
    values = {}
    for line in study.lines:
        if line["status"] == "ok":
            values.setdefault((line["table"], line["row"]), []).append(line["test"]["roc_auc"])
    means: Any = pd.Series({key: np.mean(v) for key, v in values.items()}).unstack()
    shared = means.apply(lambda scores: scores.fillna(scores.min()), axis=1)  # SMOTE shares the last place on t0
    ranks = stats.rankdata(-shared.to_numpy(), axis=1).mean(0)
    assert {row["name"]: row["ranks"]["roc_auc"] for row in facts["rows"]} == pytest.approx(
        dict(zip(means, ranks, strict=True))
    )
    assert (facts["rows"][0]["name"], facts["tree"], facts["network"]) == ("tabm", "lightgbm", "tabm")
    smote = next(row for row in facts["rows"] if row["name"] == "smote")
    assert smote["tables"] == 11
    both = means.dropna()
    counts = statistics.win_tie_loss(both["smote"].to_numpy(), both["naive"].to_numpy(), 0.01)
    assert tuple(smote["from_naive"]) == counts
    pair = next(
        p for p in facts["pairs"] if (p["first"], p["second"], p["score"]) == ("metabalance", "naive", "roc_auc")
    )
    expected = statistics.signed_rank_posterior((means["metabalance"] - means["naive"]).to_numpy(), rope=0.01)
    assert (pair["better"], pair["mean"]) == (expected.better, pytest.approx(expected.mean, rel=0.01))
    first = next(one for one in facts["regimes"] if (one["regime"], one["row"]) == ("imbalance", "tabm"))
    third = means.loc[["t0", "t1", "t2", "t3"]]
    assert (first["low"], first["high"], first["tables"]) == (2.0, 5.0, 4)
    assert first["mean"] == pytest.approx((third["tabm"] - third["naive"]).mean())
    # Of log loss less is better.
    worst = max(facts["rows"], key=lambda row: row["means"]["corrected_log_loss"])
    assert worst["ranks"]["corrected_log_loss"] == max(row["ranks"]["corrected_log_loss"] for row in facts["rows"])


def test_the_default_stands_beside_the_best_of_the_others(study, tmp_path):
    better = lambda scores: {name: value + 0.02 for name, value in scores.items()}  # noqa: E731
    own = [
        {**line, "row": "default", "validation": better(line["validation"]), "test": better(line["test"])}
        for line in study.lines if line["row"] == "metabalance"
    ]  # fmt: skip
    with_default = dataclasses.replace(study, lines=[*study.lines, *own])
    facts = suite_facts.facts_of(with_default)
    ranks = {row["name"]: row["ranks"]["roc_auc"] for row in facts["rows"]}
    assert facts["default"]["roc_auc"] == {"rank": ranks["default"], "other": "TabM", "other_rank": ranks["tabm"]}
    line = suite_page.write(tmp_path, with_default).splitlines()[3]
    assert line.startswith(f"The estimator's default has a mean rank of {ranks['default']:.1f}")
    assert "(the best that is not MetaBalance: TabM, " in line
    assert "MetaBalanceClassifier against LightGBM: better on the next table with probability " in line


def test_the_page_begins_with_what_the_study_shows(study, tmp_path):
    answer = suite_page.write(tmp_path, study).splitlines()
    assert len(answer) == 5
    assert answer[0].startswith(
        "On 12 tables, 2 splits each, the best mean ranks of 6 rows have in ROC-AUC TabM, LightGBM"
    )
    assert answer[0].endswith("4 runs are not done yet.")
    assert answer[1].startswith("MetaBalance against naive: better on the next table with probability ")
    assert answer[2].startswith("MetaBalance against MetaBalance without adaptation (γ = 0): better")
    assert answer[3].startswith("TabM against LightGBM: ")
    assert answer[4] == "Seconds per fit: MetaBalance 0.50; TabM 0.50; LightGBM 0.50; training took 71 s in all."
    text = (tmp_path / page.PAGE).read_text()
    assert "bad: bad.dat, line 3: no number" in text
    assert "SMOTE: too few (t0)" in text
    facts = sealed.read(tmp_path / page.FACTS)
    better = Numbers({"report": facts})("report.pairs.0.better", "percent")
    assert str(better) in text
    table = (tmp_path / suite_page.TABLE).read_text()
    assert table.startswith(f"- {answer[0]}\n- {answer[1]}\n")
    own = facts["rows"][0]
    counts = " / ".join(map(str, own["from_naive"]))
    mean, rank = own["means"]["roc_auc"], own["ranks"]["roc_auc"]
    assert f"| TabM | {rank:.1f} | " in table
    assert f" | {mean:.3f} | {counts} | 0.50 |\n" in table
    assert {file.name for file in tmp_path.glob("*.png")} == {"ranks.png", "regimes.png"}
