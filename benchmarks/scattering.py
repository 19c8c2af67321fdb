"""The scattering transform beside Kymatio's on PyTorch: `python -m benchmarks.scattering [--threads=2]`.

    pip install torch kymatio "scipy<1.15"

Both transform the same images of 32×32×3 on the same cores, in turns; a figure is the median over turns. Seconds of the
processor, summed over threads, change less with other work on the machine than those of the clock.
"""
# pyright: reportMissingImports=false

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np

TURNS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="1, or all cores")
    parser.add_argument("--images", type=int, default=64, help="in a batch")
    options = parser.parse_args()
    if options.threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    import jax  # after the flag
    import jax.numpy as jnp
    import torch
    from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

    from mbjax.models.scattering import scattering

    torch.set_num_threads(options.threads)
    images = np.random.default_rng(0).random((options.images, 32, 32, 3), np.float32)
    ours, theirs = jnp.asarray(images), torch.tensor(images).permute(0, 3, 1, 2).contiguous()
    kymatio = ScatteringTorch2D(2, (32, 32), L=8)
    contestants: dict[str, Callable[[], object]] = {
        "mbjax": lambda: scattering(ours).block_until_ready(),
        "Kymatio, PyTorch": lambda: kymatio(theirs),
    }
    difference = np.abs(
        np.asarray(scattering(ours))
        - kymatio(theirs).numpy().transpose(0, 3, 4, 1, 2).reshape(options.images, 8, 8, 243)
    ).max()
    clocks = {"processor": time.process_time, "wall": time.perf_counter}
    seconds: dict[tuple[str, str], list[float]] = {(name, clock): [] for name in contestants for clock in clocks}
    for _ in range(TURNS):
        for name, function in contestants.items():
            started = {clock: read() for clock, read in clocks.items()}
            function()
            for clock, read in clocks.items():
                seconds[name, clock].append(read() - started[clock])
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    print(f"JAX {jax.__version__} on {jax.default_backend()}, PyTorch {torch.__version__}; {options.threads} threads;")
    print(
        f"batches of {options.images} images of 32×32×3, median of {TURNS} turns; largest difference {difference:.1e}\n"
    )
    print("| | ms per image, processor | ms per image, wall | times as fast as Kymatio, processor | wall |")
    print("| --- | --- | --- | --- | --- |")
    for name in contestants:
        own = [medians[name, clock] for clock in clocks]
        ratios = [medians["Kymatio, PyTorch", clock] / medians[name, clock] for clock in clocks]
        print(f"| {name} | " + " | ".join(f"{1e3 * s / options.images:.2f}" for s in own), end="")
        print(" | " + " | ".join(f"{r:.2f}" for r in ratios) + " |")


if __name__ == "__main__":
    main()
