"""A run's folder."""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from mbjax import atomic
from mbjax import config as config_lib
from mbjax.predict import Predictor
from mbjax.types import Config, UserError


class Folder:
    """`config.json`, `metrics.jsonl`, `checkpoints/`, `model/`, `result.json`, `predictions.npz`, figures: a run's."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.result = path / "result.json"

    def claim(self, config: Config) -> None:
        """Writes the configuration down, or checks that the one written is the same, but for what a machine decides."""
        text = config.to_json_best_effort(indent=2, sort_keys=True)
        if self.config.exists():
            old, new = (config_lib.flatten(json.loads(t)) for t in (self.config.read_text(), text))
            old = {config_lib.RENAMED.get(key, key): value for key, value in old.items()}
            elsewhere = ("data.dir", "parallel")  # what may differ on another machine
            old = {**{key: value for key, value in config_lib.defaults().items() if key in new}, **old}
            changed = [k for k in sorted(old | new) if k not in elsewhere and old.get(k) != new.get(k)]
            if changed:
                differences = ", ".join(f"{k} {old.get(k)!r} there, {new.get(k)!r} here" for k in changed[:3])
                raise UserError(f"{self.path} holds a run of another config ({differences}): choose another --workdir")
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            atomic.write_text(self.config, text + "\n")
        except OSError as error:
            raise UserError(f"--workdir={self.path}: {error.strerror}") from None

    def rewind(self, step: int) -> None:
        """Drops the lines of updates after `step`, which a resumed run will write again."""
        if self.metrics.exists():
            lines = []
            for line in self.metrics.read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # a kill can cut the last line short
                    if json.loads(line)["step"] <= step:
                        lines.append(line + "\n")
            atomic.write_text(self.metrics, "".join(lines))

    def log(self, row: Mapping[str, Any]) -> None:
        with self.metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def finish(
        self, result: Mapping[str, Any], predictions: Mapping[str, np.ndarray], predictor: Predictor | None
    ) -> None:
        """Writes `predictions.npz` (of the test split), `model/`, then `result.json`: the run is finished.

        Args:
          result: what `result.json` holds.
          predictions: of the test split.
          predictor: the model that predicts; None where there are no classes to predict.
        """
        if predictor is not None:
            shutil.rmtree(self.model, ignore_errors=True)  # of this very run, killed between this line and the last
            predictor.save(self.model)
        arrays: Any = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in predictions.items()}
        with atomic.writing(self.path / "predictions.npz") as stream:
            np.savez_compressed(stream, **arrays)
        atomic.write_text(self.result, json.dumps(result, indent=2) + "\n")
