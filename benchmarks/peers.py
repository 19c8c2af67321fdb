"""The same updates in PyTorch, which need not be installed: `pip install torch`."""
# pyright: reportMissingImports=false

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

VERSION = torch.__version__
INNER_LR = 0.01
Peer = tuple[str, Callable[[], None]]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def fraud_network() -> nn.Module:
    """The network of Table 5."""
    torch.manual_seed(0)
    layers: list = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise((29, 16, 24, 20, 24))):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()] + [nn.Dropout(0.5)] * (i == 1)
    return nn.Sequential(*layers, nn.Linear(24, 1))


def mlp(batch) -> list[Peer]:
    """Updates of the fraud network, and all pairs at once with `torch.func`, which `torch.compile` takes whole."""
    loss = lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y.float())  # noqa: E731
    tensors = _tensors(batch)
    return [
        ("PyTorch eager, second order", eager(fraud_network(), loss, tensors)),
        ("PyTorch eager, first order", eager(fraud_network(), loss, tensors, second_order=False)),
        ("torch.func vmap, second order", functional(fraud_network(), loss, tensors, mapped=True)),
        (
            "torch.func vmap, second order, torch.compile",
            functional(fraud_network(), loss, tensors, mapped=True, compiled=True),
        ),
    ]


def resnet(batch) -> list[Peer]:
    """Updates of ResNet-18, pair after pair, in the layouts that PyTorch offers."""
    loss = lambda z, y: F.cross_entropy(z, y.long())  # noqa: E731
    first, last = _tensors(batch), _tensors(batch, torch.channels_last)
    nhwc = lambda: resnet18().to(memory_format=torch.channels_last)  # noqa: E731
    compiled = {"mapped": False, "compiled": True}
    return [
        ("PyTorch eager, second order", eager(resnet18(), loss, first)),
        ("PyTorch eager, first order", eager(resnet18(), loss, first, second_order=False)),
        ("PyTorch eager, second order, channels last", eager(nhwc(), loss, last)),
        ("torch.func, second order, torch.compile", functional(resnet18(), loss, first, **compiled)),
        ("torch.func, second order, torch.compile, channels last", functional(nhwc(), loss, last, **compiled)),
    ]


def eager(module: nn.Module, loss: Loss, tensors: Sequence, *, second_order=True, at_once=True) -> Callable[[], None]:
    """Algorithm 1 line by line, as the authors' code does it: adds up the losses of all pairs and differentiates once.

    Not `at_once`, each pair's loss is differentiated by itself, so that memory does not grow with the pairs.
    """
    params = dict(module.named_parameters())
    tx = optimizer(params)
    call = torch.func.functional_call

    def update() -> None:
        tx.zero_grad()
        waiting = []
        for sx, sy, qx, qy in zip(*tensors, strict=True):
            inner = loss(call(module, params, (sx,)), sy)
            grads = torch.autograd.grad(inner, list(params.values()), create_graph=second_order)
            adapted = {k: p - INNER_LR * g for (k, p), g in zip(params.items(), grads, strict=True)}
            waiting.append(loss(call(module, adapted, (qx,)), qy) / len(tensors[0]))
            if not at_once:
                waiting.pop().backward()
        if at_once:
            torch.stack(waiting).sum().backward()
        tx.step()

    return update


def functional(
    module: nn.Module, loss: Loss, tensors: Sequence, *, mapped: bool, compiled: bool = False
) -> Callable[[], None]:
    """The same with `torch.func`: all pairs at once (`mapped`) or one after another.

    `torch.compile` differentiates no gradient of its own making; this it takes whole. BatchNorm keeps no running
    statistics, for `torch.func` updates no buffers.
    """
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
        norm.track_running_stats = False
    params = dict(module.named_parameters())
    tx, pairs = optimizer(params), len(tensors[0])
    call = torch.func.functional_call

    def pair(params: Any, sx: Any, sy: Any, qx: Any, qy: Any) -> Any:
        grads = torch.func.grad(lambda p: loss(call(module, p, (sx,)), sy))(params)
        return loss(call(module, {k: p - INNER_LR * grads[k] for k, p in params.items()}, (qx,)), qy)

    def mean(params: Any, *tensors: Any) -> Any:
        return torch.func.vmap(pair, (None, 0, 0, 0, 0), randomness="different")(params, *tensors).mean()

    gradient = torch.func.grad(mean if mapped else pair)
    gradient = torch.compile(gradient) if compiled else gradient

    def update() -> None:
        detached = {k: p.detach() for k, p in params.items()}
        tx.zero_grad()
        for given in [tensors] if mapped else zip(*tensors, strict=True):
            for k, grad in gradient(detached, *given).items():
                share = grad if mapped else grad / pairs
                params[k].grad = share if params[k].grad is None else params[k].grad + share
        tx.step()

    return update


def optimizer(params: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """As `benchmarks.meta_step` sets mbjax's."""
    return torch.optim.SGD(params.values(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)


def _tensors(batch, layout: torch.memory_format | None = None) -> list:
    """Inputs and labels of support and query; images channels first, or stored in `layout`."""
    (sx, sy), (qx, qy) = ([torch.tensor(np.asarray(b[k])) for k in ("x", "y")] for b in batch)
    if qx.ndim == 5:
        sx, qx = (x.permute(0, 1, 4, 2, 3).contiguous() for x in (sx, qx))
    if layout is not None:
        sx, qx = ([pair.contiguous(memory_format=layout) for pair in x] for x in (sx, qx))
    return [sx, sy, qx, qy]


def resnet18() -> nn.Module:
    """ResNet-18 for 32×32 images in PyTorch, as mbjax's."""
    torch.manual_seed(0)

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
