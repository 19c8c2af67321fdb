"""What `MetaBalanceClassifier` does by default on tables was chosen from: `python -m benchmarks.default --out=FILE`.

Each variant is fitted to every third table of KEEL with two splits and ranked beside the estimators of `BESIDE`, by its
ROC-AUC and its average precision on the test parts: the choice belongs to these tables, and what a study of the same
tables says of the chosen variant favours it by that much. Done fits stay in FILE. Needs keel.zip in MBJAX_DATA_DIR, and
`pip install 'mbjax[trees]'`.
"""

import argparse
import json
import pathlib
import time
import warnings
from typing import Any

import pandas as pd
from sklearn import metrics

import mbjax
from mbjax import data, programs
from mbjax.compare import baselines
from mbjax.data.tables.suites import SUITES

BESIDE = {
    "logistic regression": ("logistic_regression", False),
    "logistic regression, class weights": ("logistic_regression", True),
    "gradient-boosted trees": ("hist_gradient_boosting", False),
    "gradient-boosted trees, class weights": ("hist_gradient_boosting", True),
    "LightGBM": ("lightgbm", False),
    "LightGBM, class weights": ("lightgbm", True),
    "XGBoost": ("xgboost", False),
    "XGBoost, class weights": ("xgboost", True),
    "balanced random forest": ("balanced_random_forest", False),
    "EasyEnsemble": ("easy_ensemble", False),
}
_START = {
    "model.name": "tabm", "model.members": 16, "optimizer.lr": 0.003, "optimizer.weight_decay": 1e-3, "meta.beta": 0.0,
    "early_stopping": False,
}  # fmt: skip
_DECAY = {**_START, "optimizer.weight_decay": 1.0}
_LARGE = {**_DECAY, "model.members": 32}
_CHOSEN = {**_LARGE, "optimizer.lr": 0.01}
VARIANTS: dict[str, dict[str, Any]] = {
    "TabM, 16 members, learning rate 0.003, weight decay 0.001": _START,
    "that, early stopping": {**_START, "early_stopping": True},
    "that, β = 1": {**_START, "meta.beta": 1.0},
    "that, standard scaling": {**_START, "scaling": "standard"},
    "that, learning rate 0.01": {**_START, "optimizer.lr": 0.01},
    "that, weight decay 1": _DECAY,
    "weight decay 3": {**_START, "optimizer.weight_decay": 3.0},
    "weight decay 1, γ = 0": {**_DECAY, "meta.inner_lr": 0.0},
    "weight decay 1, β = 1": {**_DECAY, "meta.beta": 1.0},
    "weight decay 1, one member: an MLP": {**_DECAY, "model.members": 1},
    "weight decay 1, hidden layers of 128": {**_DECAY, "model.hidden": (128, 128)},
    "weight decay 1, 1,000 updates": {**_DECAY, "max_updates": 1000},
    "weight decay 1, learning rate 0.01": {**_DECAY, "optimizer.lr": 0.01},
    "weight decay 1, 32 members": _LARGE,
    "weight decay 1, 32 members, learning rate 0.01 (chosen)": _CHOSEN,
    "chosen, β = 1": {**_CHOSEN, "meta.beta": 1.0},
    "chosen, hidden layers of 32": {**_CHOSEN, "model.hidden": (32, 32)},
    "chosen, learning rate 0.02": {**_CHOSEN, "optimizer.lr": 0.02},
    "chosen, weight decay 0.5": {**_CHOSEN, "optimizer.weight_decay": 0.5},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--every", type=int, default=3, help="one of so many tables")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    programs.keep()
    tables = [*SUITES["keel"].find("", "").loaders][:: options.every]
    for name in [*BESIDE, *VARIANTS]:
        done = read(options.out)
        for table in tables:
            for seed in range(options.seeds):
                if (name, table, seed) not in done:
                    line = json.dumps([name, table, seed, *score(name, table, seed)])
                    with options.out.open("a") as stream:
                        stream.write(line + "\n")
        print(name, flush=True)
    print(summary(read(options.out)))


def read(file: pathlib.Path) -> dict[tuple[str, str, int], list[float]]:
    """What is done: ROC-AUC, average precision and seconds by name, table and seed."""
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {(name, table, seed): rest for name, table, seed, *rest in lines}


def score(name: str, table: str, seed: int) -> tuple[float, float, float]:
    """Fits and scores on one split."""
    dataset = data.load("keel", seed=seed, table=table, test_share=0.3, validation_share=0.25)
    started = time.perf_counter()
    if name in BESIDE:
        estimator, balanced = BESIDE[name]
        fitted = baselines.fit(estimator, dataset, seed=seed, balanced=balanced, settings={})
    else:
        params = {key: value for key, value in VARIANTS[name].items() if "." in key}
        own: dict[str, Any] = {key: value for key, value in VARIANTS[name].items() if "." not in key}
        fitted = mbjax.MetaBalanceClassifier(params=params, random_state=seed, **own)
        fitted.fit(dataset.train.x, dataset.train.y)
    seconds = time.perf_counter() - started
    test, rare = dataset.splits["test"], int(dataset.class_counts.argmin())
    p = fitted.predict_proba(test.x)[:, rare]
    is_rare = test.y == rare
    return float(metrics.roc_auc_score(is_rare, p)), float(metrics.average_precision_score(is_rare, p)), seconds


def summary(done: dict[tuple[str, str, int], list[float]]) -> str:
    """Mean ranks of each, among those of `BESIDE` and itself; means; seconds per fit."""
    frame = pd.DataFrame([(*key, *values) for key, values in done.items()],
                         columns=["name", "table", "seed", "auc", "ap", "seconds"])  # fmt: skip
    lines = ["| | rank, ROC-AUC | rank, average precision | mean ROC-AUC | mean average precision | s per fit |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    means: Any = {score: frame.pivot_table(index="table", columns="name", values=score) for score in ("auc", "ap")}
    for name in [*BESIDE, *VARIANTS]:
        among = list(dict.fromkeys([*BESIDE, name]))
        ranks = [means[score][among].rank(axis=1, ascending=False)[name].mean() for score in ("auc", "ap")]
        seconds = frame.loc[frame["name"] == name, "seconds"].mean()
        lines.append(
            f"| {name} | {ranks[0]:.2f} | {ranks[1]:.2f} | {means['auc'][name].mean():.3f} "
            f"| {means['ap'][name].mean():.3f} | {seconds:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
