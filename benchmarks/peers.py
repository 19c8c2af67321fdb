"""The same updates in PyTorch, which need not be installed: `pip install torch`."""
# pyright: reportMissingImports=false

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

VERSION = torch.__version__
Peer = tuple[str, Callable[[], None]]


def fraud_network() -> nn.Module:
    """The network of Table 5."""
    torch.manual_seed(0)
    layers: list = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise((29, 16, 24, 20, 24))):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()] + [nn.Dropout(0.5)] * (i == 1)
    return nn.Sequential(*layers, nn.Linear(24, 1))


def mlp(batch, **sgd: float) -> list[Peer]:
    """Updates of the fraud network."""
    return _peers(fraud_network(), batch, lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y.float()), **sgd)


def resnet(batch, **sgd: float) -> list[Peer]:
    """Updates of ResNet-18 in eager mode; `torch.func` does not map BatchNorm's running statistics."""
    torch.manual_seed(0)
    return _peers(_resnet18(), batch, lambda z, y: F.cross_entropy(z, y.long()), **sgd)[:2]


def _peers(module, batch, loss, *, inner_lr, lr, momentum, weight_decay) -> list[Peer]:
    """Pair after pair in eager mode, as the authors' code does it, and `torch.func` over all pairs at once."""
    (sx, sy), (qx, qy) = ([torch.tensor(np.asarray(b[k])) for k in ("x", "y")] for b in batch)
    if qx.ndim == 5:  # images: channels first
        sx, qx = (x.permute(0, 1, 4, 2, 3).contiguous() for x in (sx, qx))
    params = dict(module.named_parameters())
    tx = torch.optim.SGD(params.values(), lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=True)
    call = torch.func.functional_call

    def eager(second_order: bool):
        """Algorithm 1 line by line: the losses of all pairs are added up, then differentiated at once."""
        loss_z = torch.zeros(())
        for i in range(len(qx)):
            inner = loss(call(module, params, (sx[i],)), sy[i])
            grads = torch.autograd.grad(inner, list(params.values()), create_graph=second_order)
            adapted = {k: p - inner_lr * g for (k, p), g in zip(params.items(), grads, strict=True)}
            loss_z = loss_z + loss(call(module, adapted, (qx[i],)), qy[i])
        tx.zero_grad()
        (loss_z / len(qx)).backward()
        tx.step()

    def pair(params, sx, sy, qx, qy):
        grads = torch.func.grad(lambda p: loss(call(module, p, (sx,)), sy))(params)
        adapted = {k: p - inner_lr * grads[k] for k, p in params.items()}
        return loss(call(module, adapted, (qx,)), qy)

    mean = lambda p: torch.func.vmap(pair, (None, 0, 0, 0, 0), randomness="different")(p, sx, sy, qx, qy).mean()  # noqa: E731

    def func():
        grads = torch.func.grad(mean)({k: p.detach() for k, p in params.items()})
        for k, p in params.items():
            p.grad = grads[k]
        tx.step()

    return [
        ("PyTorch eager, second order", lambda: eager(True)),
        ("PyTorch eager, first order", lambda: eager(False)),
        ("torch.func vmap, second order", func),
    ]


def _resnet18():
    """ResNet-18 for 32×32 images in PyTorch, as mbjax's."""

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
            self.short = nn.Sequential()
            if stride > 1 or inputs != outputs:
                self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

        def forward(self, x):
            y = F.relu(self.bn1(self.conv1(x)))
            return F.relu(self.bn2(self.conv2(y)) + self.short(x))

    blocks, inputs = [], 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
        inputs = outputs
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
