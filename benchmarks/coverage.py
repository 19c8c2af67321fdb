"""How often a 95% interval of a paired difference holds the true difference: `python -m benchmarks.coverage`.

The loans are taken for a population. Each trial draws a data set of them, splits it by ten seeds as a comparison does,
trains two learners on every split, and makes both intervals of their mean difference in ROC-AUC: the plain t interval,
and the one corrected for the overlap of the splits that mbjax's tables have. The true difference is the mean over all
trials. Needs loan_data.csv; 40 trials take 20 s of processor time.
"""

import argparse
import warnings

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.naive_bayes import GaussianNB

from mbjax.data import sources
from mbjax.data.tables import loan, tabular
from mbjax.report.tables import paired_difference

LEARNERS = {
    "logistic regression": lambda: LogisticRegression(C=0.1, max_iter=1000),
    "naive Bayes": GaussianNB,
    "boosted trees": lambda: HistGradientBoostingClassifier(max_iter=30, max_leaf_nodes=7),
}
PAIRS = (("logistic regression", "naive Bayes"), ("logistic regression", "boosted trees"))


def scores(x: np.ndarray, y: np.ndarray, *, seeds: int, test_share: float) -> pd.DataFrame:
    """The test ROC-AUC of each learner on each split of a data set, one row per seed."""
    splits = StratifiedShuffleSplit(seeds, test_size=test_share, random_state=0).split(x, y)
    return pd.DataFrame(
        {
            name: roc_auc_score(y[test], make().fit(x[train], y[train]).predict_proba(x[test])[:, 1])
            for name, make in LEARNERS.items()
        }
        for train, test in splits
    )


def coverage(trials: list[pd.DataFrame], pair: tuple[str, str], overlap: float) -> float:
    """The share of trials whose interval holds the mean difference of all trials."""
    one, other = pair
    truth = np.mean([(trial[one] - trial[other]).mean() for trial in trials])
    intervals = [paired_difference(trial[one], trial[other], overlap)[:2] for trial in trials]
    return float(np.mean([abs(mean - truth) <= half for mean, half in intervals]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--rows", type=int, default=1500, help="of a data set")
    options = parser.parse_args()
    frame = tabular.read_official(sources.find("loan_data.csv", ""), [*loan.FEATURES, loan.TARGET])
    x, y = frame[list(loan.FEATURES)].to_numpy(float), frame[loan.TARGET].to_numpy()
    x = (x - x.mean(0)) / x.std(0)
    rng, test_share = np.random.default_rng(0), 0.2
    trials = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(options.trials):
            rows = rng.choice(len(x), options.rows, replace=False)
            trials.append(scores(x[rows], y[rows], seeds=10, test_share=test_share))
    print(f"{options.trials} data sets of {options.rows} loans, 10 splits each, test share {test_share}")
    print("| difference | plain t interval | corrected |\n| --- | --- | --- |")
    for pair in PAIRS:
        plain, corrected = (coverage(trials, pair, ratio) for ratio in (0.0, test_share / (1 - test_share)))
        print(f"| {pair[0]} minus {pair[1]} | {plain:.1%} | {corrected:.1%} |")


if __name__ == "__main__":
    main()
