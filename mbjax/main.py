"""`python -m mbjax.main --config=configs/digits.py [--config.key=value …] [--workdir=DIR]`: trains and evaluates."""

import hashlib
import json
import logging
import os
import sys

from absl import app, flags
from ml_collections import config_flags

from mbjax import parallel, report, train
from mbjax.types import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "The run's configuration, such as configs/digits.py.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder; the same command goes on where it stopped. Default: runs/TASK-METHOD-HASH."
)
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: options are written --config.key=value")
    # Our lines alone: a checkpoint makes its library write dozens.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("mbjax").setLevel(logging.INFO)
    config = _CONFIG.value
    try:
        settings = config.to_dict()
    except OSError as error:  # a file that could not be loaded says so only when it is used
        raise UserError(f"--config: {str(error).splitlines()[-1].strip()}") from None
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]
    workdir = _WORKDIR.value or os.path.join("runs", f"{config.task}-{config.method}-{digest}")
    result = train.train_and_evaluate(config, workdir)
    print(report.describe(result))
    print(f"in {workdir}: result.json, metrics.jsonl, training.png, class_accuracy.png")


def _parse(argv: list[str]) -> list[str]:
    """Parses the flags; an unknown configuration key is the user's mistake, not a crash."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        raise UserError(f"unknown config key {error}: mbjax/config.py lists the keys") from None


def run() -> None:
    """Entry point: a user's mistake is one line and exit status 2."""
    parallel.use_all_cores()
    try:
        app.run(main, flags_parser=_parse)
    except UserError as error:
        sys.exit(_say(f"error: {error}", 2))
    except train.Interrupted as interruption:
        sys.exit(_say(str(interruption), interruption.exit_status))


def _say(line: str, status: int) -> int:
    print(f"mbjax: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    run()
