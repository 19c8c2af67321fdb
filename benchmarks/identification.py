"""Rank-1 identification and verification at the size of CelebA's test part: `python -m benchmarks.identification`.

20,000 random embeddings of 512 dimensions, 1,000 people of 20 images. The first call compiles.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mbjax.evaluation import identification

IMAGES, LENGTH, PEOPLE = 20_000, 512, 1_000


def main() -> None:
    rng = np.random.default_rng(0)
    identities = np.arange(IMAGES) % PEOPLE
    centres = rng.normal(size=(PEOPLE, LENGTH))
    embeddings = identification.normalize(centres[identities] + 3 * rng.normal(size=(IMAGES, LENGTH)))
    groups = identities % 2
    timed: dict[str, Callable[[], Any]] = {
        "rank-1, the first call": lambda: identification.rank1(embeddings, identities),
        "rank-1": lambda: identification.rank1(embeddings, identities),
        "verification, all pairs": lambda: identification.verification(embeddings, identities),
        "all scores, 1,000 resamples": lambda: identification.scores(embeddings, identities, groups, ("a", "b")),
    }
    print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}; {IMAGES:,} embeddings of {LENGTH}\n")
    print("| | seconds |\n| --- | --- |")
    for name, function in timed.items():
        started = time.perf_counter()
        function()
        print(f"| {name} | {time.perf_counter() - started:.1f} |", flush=True)


if __name__ == "__main__":
    main()
