"""Makes `expected.npz`: what torchvision's networks say with the weights of `seeded.py`.

    pip install torch torchvision && python -m tests.models.resnets.make_expected

Of each network: logits at test and in training, and the statistics that a training pass leaves of the first BatchNorm.
"""

# pyright: reportMissingImports=false
import pathlib

import numpy as np
import torch
from torchvision.models import resnet

from tests.models.resnets import seeded

NETWORKS = {
    "resnet18": resnet.resnet18,
    # Blocks as in ResNet-50, fewer of them: a test compiles it.
    "bottleneck": lambda num_classes: resnet.ResNet(resnet.Bottleneck, [1, 2, 1, 1], num_classes=num_classes),
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    x = torch.tensor((seeded.pixels() / 255 - MEAN) / STD, dtype=torch.float32).permute(0, 3, 1, 2)
    expected = {}
    for name, make in NETWORKS.items():
        network = make(num_classes=seeded.CLASSES)
        shapes = [(key, tuple(value.shape)) for key, value in network.state_dict().items() if value.ndim]
        network.load_state_dict({k: torch.tensor(v) for k, v in seeded.weights(shapes).items()}, strict=False)
        with torch.no_grad():
            expected[f"{name}/test"] = network.eval()(x).numpy()
            expected[f"{name}/train"] = network.train()(x).numpy()
        expected[f"{name}/mean"] = network.bn1.running_mean.numpy()
        expected[f"{name}/var"] = network.bn1.running_var.numpy()
        expected[f"{name}/names"] = np.array([name for name, _ in shapes])
        expected[f"{name}/shapes"] = np.array([str(shape) for _, shape in shapes])
    np.savez_compressed(pathlib.Path(__file__).with_name("expected.npz"), **expected)


if __name__ == "__main__":
    main()
