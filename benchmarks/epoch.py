"""One epoch of plain training at the full size of the fraud data, beside PyTorch: `python -m benchmarks.epoch`.

284,807 rows of 29 features, batches of 24, the network of Table 5, SGD with Nesterov momentum and weight decay: 11,867
updates. mbjax samples, sends indices and updates as `mbjax.train` does; PyTorch, in eager mode, slices batches of rows
that were shuffled beforehand, which flatters it. The two take turns.
"""

import argparse
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

from benchmarks import peers
from mbjax import config as config_lib
from mbjax import train
from mbjax.types import Dataset, Split

ROWS, FRAUDS, BATCH = 284_807, 492, 24


def make_dataset() -> Dataset:
    rng = np.random.default_rng(0)
    train_part = Split(
        rng.normal(size=(ROWS, 29)).astype(np.float32), (rng.permutation(ROWS) < FRAUDS).astype(np.int32)
    )
    return Dataset({"train": train_part, "test": train_part}, ("0", "1"), "random rows")


def mbjax_epoch(dataset: Dataset):
    """Returns a function that trains one epoch and waits for its end."""
    config: Any = config_lib.base()
    config.update(task="fraud", method="erm", epochs=1)
    config.model.update(hidden=(16, 24, 20, 24), dropout=(0.0, 0.5, 0.0, 0.0))
    config.optimizer.update(lr=0.01, weight_decay=5e-4)
    experiment = train.build(config_lib.validate(config), dataset)
    updates = train.make_updates(experiment, config.updates_per_call)
    latest = experiment.method.init(0)

    def run() -> None:
        nonlocal latest
        start = latest.replace(step=jnp.zeros((), jnp.int32))  # every epoch reads the same batches
        latest = train.last_state(updates(start, [experiment.updates]))
        jax.block_until_ready(latest.params)

    return run, experiment.updates


def torch_epoch(dataset: Dataset):
    module = peers.fraud_network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    order = torch.randperm(ROWS)
    x, y = torch.tensor(dataset.train.x)[order], torch.tensor(dataset.train.y)[order].float()

    def run() -> None:
        for start in range(0, ROWS, BATCH):
            loss = F.binary_cross_entropy_with_logits(module(x[start : start + BATCH])[:, 0], y[start : start + BATCH])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    repetitions = parser.parse_args().repetitions
    dataset = make_dataset()
    ours, updates = mbjax_epoch(dataset)
    runs = {"mbjax": ours, "PyTorch eager": torch_epoch(dataset)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repetition in range(repetitions + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if repetition:
                times[name].append(time.perf_counter() - started)
    print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}; PyTorch {torch.__version__}; {updates} updates\n")
    print(f"| | s an epoch, median of {repetitions} turns | fastest | µs an update | share of PyTorch's time |")
    print("| --- | --- | --- | --- | --- |")
    base = statistics.median(times["PyTorch eager"])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        cells = [f"{median:.2f}", f"{min(seconds):.2f}", f"{1e6 * median / updates:.1f}", f"{median / base:.3f}"]
        print("| " + " | ".join([name, *cells]) + " |")


if __name__ == "__main__":
    main()
