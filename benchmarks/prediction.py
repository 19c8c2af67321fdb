"""Predicting: calibration, decisions by cost, and the speed of scoring, each beside what it has to beat.

    python -m benchmarks.prediction calibration --seeds=10   # needs the tables below in $MBJAX_DATA_DIR
    python -m benchmarks.prediction scoring --rows=10000000  # writes a file of that many rows in a temporary folder

`calibration` trains on balanced batches with a validation part. For each table it prints the expected calibration
error on test, as the network says and at the training priors, and the mean test cost of three decisions: by costs, 0.5
on what
the network says, and arg max of the calibrated probabilities. A missed positive costs as many times a false alarm as
there are negatives to a positive.

`scoring` times `mbjax predict` on a CSV or Parquet file of 30 columns against pandas reading it, with the largest
memory of the process, and a call of `predict_proba` on one row.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

import mbjax
from mbjax import config as config_lib
from mbjax import models, train
from mbjax.data.tables.columns import TableColumns
from mbjax.evaluation import decisions, evaluate, metrics
from mbjax.predict import Predictor

TABLES: dict[str, dict[str, Any]] = {
    "fraud (1:33)": {"task": "fraud"},
    "stroke": {"path": "stroke.csv", "target": "stroke", "drop": ("id",)},
    "telco churn": {"path": "telco_churn.csv", "target": "Churn", "drop": ("customerID",)},
    "ai4i": {
        "path": "ai4i2020.csv", "target": "Machine failure",
        "drop": ("UDI", "Product ID", "TWF", "HDF", "PWF", "OSF", "RNF"),
    },
}  # fmt: skip
COLUMNS = 30


def measure(table: str, seed: int, updates: int) -> dict[str, float]:
    """Trains once; the errors and costs on test."""
    config, data = config_lib.base(), dict(TABLES[table])
    config.task, config.seed, config.updates = data.pop("task", "tabular"), seed, updates
    config.query.update(sampler="class_balanced", batch_size=24)
    config.model.hidden = (64, 64)
    config.data.update(validation_share=0.2, **data)
    experiment = train.build(config_lib.validate(config))
    state = train.last_state(train.make_updates(experiment, 100)(experiment.method.init(seed), [updates]))
    predictor = train.make_predictor(experiment, state)
    test, counts = experiment.dataset.test, experiment.dataset.class_counts
    raw = evaluate.make_predict(experiment.model, test, batch_size=2048)(state)
    p = predictor.calibrate(raw)
    costs = ((0.0, 1.0), (round(counts[0] / counts[1]), 0.0))
    rules = {
        "by costs": decisions.Decision("costs", costs=costs)(p), "0.5, raw": raw.argmax(1), "arg max": p.argmax(1)
    }  # fmt: skip
    mean = {name: decisions.scores(d, test.y, classes=2, costs=costs)["mean_cost"] for name, d in rules.items()}
    error = metrics.calibration_error
    return {"ECE, raw": error(raw, test.y), "ECE": error(p, test.y), "T": predictor.temperature, **mean}


def calibration(seeds: int, updates: int) -> None:
    rows = []
    for table in TABLES:
        runs = pd.DataFrame([measure(table, seed, updates) for seed in range(seeds)])
        error = runs.std() / np.sqrt(max(seeds, 2))
        rows.append({"table": table, **{name: f"{runs[name].mean():.4f} ± {error[name]:.4f}" for name in runs}})
        print(rows[-1], flush=True)
    columns = list(rows[0])
    print("\n".join(f"| {' | '.join(map(str, line))} |" for line in (
        columns, ["---"] * len(columns), *(row.values() for row in rows))))  # fmt: skip


def scoring(rows: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, sample = _model(), _rows(1000, 0)
        model.save(folder / "model")
        one = sample.iloc[:1]
        model.predict_proba(one)
        start = time.perf_counter()
        for _ in range(200):
            model.predict_proba(one)
        print(f"one row: {(time.perf_counter() - start) / 200 * 1000:.2f} ms")
        for suffix, read in ((".csv", "read_csv"), (".parquet", "read_parquet")):
            file, out = folder / f"rows{suffix}", folder / f"scores{suffix}"
            _write(file, rows)
            seconds, memory = _timed("-c", f"import pandas; pandas.{read}({str(file)!r})")
            print(f"{rows:,} rows of {suffix}: pandas reads them in {seconds:.1f} s, {memory:.2f} GiB")
            command = f"import mbjax; mbjax.load({str(folder / 'model')!r}).predict_proba({str(file)!r})"
            scored, memory = _timed("-c", command)
            print(
                f"predict_proba reads and scores them in {scored:.1f} s, {scored / seconds:.2f} times, {memory:.2f} GiB"
            )
            written, memory = _timed("-m", "mbjax", "predict", str(folder / "model"), str(file), f"--out={out}")
            print(f"mbjax predict writes them, too: {written:.1f} s, {written / seconds:.2f} times, {memory:.2f} GiB")
            file.unlink()
            out.unlink()


def _timed(*arguments: str) -> tuple[float, float]:
    """The seconds of a Python process, and its largest memory in GiB."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{arguments} ended with status {status}")
    return time.perf_counter() - start, used.ru_maxrss / 2**20


def _rows(count: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(count, COLUMNS - 3)).round(4)
    frame = pd.DataFrame(numbers, columns=[f"x{place}" for place in range(COLUMNS - 3)])
    return frame.assign(**{f"c{k}": rng.choice(["red", "green", "blue", "black"], count) for k in range(3)})


def _model() -> Predictor:
    frame = _rows(1000, 1)
    names = list(frame)
    columns = TableColumns.fit(frame, numbers=names[:-3], categories=names[-3:])
    model = {"name": "mlp", "hidden": (64, 64), "outputs": 1}
    state = models.build(**model).init(jax.random.key(0), np.zeros((1, columns.features), np.float32), train=False)
    half = np.array([0.5, 0.5])
    return Predictor(model, {"params": state["params"]}, columns, ("no", "yes"), half, half)


def _write(file: Path, rows: int, chunk: int = 250_000) -> None:
    with contextlib.ExitStack() as stack:
        writer = None
        for start in range(0, rows, chunk):
            table = pa.Table.from_pandas(_rows(min(chunk, rows - start), start), preserve_index=False)
            kind = csv.CSVWriter if file.suffix == ".csv" else pq.ParquetWriter
            writer = writer or stack.enter_context(kind(str(file), table.schema))
            writer.write_table(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("calibration", "scoring"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--rows", type=int, default=10_000_000)
    options = parser.parse_args()
    print(f"mbjax {mbjax.__version__}")
    if options.part == "calibration":
        calibration(options.seeds, options.updates)
    else:
        scoring(options.rows)


if __name__ == "__main__":
    main()
