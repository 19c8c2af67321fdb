"""TensorBoard's event files of a run, without TensorFlow: the scalars of `metrics.jsonl` and the page's figures."""

import importlib
import math
import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
from PIL import Image

from mbjax.options import flatten
from mbjax.report import plots
from mbjax.types import UserError

FOLDER = "tensorboard"


def find_writer() -> Any:
    """tensorboardX's `SummaryWriter`.

    Raises:
      UserError: tensorboardX is not installed.
    """
    try:
        module = importlib.import_module("tensorboardX")  # not at the top: an optional extra
    except ImportError as error:
        raise UserError(f"--tensorboard needs tensorboardX ({error}): pip install 'mbjax[tensorboard]'") from None
    return module.SummaryWriter


class Events:
    """The event files of one run, in the folder `tensorboard` of its own; what was there is written anew.

    Args:
      run: the run's folder.
      rows: of `metrics.jsonl`, the evaluations of before.

    Raises:
      UserError: tensorboardX is not installed.
    """

    def __init__(self, run: pathlib.Path, rows: Iterable[Mapping[str, Any]] = ()):
        writer = find_writer()
        shutil.rmtree(run / FOLDER, ignore_errors=True)
        self._writer, self._step = writer(str(run / FOLDER)), 0
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds each number of a row of `metrics.jsonl` as a scalar, `test/roc_auc` and so on, and writes it out."""
        self._step = row["step"]
        for name, value in flatten({key: part for key, part in row.items() if key != "step"}).items():
            if isinstance(value, int | float) and math.isfinite(value):
                self._writer.add_scalar(name.replace(".", "/"), value, self._step)
        self._writer.flush()

    def add_figures(self, folder: pathlib.Path) -> None:
        """Adds the PNG files of a folder as images, at the step of the last row."""
        for file in sorted(folder.glob("*.png")):
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._writer.add_image(f"figures/{file.stem}", pixels, self._step, dataformats="HWC")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


def write_events(run: pathlib.Path) -> None:
    """Writes the event files of a finished run, with the figures of its page."""
    with Events(run, plots.metrics_rows(run)) as events:
        events.add_figures(run / "figures")
