"""Every method on one task, on the same splits: `python -m mbjax.compare --config=configs/loan.py --out=DIR`.

    --suite=keel           in place of --config: the rows on every table of a suite, keel, imblearn or own
    --tables=a,b           of the suite; all if left out
    --methods=all          or names, comma-separated: of mbjax/rows/paper.py, of the configuration's own ROWS, or
                           methods of modules of your own, MODULE:NAME
    --seeds=10             0 … 9
    --select=validation    or test, as the paper does; the table then says so
    --notune               every row with the settings of its configuration; nothing is chosen
    --jobs=N               processes, each on its share of the cores
    --minutes=10           in which it ends, with a table of the rows that are whole
    --backend=dask         joblib's: loky (this machine's processes, the default), dask or ray
    --scheduler=ADDRESS    of a Dask cluster
    --save-best            keeps the model of the row that the page recommends in DIR/best
    --shard=I/N            only the I-th of N parts of the work (a cluster's array job); a run without makes the table
    --config.key=value     for every method

DIR gets `report.html`, which begins with the answer, `results.jsonl` (one line per run), `table.md`, `times.md`,
figures and, where networks have convolutions and train for long, a folder for each run in `runs/`. The same command
does only what is missing.
"""

import os
import pathlib
import sys
import time
from typing import Any

from absl import flags
from ml_collections import config_flags

from mbjax import cli, programs
from mbjax.compare import driver, suite
from mbjax.compare.plan import Task, methods_in, names_of
from mbjax.data.tables.suites import SUITES
from mbjax.methods import METHODS
from mbjax.types import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "The task, such as configs/loan.py.")
_METHODS = flags.DEFINE_string("methods", "all", "Names of rows, comma-separated.")
_SEEDS = flags.DEFINE_integer("seeds", 10, "How many.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "The comparison's folder.")
_SELECT = flags.DEFINE_enum("select", "validation", ["validation", "test"], "What settings are chosen on.")
_TUNE = flags.DEFINE_bool("tune", True, "Whether rows choose settings from their grids on validation data.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Processes.", lower_bound=1)
_BACKEND = flags.DEFINE_string("backend", "loky", "joblib's: loky, dask or ray.")
_SCHEDULER = flags.DEFINE_string("scheduler", "", "The address of a Dask scheduler; else this machine.")
_MINUTES = flags.DEFINE_float("minutes", None, "In which it ends.", lower_bound=0)
_SHARD = flags.DEFINE_string("shard", "", "I/N: only the I-th of N parts of the work, from 0.")
_SUITE = flags.DEFINE_enum("suite", None, [*SUITES], "The suite, in place of a task.")
_TABLES = flags.DEFINE_list("tables", None, "Of the suite, comma-separated; all if left out.")
_SAVE_BEST = flags.DEFINE_bool("save-best", False, "Keeps the model of the row that the page recommends.")


def shard_of(text: str) -> tuple[int, int] | None:
    """`I/N` as numbers."""
    if not text:
        return None
    try:
        number, count = map(int, text.split("/"))
    except ValueError:
        number, count = 0, 0
    if not 0 <= number < count:
        raise UserError(f"--shard={text}: write I/N with I from 0 to N - 1")
    return number, count


def _age() -> float:
    """The minutes that this process has been there, which loaded libraries first; 0 where the system does not say."""
    try:
        fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return (time.clock_gettime(time.CLOCK_BOOTTIME) - started) / 60
    except (OSError, AttributeError, ValueError):
        return 0.0


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: options are written --config.key=value")
    cli.show_log()
    programs.keep()
    file, _, name = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    # A row or a method behind the colon is what the comparison chooses itself.
    scenario = name.partition(",")[0] if name not in METHODS else ""
    given = None if _METHODS.value == "all" else _METHODS.value.split(",")
    # Each row of a suite has its own settings, unless --tune says otherwise: grids times tables take days.
    tune = _TUNE.value and (not _SUITE.value or bool(_TUNE.present))
    task = Task(file, config_flags.get_override_values(flags.FLAGS["config"]), scenario, tune=tune,
                methods=methods_in(given))  # fmt: skip
    out = pathlib.Path(str(_OUT.value))
    minutes = _MINUTES.value if _MINUTES.value is None else max(0.0, _MINUTES.value - _age())
    shared: dict[str, Any] = {
        "seeds": range(_SEEDS.value), "out": out, "jobs": _JOBS.value, "backend": _BACKEND.value,
        "scheduler": _SCHEDULER.value, "shard": shard_of(_SHARD.value), "minutes": minutes,
    }  # fmt: skip
    if _SUITE.value:
        print(suite.complete(task, suite=_SUITE.value, names=given, tables=_TABLES.value, **shared))
    else:
        save_best = _SAVE_BEST.value
        done = driver.complete(
            task, names=names_of(task, given), select=_SELECT.value, save_best=save_best, **shared
        )  # fmt: skip
        print(f"{done.answer}\n\n{done.table}".lstrip())
    print(f"in {out}: " + ", ".join(sorted(path.name for path in out.iterdir())))


def run() -> None:
    of_suite = any(argument.startswith(("--suite", "-suite")) for argument in sys.argv)
    if of_suite and not any(argument.startswith(("--config=", "-config=")) for argument in sys.argv):
        sys.argv.insert(1, "--config=suite")
    flags.mark_flags_as_required(["config", "out"])
    cli.run(main)


if __name__ == "__main__":
    run()
