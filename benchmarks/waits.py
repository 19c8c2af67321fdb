"""What a user waits for, in seconds of whole commands: `python -m benchmarks.waits [--tree=OTHER] [--only=NAME …]`.

Each command runs in a clone of the tree's HEAD, whose first command makes its virtual environment. `--tree` measures
another checkout with the same commands, such as one of an older commit. The test suite is not among them: time
`launch/test.sh`.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import make_classification

DIGITS = ["launch/local.sh", "--config=configs/digits.py"]
TABLE = ["--config=configs/tabular.py", "--config.data.path=TABLE", "--config.data.target=label"]
COMPARE = ["-m", "mbjax.compare", *TABLE, "--methods=all", "--seeds=1", "--jobs=2", "--config.updates=200"]
FIT = (
    "import pandas, mbjax; d = pandas.read_csv('TABLE'); "
    "m = mbjax.MetaBalanceClassifier(random_state=0).fit(d.drop(columns='label'), d['label']); print(m.n_iter_)"
)
WAITS = {
    "the front page's first command, from nothing": [*DIGITS, "--workdir=RUNS/a"],
    "the same again": [*DIGITS, "--workdir=RUNS/b"],
    "help": [".venv/bin/python", "-m", "mbjax.main", "--help"],
    "fit and page of 10,000 × 20": [".venv/bin/python", "-m", "mbjax.main", *TABLE, "--workdir=RUNS/c"],
    "evaluation: one update on 10,000 × 20": [
        ".venv/bin/python", "-m", "mbjax.main", *TABLE, "--config.updates=1", "--workdir=RUNS/d",
    ],
    "MetaBalanceClassifier, fitted to 10,000 × 20": [".venv/bin/python", "-c", FIT],
    "a comparison of 10,000 × 20, all methods, 200 updates": [".venv/bin/python", *COMPARE, "--out=RUNS/comparison"],
}  # fmt: skip


def write_table(path: Path) -> None:
    x, y = make_classification(10_000, 20, n_informative=8, weights=[0.95], random_state=0)
    frame = pd.DataFrame(np.round(x, 6), columns=[f"c{k}" for k in range(20)])
    frame.assign(label=y).to_csv(path, index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", default=".", help="the checkout that is measured")
    parser.add_argument("--only", choices=WAITS, nargs="*", default=list(WAITS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone, runs, table = Path(folder, "clone"), Path(folder, "runs"), Path(folder, "table.csv")
        subprocess.run(["git", "clone", "--quiet", arguments.tree, clone], check=True)
        commit = subprocess.run(["git", "-C", clone, "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True)
        write_table(table)
        print(f"| commit {commit.stdout.strip()} | seconds |\n| --- | --- |", flush=True)
        for name in arguments.only:
            command = [part.replace("RUNS", str(runs)).replace("TABLE", str(table)) for part in WAITS[name]]
            started = time.perf_counter()
            done = subprocess.run(command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            seconds = time.perf_counter() - started
            print(f"| {name} | {seconds:.1f} |", flush=True)
            if done.returncode:
                sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}")


if __name__ == "__main__":
    main()
