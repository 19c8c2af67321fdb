"""Many fits of a small table beside scikit-learn's MLPClassifier, in one run: `python -m benchmarks.estimator`.

A table of 500 rows and 10 columns is fitted again and again, with the same layers and the same number of updates. Fits
alternate, so that all see the same machine. mbjax's time includes its one compilation. `MetaBalanceClassifier` trains
TabM, 32 such networks in one; the others train one.
"""

import argparse
import time
import warnings
from typing import Any

import numpy as np
from sklearn.datasets import make_classification
from sklearn.neural_network import MLPClassifier

import mbjax

BATCH: Any = 128  # type checkers take the default of MLPClassifier, "auto", for its type


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=100, help="of MLPClassifier, of 4 updates each")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # MLPClassifier says that it has not converged
    X, y = map(np.asarray, make_classification(n_samples=500, n_features=10, weights=[0.9], random_state=0))
    updates = options.epochs * int(np.ceil(len(X) / BATCH))
    settings = {"hidden": (64, 64), "max_updates": updates, "early_stopping": False}
    makers = {
        "MLPClassifier": lambda seed: MLPClassifier(
            (64, 64), batch_size=BATCH, max_iter=options.epochs, n_iter_no_change=options.epochs, random_state=seed
        ),
        "ImbalancedClassifier('erm')": lambda seed: mbjax.ImbalancedClassifier("erm", random_state=seed, **settings),
        "ImbalancedClassifier('metabalance')": lambda seed: mbjax.ImbalancedClassifier(random_state=seed, **settings),
        "MetaBalanceClassifier": lambda seed: mbjax.MetaBalanceClassifier(random_state=seed, **settings),
    }
    seconds = {name: [] for name in makers}
    for seed in range(options.fits):
        for name, make in makers.items():
            started = time.perf_counter()
            make(seed).fit(X, y)
            seconds[name].append(time.perf_counter() - started)
    total = {name: sum(each) for name, each in seconds.items()}
    print(f"{options.fits} fits of {len(X)} × {X.shape[1]}, {updates} updates each; seconds, compilation included")
    print("| classifier | all fits | first fit | median of the others | beside MLPClassifier |")
    print("| --- | --- | --- | --- | --- |")
    for name, each in seconds.items():
        rest = np.median(each[1:] or each)
        print(
            f"| {name} | {total[name]:.1f} | {each[0]:.2f} | {rest:.3f} | {total[name] / total['MLPClassifier']:.2f} |"
        )


if __name__ == "__main__":
    main()
