"""`python -m mbjax.main --config=configs/digits.py [--config.key=value …] [--workdir=DIR]`: trains and evaluates.

Several processes train as one where each is given --coordinator, --processes and --process, or where SLURM, Open MPI or
Kubernetes says so: `mbjax.devices.hosts`.
"""

import hashlib
import json
import os
import pathlib

from absl import flags
from ml_collections import config_flags

from mbjax import cli, programs, report, train
from mbjax import config as config_lib
from mbjax.devices import hosts, parallel
from mbjax.types import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "The run's configuration, such as configs/digits.py.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder; the same command resumes it. Default: runs/TASK-METHOD-HASH."
)
_TENSORBOARD = flags.DEFINE_bool("tensorboard", False, "Writes TensorBoard's event files, WORKDIR/tensorboard, too.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "Of several processes: process 0's HOST:PORT.")
_PROCESSES = flags.DEFINE_integer("processes", None, "Of several processes: how many there are.")
_PROCESS = flags.DEFINE_integer("process", None, "Of several processes: this one's number, from 0.")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: options are written --config.key=value")
    cli.show_log()
    parallel.use_all_cores()
    numbers = {"coordinator": _COORDINATOR.value, "processes": _PROCESSES.value, "process": _PROCESS.value}
    hosts.start(hosts.find_place(os.environ, **numbers))
    programs.keep()
    config = _CONFIG.value
    try:
        getattr(config, "to_dict", None)
    except OSError as error:  # a file that could not be loaded says so only when it is used
        raise UserError(f"--config: {str(error).splitlines()[-1].strip()}") from None
    config_lib.validate(config)
    settings = config.to_dict()
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]
    workdir = _WORKDIR.value or os.path.join("runs", f"{config.task}-{config.method}-{digest}")
    result = train.train_and_evaluate(config, workdir, tensorboard=_TENSORBOARD.value)
    if hosts.is_primary():
        print(report.describe(result))
        print(f"in {workdir}: " + ", ".join(sorted(path.name for path in pathlib.Path(workdir).iterdir())))


def run() -> None:
    cli.run(main)


if __name__ == "__main__":
    run()
