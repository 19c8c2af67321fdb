"""A run's folder."""

import contextlib
import json
import logging
import pathlib
import shutil
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from mbjax import atomic, sealed
from mbjax import config as config_lib
from mbjax.options import shown
from mbjax.predict import Predictor
from mbjax.types import Config, UserError

log = logging.getLogger("mbjax")
_ELSEWHERE = ("data.dir", "parallel")  # what may differ on another machine
_LENGTH = ("updates", "epochs")  # what a longer training of the same run changes
_SINCE = "trained_on_from"  # beside the configuration: the update at which a run of another length became this one


class Folder:
    """`config.json`, `metrics.jsonl`, `checkpoints/`, `model/`, `result.json`, `predictions.npz`, figures: a run's."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"
        self.model = path / "model"
        self.result = path / "result.json"

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Makes the folder and holds it for this process alone.

        Raises:
          UserError: it cannot be made, or another process holds it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise self._unusable(error) from None
        return atomic.locking(self.path / ".lock", "--workdir")

    def holds(self, config: Config) -> bool:
        """Whether the folder has a run of this very configuration, but for what a machine decides.

        Raises:
          UserError: it has a run of another one, which is more than another number of updates.
        """
        old, values = self._config(), json.loads(config.to_json_best_effort())
        if not old:
            return False
        new = config_lib.flatten(values)
        old = {config_lib.RENAMED.get(key, key): value for key, value in config_lib.flatten(old).items()}
        old = {**{key: value for key, value in config_lib.defaults(values).items() if key in new}, **old}
        changed = [k for k in sorted(old | new) if k not in (*_ELSEWHERE, _SINCE) and old.get(k) != new.get(k)]
        if others := [key for key in changed if key not in _LENGTH]:
            # A key of a file that somebody edited may be anything.
            keys = {k: k if k.isprintable() and len(k) < 80 else shown(k) for k in others[:3]}
            parts = (f"{name} {shown(old.get(k))} there, {shown(new.get(k))} here" for k, name in keys.items())
            differences = ", ".join(parts)
            raise UserError(f"{self.path} holds a run of another config ({differences}): choose another --workdir")
        return not changed

    def claim(self, config: Config, updates: int) -> int:
        """Writes the configuration down, or checks that the one written is the same or asks for more updates.

        Args:
          config: the run's.
          updates: how many it asks for.

        Returns:
          The update at which a run of another length became this one; 0 for none.

        Raises:
          UserError: the folder holds a run of another configuration, has more updates already, or cannot be written.
        """
        if self.holds(config):
            return self._config().get(_SINCE, 0)
        since = 0
        if self._config():
            since = max((int(file.name) for file in self.checkpoints.glob("[0-9]*") if file.name.isdigit()), default=0)
            if since > updates:
                raise UserError(
                    f"{self.path} has a run of {since} updates, and {updates} are fewer: choose another --workdir"
                )
        if since:
            log.info("training goes on from update %d; schedules are those of %d updates from here on", since, updates)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if since and self.result.exists():  # first: a result beside a new configuration would be taken for its own
                self.result.rename(self.path / f"result-{since}.json")
            text = json.loads(config.to_json_best_effort(sort_keys=True)) | ({_SINCE: since} if since else {})
            atomic.write_text(self.config, sealed.dumps(text, indent=2) + "\n")
        except OSError as error:
            raise self._unusable(error) from None
        return since

    def _unusable(self, error: OSError | ValueError) -> UserError:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return UserError(f"--workdir={shown(str(self.path))}: {reason}")

    def _config(self) -> dict[str, Any]:
        """The configuration that is written down; nothing if there is none, or a damaged one in a folder without a run.

        Raises:
          UserError: it is damaged, and which configuration the run had can be told by nothing else.
        """
        try:
            if config := sealed.read(self.config):
                return config
            raise sealed.Damaged("it is empty")
        except FileNotFoundError:
            return {}
        except sealed.Damaged as error:
            if self.result.exists() or self.metrics.exists() or self.checkpoints.exists():
                raise UserError(
                    f"{self.config} is damaged ({error}): if the run there had this very configuration, remove that "
                    "file and run again; else choose another --workdir"
                ) from None
            log.warning("%s is damaged (%s): it is now %s", self.config, error, sealed.set_aside(self.config).name)
            return {}

    def finished(self) -> dict[str, Any] | None:
        """The result, if the run is finished. A damaged one is set aside: the last checkpoint gives it anew."""
        try:
            result = sealed.read(self.result)
            if lacking := {"data", "test", "updates"} - result.keys():
                raise sealed.Damaged(f"it has no {sorted(lacking)[0]}")
            return result
        except (FileNotFoundError, NotADirectoryError):
            return None
        except sealed.Damaged as error:
            log.warning(
                "%s is damaged (%s): it is now %s, and is made again from the last checkpoint",
                self.result, error, sealed.set_aside(self.result).name,
            )  # fmt: skip
            return None
        except (OSError, ValueError) as error:  # a name that is too long, or that no file can have
            raise self._unusable(error) from None

    def rewind(self, step: int, stops: Collection[int] = ()) -> list[dict[str, Any]]:
        """Drops the rows of updates after `step`, which a resumed run will write again, and returns the others.

        Lines that are damaged are left out, and the file that had them is set aside. The last one may be cut short, by
        a kill, which is no damage.

        Args:
          step: of the state that training goes on from.
          stops: the updates that have a row; those that are missing are named.
        """
        text = self.metrics.read_bytes().decode(errors="replace") if self.metrics.exists() else ""
        rows, damaged = {}, 0
        whole, _, _ = text.rpartition("\n")
        for line in whole.splitlines():
            try:
                row = sealed.loads(line)
                if row["step"] <= step:
                    rows[row["step"]] = row
            except (sealed.Damaged, KeyError, TypeError):
                damaged += 1
        if damaged:
            aside = sealed.set_aside(self.metrics).name
            log.warning("%s: %d damaged lines are left out; the whole file is now %s", self.metrics, damaged, aside)
        if missing := [str(stop) for stop in stops if stop <= step and stop not in rows]:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            log.warning("%s lacks the rows of updates %s%s", self.metrics, ", ".join(missing[:5]), more)
        if text:
            atomic.write_text(self.metrics, "".join(sealed.dumps(row) + "\n" for row in rows.values()))
        return [*rows.values()]

    def log(self, row: Mapping[str, Any]) -> None:
        with self.metrics.open("a") as file:
            file.write(sealed.dumps(row) + "\n")

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
        atomic.write_text(self.result, sealed.dumps(result, indent=2) + "\n")
