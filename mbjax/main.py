"""`python -m mbjax.main --config=configs/digits.py [--config.key=value …] [--workdir=DIR]`: trains and evaluates."""

import hashlib
import json
import os
import pathlib

from absl import flags
from ml_collections import config_flags

from mbjax import cli, parallel, report, train
from mbjax.types import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "The run's configuration, such as configs/digits.py.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder; the same command goes on where it stopped. Default: runs/TASK-METHOD-HASH."
)
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: options are written --config.key=value")
    cli.show_log()
    parallel.use_all_cores()
    cli.keep_programs()
    config = _CONFIG.value
    try:
        settings = config.to_dict()
    except OSError as error:  # a file that could not be loaded says so only when it is used
        raise UserError(f"--config: {str(error).splitlines()[-1].strip()}") from None
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]
    workdir = _WORKDIR.value or os.path.join("runs", f"{config.task}-{config.method}-{digest}")
    if config.rows:
        folders = train.train_rows(config, workdir)
        print(report.compare({name: [folder] for name, folder in folders.items()}, figures=pathlib.Path(workdir)))
    else:
        print(report.describe(train.train_and_evaluate(config, workdir)))
    print(f"in {workdir}: " + ", ".join(sorted(path.name for path in pathlib.Path(workdir).iterdir())))


if __name__ == "__main__":
    cli.run(main)
