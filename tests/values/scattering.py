"""Makes `scattering.npz`: what Kymatio 0.3.0 (PyTorch backend) gives for random images.

pip install kymatio==0.3.0 torch "scipy<1.15" && python tests/values/scattering.py
"""
# pyright: reportMissingImports=false

from pathlib import Path

import numpy as np
import torch
from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

CASES = {"square": ((1, 32, 32, 1), 2, 8), "channels": ((2, 16, 20, 2), 2, 8), "coarse": ((1, 21, 38, 1), 3, 6)}
"""Shape of the images, scales, angles."""


def main() -> None:
    rng, arrays = np.random.default_rng(0), {}
    for name, (shape, scales, angles) in CASES.items():
        images = rng.integers(0, 256, shape, np.uint8)
        channels_first = torch.tensor(images.astype(np.float32) / 255).permute(0, 3, 1, 2).contiguous()
        values = ScatteringTorch2D(scales, shape[1:3], L=angles)(channels_first).numpy()  # [n, channels, paths, h, w]
        rows = values.transpose(0, 3, 4, 1, 2).reshape(shape[0], *values.shape[-2:], -1)
        arrays |= {f"{name}_images": images, f"{name}_values": rows, f"{name}_bank": np.array([scales, angles])}
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
