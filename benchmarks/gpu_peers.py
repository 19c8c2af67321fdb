"""The meta-step in PyTorch on a GPU, for `python -m benchmarks.gpu`, which starts it: one line of JSON per figure.

Eager mode goes pair by pair, as the authors' code does, and differentiates each pair's loss at once, so that memory
does not grow with the pairs. `torch.compile` has no gradients of gradients of its own; what it compiles is the update
of a pair written with `torch.func`, whose BatchNorm keeps no running statistics.
"""
# pyright: reportMissingImports=false

import argparse
import contextlib
import json
import signal
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch.nn import functional as F

from benchmarks import peers

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def timed(run: Callable[[], None], seconds: float) -> dict[str, float]:
    """Milliseconds of an update, and seconds of the first one, which compiles."""

    def wait() -> float:
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    started = wait()
    run()
    first, times = wait() - started, []
    while len(times) < 3 or sum(times) < seconds:
        before = wait()
        run()
        times.append(wait() - before)
    median = 1e3 * statistics.median(times)
    return {"ms": median, "fastest_ms": 1e3 * min(times), "compile_s": first - median / 1e3}


def figures(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Callable[[], None]], bool]]:
    """Names, how to make the updates, and whether they compute in bfloat16 where PyTorch finds it safe."""

    def draw(*shape: int, classes: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        sizes = (options.support, options.query) if len(shape) > 1 else (24, 16)
        inputs = [torch.randn(options.pairs, n, *shape, device=DEVICE) for n in sizes]
        labels = [torch.randint(classes, (options.pairs, n), device=DEVICE) for n in sizes]
        return [inputs[0], labels[0], inputs[1], labels[1]]

    def binary(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(z[:, 0], y.float())

    images = draw(3, options.pixels, options.pixels, classes=10)
    rows = draw(29, classes=2)
    resnet = lambda: peers.resnet18().to(DEVICE)  # noqa: E731
    mlp = lambda: peers.fraud_network().to(DEVICE)  # noqa: E731
    each = {"mapped": False, "compiled": True}
    for precision, second in (("tf32", True), ("bfloat16", True), ("tf32", False)):
        name = f"ResNet-18, eager, {precision}, {'second' if second else 'first'} order"
        yield (
            name,
            lambda s=second: peers.eager(resnet(), F.cross_entropy, images, second_order=s, at_once=False),
            precision == "bfloat16",
        )
    yield "fraud, eager, second order", lambda: peers.eager(mlp(), binary, rows, at_once=False), False
    yield (
        "fraud, torch.func vmap, second order",
        lambda: peers.functional(mlp(), binary, rows, mapped=True, compiled=False), False,
    )  # fmt: skip
    yield (
        "fraud, torch.compile of torch.func vmap, second order",
        lambda: peers.functional(mlp(), binary, rows, mapped=True, compiled=True), False,
    )  # fmt: skip
    for precision in ("tf32", "bfloat16"):
        yield (
            f"ResNet-18, torch.compile of torch.func, {precision}, second order",
            lambda: peers.functional(resnet(), F.cross_entropy, images, **each), precision == "bfloat16",
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("pairs", "support", "query", "pixels", "seconds"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--timed", type=float, required=True, help="seconds of a figure, at least")
    parser.add_argument("--done", default="", help="names that need not be measured, with ; between them")
    options = parser.parse_args()
    signal.alarm(options.seconds)  # ends the process, a compilation included
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    for name, make, half in figures(options):
        if name in options.done.split(";"):
            continue
        precision = torch.autocast(DEVICE.type, torch.bfloat16) if half else contextlib.nullcontext()
        try:
            with precision:
                row = timed(make(), options.timed)
            row["pair_ms"] = row["ms"] / options.pairs
        except Exception as error:  # whatever one of PyTorch's versions cannot do, the others are measured
            row = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}
        print(json.dumps({"name": name, "torch": torch.__version__, **row}), flush=True)


if __name__ == "__main__":
    main()
