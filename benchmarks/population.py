"""Forty runs together and in turn, in one run: `python -m benchmarks.population [--task=loan|fraud]`.

Ten seeds × four learning rates of plain training and of MetaBalance, on random examples of the task's shape. Both modes
have compiled before they are timed; they take turns.
"""

import argparse
import importlib
import statistics
import time
from typing import Any

import jax
import numpy as np
import pandas as pd

from mbjax import config as config_lib
from mbjax import train
from mbjax.data.tables import tabular
from mbjax.train import population

SIZES = {"loan": (9578, 12, 1533), "fraud": (16956, 29, 492)}  # rows, features, positives


def make_dataset(task: str, seed: int):
    """Random rows of the task's shape, split as the task's are."""
    rows, features, positives = SIZES[task]
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(rows, features)), columns=[f"x{i}" for i in range(features)])
    frame["y"] = (np.arange(rows) < positives).astype(int)
    return tabular.from_frame(frame, "y", source="random rows", seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=sorted(SIZES), default="loan")
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}; {arguments.task}, 10 seeds × 4 learning rates\n")
    print("| | updates | in turn, ms a run | together, ms a run | in turn / together |")
    print("| --- | --- | --- | --- | --- |")
    for method, updates in (("erm", 1000), ("metabalance", 50)):
        config: Any = importlib.import_module(f"configs.{arguments.task}").get_config(method)
        config.updates = updates
        experiments = []
        for seed in range(10):
            config.seed = seed
            experiments.append(train.build(config_lib.validate(config), make_dataset(arguments.task, seed)))
        settings = [{"optimizer.lr": lr} for lr in (0.01, 0.02, 0.05, 0.1)]
        times: dict[str, list[float]] = {"in_turn": [], "together": []}
        for repetition in range(arguments.repetitions + 1):
            for mode, seconds in times.items():
                started = time.perf_counter()
                population.train_population(experiments, range(10), settings, updates_per_call=100, mode=mode)  # pyright: ignore
                if repetition:  # the first one compiles
                    seconds.append((time.perf_counter() - started) / 40)
        medians = {mode: 1e3 * statistics.median(seconds) for mode, seconds in times.items()}
        ratio = medians["in_turn"] / medians["together"]
        print(
            f"| {method} | {updates} | {medians['in_turn']:.1f} | {medians['together']:.1f} | {ratio:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
