"""A small folder of images, from the command to its page: `python -m benchmarks.image_folder [--seeds=3]`.

265 training images of three classes (200, 50 and 15) and 300 test images of 100 each, of CIFAR-10 (`MBJAX_DATA_DIR`),
scaled up to 240 to 768 pixels, every third a PNG file and the others JPEG. Each seed draws its own. Prints the seconds
of the whole commands of docs/your-data.md, compilation and page included, and the balanced accuracy on the test images.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from mbjax.data.images import cifar10

COUNTS = {"automobile": 200, "ship": 50, "cat": 15}
CONFIGS = ("", ":erm", ":few")


def write(folder: Path, seed: int) -> None:
    """`train/CLASS/N.jpg` or `.png`, and `test/` likewise."""
    rng = np.random.default_rng(seed)
    counts = tuple(COUNTS.get(name, 0) for name in cifar10.CLASSES)
    data = cifar10.load(seed=seed, imbalance="none")
    for part, wanted in (("train", counts), ("test", tuple(100 * (count > 0) for count in counts))):
        split = data.splits[part]
        for label, count in enumerate(wanted):
            own = folder / part / cifar10.CLASSES[label]
            own.mkdir(parents=True, exist_ok=True) if count else None
            for number, index in enumerate(rng.choice(np.flatnonzero(split.y == label), count, replace=False)):
                width, height = rng.integers(240, 769, 2).tolist()
                image = Image.fromarray(np.asarray(split.x[index])).resize((width, height), Image.Resampling.BICUBIC)
                image.save(own / f"{number}.{'png' if number % 3 == 0 else 'jpg'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    scores = {name: [] for name in CONFIGS}
    seconds = {name: [] for name in CONFIGS}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as root:
            images = Path(root, "images")
            write(images, seed)
            for name in CONFIGS:
                workdir = Path(root, "run" + name.replace(":", "-"))
                options = [f"--config.seed={seed}", f"--config.data.path={images}", f"--workdir={workdir}"]
                command = [sys.executable, "-m", "mbjax.main", f"--config=configs/images.py{name}", *options]
                started = time.perf_counter()
                # Each command compiles its own programs.
                subprocess.run(
                    command,
                    check=True,
                    env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0"},
                    stdout=subprocess.DEVNULL,
                )
                seconds[name].append(time.perf_counter() - started)
                assert (workdir / "report.html").exists()
                scores[name].append(json.loads((workdir / "result.json").read_text())["test"]["balanced_accuracy"])
                print(f"seed {seed}, images.py{name}: {scores[name][-1]:.3f}, {seconds[name][-1]:.0f} s", flush=True)
    print(f"| of {seeds} seeds | balanced accuracy, mean ± standard error | seconds, slowest |\n| --- | --- | --- |")
    for name in CONFIGS:
        error = statistics.stdev(scores[name]) / seeds**0.5 if seeds > 1 else float("nan")
        print(f"| images.py{name} | {statistics.mean(scores[name]):.3f} ± {error:.3f} | {max(seconds[name]):.0f} |")


if __name__ == "__main__":
    main()
